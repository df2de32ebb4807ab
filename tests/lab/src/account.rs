//! The account that our command gives of a guest's life (`--report`), and the device's own layout to hold it against.
//!
//! Every part of the account may be missing; what is missing fails a check and nothing else.

use serde::Deserialize;
use std::collections::BTreeMap;

/// The whole account.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Account {
    #[serde(default)]
    pub(crate) devices: Vec<Device>,
    #[serde(default)]
    pub(crate) exits: BTreeMap<String, u64>,
    #[serde(default)]
    pub(crate) milliseconds: BTreeMap<String, Option<f64>>,
}

/// One assigned device.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Device {
    #[serde(default)]
    pub(crate) bars: Vec<Bar>,
    #[serde(default)]
    pub(crate) vectors: Vectors,
    #[serde(default)]
    pub(crate) host_calls: BTreeMap<String, u64>,
}

/// What became of a BAR.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Bar {
    #[serde(default)]
    pub(crate) index: u8,
    #[serde(default)]
    pub(crate) size: u64,
    #[serde(default)]
    pub(crate) pieces: Vec<Piece>,
}

/// A piece of a BAR, both ends included.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Piece {
    #[serde(default)]
    pub(crate) first: u64,
    #[serde(default)]
    pub(crate) last: u64,
    #[serde(default)]
    pub(crate) treatment: String,
    #[serde(default)]
    pub(crate) reason: String,
}

/// Interrupt vectors.
#[derive(Debug, Default, Deserialize)]
pub(crate) struct Vectors {
    pub(crate) offered: Option<u64>,
}

impl Piece {
    /// Whether the guest gets at it without anybody's help.
    pub(crate) fn is_mapped(&self) -> bool {
        self.treatment == "mapped"
    }
}

impl Bar {
    /// Whether the pieces cover the BAR without gap or overlap.
    pub(crate) fn is_whole(&self) -> bool {
        let mut next = 0;
        for piece in &self.pieces {
            if piece.first != next || piece.last < piece.first {
                return false;
            }
            next = piece.last.saturating_add(1);
        }
        self.size > 0 && next == self.size
    }

    /// The pieces that are not mapped and reach beyond these pages of the device.
    pub(crate) fn needless_traps(&self, pages: &[(u64, u64)]) -> Vec<String> {
        let needed = |piece: &&Piece| {
            // A piece may span the table's pages and the PBA's where they touch.
            let mut at = piece.first;
            while let Some(&(_, last)) = pages.iter().find(|(first, last)| (*first..=*last).contains(&at)) {
                if last >= piece.last {
                    return true;
                }
                at = last + 1;
            }
            false
        };
        let trapped = self.pieces.iter().filter(|piece| !piece.is_mapped());
        trapped
            .filter(|piece| !needed(piece))
            .map(|piece| format!("{:#x}..={:#x} {}", piece.first, piece.last, piece.reason))
            .collect()
    }
}

/// Where a device keeps its MSI-X structures, read from its configuration space.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct MsixLayout {
    /// Vectors in the table.
    pub(crate) vectors: u64,
    /// BAR and offset of the table.
    pub(crate) table: (u8, u64),
    /// BAR and offset of the pending bits.
    pub(crate) pending: (u8, u64),
}

impl MsixLayout {
    /// Finds the MSI-X capability (PCI Local Bus 3.0, 6.8.2) in configuration space.
    pub(crate) fn parse(config: &[u8]) -> Option<Self> {
        const MSIX: u8 = 0x11;
        let dword = |at: usize| Some(u32::from_le_bytes(config.get(at..at + 4)?.try_into().ok()?));
        let place = |at: usize| dword(at).map(|value| ((value & 7) as u8, u64::from(value & !7)));
        let mut at = usize::from(*config.get(0x34)?) & !3;
        for _ in 0..48 {
            let [id, next] = config.get(at..at + 2)?.try_into().ok()?;
            if id == MSIX {
                let vectors = u64::from((dword(at)? >> 16) & 0x7ff) + 1;
                return Some(Self { vectors, table: place(at + 4)?, pending: place(at + 8)? });
            }
            at = usize::from(next) & !3;
        }
        None
    }

    /// The 4 KiB pages of a BAR that hold MSI-X structures.
    pub(crate) fn pages(&self, bar: u8) -> Vec<(u64, u64)> {
        let table = (self.table, self.vectors * 16);
        let pending = (self.pending, self.vectors.div_ceil(64) * 8);
        let here = [table, pending].into_iter().filter(|((index, _), _)| *index == bar);
        here.map(|((_, offset), length)| (offset & !0xfff, (offset + length - 1) | 0xfff)).collect()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bar(pieces: &[(u64, u64, &str)]) -> Bar {
        let piece = |&(first, last, treatment): &(u64, u64, &str)| Piece {
            first,
            last,
            treatment: treatment.into(),
            reason: String::new(),
        };
        Bar { index: 0, size: 0x4000, pieces: pieces.iter().map(piece).collect() }
    }

    #[test]
    fn an_empty_object_is_an_account() {
        let account: Account = serde_json::from_str("{}").expect("parses");
        assert!(account.devices.is_empty());
    }

    #[test]
    fn a_gap_makes_a_bar_incomplete() {
        assert!(!bar(&[(0, 0x1fff, "mapped"), (0x3000, 0x3fff, "emulated")]).is_whole());
    }

    #[test]
    fn traps_on_the_msix_pages_are_needed() {
        let bar = bar(&[(0, 0x1fff, "mapped"), (0x2000, 0x3fff, "emulated")]);
        assert!(bar.needless_traps(&[(0x2000, 0x2fff), (0x3000, 0x3fff)]).is_empty());
    }

    #[test]
    fn a_trapped_register_page_is_needless() {
        let bar = bar(&[(0, 0x1fff, "trapped"), (0x2000, 0x3fff, "emulated")]);
        assert_eq!(bar.needless_traps(&[(0x2000, 0x2fff), (0x3000, 0x3fff)]).len(), 1);
    }

    #[test]
    fn the_capability_tells_the_layout() {
        let mut config = vec![0; 256];
        config[0x34] = 0x40;
        config[0x40..0x4c].copy_from_slice(&[0x11, 0, 0x40, 0, 0, 0x20, 0, 0, 0, 0x30, 0, 0]);
        let layout = MsixLayout::parse(&config).expect("found");
        assert_eq!(layout, MsixLayout { vectors: 65, table: (0, 0x2000), pending: (0, 0x3000) });
        assert_eq!(layout.pages(0), [(0x2000, 0x2fff), (0x3000, 0x3fff)]);
    }
}

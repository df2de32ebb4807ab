//! Where each byte of configuration space comes from, who writes it, and the rule that says so.

use super::Explanation;
use crate::addr::ConfigOffset;
use crate::caps::ConfigImage;
use crate::config::{Policy, Register, rule_of};
use crate::interrupts::Vector;
use crate::text::say;
use crate::windows::Window;
use core::fmt;

/// Where what the guest reads comes from.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Source {
    /// Hardware.
    Hardware,
    /// A register that is kept here.
    Virtual,
    /// Some bits are hardware's, some are kept here.
    Merged,
    /// Nowhere: it reads zero.
    Hidden,
}

impl Source {
    fn text(self) -> &'static str {
        match self {
            Self::Hardware => "hardware",
            Self::Virtual => "virtual",
            Self::Merged => "merged",
            Self::Hidden => "hidden",
        }
    }
}

/// Where the guest's writes go.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
pub enum Writes {
    /// To hardware, where the kernel guards what is dangerous.
    Forwarded,
    /// To a register that is kept here.
    Virtual,
    /// To both.
    Both,
    /// Nowhere.
    Dropped,
}

impl Writes {
    fn text(self) -> &'static str {
        match self {
            Self::Forwarded => "forwarded",
            Self::Virtual => "virtual",
            Self::Both => "both",
            Self::Dropped => "dropped",
        }
    }
}

/// A run of bytes of configuration space that are treated alike.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct ConfigPiece {
    /// The first byte.
    pub first: ConfigOffset,
    /// The last byte.
    pub last: ConfigOffset,
    /// Where what the guest reads comes from.
    pub source: Source,
    /// Where what it writes goes.
    pub writes: Writes,
    /// The rule that decided: a part of the header, or a capability.
    pub rule: &'static str,
    /// Whether the embedder's options took the place of what is built in.
    pub chosen: bool,
}

impl fmt::Display for ConfigPiece {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { first, last, source, writes, rule, chosen } = *self;
        say(f, ("config %3..=%3 ", [u64::from(first.get()), u64::from(last.get()), 0]))?;
        let chosen = if chosen { ", as the embedder chose" } else { "" };
        for text in [source.text(), ", ", writes.text(), ": ", rule, chosen] {
            f.write_str(text)?;
        }
        Ok(())
    }
}

impl<V, W> Explanation<'_, V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    /// Configuration space, from its first byte to its last.
    pub fn config(&self) -> impl Iterator<Item = ConfigPiece> {
        let mut next = Some(ConfigOffset::low(0));
        core::iter::from_fn(move || {
            let mut piece = self.config_byte(next?)?;
            next = piece.last.checked_add(1);
            while let Some(byte) = next.and_then(|next| self.config_byte(next)) {
                if (ConfigPiece { first: piece.first, ..byte }) != (ConfigPiece { last: byte.last, ..piece })
                {
                    break;
                }
                piece.last = byte.last;
                next = byte.last.checked_add(1);
            }
            Some(piece)
        })
    }

    fn config_byte(&self, at: ConfigOffset) -> Option<ConfigPiece> {
        let register = self.function.map.register(at)?;
        let policy = Policy::of(register);
        let lane = at.get().wrapping_sub(at.dword().get()).wrapping_mul(8);
        let byte = |mask: u32| mask.wrapping_shr(u32::from(lane)) & 0xff;
        let hidden =
            matches!(register, Register::Hidden | Register::HiddenHeader | Register::HiddenExtendedHeader);
        let source = match byte(policy.virtual_read) {
            0 => Source::Hardware,
            0xff if hidden => Source::Hidden,
            0xff => Source::Virtual,
            _ => Source::Merged,
        };
        let writes = match (byte(policy.forward), byte(policy.virtual_write)) {
            (0, 0) => Writes::Dropped,
            (0, _) => Writes::Virtual,
            (_, 0) => Writes::Forwarded,
            _ => Writes::Both,
        };
        let (id, rule) = rule_of(ConfigImage::new(self.description.config), at);
        let chosen = match id {
            Some(id) => self.description.options.choice(id).is_some(),
            None => matches!(register, Register::Ids | Register::SubsystemIds),
        };
        Some(ConfigPiece { first: at, last: at, source, writes, rule, chosen })
    }
}

//! What VFIO's information requests fill in: a fixed structure, then a chain of capabilities.
//!
//! The kernel says how much room it needs (`argsz`), and links capabilities by offsets from the structure's
//! start. Neither is trusted: a driver of any quality may stand behind the file.

use crate::errno::Errno;

/// Above this many bytes an answer is refused: 65,536 sparse areas fit.
const MOST: usize = 0x10_0000 + 0x1000;

/// Rounds until the kernel must have what it wants.
const ROUNDS: usize = 4;

/// Why a request for information gave none.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum InfoError {
    /// The kernel refused.
    #[error("the kernel refused: {0}")]
    Kernel(Errno),
    /// The kernel asked for more room each time it was given what it asked for, or for too much.
    #[error("the kernel wants {0} bytes for its answer, which does not end or is above 1 MiB")]
    Endless(usize),
}

/// Why a capability chain ended before its end.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum ChainFinding {
    /// An offset leads into the structure that the chain follows.
    #[error("capability offset {offset:#x} leads into the structure's own {header:#x} bytes")]
    IntoHeader {
        /// The offset.
        offset: u32,
        /// The structure's size.
        header: usize,
    },
    /// An offset does not lead forward; the kernel only ever appends, so this is a loop or rubbish.
    #[error("capability offset {offset:#x} follows {previous:#x}, which is not forward")]
    NotForward {
        /// The offset.
        offset: u32,
        /// The capability it stands in.
        previous: u32,
    },
    /// A capability, or the list in it, passes the end of the answer.
    #[error("capability at {offset:#x} passes the end of the answer, {size:#x} bytes")]
    Truncated {
        /// Where the capability starts.
        offset: u32,
        /// The answer's size.
        size: usize,
    },
}

/// One capability of a chain.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct Capability<'a> {
    pub(crate) id: u16,
    pub(crate) offset: u32,
    /// From the capability's header to the end of the whole answer: headers hold no length.
    pub(crate) bytes: &'a [u8],
}

/// Asks until the answer is whole. `least` is the size of the fixed structure.
pub(crate) fn ask(
    least: usize,
    mut request: impl FnMut(&mut [u8]) -> Result<(), Errno>,
) -> Result<Vec<u8>, InfoError> {
    let mut info = vec![0; least];
    for _ in 0..ROUNDS {
        request(&mut info).map_err(InfoError::Kernel)?;
        let wanted = u32_at(&info, 0).unwrap_or(0) as usize;
        if wanted <= info.len() {
            return Ok(info);
        }
        if wanted > MOST {
            return Err(InfoError::Endless(wanted));
        }
        // The structure is read again as a whole; what the first round left must not be taken for input.
        info.clear();
        info.resize(wanted, 0);
    }
    Err(InfoError::Endless(info.len()))
}

/// The capabilities of an answer whose fixed structure has `header` bytes and names `first` as the offset of
/// the first one. 0 ends a chain. After a finding there is nothing more.
pub(crate) fn capabilities(
    info: &[u8],
    header: usize,
    first: u32,
) -> impl Iterator<Item = Result<Capability<'_>, ChainFinding>> {
    let mut next = first;
    let mut previous = 0;
    std::iter::from_fn(move || {
        let offset = next;
        if offset == 0 {
            return None;
        }
        next = 0;
        if (offset as usize) < header {
            return Some(Err(ChainFinding::IntoHeader { offset, header }));
        }
        if offset <= previous {
            return Some(Err(ChainFinding::NotForward { offset, previous }));
        }
        let truncated = ChainFinding::Truncated { offset, size: info.len() };
        let bytes = info.get(offset as usize..).unwrap_or_default();
        let (Some(id), Some(link)) = (u16_at(bytes, 0), u32_at(bytes, 4)) else {
            return Some(Err(truncated));
        };
        previous = offset;
        next = link;
        Some(Ok(Capability { id, offset, bytes }))
    })
}

/// The pairs of 64-bit numbers that a capability lists from byte 16 on, as many as byte 8 says: sparse areas
/// and IOVA ranges both look so.
pub(crate) fn pairs(capability: Capability<'_>, whole: usize) -> Result<Vec<(u64, u64)>, ChainFinding> {
    let truncated = ChainFinding::Truncated { offset: capability.offset, size: whole };
    let count = u32_at(capability.bytes, 8).ok_or(truncated)?;
    let list = capability.bytes.get(16..).ok_or(truncated)?;
    if list.len() / 16 < count as usize {
        return Err(truncated);
    }
    let pair = |entry: &[u8]| Some((u64_at(entry, 0)?, u64_at(entry, 8)?));
    Ok(list.chunks_exact(16).take(count as usize).filter_map(pair).collect())
}

pub(crate) fn u16_at(bytes: &[u8], offset: usize) -> Option<u16> {
    Some(u16::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

    /// An answer with a fixed structure of 16 bytes and capability headers `(offset, id, next)`.
    fn answer(size: usize, headers: &[(usize, u16, u32)]) -> Vec<u8> {
        let mut bytes = vec![0; size];
        for (offset, id, next) in headers {
            bytes[*offset..][..2].copy_from_slice(&id.to_ne_bytes());
            bytes[offset + 4..][..4].copy_from_slice(&next.to_ne_bytes());
        }
        bytes
    }

    fn ids(info: &[u8], first: u32) -> (Vec<u16>, Option<ChainFinding>) {
        let mut ids = Vec::new();
        for capability in capabilities(info, 16, first) {
            match capability {
                Ok(capability) => ids.push(capability.id),
                Err(finding) => return (ids, Some(finding)),
            }
        }
        (ids, None)
    }

    #[test]
    fn chain_is_walked_to_its_end() {
        let info = answer(48, &[(16, 1, 32), (32, 3, 0)]);
        assert_eq!(ids(&info, 16), (vec![1, 3], None));
    }

    #[test]
    fn offset_zero_is_no_chain() {
        assert_eq!(ids(&answer(16, &[]), 0), (vec![], None));
    }

    #[test]
    fn loop_is_found() {
        let info = answer(48, &[(16, 1, 32), (32, 3, 16)]);
        let finding = ChainFinding::NotForward { offset: 16, previous: 32 };
        assert_eq!(ids(&info, 16), (vec![1, 3], Some(finding)));
    }

    #[test]
    fn capability_that_leads_to_itself_is_found() {
        let finding = ChainFinding::NotForward { offset: 16, previous: 16 };
        assert_eq!(ids(&answer(32, &[(16, 1, 16)]), 16), (vec![1], Some(finding)));
    }

    #[test]
    fn offset_into_the_header_is_found() {
        let finding = ChainFinding::IntoHeader { offset: 8, header: 16 };
        assert_eq!(ids(&answer(32, &[]), 8), (vec![], Some(finding)));
    }

    #[test]
    fn header_across_the_end_is_found() {
        let finding = ChainFinding::Truncated { offset: 28, size: 32 };
        assert_eq!(ids(&answer(32, &[]), 28), (vec![], Some(finding)));
    }

    #[test]
    fn offset_past_the_end_is_found() {
        let finding = ChainFinding::Truncated { offset: u32::MAX, size: 32 };
        assert_eq!(ids(&answer(32, &[]), u32::MAX), (vec![], Some(finding)));
    }

    #[test]
    fn list_longer_than_the_answer_is_found() {
        let mut info = answer(48, &[(16, 1, 0)]);
        info[24..28].copy_from_slice(&2u32.to_ne_bytes());
        let capability = Capability { id: 1, offset: 16, bytes: &info[16..] };
        assert_eq!(pairs(capability, 48), Err(ChainFinding::Truncated { offset: 16, size: 48 }));
    }

    #[test]
    fn answer_grows_once() {
        let mut sizes = Vec::new();
        let info = ask(16, |info| {
            sizes.push(info.len());
            info[..4].copy_from_slice(&40u32.to_ne_bytes());
            Ok(())
        });
        assert_eq!((info.map(|info| info.len()), sizes), (Ok(40), vec![16, 40]));
    }

    #[test]
    fn answer_that_always_grows_is_refused() {
        let info = ask(16, |info| {
            let more = info.len() as u32 + 8;
            info[..4].copy_from_slice(&more.to_ne_bytes());
            Ok(())
        });
        assert_eq!(info, Err(InfoError::Endless(48)));
    }

    #[test]
    fn answer_of_gigabytes_is_refused() {
        let info = ask(16, |info| {
            info[..4].copy_from_slice(&u32::MAX.to_ne_bytes());
            Ok(())
        });
        assert_eq!(info, Err(InfoError::Endless(0xffff_ffff)));
    }

    #[test]
    fn errno_is_kept() {
        assert_eq!(ask(16, |_| Err(Errno::ENODEV)), Err(InfoError::Kernel(Errno::ENODEV)));
    }
}

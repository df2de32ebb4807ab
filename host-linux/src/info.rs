//! Asking VFIO's information requests, which say how much room their answer needs (`argsz`).
//!
//! That is not trusted: a driver of any quality may stand behind the file. What the answers say is read by the core's
//! `region_info`.

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

/// Asks until the answer is whole, first with so much `room`, the fixed structure's size or more.
pub(crate) fn ask(
    room: usize,
    mut request: impl FnMut(&mut [u8]) -> Result<(), Errno>,
) -> Result<Vec<u8>, InfoError> {
    let mut info = vec![0; room];
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

pub(crate) fn u32_at(bytes: &[u8], offset: usize) -> Option<u32> {
    Some(u32::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

pub(crate) fn u64_at(bytes: &[u8], offset: usize) -> Option<u64> {
    Some(u64::from_ne_bytes(*bytes.get(offset..)?.first_chunk()?))
}

#[cfg(test)]
mod tests {
    use super::*;

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

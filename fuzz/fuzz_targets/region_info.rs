//! Region information: the walk ends, offsets only grow, lists are within the answer, and what is found is what a
//! naive reading finds.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfio_assign_core::region_info::{CAP_SPARSE_MMAP, FLAG_CAPS, FLAG_MMAP, HEADER, InfoChain, RegionInfo};

fuzz_target!(|bytes: &[u8]| {
    let first = u32_at(bytes, 12).unwrap_or(0);
    let mut chain = InfoChain::new(bytes, HEADER, first);
    let mut last = 0;
    let mut sparse = None;
    let mut broken = false;
    for step in chain.by_ref().take(bytes.len() + 2) {
        assert!(!broken, "something follows a finding");
        match step {
            Ok(found) => {
                assert!(found.offset > last || last == 0, "not forward");
                assert!(found.offset as usize >= HEADER && found.offset as usize + 8 <= bytes.len());
                last = found.offset;
                if let (CAP_SPARSE_MMAP, Ok(pairs)) = (found.id, found.pairs()) {
                    let expected = u32_at(bytes, found.offset as usize + 8).map(|count| count as usize);
                    assert_eq!(Some(pairs.count()), expected);
                    sparse = expected;
                } else if found.id == CAP_SPARSE_MMAP {
                    break;
                }
            }
            Err(_) => broken = true,
        }
    }
    let flags = u32_at(bytes, 4).unwrap_or(0);
    let Some(region) = RegionInfo::parse(bytes) else {
        let size = bytes.get(16..24).map(|size| size.iter().any(|byte| *byte != 0));
        assert!(bytes.len() < HEADER || size == Some(false), "a region that is there");
        return;
    };
    let areas: Vec<_> = region.areas().collect();
    assert!(areas.len() <= bytes.len() / 16, "more areas than there is room for");
    if flags & FLAG_MMAP == 0 {
        assert_eq!(areas, [], "a region that cannot be mapped");
    } else if flags & FLAG_CAPS == 0 {
        assert_eq!((areas.len(), region.finding), (1, None), "a region without capabilities");
    } else if region.finding.is_none() {
        assert_eq!(areas.len(), sparse.unwrap_or(1));
    }
});

fn u32_at(bytes: &[u8], at: usize) -> Option<u32> {
    bytes.get(at..at + 4)?.try_into().ok().map(u32::from_ne_bytes)
}

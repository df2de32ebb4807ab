//! The capability lists of any configuration space: walks end within their bound, visit nothing twice, stay where
//! capabilities can be, follow the links, and a finding is the last item.
#![no_main]

use libfuzzer_sys::fuzz_target;
use std::collections::BTreeSet;
use vfio_assign_core::ConfigImage;

fuzz_target!(|bytes: &[u8]| {
    // Few bytes make a whole space, so that links are likely to hit something.
    let mut space = vec![0; if bytes.len() % 2 == 0 { 4096 } else { 256 }];
    space[6] = 0x10;
    for (index, chunk) in bytes.chunks(4).enumerate() {
        let at = match index {
            0 => 0x34,
            1..=48 => 0x40 + (index - 1) * 4,
            _ => 0x100 + (index - 49) * 4,
        };
        if let Some(to) = space.get_mut(at..at + chunk.len()) {
            to.copy_from_slice(chunk);
        }
    }
    walks(&space);
    walks(bytes);
});

fn walks(space: &[u8]) {
    let image = ConfigImage::new(space);
    let mut seen = BTreeSet::new();
    let mut ended = false;
    let mut link = usize::from(space.get(0x34).copied().unwrap_or(0) & 0xfc);
    for item in image.capabilities() {
        assert!(!ended, "something follows a finding");
        let Ok(found) = item else {
            ended = true;
            continue;
        };
        let at = usize::from(found.offset.get());
        assert!(at >= 0x40 && at % 4 == 0 && at < space.len() && at == link, "at {at:#x}, linked {link:#x}");
        assert!(seen.insert(at), "twice at {at:#x}");
        assert_eq!(space.get(at), Some(&found.id));
        link = space.get(at + 1).map_or(0xfc, |next| usize::from(next & 0xfc));
    }
    assert!(seen.len() <= 48 && (ended || link == 0 || seen.is_empty()), "left at {link:#x}");
    let mut seen = BTreeSet::new();
    let mut ended = false;
    for item in image.extended_capabilities() {
        assert!(!ended, "something follows a finding");
        match item {
            Ok(found) => {
                let at = found.offset.get();
                assert!((0x100..4096).contains(&at) && at % 4 == 0 && usize::from(at) < space.len());
                assert!(seen.insert(at), "twice at {at:#x}");
            }
            Err(_) => ended = true,
        }
    }
    assert!(seen.len() <= 960 && (space.len() > 256 || seen.is_empty()));
}

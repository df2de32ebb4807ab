//! What VFIO says of a region, whole and broken.

use super::*;
use std::vec;
use std::vec::Vec;

const READ: u32 = FLAG_READ;
const MMAP: u32 = FLAG_MMAP;
const CAPS: u32 = FLAG_CAPS;

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
    for capability in InfoChain::new(info, 16, first) {
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
    let capability = InfoCapability { id: 1, offset: 16, bytes: &info[16..] };
    assert_eq!(capability.pairs(), Err(ChainFinding::Truncated { offset: 16, size: 48 }));
}

fn region_info(flags: u32, cap_offset: u32, size: u64, capabilities: &[u8]) -> Vec<u8> {
    let mut info = Vec::new();
    for field in [32 + capabilities.len() as u32, flags, 0, cap_offset] {
        info.extend_from_slice(&field.to_ne_bytes());
    }
    info.extend_from_slice(&size.to_ne_bytes());
    info.extend_from_slice(&0x1_0000u64.to_ne_bytes());
    info.extend_from_slice(capabilities);
    info
}

fn sparse(next: u32, claimed: u32, areas: &[(u64, u64)]) -> Vec<u8> {
    let mut bytes = vec![1, 0, 1, 0];
    bytes.extend_from_slice(&next.to_ne_bytes());
    bytes.extend_from_slice(&claimed.to_ne_bytes());
    bytes.extend_from_slice(&[0; 4]);
    for (offset, size) in areas {
        bytes.extend_from_slice(&offset.to_ne_bytes());
        bytes.extend_from_slice(&size.to_ne_bytes());
    }
    bytes
}

#[derive(PartialEq, Debug)]
struct Parsed {
    msix_mappable: bool,
    areas: Vec<MmapArea>,
    finding: Option<ChainFinding>,
}

fn parse(info: &[u8]) -> Option<Parsed> {
    let RegionInfo { msix_mappable, finding, .. } = RegionInfo::parse(info)?;
    Some(Parsed { msix_mappable, areas: RegionInfo::parse(info)?.areas().collect(), finding })
}

#[test]
fn size_zero_is_absent() {
    assert_eq!(parse(&region_info(READ, 0, 0, &[])), None);
}

#[test]
fn flags_are_the_kernel_s() {
    assert_eq!([FLAG_READ, FLAG_WRITE, FLAG_MMAP, FLAG_CAPS], [1, 2, 4, 8]);
}

#[test]
fn what_can_be_read_or_written_and_where_it_lies_is_told() {
    for (flags, expected) in [(0, (false, false)), (FLAG_READ, (true, false)), (FLAG_WRITE, (false, true))] {
        let info = region_info(flags, 0, 0x1000, &[]);
        let region = RegionInfo::parse(&info).unwrap();
        assert_eq!((region.readable, region.writable), expected, "{flags:#x}");
        assert_eq!((region.offset, region.size), (0x1_0000, 0x1000));
    }
}

#[test]
fn list_of_a_region_that_is_not_to_be_mapped_offers_nothing() {
    let info = region_info(READ | CAPS, 32, 0x4000, &sparse(0, 1, &[(0, 0x1000)]));
    let region = parse(&info).unwrap();
    assert_eq!((region.areas, region.finding), (vec![], None));
}

#[test]
fn without_a_list_the_whole_region_is_offered() {
    let region = parse(&region_info(READ | MMAP, 0, 0x4000, &[])).unwrap();
    assert_eq!(region.areas, [MmapArea { offset: 0, size: 0x4000 }]);
}

#[test]
fn without_mmap_nothing_is_offered() {
    let region = parse(&region_info(READ | CAPS, 32, 0x4000, &sparse(0, 1, &[(0, 0x1000)]))).unwrap();
    assert_eq!(region.areas, []);
}

#[test]
fn areas_are_kept_as_offered() {
    let list = sparse(0, 2, &[(0x3000, 0x1000), (0, 0)]);
    let region = parse(&region_info(MMAP | CAPS, 32, 0x4000, &list)).unwrap();
    let offered = [MmapArea { offset: 0x3000, size: 0x1000 }, MmapArea { offset: 0, size: 0 }];
    assert_eq!((region.areas.as_slice(), region.finding), (&offered[..], None));
}

#[test]
fn capability_offset_without_the_flag_is_no_chain() {
    let region = parse(&region_info(MMAP, 32, 0x4000, &sparse(0, 9, &[]))).unwrap();
    assert_eq!(region.finding, None);
}

#[test]
fn msix_mappable_behind_a_list() {
    let mut capabilities = sparse(64, 1, &[(0, 0x1000)]);
    capabilities.extend_from_slice(&[3, 0, 1, 0, 0, 0, 0, 0]);
    let region = parse(&region_info(MMAP | CAPS, 32, 0x4000, &capabilities)).unwrap();
    assert!(region.msix_mappable);
}

#[test]
fn list_that_is_cut_off_offers_nothing() {
    let list = sparse(0, 3, &[(0, 0x1000)]);
    let region = parse(&region_info(MMAP | CAPS, 32, 0x4000, &list)).unwrap();
    let finding = ChainFinding::Truncated { offset: 32, size: 64 };
    assert_eq!((region.areas.len(), region.finding), (0, Some(finding)));
}

#[test]
fn loop_behind_the_list_keeps_the_list() {
    let list = sparse(32, 1, &[(0, 0x1000)]);
    let region = parse(&region_info(MMAP | CAPS, 32, 0x4000, &list)).unwrap();
    let finding = ChainFinding::NotForward { offset: 32, previous: 32 };
    assert_eq!((region.areas.len(), region.finding), (1, Some(finding)));
}

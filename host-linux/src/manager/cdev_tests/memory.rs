//! Memory in the address spaces of iommufd.

use super::*;
use crate::sys::{GuestMemory, MemoryBacking};
use vfio_assign_core::Iova;

/// Memory that has a file.
fn shared_region(first: u64, size: u64) -> GuestRegion {
    let memory = GuestMemory::new(size, MemoryBacking::Memfd).unwrap();
    GuestRegion { memory, ..region(first, size) }
}

#[test]
fn memory_added_after_the_reservation_is_mapped_once_a_device_is_attached() {
    let host = TestHost::new();
    let vm = host.vm();
    let reservation = vm.reserve(bdf()).unwrap();
    vm.add_memory(&[region(0, 0x2000)]).unwrap();
    assert_eq!(starting(&host.kernel.calls(), "ioas_map"), [""; 0]);
    let _device = reservation.open().unwrap();
    vm.add_memory(&[region(0x4000, 0x1000)]).unwrap();
    let maps = ["ioas_map 1 0x0 0x2000", "ioas_map 1 0x4000 0x1000"];
    assert_eq!(starting(&host.kernel.calls(), "ioas_map"), maps);
}

#[test]
fn memory_where_the_host_reserves_addresses_is_named_before_it_is_mapped() {
    let host = TestHost::new();
    host.kernel.set_ranges(&[(0, 0xfedf_ffff), (0xfef0_0000, u64::MAX)]);
    let vm = host.vm();
    vm.add_memory(&[region(0xfee0_0000, 0x2000)]).unwrap();
    let error = vm.open(bdf()).unwrap_err();
    assert!(matches!(error, OpenError::Memory { error: DmaError::Unreachable { .. }, .. }), "{error}");
    assert_eq!(starting(&host.kernel.calls(), "ioas_map"), [""; 0]);
}

#[test]
fn more_ranges_than_there_was_room_for_are_asked_for_again() {
    let host = TestHost::new();
    let ranges: Vec<_> = (0..40).map(|n| (n << 20, (n << 20) + 0xf_ffff)).collect();
    host.kernel.set_ranges(&ranges);
    let vm = host.vm();
    let _device = vm.open(bdf()).unwrap();
    let info = vm.iommu_info().unwrap();
    assert_eq!(info[0].ranges.as_ref().map(Vec::len), Some(40));
    assert_eq!(starting(&host.kernel.calls(), "ioas_ranges")[..], ["ioas_ranges 1 32", "ioas_ranges 1 40"]);
}

#[test]
fn memory_with_a_file_is_mapped_by_it() {
    let host = TestHost::new();
    let vm = host.vm();
    let _device = vm.open(bdf()).unwrap();
    host.kernel.calls();
    let parts = GuestRegion { offset: 0x1000, ..shared_region(0, 0x3000) };
    let parts = GuestRegion { guest: Span::from_size(GuestAddr::new(0), 0x2000).unwrap(), ..parts };
    vm.add_memory(&[parts]).unwrap();
    assert_eq!(starting(&host.kernel.calls(), "ioas_map"), ["ioas_map_file 1 0x0 0x2000 from 0x1000"]);
}

#[test]
fn kernel_that_cannot_map_files_is_asked_once() {
    let host = TestHost::new();
    let vm = host.vm();
    let _device = vm.open(bdf()).unwrap();
    host.kernel.calls();
    host.kernel.fail("ioas_map_file", Errno::ENOTTY);
    vm.add_memory(&[shared_region(0, 0x1000)]).unwrap();
    vm.add_memory(&[shared_region(0x2000, 0x1000)]).unwrap();
    let maps = ["ioas_map_file 1 0x0 0x1000 from 0x0", "ioas_map 1 0x0 0x1000", "ioas_map 1 0x2000 0x1000"];
    assert_eq!(starting(&host.kernel.calls(), "ioas_map"), maps);
}

#[test]
fn file_that_is_refused_is_not_tried_by_address() {
    let host = TestHost::new();
    let vm = host.vm();
    let _device = vm.open(bdf()).unwrap();
    host.kernel.calls();
    host.kernel.fail("ioas_map_file", Errno::ENOMEM);
    let refused = vm.add_memory(&[shared_region(0, 0x1000)]).unwrap_err();
    assert!(matches!(refused, DmaError::LockedMemory { .. }), "{refused}");
    assert_eq!(starting(&host.kernel.calls(), "ioas_map ").len(), 0);
}

#[test]
fn memory_is_removed_while_a_device_is_attached() {
    let host = TestHost::new();
    let vm = host.vm();
    let _device = vm.open(bdf()).unwrap();
    let added = region(0, 0x2000);
    vm.add_memory(std::slice::from_ref(&added)).unwrap();
    host.kernel.calls();
    vm.remove_memory(added.guest).unwrap();
    assert_eq!(host.kernel.calls(), ["ioas_unmap 1 0x0 0x2000"]);
}

#[test]
fn unmapping_less_than_asked_is_an_error() {
    let host = TestHost::new();
    let vm = host.vm();
    let _device = vm.open(bdf()).unwrap();
    let added = region(0, 0x2000);
    vm.add_memory(std::slice::from_ref(&added)).unwrap();
    host.kernel.answer("ioas_unmap", 0x1000);
    let span = Span::from_size(Iova::new(0), 0x2000).unwrap();
    assert_eq!(vm.remove_memory(added.guest), Err(DmaError::HalfUnmapped { span, unmapped: 0x1000 }));
    assert_eq!(vm.remove_memory(added.guest), Ok(()));
}

#[test]
fn discarding_is_inhibited_while_a_device_is_there() {
    let host = TestHost::new();
    let vm = host.vm();
    vm.add_memory(&[region(0, 0x2000)]).unwrap();
    assert!(!vm.is_discard_inhibited());
    let device = vm.open(bdf()).unwrap();
    assert!(vm.is_discard_inhibited());
    drop(device);
    assert!(!vm.is_discard_inhibited());
}

/// The error for memory that iommufd refuses to map for this reason; nothing of it stays mapped.
fn refused_memory(errno: Errno) -> DmaError {
    let host = TestHost::new();
    let vm = host.vm();
    let _device = vm.open(bdf()).unwrap();
    host.kernel.calls();
    host.kernel.fail("ioas_map 1 0x4000", errno);
    let regions = [region(0, 0x2000), region(0x4000, 0x1000)];
    let error = vm.add_memory(&regions).unwrap_err();
    assert_eq!(starting(&host.kernel.calls(), "ioas_unmap"), ["ioas_unmap 1 0x0 0x2000"], "{error}");
    assert_eq!(vm.add_memory(&regions), Ok(()), "after {error}");
    error
}

#[test]
fn memory_that_is_refused_is_named_with_the_reason() {
    let span = Span::from_size(Iova::new(0x4000), 0x1000).unwrap();
    assert_eq!(refused_memory(Errno::EEXIST), DmaError::Overlap { span });
    assert!(matches!(refused_memory(Errno::ENOMEM), DmaError::LockedMemory { span: of, .. } if of == span));
    assert_eq!(refused_memory(Errno::ENOSPC), DmaError::TooMany { span });
    for errno in [Errno::EINVAL, Errno::EFAULT, Errno::from_raw(75), Errno::ENODEV] {
        assert_eq!(refused_memory(errno), DmaError::Refused { span, errno });
    }
}

//! Guest memory mapped for a device, and what the kernel does not map.

use crate::rig::{Rig, region, span, vm};
use std::collections::BTreeMap;
use vfio_assign_core::{Iova, Span};
use vfio_assign_linux::{Backend, DmaError, GuestMemory, GuestRegion, Host, MemoryBacking, Vm, VmOptions};

const PAGE: u64 = 0x1000;
const SIZE: u64 = 16 * PAGE;

fn iova(first: u64, size: u64) -> Span<Iova> {
    Span::from_size(Iova::new(first), size).expect("it does not wrap")
}

#[test]
fn a_region_is_mapped_removed_and_mapped_again() {
    let Some(rig) = Rig::get() else { return };
    let vm = vm();
    let _device = vm.open(rig.nvme).expect("opens");
    for _ in 0..3 {
        vm.add_memory(&[region(0, SIZE)]).expect("maps");
        vm.remove_memory(span(0, SIZE)).expect("unmaps");
    }
}

#[test]
fn memory_is_mapped_by_one_call_after_its_limits_were_asked_for_by_one() {
    let Some(rig) = Rig::get() else { return };
    let host = Host::linux();
    let vm = Vm::new(host.clone(), VmOptions { backend: Some(rig.backend), ..VmOptions::default() });
    let _device = vm.open(rig.nvme).expect("opens");
    let before = host.calls();
    vm.add_memory(&[region(0, SIZE)]).expect("maps");
    let mut made = host.calls();
    made.iter_mut().for_each(|(call, count)| *count -= before.get(call).copied().unwrap_or(0));
    made.retain(|_, count| *count > 0);
    let [limits, map] = match rig.backend {
        Backend::Group => ["vfio-iommu-get-info", "vfio-iommu-map-dma"],
        _ => ["iommu-ioas-iova-ranges", "iommu-ioas-map"],
    };
    assert_eq!(made, BTreeMap::from([(limits, 1), (map, 1)]));
}

#[test]
fn memory_that_was_there_before_the_device_is_mapped_for_it() {
    let Some(rig) = Rig::get() else { return };
    let vm = vm();
    vm.add_memory(&[region(0, SIZE)]).expect("there is no device yet");
    let _device = vm.open(rig.nvme).expect("opens");
    let again = vm.add_memory(&[region(0, PAGE)]);
    assert_eq!(again, Err(DmaError::Overlap { span: iova(0, PAGE) }));
}

#[test]
fn an_overlap_is_named_and_nothing_of_the_call_stays() {
    let Some(rig) = Rig::get() else { return };
    let vm = vm();
    let _device = vm.open(rig.nvme).expect("opens");
    vm.add_memory(&[region(SIZE, SIZE)]).expect("maps");
    let refused = vm.add_memory(&[region(4 * SIZE, SIZE), region(SIZE + PAGE, PAGE)]);
    assert_eq!(refused, Err(DmaError::Overlap { span: iova(SIZE + PAGE, PAGE) }));
    vm.add_memory(&[region(4 * SIZE, SIZE)]).expect("the first region of that call is not mapped");
}

#[test]
fn half_a_page_is_refused_by_name() {
    let Some(rig) = Rig::get() else { return };
    let vm = vm();
    let _device = vm.open(rig.nvme).expect("opens");
    let mut odd = region(0, PAGE);
    odd.guest = span(0x800, 0x800);
    assert_eq!(vm.add_memory(&[odd]), Err(DmaError::Unaligned { span: iova(0x800, 0x800), page: PAGE }));
}

#[test]
fn what_the_iommu_cannot_reach_is_refused_with_what_it_can() {
    let Some(rig) = Rig::get() else { return };
    let vm = vm();
    let _device = vm.open(rig.nvme).expect("opens");
    // Messages of interrupts are written here; no memory can lie there.
    let messages = vm.add_memory(&[region(0xfee0_0000, PAGE)]);
    let Err(DmaError::Unreachable { span, ranges }) = &messages else { panic!("{messages:?}") };
    assert_eq!(*span, iova(0xfee0_0000, PAGE));
    assert!(ranges.iter().any(|range| range.covers(iova(0, PAGE))), "{ranges:?}");
}

#[test]
fn what_is_not_mapped_is_not_unmapped() {
    let Some(rig) = Rig::get() else { return };
    let vm = vm();
    let _device = vm.open(rig.nvme).expect("opens");
    vm.add_memory(&[region(0, SIZE)]).expect("maps");
    assert_eq!(vm.remove_memory(span(SIZE, PAGE)), Err(DmaError::NotMapped { span: iova(SIZE, PAGE) }));
}

#[test]
fn neighbours_are_one_region() {
    let Some(rig) = Rig::get() else { return };
    let vm = vm();
    let device = vm.open(rig.nvme).expect("opens");
    let whole = region(0, SIZE);
    let page = |number| GuestRegion {
        guest: span(number * PAGE, PAGE),
        offset: number * PAGE,
        memory: whole.memory.clone(),
    };
    let pages: Vec<_> = (0..SIZE / PAGE).map(page).collect();
    let left = || vm.iommu_info().expect("the kernel tells")[0].mappings_left;
    let before = left();
    vm.add_memory(&pages).expect("maps");
    // iommufd counts no mappings.
    assert_eq!(left(), before.map(|before| before - 1), "{:?}", device.backend());
    let part = DmaError::Part { span: iova(0, PAGE), region: iova(0, SIZE) };
    assert_eq!(vm.remove_memory(span(0, PAGE)), Err(part));
    assert_eq!(vm.remove_memory(span(0, SIZE)), Ok(()));
}

#[test]
fn memory_with_a_file_is_mapped() {
    let Some(rig) = Rig::get() else { return };
    let vm = vm();
    let _device = vm.open(rig.nvme).expect("opens");
    let memory = GuestMemory::new(SIZE, MemoryBacking::Memfd).expect("there is memory");
    vm.add_memory(&[GuestRegion { memory, ..region(0, SIZE) }]).expect("maps");
    vm.remove_memory(span(0, SIZE)).expect("unmaps");
}

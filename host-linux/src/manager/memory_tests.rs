//! Memory that comes and goes while devices are open, over a kernel that fails what it is told to fail.

use super::tests::{at, bdf, region, starting, test_vm};
use super::*;
use crate::progress::{MappingObserver, MappingProgress};
use std::sync::mpsc::{Receiver, channel};

#[test]
fn part_of_what_was_added_as_one_is_not_removed() {
    let (kernel, vm, _sysfs) = test_vm();
    let _device = vm.open(bdf()).unwrap();
    let whole = region(0, 0x2000);
    let half = |first| GuestRegion {
        guest: Span::from_size(GuestAddr::new(first), 0x1000).unwrap(),
        offset: first,
        ..whole.clone()
    };
    vm.add_memory(&[half(0x1000), half(0)]).unwrap();
    let (span, region) = (half(0).iova(), whole.iova());
    assert_eq!(vm.remove_memory(half(0).guest), Err(DmaError::Part { span, region }));
    assert_eq!(vm.remove_memory(whole.guest), Ok(()));
    let calls = kernel.calls();
    assert_eq!(starting(&calls, "map_dma"), ["map_dma 0x0 0x2000"]);
    assert_eq!(starting(&calls, "unmap_dma"), ["unmap_dma 0x0 0x2000"]);
}

#[test]
fn memory_over_other_memory_is_refused_before_there_is_a_device() {
    let (_kernel, vm, _sysfs) = test_vm();
    vm.add_memory(&[region(0, 0x2000)]).unwrap();
    let span = region(0x1000, 0x2000).iova();
    assert_eq!(vm.add_memory(&[region(0x1000, 0x2000)]), Err(DmaError::Overlap { span }));
}

/// Notes what it is told.
#[derive(Debug, Default)]
struct Noted(Mutex<Vec<MappingProgress>>);

impl MappingObserver for Noted {
    fn mapping(&self, progress: MappingProgress) {
        self.0.lock().unwrap().push(progress);
    }
}

#[test]
fn progress_of_a_mapping_is_told() {
    let (kernel, _vm, sysfs) = test_vm();
    let noted = Arc::new(Noted::default());
    let observer = Some(noted.clone() as Arc<dyn MappingObserver>);
    let vm = Vm::new(kernel.host(), VmOptions { sysfs: sysfs.sysfs(), observer, ..VmOptions::default() });
    let _device = vm.open(bdf()).unwrap();
    vm.add_memory(&[region(0, 0x2000), region(0x4000, 0x1000)]).unwrap();
    let noted = noted.0.lock().unwrap();
    let told: Vec<_> = noted.iter().map(|now| (now.found, now.mapped, now.total)).collect();
    let expected =
        [(0x2000, 0, 0x3000), (0x3000, 0, 0x3000), (0x3000, 0x2000, 0x3000), (0x3000, 0x3000, 0x3000)];
    assert_eq!(told, expected);
}

/// How often this thread has read from a file.
fn reads() -> u64 {
    let counts = std::fs::read_to_string("/proc/thread-self/io");
    let counts = counts.expect("a kernel with CONFIG_TASK_IO_ACCOUNTING counts what a thread reads");
    let reads = counts.lines().find_map(|line| line.strip_prefix("syscr: "));
    reads.expect("reads are counted").parse().expect("a count is a number")
}

#[test]
fn memory_that_is_there_is_mapped_without_a_look_into_any_file() {
    let (_kernel, vm, _sysfs) = test_vm();
    let _device = vm.open(bdf()).unwrap();
    let there = region(0, 8 << 20);
    there.memory.prefault(0, 8 << 20, 1).unwrap();
    assert!(
        there.memory.seems_resident(0, 8 << 20),
        "memory with all its pages was taken for memory without"
    );
    let to_count = (reads(), reads());
    vm.add_memory(&[there]).unwrap();
    assert_eq!(reads() - to_count.1, to_count.1 - to_count.0);
}

/// The error for memory that the kernel refuses to map for this reason.
fn refused_memory(errno: Errno) -> DmaError {
    let (kernel, vm, _sysfs) = test_vm();
    let _device = vm.open(bdf()).unwrap();
    kernel.fail("map_dma", errno);
    let error = vm.add_memory(&[region(0, 0x2000)]).unwrap_err();
    assert_eq!(vm.add_memory(&[region(0, 0x2000)]), Ok(()), "after {error}");
    error
}

#[test]
fn memory_over_other_memory_is_named() {
    assert!(matches!(refused_memory(Errno::EEXIST), DmaError::Overlap { .. }));
}

#[test]
fn memory_beyond_the_lock_limit_is_named_with_the_limit() {
    assert!(matches!(refused_memory(Errno::ENOMEM), DmaError::LockedMemory { .. }));
}

#[test]
fn one_mapping_too_many_is_named() {
    assert!(matches!(refused_memory(Errno::ENOSPC), DmaError::TooMany { .. }));
}

#[test]
fn memory_that_the_kernel_finds_too_big_keeps_its_errno() {
    let error = refused_memory(Errno::E2BIG);
    assert!(matches!(error, DmaError::Refused { errno: Errno::E2BIG, .. }));
    assert!(error.to_string().contains("E2BIG"), "{error}");
}

#[test]
fn memory_that_is_not_there_keeps_its_errno_and_says_so() {
    let error = refused_memory(Errno::EFAULT);
    assert!(error.to_string().contains("EFAULT") && error.to_string().contains("not mapped"), "{error}");
}

#[test]
fn memory_of_which_a_part_is_refused_is_taken_back() {
    let (kernel, vm, _sysfs) = test_vm();
    let _first = vm.open(at("0000:00:04.0")).unwrap();
    kernel.fail("set_container", Errno::EINVAL);
    let _second = vm.open(at("0000:00:05.0")).unwrap();
    kernel.calls();
    kernel.fail("map_dma 0x4000", Errno::ENOSPC);
    let added = vm.add_memory(&[region(0, 0x2000), region(0x4000, 0x1000)]);
    let span = Span::from_size(vfio_assign_core::Iova::new(0x4000), 0x1000).unwrap();
    assert_eq!(added, Err(DmaError::TooMany { span }));
    let calls = kernel.calls();
    assert_eq!(starting(&calls, "map_dma 0x0"), ["map_dma 0x0 0x2000"]);
    assert_eq!(starting(&calls, "unmap_dma"), ["unmap_dma 0x0 0x2000"]);
}

#[test]
fn memory_that_one_address_space_refuses_is_taken_back_from_the_others() {
    let (kernel, vm, _sysfs) = test_vm();
    let _first = vm.open(at("0000:00:04.0")).unwrap();
    kernel.fail("set_container", Errno::EINVAL);
    let _second = vm.open(at("0000:00:05.0")).unwrap();
    kernel.calls();
    kernel.fail_after(1, "map_dma", Errno::ENOMEM);
    assert!(vm.add_memory(&[region(0, 0x2000)]).is_err());
    assert_eq!(starting(&kernel.calls(), "unmap_dma"), ["unmap_dma 0x0 0x2000"]);
    assert_eq!(vm.add_memory(&[region(0, 0x2000)]), Ok(()));
}

/// The end of a mapping in the background, in a channel.
fn map_in_background(vm: &Vm) -> (MappingThread, Receiver<Result<(), DmaError>>) {
    let (sender, receiver) = channel();
    let done = move |result| sender.send(result).unwrap();
    (vm.add_memory_in_background(vec![region(0, 0x2000)], Vec::new(), done).unwrap(), receiver)
}

#[test]
fn mapping_that_panics_has_failed() {
    let (kernel, vm, _sysfs) = test_vm();
    let device = vm.open(bdf()).unwrap();
    kernel.panic("map_dma");
    let (mapping, told) = map_in_background(&vm);
    assert_eq!(device.wait_for_memory(), Err(DmaError::Panicked));
    assert_eq!((told.recv().unwrap(), mapping.wait()), (Err(DmaError::Panicked), Err(DmaError::Panicked)));
}

#[test]
fn mapping_thread_is_done_when_memory_is_mapped() {
    let (kernel, vm, _sysfs) = test_vm();
    let _device = vm.open(bdf()).unwrap();
    let held = kernel.hold("map_dma");
    let (mapping, told) = map_in_background(&vm);
    held.reached();
    assert!(!mapping.is_done());
    held.release(Ok(()));
    assert_eq!((mapping.wait(), told.recv().unwrap()), (Ok(()), Ok(())));
}

#[test]
fn device_opened_during_a_mapping_has_the_memory_too() {
    let (kernel, vm, _sysfs) = test_vm();
    let _first = vm.open(at("0000:00:04.0")).unwrap();
    // A space of its own for the second.
    kernel.fail("set_container", Errno::EINVAL);
    kernel.calls();
    let held = kernel.hold("map_dma");
    let (mapping, _told) = map_in_background(&vm);
    held.reached();
    thread::scope(|scope| {
        let opening = scope.spawn(|| vm.open(at("0000:00:05.0")).unwrap());
        held.release(Ok(()));
        opening.join().unwrap();
    });
    assert_eq!(mapping.wait(), Ok(()));
    assert_eq!(starting(&kernel.calls(), "map_dma"), ["map_dma 0x0 0x2000"; 2]);
}

#[test]
fn device_dropped_during_a_mapping_closes_everything_after_it() {
    let (kernel, vm, _sysfs) = test_vm();
    let device = vm.open(bdf()).unwrap();
    let held = kernel.hold("map_dma");
    let (mapping, _told) = map_in_background(&vm);
    held.reached();
    thread::scope(|scope| {
        scope.spawn(|| drop(device));
        held.release(Ok(()));
    });
    assert_eq!((mapping.wait(), vm.open_groups_and_spaces()), (Ok(()), (0, 0)));
    kernel.calls();
    let _again = vm.open(bdf()).unwrap();
    assert_eq!(starting(&kernel.calls(), "map_dma"), ["map_dma 0x0 0x2000"]);
}

#[test]
fn unmapping_less_than_asked_is_an_error_and_can_be_repeated() {
    let (kernel, vm, _sysfs) = test_vm();
    let added = region(0, 0x2000);
    vm.add_memory(std::slice::from_ref(&added)).unwrap();
    let _device = vm.open(bdf()).unwrap();
    kernel.answer("unmap_dma", 0x1000);
    let span = GuestRegion::iova_of(added.guest);
    let short = DmaError::HalfUnmapped { span, unmapped: 0x1000 };
    assert_eq!(vm.remove_memory(added.guest), Err(short));
    assert_eq!(vm.remove_memory(added.guest), Ok(()));
    assert_eq!(vm.remove_memory(added.guest), Err(DmaError::NotMapped { span }));
}

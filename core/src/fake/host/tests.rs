//! Windows that are mapped once and over no other, and a table that is the kernel's.

use super::*;
use crate::span::Span;

const BAR0: BarIndex = BarIndex::BARS[0];

fn window(index: usize, guest: u64) -> MappedWindow {
    let device = Span::from_size(PhysBarOffset::new(0), 0x1000).unwrap();
    MappedWindow { index, bar: BAR0, device, guest: device.moved_to(GuestAddr::new(guest)).unwrap() }
}

#[test]
fn a_window_is_mapped_once_and_over_no_other() {
    let mut host = FakeHost::new(&Shape::nvme(4));
    assert_eq!(host.map(window(0, 0x1_0000)), Ok(()));
    assert_eq!(host.map(window(0, 0x2_0000)), Err(FakeError::WindowState(0)));
    assert_eq!(host.map(window(1, 0x1_0800)), Err(FakeError::WindowOverlap(0)));
    assert_eq!(host.unmap(window(0, 0x2_0000)), Err(FakeError::WindowState(0)));
    assert_eq!((host.unmap(window(0, 0x1_0000)), host.windows()), (Ok(()), &[][..]));
}

#[test]
fn the_device_s_table_is_the_kernel_s() {
    let mut host = FakeHost::new(&Shape::nvme(4));
    host.config_write(crate::regs::header::COMMAND, Width::Word, 2).unwrap();
    let at = PhysBarOffset::new(0x2000);
    assert_eq!(host.bar_write(BAR0, at, Width::Dword, 7), Ok(()));
    assert_eq!(host.bar_read(BAR0, at, Width::Dword), Ok(0xffff_ffff));
    let end = PhysBarOffset::new(0x2040);
    assert_eq!(host.bar_read(BAR0, end, Width::Dword), Ok(0));
    let past = PhysBarOffset::new(0x4000);
    assert_eq!(host.bar_read(BAR0, past, Width::Byte), Err(FakeError::OutOfRange(0x4000)));
}

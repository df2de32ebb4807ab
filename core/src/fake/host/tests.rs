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

const PMCSR: ConfigOffset = ConfigOffset::low(0x44);

fn set_power(host: &mut FakeHost, state: u32) -> u32 {
    host.config_write(PMCSR, Width::Word, state).unwrap();
    host.config_read(PMCSR, Width::Word).unwrap() & 3
}

#[test]
fn a_device_falls_asleep_by_steps_and_wakes_to_d0_only() {
    let mut host = FakeHost::new(&Shape::nvme(4));
    let written = [1, 2, 1, 3, 2, 1, 0, 2, 0];
    assert_eq!(written.map(|state| set_power(&mut host, state)), [1, 2, 2, 3, 3, 3, 0, 2, 0]);
    // Refused is the state alone, and in this byte alone.
    set_power(&mut host, 2);
    host.config_write(PMCSR, Width::Word, 0x101).unwrap();
    assert_eq!(host.config_read(PMCSR, Width::Word), Ok(0x102));
}

#[test]
fn a_function_reset_clears_what_stands_behind_the_bars_and_status_and_wakes() {
    let mut host = FakeHost::new(&Shape::nvme(4).pin());
    let command = crate::regs::header::COMMAND;
    host.config_write(command, Width::Word, 6).unwrap();
    let at = PhysBarOffset::new(0x10);
    host.bar_write(BAR0, at, Width::Dword, 7).unwrap();
    host.assert_pin(true);
    assert_eq!(host.config_read(ConfigOffset::low(6), Width::Word).unwrap() & 8, 8);
    set_power(&mut host, 0x103);
    assert!(!host.decodes_memory());
    host.reset().unwrap();
    assert!(host.decodes_memory());
    assert_eq!(host.config_read(ConfigOffset::low(6), Width::Word).unwrap() & 8, 0);
    assert_eq!(host.config_read(PMCSR, Width::Word), Ok(0x100));
    assert_eq!(host.bar_read(BAR0, at, Width::Dword), Ok(0));
    assert_eq!((host.hardware_command().bits(), host.resets()), (6, 1));
}

#[test]
fn a_device_that_is_gone_asleep_or_no_bus_master_sends_no_message() {
    let vector = VectorIndex::new(0).unwrap();
    let raised = |command: u32, power: u32, gone: bool| {
        let mut host = FakeHost::new(&Shape::nvme(4));
        host.config_write(crate::regs::header::COMMAND, Width::Word, command).unwrap();
        host.enable(InterruptKind::Msix).unwrap();
        host.wire(InterruptKind::Msix, vector, vector, &|_| true).unwrap();
        set_power(&mut host, power);
        if gone {
            host.unplug();
        }
        host.raise(vector)
    };
    assert_eq!(raised(4, 0, false), Raised::Held);
    assert_eq!(raised(2, 0, false), Raised::Latched);
    assert_eq!(raised(4, 3, false), Raised::Latched);
    assert_eq!(raised(4, 0, true), Raised::Latched);
}

#[test]
fn faults_that_are_cleared_strike_no_more() {
    let mut host = FakeHost::new(&Shape::nvme(4));
    host.faults.fail_next(CallKind::WriteConfig, 1);
    host.faults.clear();
    assert_eq!(set_power(&mut host, 0), 0);
}

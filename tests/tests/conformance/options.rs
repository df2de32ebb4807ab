//! What an embedder decides: F3 and F6, capabilities and ids; C5 and B2, addresses; X2, the port type.

use vfio_assign_core::fake::{CallKind, Shape};
use vfio_assign_core::{
    Apertures, BarError, BarIndex, CapabilityChoice, CapabilityId, DescriptionError, GuestAddr, GuestPort,
    Ids, Options, Pin, PinFault, Placement, Span,
};
use vfio_assign_tests::{BASE, Rig, bar};

fn hide(id: CapabilityId) -> CapabilityChoice {
    CapabilityChoice { id, hidden: true }
}

fn keep(id: CapabilityId) -> CapabilityChoice {
    CapabilityChoice { id, hidden: false }
}

fn chosen(shape: &Shape, capabilities: &[CapabilityChoice]) -> Rig {
    Rig::with(shape, Options { capabilities, ..Options::default() }).unwrap()
}

fn pins(bar: BarIndex, pin: Pin) -> [Option<Pin>; 7] {
    let mut pinned = [None; 7];
    pinned[bar.position()] = Some(pin);
    pinned
}

fn pinned(shape: &Shape, bar: BarIndex, pin: Pin) -> Result<Rig, DescriptionError> {
    Rig::with(shape, Options { pinned: pins(bar, pin), ..Options::default() })
}

fn placed(shape: &Shape, placement: Placement) -> Rig {
    Rig::with(shape, Options { placement, ..Options::default() }).unwrap()
}

/// PCI Express alone, at 0x40, with this first word and 0x77 in every other byte.
fn express(capabilities: u16) -> Shape {
    let [low, high] = capabilities.to_le_bytes();
    let mut body = [0x77; 0x3a];
    body[..2].copy_from_slice(&[low, high]);
    Shape::new().capability(0x10, &body).capability(0x09, &[4, 0xab])
}

#[test]
fn f3_a_dword_of_two_policies_goes_both_ways() {
    let mut rig = placed(&express(0x0002), Placement::RootComplex);
    assert_eq!(rig.config_read(0x40, 4), 0x0092_7c10);
    assert_eq!(rig.kinds(), [CallKind::ReadConfig]);
}

#[test]
fn f3_capabilities_without_a_rule_are_hardware_s() {
    let shape = Shape::new()
        .capability(0x7e, &[1, 2, 3, 4, 5, 6])
        .extended_capability(0x7ee, &[1, 2, 3, 4])
        .extended_capability(0x18, &[5, 6, 7, 8]);
    let mut rig = Rig::new(&shape);
    assert_eq!(rig.config_read(0x40, 8), 0x0605_0403_0201_007e);
    assert_eq!((rig.config_read(0x104, 4), rig.config_read(0x10c, 4)), (0x0403_0201, 0x0807_0605));
}

#[test]
fn f3_a_write_to_a_hardware_register_goes_on() {
    let mut rig = Rig::new(&Shape::new().capability(0x03, &[0; 6]));
    rig.config_write(0x42, 2, 0x8000);
    assert_eq!(rig.kinds(), [CallKind::WriteConfig]);
}

#[test]
fn f6_users_hide_any_capability() {
    let shape = Shape::nvme(4).capability(0x09, &[8, 1, 2, 3, 4, 5]).capability(0x7e, &[9; 6]);
    let mut rig = chosen(&shape, &[hide(CapabilityId::Standard(0x09))]);
    // Vendor-Specific is at 0x90, after the 60 bytes of PCI Express, and says that it has 8 bytes.
    assert_eq!((rig.config_read(0x90, 4), rig.config_read(0x94, 4)), (0x9800, 0));
    assert_eq!(rig.config_read(0x98, 4), 0x0909_007e);
}

#[test]
fn f6_users_hide_a_capability_of_unknown_size_up_to_the_next() {
    let shape = Shape::nvme(4).extended_capability(0x7ee, &[9; 36]).extended_capability(0x0b, &[7; 8]);
    let mut rig = chosen(&shape, &[hide(CapabilityId::Extended(0x7ee))]);
    assert_eq!((rig.config_read(0x100, 4), rig.config_read(0x128, 4)), (0x1280_0000, 0x0001_000b));
    assert!((0x104..0x128).all(|at| rig.config_read(at, 1) == 0));
}

#[test]
fn f6_users_hide_msix() {
    let mut rig = chosen(&Shape::nvme(4), &[hide(CapabilityId::Standard(0x11))]);
    assert_eq!((rig.config_read(0x48, 4), rig.config_read(0x4c, 8)), (0x5400, 0));
    assert!(rig.function.msix().is_none());
}

#[test]
fn f6_users_hide_power_management() {
    let mut rig = chosen(&Shape::nvme(4), &[hide(CapabilityId::Standard(0x01))]);
    rig.config_write(Rig::PMCSR, 2, 3);
    assert_eq!((rig.config_read(Rig::PMCSR, 2), rig.kinds()), (0, vec![]));
}

#[test]
fn f7_a_device_that_sleeps_is_woken_though_the_guest_sees_no_power_management() {
    let mut shape = Shape::nvme(4);
    shape.put(0x44, &[3]);
    let mut rig = chosen(&shape, &[hide(CapabilityId::Standard(0x01))]);
    rig.map_bar0();
    assert!(rig.host.decodes_memory());
    assert_eq!((rig.windows().len(), rig.config_read(Rig::PMCSR, 2)), (1, 0));
}

#[test]
fn f7_of_two_power_managements_the_first_is_the_one_that_wakes() {
    let mut shape = Shape::nvme(4).power_management(0);
    shape.put(0x44, &[3]);
    let mut rig = chosen(&shape, &[hide(CapabilityId::Standard(0x01))]);
    rig.map_bar0();
    assert!(rig.host.decodes_memory());
}

#[test]
fn f6_users_keep_what_is_hidden() {
    let shape = Shape::nvme(4).extended_capability(0x0e, &[1, 2, 3, 4]);
    let mut rig = chosen(&shape, &[keep(CapabilityId::Extended(0x0e))]);
    assert_eq!(rig.config_read(0x100, 8), 0x0403_0201_0001_000e);
}

#[test]
fn f6_of_two_choices_the_first_counts() {
    let both = [keep(CapabilityId::Extended(0x0e)), hide(CapabilityId::Extended(0x0e))];
    let mut rig = chosen(&Shape::nvme(4).extended_capability(0x0e, &[1, 2, 3, 4]), &both);
    assert_eq!(rig.config_read(0x104, 4), 0x0403_0201);
}

#[test]
fn f6_users_give_ids() {
    let ids = Ids { vendor: Some(0x8086), subsystem: Some(0x1234), ..Ids::default() };
    let mut rig = Rig::with(&Shape::nvme(4), Options { ids, ..Options::default() }).unwrap();
    assert_eq!((rig.config_read(0, 4), rig.config_read(0x2c, 4)), (0x0010_8086, 0x1234_1af4));
    rig.steps();
    rig.config_write(0, 4, 0);
    assert_eq!((rig.config_read(0, 4), rig.kinds()), (0x0010_8086, vec![]));
}

#[test]
fn c5_a_pinned_bar_is_found_where_it_is_pinned() {
    let mut rig = pinned(&Shape::nvme(4), bar(0), Pin::At(BASE)).unwrap();
    assert_eq!(rig.config_read(0x10, 8), BASE | 0xc);
    rig.config_write(4, 2, 2);
    assert_eq!(rig.decoded(bar(0)), Some((BASE, BASE + 0x3fff)));
}

#[test]
fn c5_a_bar_is_pinned_to_the_host_s_address() {
    let mut shape = Shape::nvme(4);
    shape.put(0x10, &0x12_8000_000cu64.to_le_bytes());
    let mut rig = pinned(&shape, bar(0), Pin::Host).unwrap();
    assert_eq!(rig.config_read(0x10, 8), 0x12_8000_000c);
}

#[test]
fn c5_a_pinned_bar_comes_back_with_a_reset() {
    let mut rig = pinned(&Shape::nvme(4), bar(0), Pin::At(BASE)).unwrap();
    rig.config_write(0x10, 8, u64::MAX);
    let sizing = rig.config_read(0x10, 8);
    rig.function.reset(&mut rig.host);
    assert_eq!((sizing, rig.config_read(0x10, 8)), (0xffff_ffff_ffff_c00c, BASE | 0xc));
}

#[test]
fn c5_a_pin_that_cannot_be_is_a_typed_error() {
    let shape = Shape::new().wide_bar(bar(0), 0x4000).memory_bar(bar(2), 0x1000).io_bar(bar(3), 0x20);
    let cases = [
        (bar(0), BASE + 0x1000, PinFault::Unaligned),
        (bar(0), 0, PinFault::NotDecoded),
        (bar(0), 0xffff_ffff_0000_0000, PinFault::NotDecoded),
        (bar(1), BASE, PinFault::NoBar),
        (bar(2), 1 << 32, PinFault::TooWide),
        (bar(3), 0x1_0000_0000, PinFault::TooWide),
        (bar(4), BASE, PinFault::NoBar),
    ];
    for (bar, address, fault) in cases {
        let error = DescriptionError::Bars(BarError::Pin { bar, address, fault });
        assert_eq!(pinned(&shape, bar, Pin::At(address)).err(), Some(error));
    }
}

#[test]
fn b2_a_base_outside_the_apertures_is_not_decoded() {
    let memory = Span::from_size(GuestAddr::new(BASE), 0x10_0000);
    let apertures = Apertures { memory: [None, memory, None], ports: None };
    let mut rig = Rig::with(&Shape::nvme(4), Options { apertures, ..Options::default() }).unwrap();
    rig.map_bar0();
    let inside = rig.decoded(bar(0));
    rig.config_write(0x10, 4, BASE + 0x10_0000);
    assert_eq!((inside, rig.decoded(bar(0))), (Some((BASE, BASE + 0x3fff)), None));
    assert_eq!(rig.windows(), []);
}

#[test]
fn b2_ports_outside_the_aperture_are_not_decoded() {
    let ports = Span::from_size(GuestPort::new(0xc000), 0x1000);
    let apertures = Apertures { ports, ..Apertures::default() };
    let shape = Shape::new().io_bar(bar(0), 0x20);
    let mut rig = Rig::with(&shape, Options { apertures, ..Options::default() }).unwrap();
    rig.config_write(4, 2, 1);
    rig.config_write(0x10, 4, 0x2000);
    let outside = rig.host.trapped(bar(0));
    rig.config_write(0x10, 4, 0xc000);
    assert!(outside.is_none() && rig.host.trapped(bar(0)).is_some());
}

#[test]
fn x2_on_a_root_bus_an_endpoint_is_an_integrated_one() {
    for hardware in [0x0002, 0x0012, 0x0092] {
        let mut rig = placed(&express(hardware), Placement::RootComplex);
        assert_eq!(rig.config_read(0x42, 2), 0x0092);
    }
}

#[test]
fn x2_behind_a_port_an_integrated_endpoint_is_an_endpoint() {
    let types = [(0x0002, 0x0002), (0x0012, 0x0012), (0x0092, 0x0002)];
    for (hardware, guest) in types {
        let mut rig = placed(&express(hardware), Placement::BehindPort);
        assert_eq!(rig.config_read(0x42, 2), guest);
    }
}

#[test]
fn x2_an_integrated_endpoint_has_no_link() {
    let mut rig = placed(&express(0x0002), Placement::RootComplex);
    let link = [0x4c, 0x50, 0x6c, 0x70];
    assert_eq!(link.map(|at| rig.config_read(at, 4)), [0; 4]);
    assert_eq!((rig.config_read(0x48, 4), rig.config_read(0x68, 4)), (0x7777_7777, 0x7777_7777));
    rig.steps();
    rig.config_write(0x50, 2, 3);
    assert_eq!(rig.kinds(), []);
}

#[test]
fn x2_an_endpoint_has_the_device_s_link() {
    let mut rig = placed(&express(0x0002), Placement::BehindPort);
    assert_eq!(rig.config_read(0x4c, 8), 0x7777_7777_7777_7777);
}

#[test]
fn x2_an_integrated_endpoint_behind_a_port_gets_a_link() {
    let mut rig = placed(&express(0x0092), Placement::BehindPort);
    assert_eq!(rig.config_read(0x4c, 8), 0x0011_0000_0000_0011);
}

#[test]
fn x2_a_first_version_keeps_what_follows_it() {
    // Version 1 of an integrated endpoint ends before the link; the next capability stands there.
    let shape =
        Shape::new().capability(0x10, &[0x91, 0, 1, 2, 3, 4, 5, 6, 7, 8]).capability(0x09, &[4, 0xab]);
    let mut rig = placed(&shape, Placement::RootComplex);
    assert_eq!(rig.config_read(0x4c, 4), 0xab04_0009);
}

#[test]
fn f6_hidden_msi_ends_where_its_registers_do() {
    for (wide, maskable, end) in
        [(false, false, 0x4c), (true, false, 0x50), (false, true, 0x54), (true, true, 0x58)]
    {
        let mut shape = Shape::new().msi(0, wide, maskable);
        shape.put(0x44, &[0x77; 0x20]);
        let mut rig = chosen(&shape, &[hide(CapabilityId::Standard(0x05))]);
        let read = [end - 4, end].map(|at| rig.config_read(at, 4));
        assert_eq!(read, [0, 0x7777_7777], "{wide} {maskable}");
    }
}

#[test]
fn f6_a_hidden_capability_ends_where_its_version_or_its_length_says() {
    // PCI Express of the first version: an Endpoint's has 20 bytes, an Integrated Endpoint's 12.
    for (capabilities, end) in [(0x0001, 0x54), (0x0091, 0x4c)] {
        let mut rig = chosen(&express(capabilities), &[hide(CapabilityId::Standard(0x10))]);
        let read = [end - 4, end].map(|at| rig.config_read(at, 4));
        assert_eq!(read, [0, 0x7777_7777], "{capabilities:#x}");
    }
    let mut body = [0x77; 0x20];
    body[..4].copy_from_slice(&[0, 0, 0, 0x01]);
    let shape = Shape::new().extended_capability(0x0b, &body);
    let mut rig = chosen(&shape, &[hide(CapabilityId::Extended(0x0b))]);
    assert_eq!([0x10c, 0x110].map(|at| rig.config_read(at, 4)), [0, 0x7777_7777]);
}

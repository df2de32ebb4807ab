//! The port as Linux's driver meets it.

use super::*;

const ENABLED: u16 = HOT_PLUG_INTERRUPT | LINK_CHANGED_ENABLE | BUTTON_PRESSED;

fn write(port: &mut Port, offset: u16, value: u16) -> Effect {
    port.write(offset, &value.to_le_bytes())
}

fn word(port: &Port, offset: u16) -> u16 {
    let mut data = [0; 2];
    port.read(offset, &mut data);
    u16::from_le_bytes(data)
}

/// A port whose driver is there and wants interrupts.
fn served(present: bool) -> Port {
    let mut port = Port::new(3, present);
    port.write(MSI + 4, &0xfee0_1000_u32.to_le_bytes());
    write(&mut port, MSI + 12, 0x41);
    write(&mut port, MSI_CONTROL, MSI_ENABLE);
    let power = if present { 0 } else { POWER_OFF };
    write(&mut port, SLOT_CONTROL, ENABLED | power);
    port
}

const MESSAGE: Option<PortMessage> = Some(PortMessage { address: 0xfee0_1000, data: 0x41 });

#[test]
fn capabilities_are_a_root_port_with_a_slot_and_msi() {
    let port = Port::new(3, false);
    let chain = [word(&port, 0x34), word(&port, EXPRESS), word(&port, EXPRESS + 2), word(&port, MSI)];
    assert_eq!(chain, [EXPRESS, 0x8010, 0x0142, 0x0005]);
}

#[test]
fn the_bus_behind_it_has_the_number_that_the_guest_gives() {
    let mut port = Port::new(3, true);
    let before = port.bus();
    port.write(BUSES, &[0, 5, 9]);
    assert_eq!((before, port.bus()), (None, Some(5)));
}

#[test]
fn a_full_slot_starts_with_its_link_up_and_an_empty_one_without_power() {
    let states = [true, false].map(|present| {
        let port = Port::new(3, present);
        (
            port.is_up(),
            word(&port, LINK_STATUS) & LINK_ACTIVE != 0,
            word(&port, SLOT_CONTROL) & POWER_OFF != 0,
        )
    });
    assert_eq!(states, [(true, true, false), (false, false, true)]);
}

#[test]
fn what_is_put_in_interrupts_once_and_its_link_comes_with_power() {
    let mut port = served(false);
    port.insert();
    assert_eq!((port.interrupt(), port.interrupt(), port.is_up()), (MESSAGE, None, false));
    write(&mut port, SLOT_STATUS, 0xffff);
    assert_eq!(port.interrupt(), None);
    write(&mut port, SLOT_CONTROL, ENABLED);
    assert_eq!((port.is_up(), port.interrupt()), (true, MESSAGE));
}

#[test]
fn what_is_wanted_back_is_released_by_turning_the_power_off() {
    let mut port = served(true);
    port.ask_back();
    assert_eq!((port.interrupt(), port.is_released(), port.is_up()), (MESSAGE, false, true));
    assert_eq!(write(&mut port, SLOT_CONTROL, ENABLED | POWER_OFF), Effect::Released);
    port.remove();
    assert_eq!(word(&port, SLOT_STATUS) & PRESENT, 0);
}

#[test]
fn what_is_wanted_back_is_released_where_the_link_is_disabled_before_the_power_is_off() {
    let mut port = served(true);
    port.ask_back();
    let effects = [
        write(&mut port, LINK_CONTROL, LINK_DISABLE),
        write(&mut port, SLOT_CONTROL, ENABLED | POWER_OFF),
        write(&mut port, SLOT_CONTROL, ENABLED | POWER_OFF),
    ];
    assert_eq!(effects, [Effect::Reset, Effect::Released, Effect::None]);
}

#[test]
fn the_button_is_not_pressed_where_the_power_is_off() {
    let mut port = served(true);
    write(&mut port, SLOT_CONTROL, ENABLED | POWER_OFF);
    write(&mut port, SLOT_STATUS, 0xffff);
    port.interrupt();
    port.ask_back();
    assert_eq!((port.interrupt(), port.is_released()), (None, true));
    assert_eq!(word(&port, SLOT_STATUS) & BUTTON_PRESSED, 0);
}

#[test]
fn the_button_is_pressed_once() {
    let mut port = served(true);
    port.ask_back();
    write(&mut port, SLOT_STATUS, 0xffff);
    port.interrupt();
    port.ask_back();
    assert_eq!(port.interrupt(), None);
}

#[test]
fn power_off_unasked_resets_and_power_on_brings_the_link_back() {
    let mut port = served(true);
    assert_eq!(write(&mut port, SLOT_CONTROL, ENABLED | POWER_OFF), Effect::Reset);
    assert_eq!((write(&mut port, SLOT_CONTROL, ENABLED), port.is_up()), (Effect::None, true));
}

#[test]
fn what_goes_by_itself_takes_its_link_down() {
    let mut port = served(true);
    port.remove();
    let status = word(&port, SLOT_STATUS);
    assert_eq!((status & PRESENT, status & LINK_CHANGED, port.interrupt()), (0, LINK_CHANGED, MESSAGE));
}

#[test]
fn a_reset_of_the_secondary_bus_resets_once() {
    let mut port = Port::new(3, true);
    let effects = [BRIDGE_BUS_RESET, BRIDGE_BUS_RESET, 0].map(|bits| write(&mut port, BRIDGE_CONTROL, bits));
    assert_eq!(effects, [Effect::Reset, Effect::None, Effect::None]);
}

#[test]
fn without_msi_nobody_is_interrupted() {
    let mut port = served(true);
    write(&mut port, MSI_CONTROL, 0);
    port.ask_back();
    assert_eq!(port.interrupt(), None);
}

#[test]
fn a_reset_of_the_machine_keeps_what_is_in_the_slot() {
    let mut port = served(true);
    port.write(BUSES, &[0, 5, 9]);
    port.reset();
    assert_eq!((port.is_up(), port.bus(), port.is_released()), (true, None, false));
}

#[test]
fn a_reset_of_the_machine_gives_up_what_is_wanted_back() {
    let mut port = served(true);
    port.ask_back();
    port.reset();
    assert_eq!((port.is_up(), port.is_released()), (false, true));
}

#[test]
fn a_port_goes_on_from_what_was_saved() {
    let mut first = served(true);
    first.write(BUSES, &[0, 5, 9]);
    first.ask_back();
    let mut second = Port::new(3, false);
    assert!(second.restore(&first.save()));
    assert_eq!(
        (second.bus(), second.is_up(), second.is_asked_back(), second.interrupt()),
        (Some(5), true, true, MESSAGE)
    );
}

#[test]
fn what_is_no_port_is_not_restored() {
    let saved = SavedPort { registers: vec![0; 3], present: true, wanted: false, interrupting: false };
    assert!(!Port::new(3, false).restore(&saved));
}

#[test]
fn a_message_that_reaches_no_interrupt_controller_is_not_sent() {
    let mut port = served(true);
    port.write(MSI + 4, &0xfed0_0000_u32.to_le_bytes());
    port.ask_back();
    assert_eq!(port.interrupt(), None);
}

//! Registers as a guest sizes and places them, and devices whose registers make no sense.

use super::*;

const BAR0: BarIndex = BarIndex::BARS[0];
const BAR1: BarIndex = BarIndex::BARS[1];
const BAR2: BarIndex = BarIndex::BARS[2];
const BAR5: BarIndex = BarIndex::BARS[5];

fn bars(flags: [u32; 6], sizes: [u64; 7]) -> Result<Bars, BarError> {
    let mut bytes = [0; 64];
    for (index, flags) in flags.iter().enumerate() {
        bytes[0x10 + 4 * index..0x14 + 4 * index].copy_from_slice(&flags.to_le_bytes());
    }
    Bars::new(ConfigImage::new(&bytes), &sizes)
}

fn wide() -> Bars {
    bars([4, 0, 0, 0, 0, 0], [0x4000, 0, 0, 0, 0, 0, 0]).unwrap()
}

#[test]
fn sizing_reads_mask_and_type() {
    let mut bars = wide();
    bars.write(BAR0, u32::MAX, ByteLanes::ALL);
    bars.write(BAR1, u32::MAX, ByteLanes::ALL);
    assert_eq!((bars.read(BAR0), bars.read(BAR1)), (0xffff_c004, u32::MAX));
}

#[test]
fn sizing_value_is_not_decoded() {
    let mut bars = wide();
    bars.write(BAR0, u32::MAX, ByteLanes::ALL);
    assert_eq!(bars.memory(BAR0), None);
}

#[test]
fn upper_half_of_all_ones_is_not_decoded() {
    let mut bars = wide();
    bars.write(BAR0, 0x8000_0000, ByteLanes::ALL);
    bars.write(BAR1, u32::MAX, ByteLanes::ALL);
    assert_eq!(bars.memory(BAR0), None);
}

#[test]
fn pair_decodes_64_bits() {
    let mut bars = wide();
    bars.write(BAR0, 0x8000_0000, ByteLanes::ALL);
    bars.write(BAR1, 0x12, ByteLanes::ALL);
    assert_eq!(bars.memory(BAR0), Span::from_size(GuestAddr::new(0x12_8000_0000), 0x4000));
}

#[test]
fn upper_half_is_no_bar() {
    assert_eq!(wide().get(BAR1), None);
}

#[test]
fn byte_write_keeps_the_neighbours() {
    let mut bars = wide();
    bars.write(BAR0, 0x8765_4000, ByteLanes::ALL);
    bars.write(BAR0, 0x0012_0000, ByteLanes::from_bits(0x4));
    assert_eq!(bars.read(BAR0), 0x8712_4004);
}

#[test]
fn base_zero_is_not_decoded() {
    assert_eq!(wide().memory(BAR0), None);
}

#[test]
fn odd_pair_is_one_bar() {
    let mut bars = bars([0, 4, 0, 0, 0, 0], [0, 0x1000, 0, 0, 0, 0, 0]).unwrap();
    bars.write(BAR2, 1, ByteLanes::ALL);
    bars.write(BAR1, 0x2000_0000, ByteLanes::ALL);
    assert_eq!(bars.memory(BAR1), Span::from_size(GuestAddr::new(0x1_2000_0000), 0x1000));
}

#[test]
fn pair_at_index_5_is_an_error() {
    assert_eq!(
        bars([0, 0, 0, 0, 0, 4], [0, 0, 0, 0, 0, 0x1000, 0]),
        Err(BarError::NoUpperHalf { bar: BAR5, value: 4 })
    );
}

#[test]
fn reserved_type_is_an_error() {
    assert_eq!(
        bars([6, 0, 0, 0, 0, 0], [0x1000, 0, 0, 0, 0, 0, 0]),
        Err(BarError::ReservedType { bar: BAR0, value: 6 })
    );
}

#[test]
fn size_that_is_no_power_of_two_is_an_error() {
    assert_eq!(
        bars([0; 6], [0x3000, 0, 0, 0, 0, 0, 0]),
        Err(BarError::SizeNotPowerOfTwo { bar: BAR0, size: 0x3000 })
    );
}

#[test]
fn narrow_bar_over_2_gib_is_an_error() {
    assert_eq!(
        bars([0; 6], [1 << 32, 0, 0, 0, 0, 0, 0]),
        Err(BarError::SizeTooLarge { bar: BAR0, size: 1 << 32 })
    );
}

fn pinned(pin: Pin) -> Result<Option<Span<GuestAddr>>, BarError> {
    let mut bytes = [0; 64];
    bytes[0x10..0x18].copy_from_slice(&0x12_e000_000cu64.to_le_bytes());
    let image = ConfigImage::new(&bytes);
    let mut bars = Bars::new(image, &[0x4000, 0, 0, 0, 0, 0, 0]).unwrap();
    bars.pin(image, &[Some(pin), None, None, None, None, None, None])?;
    bars.write(BAR0, 0, ByteLanes::ALL);
    bars.reset();
    Ok(bars.memory(BAR0))
}

#[test]
fn pinned_bar_is_where_it_was_after_reset() {
    assert_eq!(pinned(Pin::At(0x1_8000)), Ok(Span::from_size(GuestAddr::new(0x1_8000), 0x4000)));
}

#[test]
fn bar_is_pinned_where_the_host_has_it() {
    assert_eq!(pinned(Pin::Host), Ok(Span::from_size(GuestAddr::new(0x12_e000_0000), 0x4000)));
}

#[test]
fn unaligned_pin_is_an_error() {
    let error = BarError::Pin { bar: BAR0, address: 0x1_2000, fault: PinFault::Unaligned };
    assert_eq!(pinned(Pin::At(0x1_2000)), Err(error));
}

#[test]
fn pin_to_zero_is_an_error() {
    let error = BarError::Pin { bar: BAR0, address: 0, fault: PinFault::NotDecoded };
    assert_eq!(pinned(Pin::At(0)), Err(error));
}

#[test]
fn rom_decodes_only_when_enabled() {
    let mut bars = bars([0; 6], [0, 0, 0, 0, 0, 0, 0x1_0000]).unwrap();
    bars.write(BarIndex::ROM, 0x4000_0000, ByteLanes::ALL);
    let off = bars.memory(BarIndex::ROM);
    bars.write(BarIndex::ROM, 1, ByteLanes::from_bits(1));
    assert_eq!(
        (off, bars.memory(BarIndex::ROM)),
        (None, Span::from_size(GuestAddr::new(0x4000_0000), 0x1_0000))
    );
}

#[test]
fn io_bar_decodes_ports() {
    let mut bars = bars([1, 0, 0, 0, 0, 0], [0x20, 0, 0, 0, 0, 0, 0]).unwrap();
    bars.write(BAR0, 0xc040, ByteLanes::ALL);
    assert_eq!(bars.ports(BAR0), Span::from_size(GuestPort::new(0xc040), 0x20));
}

#[test]
fn a_32_bit_bar_says_that_it_is_prefetchable() {
    let bars = bars([8, 0, 0, 0, 0, 0], [0x4000, 0, 0, 0, 0, 0, 0]).unwrap();
    assert_eq!(bars.read(BAR0), 8);
}

#[test]
fn each_fault_of_a_pinned_address_is_told_in_words_of_its_own() {
    let faults = [PinFault::NoBar, PinFault::Unaligned, PinFault::TooWide, PinFault::NotDecoded];
    let texts = faults.map(|fault| std::format!("{}", BarError::Pin { bar: BAR0, address: 0x123, fault }));
    for (index, text) in texts.iter().enumerate() {
        let (opening, reason) = text.split_once(": ").unwrap();
        assert_eq!(opening, "BAR0 cannot be pinned to 0x123");
        assert!(!reason.is_empty() && !texts[..index].contains(text), "{text}");
    }
}

#[test]
fn a_bar_that_there_is_not_has_no_host_address() {
    let mut bars = wide();
    let pins = [None, None, Some(Pin::Host), None, None, None, None];
    let mut bytes = [0; 64];
    bytes[0x18..0x1c].copy_from_slice(&0xe000_0000u32.to_le_bytes());
    let fault = BarError::Pin { bar: BAR2, address: 0xe000_0000, fault: PinFault::NoBar };
    assert_eq!(bars.pin(ConfigImage::new(&bytes), &pins), Err(fault));
}

#[test]
fn sizes_of_each_kind_are_those_that_its_registers_can_tell() {
    const IO: u32 = 1;
    const WIDE: u32 = 4;
    let first = |flags, size| bars([flags, 0, 0, 0, 0, 0], [size, 0, 0, 0, 0, 0, 0]).map(|_| ());
    let rom = |size| bars([0; 6], [0, 0, 0, 0, 0, 0, size]).map(|_| ());
    let small = |bar, size| Err(BarError::SizeTooSmall { bar, size });
    let large = |bar, size| Err(BarError::SizeTooLarge { bar, size });
    let four_gib = 1 << 32;
    assert_eq!(
        [2, 4, 1 << 31, four_gib].map(|size| first(IO, size)),
        [small(BAR0, 2), Ok(()), Ok(()), large(BAR0, four_gib)]
    );
    assert_eq!(
        [8, 16, 1 << 31, four_gib].map(|size| first(0, size)),
        [small(BAR0, 8), Ok(()), Ok(()), large(BAR0, four_gib)]
    );
    assert_eq!(
        [8, 16, four_gib, 1 << 63].map(|size| first(WIDE, size)),
        [small(BAR0, 8), Ok(()), Ok(()), Ok(())]
    );
    assert_eq!(
        [1024, 2048, 1 << 31, four_gib].map(rom),
        [small(BarIndex::ROM, 1024), Ok(()), Ok(()), large(BarIndex::ROM, four_gib)]
    );
}

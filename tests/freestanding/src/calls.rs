//! A call of each public function, written `Type::function(`, by which `cargo nopanic` sees that none is missing.

use crate::host::Opaque;
use core::fmt::Write;
use core::hint::black_box;
use vfio_assign_core::host::{HostInterrupts, InterruptKind, Outcome, Step};
use vfio_assign_core::region_info::{HEADER, InfoCapability, InfoChain, RegionInfo};
use vfio_assign_core::regs::power::PowerState;
use vfio_assign_core::{
    Access, Address, AssignedFunction, BarIndex, Bars, Bdf, BusMastering, ByteLanes, Bytes, ConfigImage,
    ConfigMap, ConfigOffset, Decoder, Description, Explanation, GuestAddr, GuestBarOffset, GuestPort, Intx,
    Iova, Msi, Msix, MsixLayout, Options, PageSize, PhysBarOffset, Policy, Region, Span, Target, Vector,
    VectorIndex, Width, Window,
};

/// Every public function of the core.
#[inline(never)]
pub(crate) fn all() {
    addresses();
    widths_and_lanes();
    bytes();
    spans();
    image();
    parts();
    answers();
    function();
    text();
}

/// Throws a result away so that its making stays.
fn seen<T>(value: T) {
    black_box(value);
}

fn offset() -> ConfigOffset {
    black_box(ConfigOffset::low(black_box(7)))
}

fn bar() -> BarIndex {
    black_box(BarIndex::ROM)
}

fn vector() -> VectorIndex {
    black_box(VectorIndex::default())
}

fn kind() -> InterruptKind {
    black_box(InterruptKind::Msi)
}

fn page() -> PageSize {
    black_box(PageSize::SIZE_16K)
}

fn number() -> u64 {
    black_box(7)
}

#[inline(never)]
fn addresses() {
    let address = GuestAddr::new(number());
    seen(GuestAddr::get(address));
    seen(GuestAddr::checked_add(address, number()));
    seen(<GuestPort as Address>::get(<GuestPort as Address>::new(number())));
    seen((Iova::new(number()), PhysBarOffset::new(number()), GuestBarOffset::new(number())));

    let function = Bdf::new(black_box(1), black_box(2), black_box(3), black_box(4));
    if let Some(function) = black_box(function) {
        seen((Bdf::segment(function), Bdf::bus(function), Bdf::device(function), Bdf::function(function)));
    }
    seen(black_box("0000:00:04.0").parse::<Bdf>());

    seen(BarIndex::new(black_box(3)));
    seen((BarIndex::get(bar()), BarIndex::position(bar()), BarIndex::next(bar())));

    seen(ConfigOffset::new(black_box(9)));
    seen((ConfigOffset::get(offset()), ConfigOffset::dword(offset())));
    seen(ConfigOffset::checked_add(offset(), black_box(3)));

    seen(VectorIndex::new(black_box(3)));
    seen((VectorIndex::get(vector()), VectorIndex::position(vector()), VectorIndex::pba_qword(vector())));

    seen(PageSize::new(number()));
    seen((PageSize::get(page()), PageSize::mask(page())));
}

#[inline(never)]
fn widths_and_lanes() {
    let width = black_box(Width::Word);
    seen((Width::bytes(width), Width::all_ones(width), Width::natural(number(), number())));
    let lanes = ByteLanes::from_bits(black_box(5));
    let other = ByteLanes::touching(black_box(0xff00));
    seen((ByteLanes::is_none(lanes), ByteLanes::mask(lanes)));
    seen(ByteLanes::and(lanes, other));
    seen(PowerState::to_pmcsr(PowerState::from_pmcsr(black_box(2))));
}

#[inline(never)]
fn bytes() {
    let bytes = black_box(Bytes::from_slice(black_box(&[1, 2, 3])));
    seen((Bytes::len(&bytes), Bytes::is_empty(&bytes), Bytes::as_slice(&bytes)));
    seen(bytes == Bytes::all_ones(black_box(70)));
}

#[inline(never)]
fn spans() {
    let first = GuestAddr::new(number());
    let spans = black_box((Span::new(first, GuestAddr::new(number())), Span::from_size(first, number())));
    let (Some(span), Some(other)) = spans else {
        return;
    };
    seen((Span::first(span), Span::last(span), Span::size(span), Span::contains(span, first)));
    seen((Span::covers(span, other), Span::overlaps(span, other), Span::intersect(span, other)));
    seen((Span::subtract(span, other), Span::align_out(span, page()), Span::align_in(span, page())));
    seen(Span::moved_to(span, PhysBarOffset::new(number())));
}

fn config() -> &'static [u8] {
    black_box(&[7; 4096])
}

#[inline(never)]
fn image() {
    let image = ConfigImage::new(config());
    seen((ConfigImage::size(image), ConfigImage::u8(image, offset()), ConfigImage::dword(image, offset())));
    seen(ConfigImage::tail(image, offset()));
    ConfigImage::capabilities(image).for_each(seen);
    ConfigImage::extended_capabilities(image).for_each(seen);
}

#[inline(never)]
fn answers() {
    let Some(region) = RegionInfo::parse(config()) else {
        return;
    };
    RegionInfo::areas(&region).for_each(seen);
    seen(region.finding.map(|finding| said(&finding)));
    for capability in InfoChain::new(config(), black_box(HEADER), black_box(40)).flatten() {
        seen((InfoCapability::u32_at(capability, black_box(8)), InfoCapability::pairs(capability)));
    }
}

/// The machines that can be had by themselves.
#[inline(never)]
fn parts() {
    let image = ConfigImage::new(config());
    if let Ok(map) = ConfigMap::new(image, black_box(&Options::default()), seen) {
        if let Some(register) = ConfigMap::register(&map, offset()) {
            seen(Policy::of(register));
        }
        seen((ConfigMap::size(&map), ConfigMap::supports(&map, black_box(PowerState::D1))));
        seen((ConfigMap::power_control(&map), ConfigMap::no_soft_reset(&map)));
    }
    let Ok(mut bars) = Bars::new(image, black_box(&[4096; 7])) else {
        return;
    };
    if let Err(error) = Bars::pin(&mut bars, image, black_box(&[None; 7])) {
        said(&error);
    }
    seen(MsixLayout::new(image, &bars, seen));
    seen(Bars::get(&bars, bar()));
    Bars::iter(&bars).for_each(seen);
    seen(Bars::write(&mut bars, bar(), black_box(5), ByteLanes::from_bits(black_box(7))));
    seen((Bars::read(&bars, bar()), Bars::memory(&bars, bar()), Bars::ports(&bars, bar())));
    Bars::reset(&mut bars);
    seen(bars);
}

fn target() -> Target {
    black_box(Target::Config(black_box(8)))
}

fn access() -> Access {
    let write = Access::Write { target: target(), data: Bytes::from_slice(black_box(&[1, 2, 3])) };
    let read = Access::Read { target: target(), size: black_box(8) };
    if black_box(true) { read } else { write }
}

#[inline(never)]
fn function() {
    let (mut vectors, mut windows) = ([Vector::RESET; 64], [Window::default(); 16]);
    let vectors: &mut [Vector] = black_box(&mut vectors);
    let windows: &mut [Window] = black_box(&mut windows);
    let description = black_box(Description {
        config: config(),
        regions: [Region::default(); 7],
        page_size: page(),
        interrupts: black_box(HostInterrupts::ALL),
        options: black_box(Options::default()),
    });
    let mut function = match AssignedFunction::new(&description, vectors, windows, |finding| said(&finding)) {
        Ok(function) => function,
        Err(error) => return said(&error),
    };
    let host = &mut Opaque;
    let function = black_box(&mut function);
    AssignedFunction::attach(function, host);
    seen(AssignedFunction::access(function, access(), host));
    AssignedFunction::settle(function, host);
    seen(AssignedFunction::reset(function, host));
    AssignedFunction::stop(function, black_box(BusMastering::Off), host);
    let mut buffer = [0; 2048];
    if let Err(error) = AssignedFunction::save(function, black_box(&mut buffer)) {
        said(&error);
    }
    seen((AssignedFunction::saved_size(function), AssignedFunction::is_stopped(function)));
    AssignedFunction::start(function, host);
    AssignedFunction::detach(function, host);
    if let Err(error) = AssignedFunction::restore(function, black_box(&buffer)) {
        said(&error);
    }

    seen(AssignedFunction::begin(function, access()));
    seen(AssignedFunction::begin_settle(function));
    seen(AssignedFunction::begin_attach(function));
    seen(AssignedFunction::begin_reset(function));
    seen(AssignedFunction::begin_detach(function));
    seen(AssignedFunction::begin_stop(function, black_box(BusMastering::Kept)));
    seen(AssignedFunction::begin_start(function));
    if let Some((token, step)) = AssignedFunction::next_step(function) {
        seen(AssignedFunction::perform(function, step, host));
        let outcome = black_box(Outcome::Value(number()));
        seen((Outcome::is_done(outcome), Step::kind(step)));
        seen(AssignedFunction::complete(function, token, outcome));
    }
    seen(AssignedFunction::drive_step(function, host));
    seen(AssignedFunction::drive(function, host));
    AssignedFunction::handle_interrupt(function, kind(), vector());
    AssignedFunction::handle_intx_eoi(function);
    AssignedFunction::handle_gone(function);

    let explanation = AssignedFunction::explain(function, &description);
    Explanation::config(&explanation).for_each(seen);
    Explanation::bar(&explanation, bar()).for_each(seen);
    seen(Explanation::interrupts(&explanation));
    said(&explanation);
    AssignedFunction::explain_bar(function, bar()).for_each(|piece| {
        said(&piece.span);
        said(&piece.treatment);
        said(&piece.reason);
    });
    seen((AssignedFunction::command(function), AssignedFunction::power(function)));
    seen((AssignedFunction::counters(function), AssignedFunction::bars(function)));
    seen((AssignedFunction::mapped_windows(function), AssignedFunction::is_quarantined(function)));
    seen((AssignedFunction::is_gone(function), AssignedFunction::last_reset(function)));
    seen(AssignedFunction::wants_event(function, kind(), vector()));
    seen(AssignedFunction::interrupt_mode(function));
    if let Some(msix) = AssignedFunction::msix(function) {
        seen((Msix::layout(msix), Msix::count(msix), Msix::message_control(msix), Msix::live(msix)));
        seen((Msix::pending(msix, vector()), Msix::host_vectors(msix)));
    }
    if let Some(msi) = AssignedFunction::msi(function) {
        seen((Msi::capability(msi), Msi::count(msi), Msi::message_control(msi), Msi::live(msi)));
        seen((Msi::pending(msi), Msi::host_vectors(msi)));
    }
    if let Some(intx) = AssignedFunction::intx(function) {
        said(&Intx::pin(intx));
        seen(Intx::live(intx));
    }
    let decoder = AssignedFunction::decoder(function);
    seen((Decoder::generation(decoder), Decoder::range(decoder, bar())));
    seen(Decoder::memory(decoder, GuestAddr::new(number()), number()));
    seen(Decoder::ports(decoder, GuestPort::new(number()), number()));
}

/// A text that goes nowhere.
struct Nowhere;

impl Write for Nowhere {
    fn write_str(&mut self, text: &str) -> core::fmt::Result {
        seen(text);
        black_box(Ok(()))
    }
}

#[inline(never)]
fn said(what: &dyn core::fmt::Display) {
    seen(Nowhere.write_fmt(format_args!("{what}")));
}

/// What addresses and errors say; findings are in the calls that make them.
#[inline(never)]
fn text() {
    said(&bar());
    said(&vector());
    said(&offset());
    said(&GuestAddr::new(number()));
    seen(Nowhere.write_fmt(format_args!("{:?} {:x}", offset(), GuestAddr::new(number()))));
    seen(Nowhere.write_fmt(format_args!("{:?}", Bytes::from_slice(black_box(&[1])))));
    if let Some(function) = black_box(Bdf::new(1, 2, 3, 4)) {
        said(&function);
    }
    if let Err(error) = black_box(black_box("").parse::<Bdf>()) {
        said(&error);
    }
}

//! Every public function of the core, written `(Type::function)`, by which `cargo nopanic` sees that none is missing.
//!
//! Nothing is called: a pointer to each function leaves the program for a place that the optimiser cannot see, so that
//! it must keep all of it, for any arguments. So none of the core's code gets into a function of this program, and
//! what `cargo nopanic` says of the core's size is all of it.

use crate::host::Opaque;
use core::fmt::{Debug, Display, Formatter, LowerHex};
use core::hint::black_box;
use core::str::FromStr;
use vfio_assign_core::host::{InterruptKind, Outcome, Step};
use vfio_assign_core::region_info::{ChainFinding, InfoCapability, InfoChain, Pairs, RegionInfo};
use vfio_assign_core::regs::power::PowerState;
use vfio_assign_core::{
    Address, BarError, BarIndex, BarPiece, Bars, Bdf, BdfError, ByteLanes, Bytes, CapabilityFinding,
    ConfigImage, ConfigMap, ConfigMapError, ConfigOffset, ConfigPiece, Decoder, DescriptionError, Finding,
    GuestAddr, GuestBarOffset, GuestPort, InterruptPin, InterruptReason, Intx, IntxFinding, Iova, Msi,
    MsiFinding, MsixFinding, MsixLayout, Options, PageSize, PhysBarOffset, PinFault, Policy, Reason, Region,
    RelocationError, RestoreError, SaveError, SavedSection, Treatment, Vector, VectorIndex, Width, Window,
    WindowFinding,
};

type AssignedFunction<'a> = vfio_assign_core::AssignedFunction<&'a mut [Vector], &'a mut [Window]>;
type Explanation<'a> = vfio_assign_core::Explanation<'a, &'a mut [Vector], &'a mut [Window]>;
type Msix<'a> = vfio_assign_core::Msix<&'a mut [Vector]>;
type Span = vfio_assign_core::Span<GuestAddr>;

/// A pointer of no type.
type Function = *const ();

macro_rules! kept {
    ($($name:ident($($argument:ident),*);)*) => {$(
        /// A function of so many arguments.
        const fn $name<$($argument,)* R>(function: fn($($argument),*) -> R) -> Function {
            function as Function
        }
    )*};
}

kept! {
    f0();
    f1(A);
    f2(A, B);
    f3(A, B, C);
    f4(A, B, C, D);
}

/// What takes an item from the iterator that a function of one argument returns.
const fn next1<A, I: Iterator>(_: fn(A) -> I) -> Function {
    f1(I::next)
}

/// The same for a function of two.
const fn next2<A, B, I: Iterator>(_: fn(A, B) -> I) -> Function {
    f1(I::next)
}

/// What a value says of itself.
const fn says<T: Display>() -> Function {
    f2(<T as Display>::fmt as fn(&T, &mut Formatter<'_>) -> _)
}

/// What a developer is shown of it.
const fn shows<T: Debug>() -> Function {
    f2(<T as Debug>::fmt as fn(&T, &mut Formatter<'_>) -> _)
}

/// Every public function of the core.
pub(crate) fn all() {
    black_box(&[ADDRESSES, SPANS, BYTES, IMAGE, PARTS, FUNCTION, INTERRUPTS, EXPLANATION, TEXTS]);
}

const ADDRESSES: &[Function] = &[
    f1(GuestAddr::new),
    f1(GuestAddr::get),
    f2(GuestAddr::checked_add),
    f1(Iova::new),
    f1(PhysBarOffset::new),
    f1(GuestBarOffset::new),
    f1(<GuestPort as Address>::new),
    f1(<GuestPort as Address>::get),
    f4(Bdf::new),
    f1(Bdf::segment),
    f1(Bdf::bus),
    f1(Bdf::device),
    f1(Bdf::function),
    f1(<Bdf as FromStr>::from_str),
    f1(BarIndex::new),
    f1(BarIndex::get),
    f1(BarIndex::position),
    f1(BarIndex::next),
    f1(ConfigOffset::new),
    f1(ConfigOffset::low),
    f1(ConfigOffset::get),
    f1(ConfigOffset::dword),
    f2(ConfigOffset::checked_add),
    f0(<VectorIndex as Default>::default),
    f1(VectorIndex::new),
    f1(VectorIndex::get),
    f1(VectorIndex::position),
    f1(VectorIndex::pba_qword),
    f1(PageSize::new),
    f1(PageSize::get),
    f1(PageSize::mask),
];

const SPANS: &[Function] = &[
    f2(Span::new),
    f2(Span::from_size),
    f1(Span::first),
    f1(Span::last),
    f1(Span::size),
    f2(Span::contains),
    f2(Span::covers),
    f2(Span::overlaps),
    f2(Span::intersect),
    f2(Span::subtract),
    f2(Span::align_out),
    f2(Span::align_in),
    f2(Span::moved_to::<PhysBarOffset>),
];

const BYTES: &[Function] = &[
    f1(Width::bytes),
    f1(Width::all_ones),
    f2(Width::natural),
    f1(ByteLanes::from_bits),
    f1(ByteLanes::touching),
    f1(ByteLanes::is_none),
    f1(ByteLanes::mask),
    f2(ByteLanes::and),
    f1(Bytes::from_slice),
    f1(Bytes::all_ones),
    f1(Bytes::len),
    f1(Bytes::is_empty),
    f1(Bytes::as_slice),
    f2(<Bytes as PartialEq>::eq),
];

const IMAGE: &[Function] = &[
    f1(ConfigImage::new),
    f1(ConfigImage::size),
    f2(ConfigImage::u8),
    f2(ConfigImage::dword),
    f2(ConfigImage::tail),
    f1(ConfigImage::capabilities),
    next1(ConfigImage::capabilities),
    f1(ConfigImage::extended_capabilities),
    next1(ConfigImage::extended_capabilities),
    f1(RegionInfo::parse),
    f1(RegionInfo::areas),
    next1(RegionInfo::areas),
    f3(InfoChain::new),
    f1(<InfoChain<'_> as Iterator>::next),
    f2(InfoCapability::u32_at),
    f1(InfoCapability::pairs),
    f1(<Pairs<'_> as Iterator>::next),
];

/// The machines that can be had by themselves.
const PARTS: &[Function] = &[
    f3(ConfigMap::new as fn(_, _, fn(_)) -> _),
    f2(ConfigMap::register),
    f1(ConfigMap::size),
    f2(ConfigMap::supports),
    f1(ConfigMap::power_control),
    f1(ConfigMap::no_soft_reset),
    f1(Policy::of),
    f1(PowerState::from_pmcsr),
    f1(PowerState::to_pmcsr),
    f2(Bars::new),
    f3(Bars::pin),
    f2(Bars::get),
    f1(Bars::iter),
    next1(Bars::iter),
    f2(Bars::read),
    f4(Bars::write),
    f2(Bars::memory),
    f2(Bars::ports),
    f1(Bars::reset),
    f1(Decoder::generation),
    f2(Decoder::range),
    f3(Decoder::memory),
    f3(Decoder::ports),
    f0(<Options<'_> as Default>::default),
    f0(<Region<'_> as Default>::default),
    f0(<Window as Default>::default),
];

const FUNCTION: &[Function] = &[
    f4(AssignedFunction::new as fn(_, _, _, fn(_)) -> _),
    f2(AssignedFunction::begin),
    f1(AssignedFunction::begin_settle),
    f1(AssignedFunction::begin_attach),
    f1(AssignedFunction::begin_reset),
    f1(AssignedFunction::begin_detach),
    f2(AssignedFunction::begin_stop),
    f1(AssignedFunction::begin_start),
    f1(AssignedFunction::next_step),
    f3(AssignedFunction::complete),
    f3(AssignedFunction::perform::<Opaque>),
    f2(AssignedFunction::drive::<Opaque>),
    f2(AssignedFunction::drive_step::<Opaque>),
    f3(AssignedFunction::access::<Opaque>),
    f2(AssignedFunction::settle::<Opaque>),
    f2(AssignedFunction::attach::<Opaque>),
    f2(AssignedFunction::reset::<Opaque>),
    f2(AssignedFunction::detach::<Opaque>),
    f3(AssignedFunction::stop::<Opaque>),
    f2(AssignedFunction::start::<Opaque>),
    f3(AssignedFunction::handle_interrupt),
    f1(AssignedFunction::handle_intx_eoi),
    f1(AssignedFunction::handle_gone),
    f1(AssignedFunction::saved_size),
    f2(AssignedFunction::save),
    f2(AssignedFunction::restore),
    f1(AssignedFunction::is_stopped),
    f1(AssignedFunction::is_quarantined),
    f1(AssignedFunction::is_gone),
    f1(AssignedFunction::last_reset),
    f1(AssignedFunction::command),
    f1(AssignedFunction::power),
    f1(AssignedFunction::counters),
    f1(AssignedFunction::bars),
    f1(AssignedFunction::decoder),
    f1(AssignedFunction::mapped_windows),
    f1(Step::kind),
    f1(Outcome::is_done),
];

const INTERRUPTS: &[Function] = &[
    f1(AssignedFunction::interrupt_mode),
    f3(AssignedFunction::wants_event),
    f1(AssignedFunction::msix),
    f1(AssignedFunction::msi),
    f1(AssignedFunction::intx),
    f3(MsixLayout::new as fn(_, _, fn(_)) -> _),
    f1(Msix::layout),
    f1(Msix::count),
    f1(Msix::message_control),
    f1(Msix::live),
    f2(Msix::pending),
    f3(Msix::read_table),
    f1(Msix::host_vectors),
    f1(Msi::capability),
    f1(Msi::count),
    f1(Msi::message_control),
    f1(Msi::live),
    f1(Msi::pending),
    f1(Msi::host_vectors),
    f1(Intx::pin),
    f1(Intx::live),
];

const EXPLANATION: &[Function] = &[
    f2(AssignedFunction::explain),
    f2(AssignedFunction::explain_bar),
    next2(AssignedFunction::explain_bar),
    f1(Explanation::config),
    next1(Explanation::config),
    f2(Explanation::bar),
    next2(Explanation::bar),
    f1(Explanation::interrupts),
    says::<Explanation<'_>>(),
];

/// What the core says of its values, findings and errors.
const TEXTS: &[Function] = &[
    says::<GuestAddr>(),
    shows::<GuestAddr>(),
    f2(<GuestAddr as LowerHex>::fmt),
    says::<Bdf>(),
    says::<BarIndex>(),
    says::<ConfigOffset>(),
    shows::<ConfigOffset>(),
    says::<VectorIndex>(),
    says::<Span>(),
    shows::<Span>(),
    shows::<Bytes>(),
    says::<InterruptKind>(),
    says::<InterruptPin>(),
    says::<InterruptReason>(),
    says::<ConfigPiece>(),
    says::<BarPiece>(),
    says::<Treatment>(),
    says::<Reason>(),
    says::<SavedSection>(),
    says::<PinFault>(),
    says::<Finding>(),
    says::<CapabilityFinding>(),
    says::<MsixFinding>(),
    says::<MsiFinding>(),
    says::<IntxFinding>(),
    says::<WindowFinding>(),
    says::<ChainFinding>(),
    says::<DescriptionError>(),
    says::<ConfigMapError>(),
    says::<BarError>(),
    says::<RelocationError>(),
    says::<SaveError>(),
    says::<RestoreError>(),
    says::<BdfError>(),
];

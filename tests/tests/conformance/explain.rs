//! The plan explained: F3, each byte's policy and its rule; W1, each piece of a BAR; I5, each kind of interrupt.

use vfio_assign_core::fake::{MsixPlan, Shape};
use vfio_assign_core::host::{HostInterrupts, InterruptKind};
use vfio_assign_core::{
    AssignedFunction, BarIndex, CapabilityChoice, CapabilityId, Description, Exclusion, Explanation,
    InterruptReason, Options, PageSize, PhysBarOffset, Reason, Relocation, Source, Span, Treatment, Vector,
    Window, Writes,
};
use vfio_assign_tests::{Rig, bar};

type Explained<'a> = Explanation<'a, Vec<Vector>, Vec<Window>>;

/// What `look` sees of this device's explanation.
fn explained<T>(shape: &Shape, options: Options<'_>, look: impl FnOnce(&Explained<'_>) -> T) -> T {
    let description = Description { options, ..shape.description() };
    let (vectors, windows) = (vec![Vector::RESET; 2048], vec![Window::default(); 32]);
    let function = AssignedFunction::new(&description, vectors, windows, |_| {}).unwrap();
    look(&function.explain(&description))
}

fn pieces(shape: &Shape, options: Options<'_>) -> Vec<(u64, u64, Treatment, Reason)> {
    let piece = |piece: vfio_assign_core::BarPiece| {
        (piece.span.first().get(), piece.span.last().get(), piece.treatment, piece.reason)
    };
    explained(shape, options, |plan| plan.bar(bar(0)).map(piece).collect())
}

fn all() -> Shape {
    Shape::nvme(4)
        .capability(0x05, &[0x80; 22])
        .capability(0x09, &[8, 1, 2, 3, 4, 5])
        .capability(0x7e, &[1, 2])
        .extended_capability(0x01, &[9; 68])
        .extended_capability(0x10, &[0xaa; 60])
        .extended_capability(0x7ee, &[1; 12])
}

#[test]
fn f3_explain_covers_every_byte_once() {
    explained(&all(), Options::default(), |plan| {
        let mut next = 0;
        for piece in plan.config() {
            assert_eq!(piece.first.get(), next);
            next = piece.last.get() + 1;
        }
        assert_eq!(next, 4096);
    });
}

#[test]
fn f3_what_is_explained_is_what_happens() {
    let shape = all();
    let mut rig = Rig::new(&shape);
    explained(&shape, Options::default(), |plan| {
        for piece in plan.config() {
            for at in piece.first.get()..=piece.last.get() {
                rig.steps();
                let value = rig.config_read(at.into(), 1);
                let asks = !rig.kinds().is_empty();
                assert_eq!(
                    asks,
                    matches!(piece.source, Source::Hardware | Source::Merged),
                    "{at:#x}: {piece}"
                );
                assert!(piece.source != Source::Hidden || value == 0, "{at:#x}: {piece}");
                rig.config_write(at.into(), 1, value);
                let forwards = !rig.kinds().is_empty();
                assert_eq!(
                    forwards,
                    matches!(piece.writes, Writes::Forwarded | Writes::Both),
                    "{at:#x}: {piece}"
                );
            }
        }
    });
}

#[test]
fn f3_rules_have_the_names_of_capabilities() {
    let names = [
        (0x40, "Power Management"),
        (0x48, "MSI-X"),
        (0x54, "PCI Express"),
        (0x90, "MSI"),
        (0xa8, "Vendor-Specific"),
        (0xb0, "unknown capability"),
        (0x100, "Advanced Error Reporting"),
        (0x148, "Single Root I/O Virtualization"),
        (0x188, "unknown capability"),
    ];
    explained(&all(), Options::default(), |plan| {
        for (at, name) in names {
            let piece = plan.config().find(|piece| piece.last.get() >= at).unwrap();
            assert_eq!(piece.rule, name, "{at:#x}");
        }
    });
}

#[test]
fn f6_what_the_embedder_chose_is_explained_as_chosen() {
    let id = CapabilityId::Extended(0x7ee);
    let capabilities = [CapabilityChoice { id, hidden: true }];
    let options = Options { capabilities: &capabilities, ..Options::default() };
    explained(&all(), options, |plan| {
        let piece = plan.config().find(|piece| piece.last.get() >= 0x18c).unwrap();
        assert_eq!((piece.source, piece.writes, piece.chosen), (Source::Hidden, Writes::Dropped, true));
        assert!(plan.config().filter(|piece| piece.chosen).all(|piece| piece.first.get() >= 0x188));
    });
}

#[test]
fn w1_a_relocated_table_is_explained() {
    use {Reason as R, Treatment as T};
    let plan = MsixPlan { vectors: 4, table: (bar(0), 0x800), pba: (bar(0), 0x1c00) };
    let shape = Shape::new().wide_bar(bar(0), 0x2000).msix(plan).msix_mappable();
    let options = Options { relocation: Some(Relocation::Behind(bar(0))), ..Options::default() };
    let expected = [
        (0, 0x1fff, T::Mapped, R::Offered),
        (0x2000, 0x203f, T::Emulated, R::MsixTable),
        (0x2040, 0x2047, T::Emulated, R::PendingBitArray),
        (0x2048, 0x3fff, T::Emulated, R::BeyondDevice),
    ];
    assert_eq!(pieces(&shape, options), expected);
}

#[test]
fn w1_the_pages_of_the_device_s_own_table_are_explained() {
    use {Reason as R, Treatment as T};
    let to = Relocation::Behind(bar(0));
    let options = Options { relocation: Some(to), ..Options::default() };
    let expected = [
        (0, 0x1fff, T::Mapped, R::Offered),
        (0x2000, 0x3fff, T::Trapped, R::MsixPage),
        (0x4000, 0x403f, T::Emulated, R::MsixTable),
        (0x4040, 0x4047, T::Emulated, R::PendingBitArray),
        (0x4048, 0x7fff, T::Emulated, R::BeyondDevice),
    ];
    assert_eq!(pieces(&Shape::nvme(4), options), expected);
}

#[test]
fn w1_what_is_excluded_is_explained() {
    use {Reason as R, Treatment as T};
    let part = Span::from_size(PhysBarOffset::new(0x1800), 4);
    let unmapped = [Exclusion { bar: bar(0), part }];
    let options = Options { unmapped: &unmapped, ..Options::default() };
    let expected = [
        (0, 0xfff, T::Mapped, R::Offered),
        (0x1000, 0x1fff, T::Trapped, R::Excluded),
        (0x2000, 0x3fff, T::Mapped, R::Offered),
    ];
    assert_eq!(pieces(&Shape::new().wide_bar(bar(0), 0x4000), options), expected);
}

#[test]
fn w3_a_sub_page_bar_is_explained() {
    let mut shape = Shape::new().memory_bar(bar(0), 0x4000);
    shape.page_size = PageSize::SIZE_64K;
    let expected = [(0, 0x3fff, Treatment::Trapped, Reason::BelowPageSize)];
    assert_eq!(pieces(&shape, Options::default()), expected);
}

#[test]
fn w3_a_page_that_is_not_offered_is_explained() {
    let shape = Shape::new().memory_bar(bar(0), 0x1000).mmap(bar(0), vec![]);
    let expected = [(0, 0xfff, Treatment::Trapped, Reason::NotOffered)];
    assert_eq!(pieces(&shape, Options::default()), expected);
}

#[test]
fn w4_the_largest_page_is_explained() {
    let shape = Shape::new().wide_bar(bar(0), 1 << 31);
    let page = explained(&shape, Options::default(), |plan| plan.bar(bar(0)).next().unwrap().page_size);
    assert_eq!(page, PageSize::new(1 << 30));
}

#[test]
fn i5_interrupts_are_explained() {
    use InterruptReason as R;
    let mut shape = Shape::nvme(4).capability(0x05, &[0x80; 22]);
    shape.put(0x3d, &[1]);
    let hidden = [CapabilityChoice { id: CapabilityId::Standard(0x11), hidden: true }];
    let carried = |interrupts, capabilities| {
        let options = Options { capabilities, ..Options::default() };
        let description = Description { interrupts, options, ..shape.description() };
        let (vectors, windows) = (vec![Vector::RESET; 4], vec![Window::default(); 4]);
        let function = AssignedFunction::new(&description, vectors, windows, |_| {}).unwrap();
        function.explain(&description).interrupts().map(|plan| (plan.kind, plan.vectors != 0, plan.reason))
    };
    let kinds = |reasons: [R; 3]| {
        let mut plans = reasons.into_iter().zip(InterruptKind::ALL);
        [(); 3].map(|()| plans.next().map(|(why, kind)| (kind, why == R::Offered, why)).unwrap())
    };
    assert_eq!(carried(HostInterrupts::ALL, &[]), kinds([R::Offered; 3]));
    assert_eq!(carried(HostInterrupts::MSIX, &[]), kinds([R::NotCarried, R::NotCarried, R::Offered]));
    assert_eq!(carried(HostInterrupts::ALL, &hidden), kinds([R::Offered, R::Offered, R::Chosen]));
}

#[test]
fn i5_what_the_device_does_not_have_or_has_wrong_is_explained() {
    let mut shape = Shape::nvme(4);
    shape.put(0x3d, &[0]);
    shape.put(0x4c, &[7]);
    let reasons = explained(&shape, Options::default(), |plan| plan.interrupts().map(|plan| plan.reason));
    let absent = InterruptReason::NotInDevice;
    assert_eq!(reasons, [absent, absent, InterruptReason::Unusable]);
}

#[test]
fn w1_ports_and_the_rom_are_trapped_as_a_whole() {
    let shape = Shape::new().io_bar(bar(1), 0x20).rom(0x1000);
    let pieces = |index| {
        let pieces =
            |plan: &Explained<'_>| plan.bar(index).map(|piece| format!("{piece}")).collect::<Vec<_>>();
        explained(&shape, Options::default(), pieces)
    };
    assert_eq!(pieces(bar(1)), ["0x0..=0x1f trapped: I/O ports"]);
    assert_eq!(pieces(BarIndex::ROM), ["0x0..=0xfff trapped: Expansion ROM"]);
    assert_eq!(pieces(bar(2)), [""; 0]);
}

#[test]
fn l2_each_reason_has_words_of_its_own() {
    use {InterruptReason as I, Reason as R};
    let bars = [
        R::Offered,
        R::MsixTable,
        R::PendingBitArray,
        R::MsixPage,
        R::Excluded,
        R::BeyondDevice,
        R::IoPorts,
        R::ExpansionRom,
        R::BelowPageSize,
        R::NotOffered,
    ];
    let interrupts = [I::Offered, I::NotInDevice, I::Chosen, I::NotCarried, I::Unusable];
    let treatments = [Treatment::Mapped, Treatment::Trapped, Treatment::Emulated];
    are_told_apart(&bars);
    are_told_apart(&interrupts);
    are_told_apart(&treatments);
}

fn are_told_apart(values: &[impl std::fmt::Display]) {
    let texts: std::collections::BTreeSet<_> = values.iter().map(ToString::to_string).collect();
    assert!(texts.len() == values.len() && !texts.contains(""), "{texts:?}");
}

//! The mapping plan: which parts of each BAR the guest can reach directly, and where each of them is now.
//!
//! The host's own mmaps are made exactly as the kernel offers them and are not planned here. A window is a run
//! of whole pages out of such an area without the pages of the MSI-X structures.

use crate::addr::{Address, BarIndex, GuestAddr, PageSize, PhysBarOffset};
use crate::bars::{BarKind, Bars};
use crate::description::{Description, Finding};
use crate::explain::Reason;
use crate::host::MappedWindow;
use crate::interrupts::MsixLayout;
use crate::options::Exclusion;
use crate::span::Span;
use crate::text::say;
use core::fmt;

/// A part of a BAR that the kernel lets the host mmap.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct MmapArea {
    /// Bytes from the start of the BAR.
    pub offset: u64,
    /// Bytes.
    pub size: u64,
}

/// What is wrong with the areas that the kernel offers, or with the storage for windows.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum WindowFinding {
    /// An area is empty, or past the end of its BAR.
    AreaOutside {
        /// The BAR.
        bar: BarIndex,
        /// Where the area starts.
        offset: u64,
        /// Its size in bytes.
        size: u64,
    },
    /// There are more windows than storage for them: the rest is trapped.
    StorageFull(BarIndex),
}

impl fmt::Display for WindowFinding {
    #[inline(never)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(
            f,
            match *self {
                Self::AreaOutside { bar, offset, size } => (
                    "the mmap area at %x of %b, %x bytes, is not within the BAR",
                    [offset, bar.number(), size],
                ),
                Self::StorageFull(bar) => {
                    ("no storage for another window of %b: the rest of it is trapped", [bar.number(), 0, 0])
                }
            },
        )
    }
}

/// One window, with where the guest sees it now. An embedder provides the storage and never looks inside.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
pub struct Window {
    plan: Option<(BarIndex, Span<PhysBarOffset>)>,
    mapped: Option<Span<GuestAddr>>,
    /// The host could not map it, or not unmap it: not tried again before the next change of decoding.
    refused: bool,
}

/// What no window covers.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Holes<'a> {
    /// The structures of MSI-X: what the guest sees of them, and what the device has.
    pub(crate) structures: [Option<(BarIndex, Span<PhysBarOffset>)>; 4],
    /// What the embedder has excluded.
    pub(crate) excluded: &'a [Exclusion],
}

impl Holes<'_> {
    /// The holes in `bar`, whole pages.
    #[inline(never)]
    pub(crate) fn of(
        &self,
        bar: BarIndex,
        page: PageSize,
        meet: &mut dyn FnMut(Reason, Span<PhysBarOffset>),
    ) {
        let all = Span::new(PhysBarOffset::new(0), PhysBarOffset::new(u64::MAX));
        let excluded = self.excluded.iter().filter_map(|found| Some((found.bar, found.part.or(all)?)));
        for (owner, span) in self.structures.into_iter().flatten() {
            if owner == bar {
                meet(Reason::MsixPage, span.align_out(page));
            }
        }
        for (owner, span) in excluded {
            if owner == bar {
                meet(Reason::Excluded, span.align_out(page));
            }
        }
    }
}

/// A run of pages that is cut by holes.
struct Cut {
    /// What is free before the first hole.
    free: Option<Span<PhysBarOffset>>,
    /// What is left behind it.
    behind: Option<Span<PhysBarOffset>>,
    /// The end of the run.
    last: PhysBarOffset,
}

impl Cut {
    #[inline(never)]
    fn by(&mut self, hole: Span<PhysBarOffset>) {
        if let Some(free) = self.free
            && hole.overlaps(free)
        {
            self.free = free.subtract(hole).0;
            self.behind = hole.last().checked_add(1).and_then(|next| Span::new(next, self.last));
        }
    }
}

/// All windows of a function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub(crate) struct Windows<W> {
    slots: W,
    count: usize,
    page: PageSize,
}

impl<W: AsRef<[Window]> + AsMut<[Window]>> Windows<W> {
    /// No window yet; `slots` is the storage.
    pub(crate) fn new(mut slots: W, page: PageSize) -> Self {
        slots.as_mut().fill(Window::default());
        Self { slots, count: 0, page }
    }

    /// Plans the windows of every memory BAR.
    #[inline(never)]
    pub(crate) fn plan_all(
        &mut self,
        description: &Description<'_>,
        bars: &Bars,
        layout: Option<&MsixLayout>,
        finding: &mut dyn FnMut(Finding),
    ) {
        let holes = description.holes(bars, layout);
        for (bar, found) in bars.iter() {
            if found.kind == BarKind::Io && found.size > 256 {
                finding(Finding::LargeIoBar { bar, size: found.size });
            }
            let region = description.regions.get(bar.position());
            if let Some(region) = region.filter(|_| bars.memory_size(bar).is_some()) {
                self.plan(bar, region.size, region.areas, &holes, finding);
            }
        }
    }

    /// Plans the windows of `bar`, which has `size` bytes: the whole pages of `areas` that lie in none of `holes`.
    #[inline(never)]
    pub(crate) fn plan(
        &mut self,
        bar: BarIndex,
        size: u64,
        areas: &[MmapArea],
        holes: &Holes<'_>,
        finding: &mut dyn FnMut(Finding),
    ) {
        for area in areas {
            let whole = Span::from_size(PhysBarOffset::new(area.offset), area.size)
                .filter(|span| span.last().get() < size);
            let Some(whole) = whole else {
                finding(WindowFinding::AreaOutside { bar, offset: area.offset, size: area.size }.into());
                continue;
            };
            if !self.plan_area(bar, whole.align_in(self.page), holes) {
                finding(WindowFinding::StorageFull(bar).into());
                return;
            }
        }
    }

    /// Plans what of `left` is in no hole and in no window yet. `false` if the storage is full.
    #[inline(never)]
    fn plan_area(&mut self, bar: BarIndex, mut left: Option<Span<PhysBarOffset>>, holes: &Holes<'_>) -> bool {
        while let Some(rest) = left {
            let mut cut = Cut { free: Some(rest), behind: None, last: rest.last() };
            for window in self.planned(bar) {
                cut.by(window);
            }
            holes.of(bar, self.page, &mut |_, hole| cut.by(hole));
            if let Some(span) = cut.free {
                let Some(slot) = self.slots.as_mut().get_mut(self.count) else {
                    return false;
                };
                *slot = Window { plan: Some((bar, span)), mapped: None, refused: false };
                self.count = self.count.saturating_add(1);
            }
            left = cut.behind;
        }
        true
    }

    /// The windows of `bar`, as bytes of the device's BAR.
    pub(crate) fn planned(&self, bar: BarIndex) -> impl Iterator<Item = Span<PhysBarOffset>> {
        let plans = self.slots.as_ref().iter().take(self.count).filter_map(|window| window.plan);
        plans.filter(move |(owner, _)| *owner == bar).map(|(_, span)| span)
    }

    /// The page size that windows are cut to.
    pub(crate) fn page(&self) -> PageSize {
        self.page
    }

    /// Decoding has changed: what was refused is worth another try.
    pub(crate) fn decode_changed(&mut self) {
        for window in self.slots.as_mut() {
            window.refused = false;
        }
    }

    /// A window that the guest sees where it should no longer, if something is to be taken `away`; else one that it
    /// should see and does not. `wanted` says where a part of a BAR should be.
    #[inline(never)]
    pub(crate) fn next(
        &self,
        away: bool,
        wanted: &dyn Fn(BarIndex, Span<PhysBarOffset>) -> Option<Span<GuestAddr>>,
    ) -> Option<MappedWindow> {
        for (index, window) in self.slots.as_ref().iter().enumerate() {
            let Some((bar, device)) = window.plan else {
                break;
            };
            if window.mapped.is_some() != away || window.refused {
                continue;
            }
            let wanted = wanted(bar, device);
            let found = if away { window.mapped.filter(|guest| wanted != Some(*guest)) } else { wanted };
            if let Some(guest) = found {
                return Some(MappedWindow { index, bar, device, guest });
            }
        }
        None
    }

    /// The host has tried to unmap this window; one that it could not is left for the teardown.
    pub(crate) fn unmapped(&mut self, index: usize, done: bool) {
        if let Some(window) = self.slots.as_mut().get_mut(index) {
            window.mapped = window.mapped.filter(|_| !done);
            window.refused = !done;
        }
    }

    /// The host has tried to map this window.
    pub(crate) fn mapped(&mut self, window: MappedWindow, done: bool) {
        if let Some(slot) = self.slots.as_mut().get_mut(window.index) {
            slot.mapped = done.then_some(window.guest);
            slot.refused = !done;
        }
    }

    /// The windows that the guest sees now.
    pub(crate) fn live(&self) -> usize {
        self.slots.as_ref().iter().filter(|window| window.mapped.is_some()).count()
    }
}

/// Where the guest sees `part` of a BAR whose first byte it sees at `base`.
pub(crate) fn seen_at<A: Address>(part: Span<PhysBarOffset>, base: A) -> Option<Span<A>> {
    let first = base.get().checked_add(part.first().get())?;
    part.moved_to(A::new(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    const BAR0: BarIndex = BarIndex::BARS[0];

    fn span(first: u64, last: u64) -> Span<PhysBarOffset> {
        Span::new(PhysBarOffset::new(first), PhysBarOffset::new(last)).unwrap()
    }

    fn area(offset: u64, size: u64) -> MmapArea {
        MmapArea { offset, size }
    }

    fn holes_at(spans: &[Span<PhysBarOffset>]) -> Holes<'static> {
        let mut structures = [None; 4];
        for (hole, span) in structures.iter_mut().zip(spans) {
            *hole = Some((BAR0, *span));
        }
        Holes { structures, excluded: &[] }
    }

    fn planned<const N: usize>(
        areas: &[MmapArea],
        holes: &[Span<PhysBarOffset>],
    ) -> heapless::Vec<Span<PhysBarOffset>, 8> {
        let mut windows = Windows::new([Window::default(); N], PageSize::SIZE_4K);
        windows.plan(BAR0, 0x1_0000, areas, &holes_at(holes), &mut |_| {});
        windows.planned(BAR0).collect()
    }

    #[test]
    fn whole_bar_without_holes_is_one_window() {
        assert_eq!(planned::<8>(&[area(0, 0x1_0000)], &[]).as_slice(), &[span(0, 0xffff)]);
    }

    #[test]
    fn table_page_is_carved_out() {
        let table = span(0x2000, 0x240f);
        assert_eq!(
            planned::<8>(&[area(0, 0x1_0000)], &[table]).as_slice(),
            &[span(0, 0x1fff), span(0x3000, 0xffff)]
        );
    }

    #[test]
    fn hole_from_mid_page_to_mid_page_takes_both_pages() {
        assert_eq!(
            planned::<8>(&[area(0, 0x4000)], &[span(0x1ff0, 0x200f)]).as_slice(),
            &[span(0, 0xfff), span(0x3000, 0x3fff)]
        );
    }

    #[test]
    fn overlapping_areas_make_disjoint_windows() {
        assert_eq!(
            planned::<8>(&[area(0, 0x3000), area(0x2000, 0x3000)], &[]).as_slice(),
            &[span(0, 0x2fff), span(0x3000, 0x4fff)]
        );
    }

    #[test]
    fn unaligned_area_gives_its_whole_pages() {
        assert_eq!(planned::<8>(&[area(0x800, 0x2000)], &[]).as_slice(), &[span(0x1000, 0x1fff)]);
    }

    #[test]
    fn area_outside_is_a_finding_and_no_window() {
        let mut windows = Windows::new([Window::default(); 4], PageSize::SIZE_4K);
        let mut found = None;
        windows.plan(BAR0, 0x1000, &[area(0, 0x2000)], &holes_at(&[]), &mut |wrong| found = Some(wrong));
        assert_eq!(found, Some(WindowFinding::AreaOutside { bar: BAR0, offset: 0, size: 0x2000 }.into()));
        assert_eq!(windows.planned(BAR0).count(), 0);
    }

    #[test]
    fn full_storage_is_a_finding() {
        let mut windows = Windows::new([Window::default(); 1], PageSize::SIZE_4K);
        let mut found = None;
        let holes = holes_at(&[span(0x1000, 0x1000)]);
        windows.plan(BAR0, 0x4000, &[area(0, 0x4000)], &holes, &mut |wrong| found = Some(wrong));
        assert_eq!(found, Some(WindowFinding::StorageFull(BAR0).into()));
    }

    #[test]
    fn bar_smaller_than_a_page_has_no_window() {
        let mut windows = Windows::new([Window::default(); 1], PageSize::SIZE_4K);
        windows.plan(BAR0, 0x100, &[area(0, 0x100)], &holes_at(&[]), &mut |_| {});
        assert_eq!(windows.planned(BAR0).count(), 0);
    }
}

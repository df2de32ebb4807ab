//! The mapping plan: pieces tile the BAR; a page is a window exactly if one area has all of it, and no MSI-X structure
//! any of it.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfio_assign_core::fake::{MsixPlan, Shape};
use vfio_assign_core::{AssignedFunction, BarIndex, MmapArea, PageSize, Treatment, Vector, Window};

const BAR0: BarIndex = BarIndex::BARS[0];
/// Areas and structures are placed in such steps.
const STEP: u64 = 0x400;

fuzz_target!(|bytes: &[u8]| {
    let Some((head, areas)) = bytes.split_at_checked(5) else {
        return;
    };
    let size = 0x1000 << (head[0] & 7);
    let page = [PageSize::SIZE_4K, PageSize::SIZE_16K, PageSize::SIZE_64K][usize::from(head[0] / 8 % 3)];
    let [table, pba] = [head[1], head[2]].map(|at| (u64::from(at) * STEP % size) as u32);
    let vectors = 1 + (u16::from_le_bytes([head[3], head[4]]) & 0x7ff);
    let mut shape = Shape::new().wide_bar(BAR0, size);
    if head[0] & 0x80 != 0 {
        shape = shape.msix(MsixPlan { vectors, table: (BAR0, table), pba: (BAR0, pba) });
    }
    shape.page_size = page;
    let area = |pair: &[u8]| MmapArea { offset: u64::from(pair[0]) * STEP, size: u64::from(pair[1]) * STEP };
    shape.areas[0] = areas.chunks_exact(2).take(40).map(area).collect();
    // An area is cut by two structures at most, and each is laid out twice.
    let storage = vec![Window::default(); 300];
    let made = AssignedFunction::new(&shape.description(), vec![Vector::RESET; 2048], storage, |_| {});
    check(&made.expect("a plain device"), &shape, (table, pba, vectors));
});

fn check(
    function: &AssignedFunction<Vec<Vector>, Vec<Window>>,
    shape: &Shape,
    (table, pba, vectors): (u32, u32, u16),
) {
    let (size, page) = (shape.sizes[0], shape.page_size.get());
    let mut structures = Vec::new();
    if let Some(msix) = function.msix() {
        let places = [msix.layout().table, msix.layout().pba];
        structures.extend(places.map(|place| (place.span.first().get(), place.span.last().get())));
    }
    // What hardware has there is out of reach even if the guest is not offered it.
    if shape.config[0x40] == 0x11 {
        let (table, pba) = (u64::from(table), u64::from(pba));
        structures.push((table, table + u64::from(vectors) * 16 - 1));
        structures.push((pba, pba + u64::from(vectors.div_ceil(64)) * 8 - 1));
    }
    let mut mapped = vec![false; (size / STEP) as usize];
    let mut next = 0;
    for piece in function.explain_bar(BAR0) {
        let (first, last) = (piece.span.first().get(), piece.span.last().get());
        assert_eq!(first, next, "a gap, or one piece over another");
        next = last + 1;
        if piece.treatment == Treatment::Mapped {
            assert!(first % page == 0 && next % page == 0, "{piece:?} is no whole pages");
            for step in first / STEP..next / STEP {
                mapped[step as usize] = true;
            }
        }
    }
    assert_eq!(next, size, "the pieces do not reach the end");
    for first in (0..size).step_by(page as usize) {
        let last = first + page - 1;
        let inside = |area: &MmapArea| {
            let end = area.offset + area.size;
            area.size != 0 && end <= size && area.offset <= first && last < end
        };
        let taken = structures.iter().any(|(from, to)| *from <= last && first <= *to);
        let expected = last < size && shape.areas[0].iter().any(inside) && !taken;
        assert_eq!(mapped[(first / STEP) as usize], expected, "page {first:#x}");
    }
}

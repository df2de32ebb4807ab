//! The guest's address space: the second 512 GiB of the virtual one, in which windows show pages of devices.
//!
//! An access of the guest's is an access to its page there. If no window covers it the processor faults, and the
//! handler lets the access say that it was trapped, as a hypervisor's exit would.

use super::{Page, Registers};
use core::sync::atomic::Ordering;
use vfio_assign_core::host::MappedWindow;
use vfio_assign_core::{GuestAddr, Span, Width};

/// Where guest-physical address 0 is.
const GUEST: u64 = 1 << 39;
/// Bytes of a page.
pub(crate) const PAGE: u64 = Page::SIZE;
/// What one table of the last level covers.
const REACH: u64 = 512 * PAGE;
/// Tables of the last level: a window needs one, or two if it lies across a multiple of their reach.
const TABLES: usize = 8;
/// Present, writable, uncached, not executable.
const DEVICE_PAGE: u64 = 1 << 63 | 0x1b;
/// The address in an entry.
const ADDRESS: u64 = 0x000f_ffff_ffff_f000;
/// Present and writable, for what leads to it.
const TABLE: u64 = 3;

/// The root of all page tables; the boot code fills the entry of the first 512 GiB.
pub(super) static ROOT: Page = Page::new();
static UPPER: Page = Page::new();
/// What the guest's devices may take: 1 GiB.
static MIDDLE: Page = Page::new();
static LAST: [Page; TABLES] = [const { Page::new() }; TABLES];

/// Where the guest's devices can be: the last GiB of the first four. Nothing can be shown elsewhere.
pub(crate) const APERTURE: (u64, u64) = (0xc000_0000, 0xffff_ffff);

/// Why a window cannot be shown.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum WindowError {
    /// It is not in the aperture, not of whole pages, or past the end of the device's registers.
    #[error("the window is none that page tables can show")]
    Shape,
    /// All tables are taken.
    #[error("all {TABLES} page tables are taken")]
    NoTable,
}

/// Tells the processor of the guest's address space, in which there is nothing yet.
pub(super) fn set_up() {
    ROOT.0[(GUEST >> 39) as usize].store(UPPER.address() | TABLE, Ordering::Relaxed);
    UPPER.0[(APERTURE.0 >> 30) as usize].store(MIDDLE.address() | TABLE, Ordering::Relaxed);
}

/// Shows a window onto these registers. What has been shown of one that fails is taken away again.
pub(crate) fn show(window: MappedWindow, registers: Registers) -> Result<(), WindowError> {
    let first = window.device.first().get();
    let size = window.guest.size();
    let within = first.checked_add(size).is_some_and(|end| end <= registers.size());
    let aligned =
        [window.guest.first().get(), registers.first() + first, size].iter().all(|at| at % PAGE == 0);
    let reachable = window.guest.first().get() >= APERTURE.0 && window.guest.last().get() <= APERTURE.1;
    if !(within && aligned && reachable) {
        return Err(WindowError::Shape);
    }
    for page in (0..size).step_by(PAGE as usize) {
        let guest = window.guest.first().get() + page;
        let Some(table) = table_for(guest) else {
            hide(window.guest);
            return Err(WindowError::NoTable);
        };
        let entry = (registers.first() + first + page) | DEVICE_PAGE;
        table.0[(guest / PAGE % 512) as usize].store(entry, Ordering::Relaxed);
    }
    Ok(())
}

/// Takes a window away: afterwards every access to it is trapped.
pub(crate) fn hide(guest: Span<GuestAddr>) {
    for page in (guest.first().get()..=guest.last().get()).step_by(PAGE as usize) {
        let Some(table) = table_at(page) else { continue };
        table.0[(page / PAGE % 512) as usize].store(0, Ordering::Relaxed);
        if table.is_empty() {
            MIDDLE.0[(page / REACH % 512) as usize].store(0, Ordering::Relaxed);
        }
        forget(GUEST + page);
    }
}

/// How many pages the guest can reach.
pub(crate) fn shown() -> usize {
    let pages = |table: &Page| table.0.iter().filter(|entry| entry.load(Ordering::Relaxed) != 0).count();
    LAST.iter().map(pages).sum()
}

/// The pages that the guest can reach, as the processor would find them: the guest's address, and the device's.
pub(crate) fn pages() -> impl Iterator<Item = (u64, u64)> {
    let present = |place: usize, table: &Page| {
        let entry = table.0[place].load(Ordering::Relaxed);
        (entry & 1 != 0).then_some(entry & ADDRESS)
    };
    let tables = (0..512).filter_map(move |place| Some((place, present(place, &MIDDLE)?)));
    tables.flat_map(move |(middle, table)| {
        let first = APERTURE.0 + middle as u64 * REACH;
        // An entry that leads to no table of ours is shown as a page of what it leads to: nobody has such a page.
        let found = LAST.iter().find(|found| found.address() == table);
        let stray = found.is_none().then_some((first, table));
        let last = found.into_iter().flat_map(move |found| {
            (0..512).filter_map(move |last| Some((first + last as u64 * PAGE, present(last, found)?)))
        });
        stray.into_iter().chain(last)
    })
}

/// The table that leads to a page of the guest's, if there is one.
fn table_at(page: u64) -> Option<&'static Page> {
    let entry = MIDDLE.0[(page / REACH % 512) as usize].load(Ordering::Relaxed);
    // The processor notes in the low bits that it has used the entry.
    LAST.iter().find(|table| entry & !(PAGE - 1) == table.address())
}

/// The same; a free one if there is none.
fn table_for(page: u64) -> Option<&'static Page> {
    table_at(page).or_else(|| {
        let free = LAST.iter().find(|table| table.is_empty())?;
        MIDDLE.0[(page / REACH % 512) as usize].store(free.address() | TABLE, Ordering::Relaxed);
        Some(free)
    })
}

/// What came of an access of the guest's.
#[repr(C)]
struct Answer {
    value: u64,
    trapped: u64,
}

unsafe extern "C" {
    fn guest_read_1(at: u64) -> Answer;
    fn guest_read_2(at: u64) -> Answer;
    fn guest_read_4(at: u64) -> Answer;
    fn guest_read_8(at: u64) -> Answer;
    fn guest_write_1(at: u64, value: u64) -> Answer;
    fn guest_write_2(at: u64, value: u64) -> Answer;
    fn guest_write_4(at: u64, value: u64) -> Answer;
    fn guest_write_8(at: u64, value: u64) -> Answer;
}

/// The guest reads; `None` if it was trapped.
pub(crate) fn guest_read(address: u64, width: Width) -> Option<u64> {
    let at = guest_address(address, width)?;
    let read = match width {
        Width::Byte => guest_read_1,
        Width::Word => guest_read_2,
        Width::Dword => guest_read_4,
        Width::Qword => guest_read_8,
    };
    // SAFETY: the function reads one naturally aligned register in the guest's address space, where `show` maps nothing
    // but registers of devices; where it maps nothing the function returns that it was trapped.
    let answer = unsafe { read(at) };
    (answer.trapped == 0).then_some(answer.value)
}

/// The guest writes; `None` if it was trapped.
pub(crate) fn guest_write(address: u64, width: Width, value: u64) -> Option<()> {
    let at = guest_address(address, width)?;
    let write = match width {
        Width::Byte => guest_write_1,
        Width::Word => guest_write_2,
        Width::Dword => guest_write_4,
        Width::Qword => guest_write_8,
    };
    // SAFETY: as for `guest_read`: no Rust object is behind the address.
    let answer = unsafe { write(at, value) };
    (answer.trapped == 0).then_some(())
}

/// The byte at an address of the image's own, if the processor lets it be read: the guest's functions tell.
pub(super) fn read_byte(address: u64) -> Option<u8> {
    // SAFETY: it is called for addresses in the first 2 MiB, where no device is: a byte is read or the access is trapped.
    let answer = unsafe { guest_read_1(address) };
    (answer.trapped == 0).then_some(answer.value as u8)
}

/// Whether the processor lets a byte of the image's be written. It gets the value that it has.
pub(super) fn rewrite_byte(address: u64) -> bool {
    let Some(value) = read_byte(address) else { return false };
    // SAFETY: if the byte can be written at all it is as it was; it is one of code or of a constant, which none writes.
    let answer = unsafe { guest_write_1(address, u64::from(value)) };
    answer.trapped == 0
}

/// The virtual address of an aligned guest-physical one; others are trapped without a try.
fn guest_address(address: u64, width: Width) -> Option<u64> {
    (address < GUEST && address.is_multiple_of(width.bytes() as u64)).then_some(GUEST + address)
}

fn forget(address: u64) {
    // SAFETY: it makes the processor read a page table of the guest's address space anew, and changes nothing else.
    unsafe { core::arch::asm!("invlpg [{}]", in(reg) address, options(nostack)) };
}

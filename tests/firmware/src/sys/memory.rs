//! What the processor may do with which page of memory, and the stacks, each above a page that nobody can reach.
//!
//! The boot code maps the first 4 GiB at their own addresses, for anything. From [`protect`] on code is not written,
//! data is not executed, and of memory that is not the image's nothing is but read.

use super::{Page, windows};
use core::ops::Range;
use core::sync::atomic::Ordering;

/// What the boot code fills: entries of 1 GiB, and for each of them entries of 2 MiB.
pub(super) static LEVEL3: Page = Page::new();
pub(super) static LEVEL2: [Page; 4] = [const { Page::new() }; 4];
/// Entries of 4 KiB for the first 2 MiB, where the image is.
static LEVEL1: Page = Page::new();

const PRESENT: u64 = 1;
const WRITABLE: u64 = 2;
const NOT_EXECUTABLE: u64 = 1 << 63;
/// Entries of 2 MiB below those of devices.
const BELOW_DEVICES: usize = 1024;

/// A stack, and below it a page that is not present. The compiler has every function that takes more than a page of
/// stack touch each of them in turn, so none gets past it.
#[repr(C)]
pub(super) struct Stack<const PAGES: usize> {
    guard: Page,
    pages: [Page; PAGES],
}

/// The one that the image runs on, and those that exceptions and interrupts come on.
pub(super) static STACK: Stack<8> = Stack::new();
pub(super) static EXCEPTION_STACK: Stack<2> = Stack::new();
pub(super) static INTERRUPT_STACK: Stack<1> = Stack::new();

impl<const PAGES: usize> Stack<PAGES> {
    const fn new() -> Self {
        Self { guard: Page::new(), pages: [const { Page::new() }; PAGES] }
    }

    /// Where it begins, downwards. A few bytes above are left: an exception may come with less than its handler reads.
    pub(super) fn top(&'static self) -> u64 {
        self.guard.address() + size_of::<Self>() as u64 - 16
    }

    /// Bytes that have been in use: those from the first that is not 0 on.
    fn used(&self) -> usize {
        let words = self.pages.iter().flat_map(|page| &page.0);
        let unused = words.take_while(|word| word.load(Ordering::Relaxed) == 0).count();
        size_of_val(&self.pages) - unused * size_of::<u64>()
    }
}

unsafe extern "C" {
    safe static image_start: [u8; 0];
    safe static code_end: [u8; 0];
    safe static constants_end: [u8; 0];
    safe static image_end: [u8; 0];
}

/// An address that the linker's script has given a name.
fn at(name: &'static [u8; 0]) -> u64 {
    name.as_ptr().addr() as u64
}

/// The memory that the image takes, with everything that is static.
pub(crate) fn image() -> Range<u64> {
    at(&image_start)..at(&image_end)
}

/// Bytes of the stack that the image runs on: all, and those that have been in use.
pub(crate) fn stack() -> (usize, usize) {
    (size_of_val(&STACK.pages), STACK.used())
}

/// Gives each page its rights.
pub(super) fn protect() {
    for (number, entry) in LEVEL1.0.iter().enumerate() {
        let page = number as u64 * Page::SIZE;
        entry.store(rights(page).map_or(0, |rights| page | rights), Ordering::Relaxed);
    }
    LEVEL2[0].0[0].store(LEVEL1.address() | PRESENT | WRITABLE, Ordering::Relaxed);
    for entry in LEVEL2.iter().flat_map(|table| &table.0).take(BELOW_DEVICES).skip(1) {
        let read_only = entry.load(Ordering::Relaxed) & !WRITABLE | NOT_EXECUTABLE;
        entry.store(read_only, Ordering::Relaxed);
    }
    for entry in LEVEL2.iter().flat_map(|table| &table.0).skip(BELOW_DEVICES) {
        entry.fetch_or(NOT_EXECUTABLE, Ordering::Relaxed);
    }
    forget_all();
}

/// What may be done with a page of the first 2 MiB; none if nothing may.
fn rights(page: u64) -> Option<u64> {
    if page == 0 || guards().iter().any(|(guard, _)| *guard == page) {
        return None;
    }
    Some(if (at(&image_start)..at(&code_end)).contains(&page) {
        PRESENT
    } else if (at(&constants_end)..at(&image_end)).contains(&page) {
        PRESENT | WRITABLE | NOT_EXECUTABLE
    } else {
        PRESENT | NOT_EXECUTABLE
    })
}

/// The pages below the stacks.
fn guards() -> [(u64, &'static str); 3] {
    [
        (STACK.guard.address(), "the image"),
        (EXCEPTION_STACK.guard.address(), "exceptions"),
        (INTERRUPT_STACK.guard.address(), "interrupts"),
    ]
}

/// Whose stack has overflowed, if somebody has touched the page below one.
pub(super) fn overflowed(address: u64) -> Option<&'static str> {
    guards().into_iter().find_map(|(guard, whose)| (address & !(Page::SIZE - 1) == guard).then_some(whose))
}

/// What the processor lets happen and must not.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
pub(crate) enum Unprotected {
    /// The page below a stack is there.
    #[error("the page below the stack of {0} can be read")]
    Guard(&'static str),
    /// Page 0 is there.
    #[error("address 0 can be read")]
    Null,
    /// Code or constants can be written.
    #[error("{0:#x} can be written")]
    Writable(u64),
}

/// Tries what must not succeed: touches each page that is not there, and writes to code and to constants.
pub(crate) fn attempt() -> Result<(), Unprotected> {
    if let Some((_, whose)) = guards().into_iter().find(|(guard, _)| windows::read_byte(*guard).is_some()) {
        return Err(Unprotected::Guard(whose));
    }
    if windows::read_byte(0).is_some() {
        return Err(Unprotected::Null);
    }
    let constant = at(&code_end);
    let written = [at(&image_start), constant].into_iter().find(|place| windows::rewrite_byte(*place));
    written.map_or(Ok(()), |place| Err(Unprotected::Writable(place)))
}

fn forget_all() {
    // SAFETY: it loads the root that is in use: the processor reads all tables anew. They map the image as before, but
    // for rights that no code of the image's has a use for.
    unsafe { core::arch::asm!("mov {0}, cr3", "mov cr3, {0}", out(reg) _, options(nostack)) };
}

//! Guest memory mapped for a device: by the library, which finds pages by several threads first, and by the bare call.

use crate::bare::Bare;
use crate::sample;
use rustix::fs::{MemfdFlags, ftruncate, memfd_create};
use rustix::mm::{Advice, madvise};
use std::error::Error;
use std::fs::{self, File};
use std::os::fd::OwnedFd;
use std::ptr::NonNull;
use std::sync::Barrier;
use std::time::Instant;
use vfio_assign_core::{Bdf, GuestAddr, Span};
use vfio_assign_linux::{GuestMemory, GuestRegion, Host, HugePage, MemoryBacking, Vm, VmOptions};
use vm_memory::{Bytes, FileOffset, MmapRegion, VolatileMemory};

const MIB: u64 = 1 << 20;
const GIB: u64 = 1 << 30;
const PAGE: usize = 4096;
const HUGE_PAGE: u64 = 2 * MIB;
const FREE_HUGE_PAGES: &str = "/proc/sys/vm/nr_hugepages";
const TRANSPARENT: &str = "/sys/kernel/mm/transparent_hugepage/enabled";

/// What the memory is made of.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Pages {
    Small,
    Transparent,
    Huge,
}

/// Every kind of memory, not touched and touched, in each way, by turns.
pub(crate) fn measure(bdf: Bdf, rounds: u32, mib: u64) -> Result<(), Box<dyn Error>> {
    let bytes = mib * MIB;
    for (name, pages) in [("4k", Pages::Small), ("thp", Pages::Transparent), ("huge", Pages::Huge)] {
        fs::write(TRANSPARENT, if pages == Pages::Transparent { "always" } else { "never" })?;
        fs::write(
            FREE_HUGE_PAGES,
            if pages == Pages::Huge { (bytes / HUGE_PAGE).to_string() } else { "0".into() },
        )?;
        let key = |state: &str, way: &str| format!("map_{name}_{state}_{way}");
        let new = || GuestMemory::new(bytes, backing(pages));
        let mut ways: [Way<'_>; 4] = [
            &|| library(bdf, new()?, true, &key("fresh", "library")),
            &|| library(bdf, new()?, false, &key("fresh", "one_thread")),
            &|| bare(bdf, &region(pages, bytes)?, 0, &key("fresh", "bare")),
            &|| bare(bdf, &region(pages, bytes)?, 2, &key("fresh", "by_hand")),
        ];
        (0..rounds).try_for_each(|round| by_turns(&mut ways, round))?;
        // One memory for both: where its pages lie decides how many pieces the kernel maps them in.
        let there = touched(pages, bytes)?;
        // Many small pages take seconds.
        let turns = if pages == Pages::Small && bytes > 4 * GIB { 12 } else { 24 };
        both(bdf, &there, turns, &format!("map_{name}_touched"))?;
    }
    fs::write(FREE_HUGE_PAGES, "0")?;
    // The fewest pages of which the library looks at as many as of any memory: nearly nothing to map.
    both(bdf, &touched(Pages::Small, 8 * PAGE as u64)?, 24, "map_little")
}

/// The library and the bare call by turns, of one memory that is there, and the bare call once more: what it is beside
/// itself shows what differences mean.
fn both(bdf: Bdf, there: &MmapRegion, turns: u32, key: &str) -> Result<(), Box<dyn Error>> {
    let mut ways: [Way<'_>; 3] = [
        &|| library(bdf, lent(there)?, true, &format!("{key}_library")),
        &|| bare(bdf, there, 0, &format!("{key}_bare")),
        &|| bare(bdf, there, 0, &format!("{key}_again")),
    ];
    (0..turns).try_for_each(|turn| by_turns(&mut ways, turn))
}

/// One way to map memory.
type Way<'a> = &'a dyn Fn() -> Result<(), Box<dyn Error>>;

/// Each way once: in a new order, and the next time in the opposite one, so that each is as often in each place.
fn by_turns(ways: &mut [Way<'_>], turn: u32) -> Result<(), Box<dyn Error>> {
    ways.reverse();
    if turn.is_multiple_of(2) {
        ways.rotate_left(1);
    }
    ways.iter().try_for_each(|way| way())
}

fn library(bdf: Bdf, memory: GuestMemory, parallel: bool, key: &str) -> Result<(), Box<dyn Error>> {
    let vm = Vm::new(Host::linux(), VmOptions::default());
    let _device = vm.open(bdf)?;
    let guest = Span::from_size(GuestAddr::new(0), memory.size()).ok_or("no memory")?;
    // Above what the host keeps for messages.
    let guest = guest.moved_to(GuestAddr::new(ABOVE)).ok_or("no place")?;
    let region = GuestRegion { guest, memory, offset: 0 };
    let started = Instant::now();
    match parallel {
        true => vm.add_memory(&[region])?,
        // On two processors: one is left to the guest.
        false => vm.add_memory_in_background(vec![region], Vec::new(), drop)?.wait()?,
    }
    sample(key, started.elapsed().as_nanos() as f64);
    vm.remove_memory(guest)?;
    Ok(())
}

/// Where the memory lies for the device.
pub(crate) const ABOVE: u64 = 1 << 32;

/// By the bare call, after so many threads have found pages; the call finds them itself where there are none.
fn bare(bdf: Bdf, memory: &MmapRegion, threads: usize, key: &str) -> Result<(), Box<dyn Error>> {
    let bare = Bare::open(bdf)?;
    let started = Instant::now();
    find_pages(memory, threads)?;
    bare.map(memory, ABOVE)?;
    sample(key, started.elapsed().as_nanos() as f64);
    bare.unmap(memory, ABOVE)?;
    Ok(())
}

/// Memory that the library has not made, but as it makes it.
fn region(pages: Pages, bytes: u64) -> Result<MmapRegion, Box<dyn Error>> {
    let length = usize::try_from(bytes)?;
    Ok(match file(pages, bytes)? {
        Some(file) => MmapRegion::from_file(FileOffset::new(file, 0), length)?,
        None => {
            let region = MmapRegion::new(length)?;
            advise(&region, 0, length, Advice::LinuxHugepage)?;
            region
        }
    })
}

/// The same, with all of its pages.
fn touched(pages: Pages, bytes: u64) -> Result<MmapRegion, Box<dyn Error>> {
    let region = region(pages, bytes)?;
    let whole = region.as_volatile_slice();
    for page in (0..region.size()).step_by(PAGE) {
        whole.write(&[0], page)?;
    }
    Ok(region)
}

/// Has each of the threads find its part of the memory's pages.
fn find_pages(region: &MmapRegion, threads: usize) -> Result<(), Box<dyn Error>> {
    // None of them may wait for a stack behind one that is finding pages already.
    let all_there = &Barrier::new(threads);
    let part = |thread: usize| {
        all_there.wait();
        let length = region.size() / threads;
        advise(region, thread * length, length, Advice::LinuxPopulateWrite)
    };
    std::thread::scope(|scope| {
        let work: Vec<_> = (0..threads).map(|thread| scope.spawn(move || part(thread))).collect();
        work.into_iter().try_for_each(|work| Ok(work.join().map_err(|_| "a thread has panicked")??))
    })
}

/// Advice on a part of the memory that changes no byte of it.
#[expect(unsafe_code, reason = "there is no library between")]
fn advise(region: &MmapRegion, offset: usize, length: usize, advice: Advice) -> rustix::io::Result<()> {
    let start = region.as_ptr().wrapping_add(offset).cast();
    // SAFETY: mapped for as long as the region is borrowed, and nobody has references into it.
    unsafe { madvise(start, length, advice) }
}

/// The library's name for memory of others, which outlives every use of it: whoever asks gives it back before.
#[expect(unsafe_code, reason = "the library takes memory of others at their word")]
fn lent(region: &MmapRegion) -> Result<GuestMemory, Box<dyn Error>> {
    let address = NonNull::new(region.as_ptr()).ok_or("no memory")?;
    // SAFETY: readable and writable, without Rust references into it, and there until every use of it has come back.
    Ok(unsafe { GuestMemory::from_raw(address, region.size()) }?)
}

fn backing(pages: Pages) -> MemoryBacking {
    match pages {
        Pages::Small | Pages::Transparent => MemoryBacking::Anonymous,
        Pages::Huge => MemoryBacking::Huge(HugePage::Mib2),
    }
}

fn file(pages: Pages, bytes: u64) -> Result<Option<File>, Box<dyn Error>> {
    if pages != Pages::Huge {
        return Ok(None);
    }
    let file: OwnedFd =
        memfd_create("bare", MemfdFlags::CLOEXEC | MemfdFlags::HUGETLB | MemfdFlags::HUGE_2MB)?;
    ftruncate(&file, bytes)?;
    Ok(Some(file.into()))
}

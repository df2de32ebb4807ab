//! QEMU's `edu` (`docs/specs/edu.rst` in its source): a factorial, DMA both ways, and interrupts of both kinds.

use crate::Voice;
use crate::function::{Bar, COMMAND, Fault, Function, MSI, PIN_OFF};
use rustix::event::{PollFd, PollFlags, Timespec};
use std::fs::{self, File};
use std::io::Read;
use std::os::unix::fs::FileExt;
use std::time::{Duration, Instant};
use vm_memory::MmapRegion;

const IDENTITY: usize = 0;
const LIVENESS: usize = 4;
const FACTORIAL: usize = 8;
const STATUS: usize = 0x20;
const INTERRUPT_STATUS: usize = 0x24;
const RAISE: usize = 0x60;
const ACKNOWLEDGE: usize = 0x64;
const DMA_SOURCE: usize = 0x80;
const DMA_DESTINATION: usize = 0x88;
const DMA_LENGTH: usize = 0x90;
const DMA_COMMAND: usize = 0x98;
/// The device's own memory, as its DMA engine addresses it.
const OWN_MEMORY: u64 = 0x4_0000;
const PAGE: usize = 4096;
/// How much of a page is copied: QEMU ends itself on a copy that fills the device's memory to the last byte.
const COPIED: usize = PAGE / 2;
/// How many interrupts are raised one after the other.
const INTERRUPTS: u64 = 100;
/// How long the device may be at work; its DMA engine takes a tenth of a second on a machine that has time for it.
const PATIENCE: Duration = Duration::from_secs(10);

/// Everything but the pin.
pub(crate) fn visit(function: &Function, voice: &Voice) -> Result<(), Fault> {
    function.enable()?;
    let bar = function.memory(0)?;
    voice.expect("identity", bar.read32(IDENTITY)? == 0x0100_00ed);
    bar.write32(LIVENESS, 0x1234_5678)?;
    voice.expect("liveness", bar.read32(LIVENESS)? == !0x1234_5678);
    bar.write32(FACTORIAL, 10)?;
    until_clear(&bar, STATUS, 1)?;
    voice.say("factorial", format_args!("of=10 is={}", bar.read32(FACTORIAL)?));
    voice.say("dma", format_args!("right={}", copy_both_ways(&bar)?));
    let came = message_interrupts(function, &bar)?;
    voice.say("messages", format_args!("raised={INTERRUPTS} came={came}"));
    Ok(())
}

/// A part of a page goes into the device and comes back to another page.
fn copy_both_ways(bar: &Bar) -> Result<bool, Fault> {
    let region = MmapRegion::new(2 * PAGE).map_err(|source| Fault::Map { bar: 0, source })?;
    let pages = Bar(region);
    for at in 0..COPIED / 8 {
        pages.write64(at * 8, (at as u64).wrapping_mul(0x9e37_79b9_7f4a_7c15))?;
        pages.write64(PAGE + at * 8, 0)?;
    }
    transfer(bar, physical(&pages, 0)?, OWN_MEMORY, 0)?;
    transfer(bar, OWN_MEMORY, physical(&pages, PAGE)?, 2)?;
    for at in 0..COPIED / 8 {
        if pages.read64(at * 8)? != pages.read64(PAGE + at * 8)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn transfer(bar: &Bar, from: u64, to: u64, direction: u64) -> Result<(), Fault> {
    bar.write64(DMA_SOURCE, from)?;
    bar.write64(DMA_DESTINATION, to)?;
    bar.write64(DMA_LENGTH, COPIED as u64)?;
    bar.write64(DMA_COMMAND, 1 | direction)?;
    until_clear(bar, DMA_COMMAND, 1)
}

fn until_clear(bar: &Bar, register: usize, bits: u32) -> Result<(), Fault> {
    let deadline = Instant::now() + PATIENCE;
    while bar.read32(register)? & bits != 0 {
        if Instant::now() > deadline {
            return Err(Fault::Busy { register });
        }
    }
    Ok(())
}

/// Where a page of ours is in the guest's memory: this device has no IOMMU that the guest knows of.
fn physical(pages: &Bar, offset: usize) -> Result<u64, Fault> {
    let path = "/proc/self/pagemap";
    let refuse = |source| Fault::File { operation: "read", path: path.into(), source };
    let page = (pages.0.as_ptr().addr() + offset) / PAGE;
    let mut entry = [0; 8];
    File::open(path).and_then(|map| map.read_exact_at(&mut entry, page as u64 * 8)).map_err(refuse)?;
    Ok((u64::from_le_bytes(entry) & ((1 << 55) - 1)) * PAGE as u64)
}

/// The device signals the message of another device, whose driver is there to be interrupted: Linux lets no program
/// in user space have one of its own. How often that driver's interrupt came.
fn message_interrupts(function: &Function, bar: &Bar) -> Result<u64, Fault> {
    let (lender, number) = function.lender()?;
    let (from, to) = (lender.capability(MSI)?, function.capability(MSI)?);
    let wide = |control: [u8; 2]| control[0] & 0x80 != 0;
    let address: [u8; 8] = match wide(lender.config(from + 2)?) {
        true => lender.config(from + 4)?,
        false => {
            let low: [u8; 4] = lender.config(from + 4)?;
            u64::from(u32::from_le_bytes(low)).to_le_bytes()
        }
    };
    let data: [u8; 2] = lender.config(from + if wide(lender.config(from + 2)?) { 12 } else { 8 })?;
    function.write_config(to + 4, &address[..4])?;
    function.write_config(to + 8, &address[4..])?;
    function.write_config(to + 12, &data)?;
    function.write_config(to + 2, &1u16.to_le_bytes())?;
    let before = count_of(number)?;
    for nth in 1..=INTERRUPTS {
        bar.write32(RAISE, 1)?;
        // The next one only when this one has arrived: two in one moment are one.
        let deadline = Instant::now() + PATIENCE;
        while count_of(number)? < before + nth {
            if Instant::now() > deadline {
                return Err(Fault::NoInterrupt);
            }
        }
        bar.write32(ACKNOWLEDGE, 1)?;
    }
    function.write_config(to + 2, &0u16.to_le_bytes())?;
    Ok(count_of(number)? - before)
}

/// How often an interrupt of Linux's came, on all processors.
fn count_of(number: u32) -> Result<u64, Fault> {
    let path = "/proc/interrupts";
    let text = fs::read_to_string(path).map_err(|source| Fault::File {
        operation: "read",
        path: path.into(),
        source,
    })?;
    let line = text.lines().find_map(|line| line.trim_start().strip_prefix(&format!("{number}:")));
    let counts = line.unwrap_or_default().split_whitespace().map_while(|word| word.parse::<u64>().ok());
    Ok(counts.sum())
}

/// Interrupts by the pin, through Linux's `uio_pci_generic`, to which the function is bound.
pub(crate) fn visit_pin(function: &Function, voice: &Voice) -> Result<(), Fault> {
    let folder = function.path("uio");
    let refuse = |source| Fault::File { operation: "list", path: folder.clone(), source };
    let entry = fs::read_dir(&folder).map_err(refuse)?.next();
    let name = entry.transpose().map_err(refuse)?.map(|entry| entry.file_name()).unwrap_or_default();
    let path = std::path::Path::new("/dev").join(name);
    let refuse = |operation, source| Fault::File { operation, path: path.clone(), source };
    let mut interrupts = File::open(&path).map_err(|source| refuse("open", source))?;
    let bar = function.memory(0)?;
    let mut came = 0;
    for _ in 0..INTERRUPTS {
        let command = u16::from_le_bytes(function.config(COMMAND)?);
        function.write_config(COMMAND, &(command & !PIN_OFF).to_le_bytes())?;
        bar.write32(RAISE, 1)?;
        let mut poll = [PollFd::new(&interrupts, PollFlags::IN)];
        let patience = Timespec { tv_sec: 10, tv_nsec: 0 };
        let ready = rustix::event::poll(&mut poll, Some(&patience));
        if ready.map_err(|error| refuse("wait for", error.into()))? == 0 {
            return Err(Fault::NoInterrupt);
        }
        let mut count = [0; 4];
        interrupts.read_exact(&mut count).map_err(|source| refuse("read", source))?;
        came += 1;
        // The handler has turned the pin off; it stays up until the device is told.
        voice.expect("the device says why", bar.read32(INTERRUPT_STATUS)? == 1);
        bar.write32(ACKNOWLEDGE, 1)?;
    }
    voice.say("pins", format_args!("raised={INTERRUPTS} came={came}"));
    Ok(())
}

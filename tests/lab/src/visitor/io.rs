//! 4 KiB reads or writes at random places of a disk, so many at a time, past the guest's page cache: how many a second,
//! and how long each takes.

#![expect(
    unsafe_code,
    reason = "what is queued names memory by its address, and that is for its caller to keep"
)]

use crate::Voice;
use crate::function::Fault;
use crate::random::Random;
use io_uring::{IoUring, opcode, squeue, types};
use std::fs::File;
use std::io::{self, Seek, SeekFrom};
use std::os::fd::AsRawFd;
use std::os::unix::fs::OpenOptionsExt;
use std::time::{Duration, Instant};
use vm_memory::MmapRegion;

const BLOCK: u32 = 4096;
/// Until then nothing counts: the first requests find cold caches.
const WARM_UP: Duration = Duration::from_millis(200);

/// What is measured.
#[derive(Clone, Copy)]
pub(crate) struct Load {
    /// How many requests are under way at any time.
    pub(crate) depth: u32,
    pub(crate) writes: bool,
    /// After a warm-up. In no time there is none, and no request.
    pub(crate) time: Duration,
}

/// Measures a disk by its node.
pub(crate) fn measure(node: &str, load: Load, voice: &Voice) -> Result<(), Fault> {
    let refuse = |operation| move |source| Fault::File { operation, path: node.into(), source };
    let flags = rustix::fs::OFlags::DIRECT.bits().cast_signed();
    let mut options = File::options();
    let mut disk =
        options.read(true).write(load.writes).custom_flags(flags).open(node).map_err(refuse("open"))?;
    let blocks = disk.seek(SeekFrom::End(0)).map_err(refuse("measure"))? / u64::from(BLOCK);
    let buffers =
        MmapRegion::new((load.depth * BLOCK) as usize).map_err(|source| Fault::Map { bar: 0, source })?;
    let Driven { mut times, all } = drive(&disk, blocks, &buffers, load).map_err(refuse("drive"))?;
    times.sort_unstable();
    let place =
        |part: f64| times.get((part * times.len() as f64) as usize).or(times.last()).copied().unwrap_or(0);
    voice.say(
        "io",
        format_args!(
            "all={all} count={} microseconds={} p50={} p95={} p99={} p999={}",
            times.len(),
            load.time.as_micros(),
            place(0.5),
            place(0.95),
            place(0.99),
            place(0.999)
        ),
    );
    Ok(())
}

/// What became of a load.
struct Driven {
    /// The nanoseconds that each request took, the warm-up's left out.
    times: Vec<u32>,
    /// How many requests there were, the warm-up's and the last ones' among them.
    all: u64,
}

fn drive(disk: &File, blocks: u64, buffers: &MmapRegion, load: Load) -> io::Result<Driven> {
    let mut ring = IoUring::new(load.depth)?;
    let mut random = Random::new(0x2545_f491_4f6c_dd1d);
    let mut started = vec![Instant::now(); load.depth as usize];
    let (mut times, mut all) = (Vec::new(), 0);
    let counts_from = Instant::now() + if load.time.is_zero() { Duration::ZERO } else { WARM_UP };
    let end = counts_from + load.time;
    let mut under_way = 0;
    let mut free: Vec<u32> = (0..load.depth).collect();
    loop {
        while let Some(slot) = free.pop() {
            started[slot as usize] = Instant::now();
            if started[slot as usize] >= end {
                break;
            }
            push(&mut ring, &request(disk, random.below(blocks), buffers, slot, load.writes))?;
            (under_way, all) = (under_way + 1, all + 1);
        }
        if under_way == 0 {
            return Ok(Driven { times, all });
        }
        ring.submit_and_wait(1)?;
        let now = Instant::now();
        for completion in ring.completion() {
            under_way -= 1;
            let slot = completion.user_data() as u32;
            match completion.result() {
                result if result == BLOCK.cast_signed() => {}
                result if result < 0 => return Err(io::Error::from_raw_os_error(-result)),
                _ => return Err(io::ErrorKind::UnexpectedEof.into()),
            }
            if (counts_from..end).contains(&now) {
                let took = now - started[slot as usize];
                times.push(u32::try_from(took.as_nanos()).unwrap_or(u32::MAX));
            }
            free.push(slot);
        }
    }
}

/// A request with a slot's own part of the buffers.
fn request(disk: &File, block: u64, buffers: &MmapRegion, slot: u32, writes: bool) -> squeue::Entry {
    let file = types::Fd(disk.as_raw_fd());
    let buffer = buffers.as_ptr().wrapping_add((slot * BLOCK) as usize);
    let place = block * u64::from(BLOCK);
    let request = match writes {
        true => opcode::Write::new(file, buffer, BLOCK).offset(place).build(),
        false => opcode::Read::new(file, buffer, BLOCK).offset(place).build(),
    };
    request.user_data(u64::from(slot))
}

fn push(ring: &mut IoUring, request: &squeue::Entry) -> io::Result<()> {
    let mut queue = ring.submission();
    // SAFETY: the buffers and the disk's file outlive the ring, which is `drive`'s own. A request that is submitted holds
    // its pages until it is complete; one that is not is gone with the ring.
    let pushed = unsafe { queue.push(request) };
    pushed.map_err(io::Error::other)
}

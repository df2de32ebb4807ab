//! The monitor is killed at random moments of its life; the next one must find everything free.

use super::{Stage, leave};
use crate::monitor::REPORT;
use crate::orders::Servant;
use crate::protocol::End;
use crate::report::Report;
use crate::scenarios::Cause;
use std::time::{Duration, Instant};

const SIGKILL: i32 = 9;
/// Kills between two guests that live to the end.
const BETWEEN_WHOLE_LIVES: u32 = 10;

/// Runs it.
pub(super) fn run(stage: &Stage<'_>, report: &mut Report) -> Result<(), Cause> {
    let mut scene = stage.set(&["nvme", "e1000e"], 2048, Duration::from_secs(10_800))?;
    let expected = scene.animals[0].disk.as_mut().map(|disk| disk.digest()).transpose()?.unwrap_or_default();
    // How long a guest needs until it reads: the moments are spread over that and as much again.
    stage.progress.step("a guest lives to the end");
    let started = Instant::now();
    let mut guest = stage.serve(&mut scene)?;
    let ready = started.elapsed();
    let (mut whole, mut right) = (1, u32::from(reads(&mut guest, &mut scene.l1, &expected)?));
    leave(report, "kills: the first", &mut guest, &mut scene.l1)?;
    let mut moments = crate::random::Random::new(stage.options.seed);
    let (mut killed, mut early) = (0, Vec::new());
    for kill in 1..=stage.scale.kills {
        let moment = Duration::from_micros(moments.below(ready.as_micros() as u64 * 3 / 2));
        stage.progress.step(format!(
            "kill {kill} of {} after {:.1} s",
            stage.scale.kills,
            moment.as_secs_f64()
        ));
        let mut life = stage.start(&mut scene.l1, &scene.addresses, 2, REPORT)?;
        life.live_until(&mut scene.l1, Instant::now() + moment, "endless 1")?;
        match life.kill(&mut scene.l1)? {
            (_, End::Signal(SIGKILL)) => killed += 1,
            (_, end) => early.push(format!("kill {kill}: {end:?}: {}", life.stderr.trim())),
        }
        if kill % BETWEEN_WHOLE_LIVES == 0 || kill == stage.scale.kills {
            let mut guest = stage.serve(&mut scene)?;
            whole += 1;
            right += u32::from(reads(&mut guest, &mut scene.l1, &expected)?);
            leave(report, &format!("kills: after {kill}"), &mut guest, &mut scene.l1)?;
        }
    }
    report.holds("kills: each kill meets a living monitor", early.is_empty(), "SIGKILL", early.join("; "));
    report.equal("kills: as many as there should be", stage.scale.kills, killed);
    report.equal("kills: every whole life between them reads the disk right", whole, right);
    report.figure("kills", killed);
    scene.strike(report, "kills", &[])
}

fn reads(guest: &mut Servant, l1: &mut crate::l1::L1, expected: &str) -> Result<bool, Cause> {
    let done = guest.order(l1, "look 1")?;
    Ok(done.faults.is_empty() && done.value("looked", "sha256") == expected)
}

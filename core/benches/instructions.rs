//! The instructions that the machines take, which are the same in every run, and the least time that they took:
//! `cargo bench -p vfio-assign-core --bench instructions` prints a table, `-- json` the same for a program. Words behind
//! `--` pick cases. Needs valgrind, which counts the instructions.
//!
//! The program runs itself under callgrind, once a case as it is and once with only what the case is prepared by; the
//! difference, by the number of times the case was run, is what one costs. The time is the least of many short runs:
//! what else the machine does can only add to it.

mod cases;

use cases::Measure;
use std::hint::black_box;
use std::process::{Command, ExitCode};
use std::time::{Duration, Instant};

/// How often a case is run in one count.
const TIMES: u64 = 50;

/// Finds out which cases there are.
#[derive(Default)]
struct Names(Vec<String>);

impl Measure for Names {
    fn case<S, R>(&mut self, group: &str, name: &str, _: impl FnMut() -> S, _: impl FnMut(&mut S) -> R) {
        self.0.push(format!("{group}/{name}"));
    }
    fn repeat<R>(&mut self, group: &str, name: &str, _: impl FnMut() -> R) {
        self.0.push(format!("{group}/{name}"));
    }
}

/// Runs one case; with `counted` false only what it is prepared by.
struct Run<'a> {
    wanted: &'a str,
    counted: bool,
}

impl Measure for Run<'_> {
    fn case<S, R>(
        &mut self,
        group: &str,
        name: &str,
        mut prepare: impl FnMut() -> S,
        mut run: impl FnMut(&mut S) -> R,
    ) {
        for _ in 0..if is(self.wanted, group, name) { TIMES } else { 0 } {
            let mut prepared = black_box(prepare());
            if self.counted {
                black_box(run(&mut prepared));
            }
        }
    }
    fn repeat<R>(&mut self, group: &str, name: &str, mut run: impl FnMut() -> R) {
        for _ in 0..if is(self.wanted, group, name) && self.counted { TIMES } else { 0 } {
            black_box(run());
        }
    }
}

/// How often all cases are timed, one after the other: a machine whose speed changes is slow for some of them each time.
const ROUNDS: usize = 5;

/// Measures one case: the least time that it took.
struct Least<'a> {
    wanted: &'a str,
    nanoseconds: f64,
}

impl Least<'_> {
    /// How many times a batch of runs is timed.
    const BATCHES: usize = 400;
    /// How long a batch takes, about: long enough that reading the clock costs little beside it, and short enough to
    /// pass undisturbed on a machine that has other things to do.
    const BATCH: Duration = Duration::from_micros(20);
    /// How long a case is measured at most.
    const ALL: Duration = Duration::from_millis(300);

    fn measure(&mut self, group: &str, name: &str, mut batch: impl FnMut() -> (Duration, u32)) {
        let started = Instant::now();
        for _ in 0..if is(self.wanted, group, name) { Self::BATCHES } else { 0 } {
            let (took, runs) = batch();
            self.nanoseconds = self.nanoseconds.min(took.as_secs_f64() * 1e9 / f64::from(runs));
            if started.elapsed() > Self::ALL {
                return;
            }
        }
    }
}

impl Measure for Least<'_> {
    fn case<S, R>(
        &mut self,
        group: &str,
        name: &str,
        mut prepare: impl FnMut() -> S,
        mut run: impl FnMut(&mut S) -> R,
    ) {
        self.measure(group, name, || {
            let mut prepared = black_box(prepare());
            let started = Instant::now();
            black_box(run(&mut prepared));
            (started.elapsed(), 1)
        });
    }
    fn repeat<R>(&mut self, group: &str, name: &str, mut run: impl FnMut() -> R) {
        let mut runs = 1;
        self.measure(group, name, || {
            let started = Instant::now();
            for _ in 0..runs {
                black_box(run());
            }
            let took = started.elapsed();
            let timed = runs;
            if took < Self::BATCH {
                runs *= 2;
            }
            (took, timed)
        });
    }
}

/// Whether this is the case that is wanted.
fn is(wanted: &str, group: &str, name: &str) -> bool {
    wanted.strip_prefix(group).and_then(|rest| rest.strip_prefix('/')) == Some(name)
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).filter(|word| word != "--bench").collect();
    if let [mode, wanted] = arguments.as_slice()
        && (mode == "with" || mode == "without")
    {
        cases::measure(&mut Run { wanted, counted: mode == "with" });
        return ExitCode::SUCCESS;
    }
    let json = arguments.iter().any(|word| word == "json");
    let picks: Vec<&String> = arguments.iter().filter(|word| *word != "json").collect();
    let mut names = Names::default();
    cases::measure(&mut names);
    names.0.retain(|name| picks.iter().all(|pick| name.contains(pick.as_str())));
    if !json {
        println!("instructions    least ns  case");
    }
    let mut cases: Vec<_> = names.0.into_iter().map(|name| (name, f64::INFINITY)).collect();
    for _ in 0..ROUNDS {
        for (name, nanoseconds) in &mut cases {
            let mut least = Least { wanted: name, nanoseconds: *nanoseconds };
            cases::measure(&mut least);
            *nanoseconds = least.nanoseconds;
        }
    }
    for (name, nanoseconds) in cases {
        let instructions = match (count("with", &name), count("without", &name)) {
            (Ok(with), Ok(without)) => with.saturating_sub(without) / TIMES,
            (Err(error), _) | (_, Err(error)) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
        };
        if json {
            println!(
                r#"{{"case":"{name}","instructions":{instructions},"least_nanoseconds":{nanoseconds:.2}}}"#
            );
        } else {
            println!("{instructions:12}  {nanoseconds:10.1}  {name}");
        }
    }
    ExitCode::SUCCESS
}

/// The instructions of this program with these arguments.
fn count(mode: &str, name: &str) -> Result<u64, String> {
    let program = std::env::current_exe().map_err(|error| format!("cannot find this program: {error}"))?;
    let run = Command::new("valgrind")
        .args(["--tool=callgrind", "--callgrind-out-file=/dev/null"])
        .arg(program)
        .args([mode, name])
        .output()
        .map_err(|error| format!("cannot run valgrind: {error}; install it: apt-get install valgrind"))?;
    let said = String::from_utf8_lossy(&run.stderr);
    let counted = said.lines().find_map(|line| line.split_once("Collected :")?.1.trim().parse().ok());
    counted.ok_or_else(|| format!("callgrind counted nothing:\n{said}"))
}

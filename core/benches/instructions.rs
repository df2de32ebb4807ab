//! The instructions that the machines take, which are the same in every run: `cargo bench -p vfio-assign-core --bench
//! instructions` prints a table. Needs valgrind, which counts them.
//!
//! The program runs itself under callgrind, once a case as it is and once with only what the case is prepared by; the
//! difference, by the number of times the case was run, is what one costs.

mod cases;

use cases::Measure;
use std::hint::black_box;
use std::process::{Command, ExitCode};

/// How often a case is run in one count.
const TIMES: u64 = 200;

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

impl Run<'_> {
    fn is(&self, group: &str, name: &str) -> bool {
        self.wanted.strip_prefix(group).and_then(|rest| rest.strip_prefix('/')) == Some(name)
    }
}

impl Measure for Run<'_> {
    fn case<S, R>(
        &mut self,
        group: &str,
        name: &str,
        mut prepare: impl FnMut() -> S,
        mut run: impl FnMut(&mut S) -> R,
    ) {
        for _ in 0..if self.is(group, name) { TIMES } else { 0 } {
            let mut prepared = black_box(prepare());
            if self.counted {
                black_box(run(&mut prepared));
            }
        }
    }
    fn repeat<R>(&mut self, group: &str, name: &str, mut run: impl FnMut() -> R) {
        for _ in 0..if self.is(group, name) && self.counted { TIMES } else { 0 } {
            black_box(run());
        }
    }
}

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    if let [mode, wanted] = arguments.as_slice()
        && (mode == "with" || mode == "without")
    {
        cases::measure(&mut Run { wanted, counted: mode == "with" });
        return ExitCode::SUCCESS;
    }
    let mut names = Names::default();
    cases::measure(&mut names);
    println!("instructions  case");
    for name in names.0 {
        match (count("with", &name), count("without", &name)) {
            (Ok(with), Ok(without)) => println!("{:12}  {name}", with.saturating_sub(without) / TIMES),
            (Err(error), _) | (_, Err(error)) => {
                eprintln!("{error}");
                return ExitCode::FAILURE;
            }
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

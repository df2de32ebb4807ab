//! The guest's own program: drives a PCI function from user space, where Linux has no driver that would.
//!
//! `visitor WORK FOLDER [KEY=VALUE...]` with the function's folder in sysfs, or a disk's node. What it finds out it prints a line at a
//! time, a word and pairs behind it; the pairs it was given stand in each line. What is wrong begins with `fault`.

mod edu;
mod function;
mod io;
mod memory;
mod moves;
mod poll;
mod power;
#[path = "../random.rs"]
mod random;
mod scribble;
mod testdev;

use function::{Fault, Function};
use std::fmt::Display;
use std::process::ExitCode;

/// What the lab hears.
pub(crate) struct Voice {
    pairs: String,
}

impl Voice {
    /// Says something.
    pub(crate) fn say(&self, word: &str, what: impl Display) {
        println!("{word} {}{what}", self.pairs);
    }

    /// Says that something is wrong, unless it is right.
    pub(crate) fn expect(&self, what: &str, right: bool) {
        if !right {
            self.say("fault", what);
        }
    }
}

fn main() -> ExitCode {
    let mut words = std::env::args().skip(1);
    let (work, folder) = (words.next().unwrap_or_default(), words.next().unwrap_or_default());
    let pairs: Vec<String> = words.collect();
    let voice = Voice { pairs: pairs.iter().map(|pair| format!("{pair} ")).collect() };
    let number = |key: &str| {
        let value = pairs.iter().find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='));
        value.and_then(|value| value.parse::<u64>().ok()).unwrap_or_default()
    };
    match visit(&work, &folder, &voice, &number) {
        Ok(()) => ExitCode::SUCCESS,
        Err(fault) => {
            voice.say("fault", fault);
            ExitCode::FAILURE
        }
    }
}

fn visit(work: &str, folder: &str, voice: &Voice, number: &dyn Fn(&str) -> u64) -> Result<(), Fault> {
    let function = Function::at(folder);
    match work {
        "edu" => edu::visit(&function, voice),
        "edu-pin" => edu::visit_pin(&function, voice),
        "testdev" => testdev::visit(&function, voice),
        "memory" => memory::visit(&function, voice),
        "large" => memory::visit_large(&function, voice),
        "poll" => poll::visit(&function, voice),
        "power" => power::visit(&function, voice),
        "move" => moves::visit(&function, voice),
        "io" => {
            let time = std::time::Duration::from_millis(number("milliseconds"));
            let load = io::Load { depth: number("depth") as u32, writes: number("writes") == 1, time };
            io::measure(folder, load, voice)
        }
        "scribble" => scribble::visit(&function, number("seed"), number("seconds"), voice),
        _ => Err(Fault::Work { work: work.to_owned() }),
    }
}

//! Machines that lack something, or hold something else: the scenario must fail for each, and say by what name.

use super::super::Cause;
use super::judge;
use super::machine::{Machine, Run};
use crate::progress::Progress;
use crate::report::Report;
use std::io;

/// What is wrong with a machine, and the check that must see it.
struct Mistake {
    what: &'static str,
    make: fn(&mut Machine) -> io::Result<()>,
    seen_by: &'static str,
}

const MISTAKES: [Mistake; 7] = [
    Mistake {
        what: "no edu",
        make: |machine| {
            machine.edu = false;
            Ok(())
        },
        seen_by: "one edu and two disks are there",
    },
    Mistake {
        what: "no NVMe controller",
        make: |machine| {
            machine.disks.clear();
            Ok(())
        },
        seen_by: "one edu and two disks are there",
    },
    Mistake {
        what: "no IOMMU",
        make: |machine| {
            machine.iommu = false;
            Ok(())
        },
        seen_by: "devices are confined",
    },
    Mistake {
        what: "no command line",
        make: |machine| {
            machine.command_line.clear();
            Ok(())
        },
        seen_by: "the command line says what to do",
    },
    Mistake {
        what: "a command line with a word too many",
        make: |machine| {
            machine.command_line += " quiet";
            Ok(())
        },
        seen_by: "the command line says what to do",
    },
    Mistake {
        what: "a stack that overflows",
        make: |machine| {
            machine.command_line += " overflow";
            Ok(())
        },
        seen_by: "the stack of the image is large enough",
    },
    Mistake {
        what: "other content on a disk",
        make: |machine| machine.disks[0].swap_content(),
        seen_by: "the first guest reads what is on disk 'few'",
    },
];

/// Bytes of their disks, and what the image is told: as little as will do, for what else fails is not looked at.
const SIZES: [u64; 2] = [64 << 10; 2];
const COMMAND_LINE: &str = "seed=1 steps=1";

/// Runs each of them.
pub(super) fn check(
    report: &mut Report,
    mut run: impl FnMut(&Machine) -> Result<Run, Cause>,
    progress: &Progress,
) -> Result<(), Cause> {
    for Mistake { what, make, seen_by } in MISTAKES {
        progress.step(format!("the image boots with {what}"));
        let mut machine = Machine::whole(SIZES, COMMAND_LINE.into())?;
        make(&mut machine)?;
        let mut judged = Report::new("firmware");
        judge(&mut judged, &machine, &run(&machine)?);
        let failed: Vec<&str> = judged.failed().collect();
        let name = format!("with {what} it fails by name: {seen_by}");
        report.holds(&name, failed.contains(&seen_by), seen_by, failed.join("; "));
    }
    Ok(())
}

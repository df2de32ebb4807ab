//! The guest: its initial file system, and what it says about itself.

use crate::disk::{WRITE_AT, WRITE_BYTES, WRITE_LINE};
use crate::initramfs::{Initramfs, ProgramError};
use crate::modules::Module;
use std::path::Path;

/// The beginning of the lines that the guest's process 1 speaks.
const VOICE: &str = "lab: ";

/// What the guest does.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing: say that it is up, and switch itself off.
    Hello,
    /// Read everything, write a part, read everything again.
    Demo,
    /// Read everything.
    Read,
    /// What it is told over its console: `read`, `reboot`, `endless`, `leave`.
    Obey,
    /// What it is told over its console of any of its devices: the functions of `guest-devices.sh`.
    Serve,
    /// The same, before a driver is there: `bring_up` loads them.
    Wait,
    /// The same, once it has read everything.
    Measure,
    /// Give the console to a person.
    Shell,
}

impl Work {
    /// As the guest's command line says it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Work::Hello => "hello",
            Work::Demo => "demo",
            Work::Read => "read",
            Work::Obey => "obey",
            Work::Serve => "serve",
            Work::Wait => "wait",
            Work::Measure => "measure",
            Work::Shell => "shell",
        }
    }
}

/// The kernel's command line for a guest that is to do this work.
pub(crate) fn command_line(work: Work) -> String {
    let talk = match work {
        Work::Shell => "quiet",
        _ => "earlyprintk=serial",
    };
    // A program may read the registers of a device that a driver has.
    let reach = if work == Work::Serve { " iomem=relaxed" } else { "" };
    format!("console=ttyS0 {talk} panic=-1 printk.devkmsg=on{reach} lab.work={}", work.word())
}

/// The guest's initial file system; `visitor` is our own program, for guests that drive a device from user space.
pub(crate) fn initramfs(
    busybox: &[u8],
    modules: &[Module],
    visitor: Option<&Path>,
) -> Result<Vec<u8>, ProgramError> {
    let mut archive = Initramfs::default();
    for folder in ["dev", "proc", "sys", "tmp"] {
        archive.folder(folder);
    }
    let script = include_str!("guest-init.sh");
    let values = format!("WRITE_LINE='{WRITE_LINE}'\nWRITE_AT={WRITE_AT}\nWRITE_BYTES={WRITE_BYTES}\n");
    let (shebang, rest) = script.split_once('\n').unwrap_or((script, ""));
    archive.executable("init", format!("{shebang}\n{values}{rest}").as_bytes());
    archive.executable("bin/busybox", busybox);
    archive.file("devices.sh", include_bytes!("guest-devices.sh"));
    if let Some(program) = visitor {
        archive.program("bin/visitor", program)?;
    }
    let mut order = String::new();
    for module in modules {
        let name = format!("{}.ko", module.name);
        archive.file(&format!("modules/{name}"), &module.content);
        order.push_str(&name);
        order.push('\n');
    }
    archive.file("modules/order", order.as_bytes());
    Ok(archive.finish())
}

/// Something the guest said: a word, and what follows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Mark {
    pub(crate) word: String,
    pub(crate) rest: String,
    /// Microseconds since the monitor was started, by L1's clock.
    pub(crate) at: u64,
}

impl Mark {
    /// The mark in a line of the guest's console, if it is one.
    pub(crate) fn parse(line: &str, at: u64) -> Option<Self> {
        // `[    1.234567] lab: word rest`: nothing but the kernel's time stands before it.
        let (_time, said) = line.split_once("] ")?;
        let said = said.strip_prefix(VOICE)?.trim();
        let (word, rest) = said.split_once(' ').unwrap_or((said, ""));
        Some(Self { word: word.into(), rest: rest.into(), at })
    }

    /// The value of `key=value` in the mark.
    pub(crate) fn value(&self, key: &str) -> Option<&str> {
        self.rest.split_whitespace().find_map(|pair| pair.strip_prefix(key)?.strip_prefix('='))
    }
}

/// A line of `/proc/interrupts`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct InterruptLine {
    /// Over all processors.
    pub(crate) count: u64,
    /// The interrupt chip, in which Linux names the kind: `PCI-MSIX-0000:00:03.0`.
    pub(crate) chip: String,
    /// Who uses it: `nvme0q1`.
    pub(crate) name: String,
}

impl InterruptLine {
    /// `25:  12  7  PCI-MSIX-0000:00:03.0  1-edge  nvme0q1`
    pub(crate) fn parse(line: &str) -> Option<Self> {
        let mut words = line.split_whitespace().skip_while(|word| !word.ends_with(':')).skip(1).peekable();
        let mut count = 0;
        while let Some(number) = words.peek().and_then(|word| word.parse::<u64>().ok()) {
            count += number;
            words.next();
        }
        let chip = words.next()?.to_owned();
        let name = words.last()?.to_owned();
        Some(Self { count, chip, name })
    }

    /// Whether it is an MSI-X vector.
    pub(crate) fn is_msix(&self) -> bool {
        self.chip.starts_with("PCI-MSIX")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_mark_is_found_behind_the_kernels_time() {
        let mark =
            Mark::parse("[    2.345678] lab: first-read uptime=2.31 bytes=67108864\r\n", 7).expect("a mark");
        assert_eq!((mark.word.as_str(), mark.value("bytes"), mark.at), ("first-read", Some("67108864"), 7));
    }

    #[test]
    fn what_merely_mentions_the_lab_is_no_mark() {
        assert_eq!(Mark::parse("[    0.1] Kernel command line: x lab: up", 0), None);
    }

    #[test]
    fn a_line_of_interrupts_is_added_up_over_processors() {
        let line = InterruptLine::parse(" 25:   12   7  PCI-MSIX-0000:00:03.0   1-edge      nvme0q1")
            .expect("a line");
        assert_eq!(
            line,
            InterruptLine { count: 19, chip: "PCI-MSIX-0000:00:03.0".into(), name: "nvme0q1".into() }
        );
        assert!(line.is_msix());
    }
}

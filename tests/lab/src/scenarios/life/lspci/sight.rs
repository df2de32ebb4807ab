//! Two images of a configuration space as texts, and by which rules the one becomes the other.

use serde::Deserialize;
use std::fmt::Write as _;
use std::io::{self, Write as _};
use std::process::Command;

/// A run of configuration space with one rule, as `vfio-assign explain --json` has it.
#[derive(Debug, Clone, Deserialize)]
pub(super) struct Rule {
    first: usize,
    last: usize,
    source: String,
    rule: String,
}

/// Where a virtual function's ids are, which read as ones there (PCI Express SR-IOV 1.1, 3.4.1.1): VFIO tells them.
const IDS: std::ops::Range<usize> = 0..4;
const ONES: u8 = 0xff;

/// What is seen of a device.
pub(super) struct Sight {
    guest: String,
    /// What becomes of L1's text by each rule, one after the other.
    steps: Vec<(String, Vec<String>)>,
    /// Bytes that differ though the guest should see them as they are.
    pub(super) unexplained: Vec<String>,
}

impl Sight {
    /// What L1 sees, what the guest does, and the rules.
    pub(super) fn of(l1: &[u8], guest: &[u8], rules: &[Rule]) -> io::Result<Self> {
        // In the order of the first byte that each explains.
        let mut by_reason: Vec<(String, Vec<usize>)> = Vec::new();
        let mut unexplained = Vec::new();
        for (at, (l1, guest)) in l1.iter().zip(guest).enumerate().filter(|(_, (l1, guest))| l1 != guest) {
            let rule = rules.iter().find(|rule| (rule.first..=rule.last).contains(&at));
            let Some(reason) = rule.and_then(|rule| rule.explains(at, *l1)) else {
                unexplained.push(format!("{at:#x}: L1 {l1:02x}, guest {guest:02x}, {rule:?}"));
                continue;
            };
            match by_reason.iter_mut().find(|(known, _)| *known == reason) {
                Some((_, places)) => places.push(at),
                None => by_reason.push((reason, vec![at])),
            }
        }
        let mut image = l1.to_vec();
        let mut text = lspci(&image)?;
        let mut steps = Vec::new();
        for (reason, places) in by_reason {
            for at in places {
                if let (Some(to), Some(from)) = (image.get_mut(at), guest.get(at)) {
                    *to = *from;
                }
            }
            let next = lspci(&image)?;
            steps.push((reason, difference(&text, &next)));
            text = next;
        }
        Ok(Self { guest: lspci(guest)?, steps, unexplained })
    }

    /// As it is kept.
    pub(super) fn text(&self, name: &str) -> String {
        let mut text = format!("What a guest sees of {name}:\n\n{}", self.guest.trim_end());
        text.push_str("\n\nWhat L1 sees otherwise (-), by the rule that makes the guest see it so (+):\n");
        for (rule, lines) in self.steps.iter().filter(|(_, lines)| !lines.is_empty()) {
            let _infallible = write!(text, "\n{rule}\n{}\n", lines.join("\n"));
        }
        text
    }
}

impl Rule {
    /// Why the guest may see this byte otherwise than as L1 does; none if it is to see it as it is.
    fn explains(&self, at: usize, l1: u8) -> Option<String> {
        match self.source.as_str() {
            "hardware" if IDS.contains(&at) && l1 == ONES => {
                Some(format!("{}: VFIO tells a virtual function's", self.rule))
            }
            "hardware" => None,
            source => Some(format!("{}: {source}", self.rule)),
        }
    }
}

/// The lines that only one of two texts has.
pub(super) fn difference(before: &str, after: &str) -> Vec<String> {
    let only = |one: &str, other: &str, sign: char| {
        let mut others: Vec<&str> = other.lines().collect();
        let mut only = Vec::new();
        for line in one.lines() {
            match others.iter().position(|other| *other == line) {
                Some(place) => drop(others.swap_remove(place)),
                None => only.push(format!("{sign}{line}")),
            }
        }
        only
    };
    let mut lines = only(before, after, '-');
    lines.extend(only(after, before, '+'));
    lines
}

/// What `lspci -vvv` makes of a configuration space, without names, which differ from version to version of its list.
fn lspci(image: &[u8]) -> io::Result<String> {
    let mut dump = String::from("00:00.0 device\n");
    for (row, bytes) in image.chunks(16).enumerate() {
        let bytes: Vec<String> = bytes.iter().map(|byte| format!("{byte:02x}")).collect();
        let _infallible = writeln!(dump, "{:02x}: {}", row * 16, bytes.join(" "));
    }
    let mut file = tempfile::NamedTempFile::new()?;
    file.write_all(dump.as_bytes())?;
    let output = Command::new("lspci").args(["-n", "-vvv", "-F"]).arg(file.path()).output()?;
    if !output.status.success() {
        return Err(io::Error::other(String::from_utf8_lossy(&output.stderr).into_owned()));
    }
    Ok(regions(&String::from_utf8_lossy(&output.stdout)).map(settled).collect())
}

/// Its lines without the upper half of a 64-bit BAR, which lspci 3.9 makes a BAR of its own where it reads a dump.
fn regions(text: &str) -> impl Iterator<Item = &str> {
    let before = std::iter::once("").chain(text.lines());
    let upper = |(before, line): &(&str, &str)| {
        before.contains("(64-bit, ") && line.starts_with("\tRegion ") && line.contains("<unassigned>")
    };
    before.zip(text.lines()).filter(move |both| !upper(both)).map(|(_, line)| line)
}

/// The line without the numbers that Linux picks anew at each boot: an interrupt's address and data.
fn settled(line: &str) -> String {
    let message = line.trim_start().starts_with("Address: ") && line.contains("Data: ");
    let masked = |(place, character): (usize, char)| match character {
        // Behind the two colons.
        digit if digit.is_ascii_hexdigit() && !is_word(line, place) => 'x',
        other => other,
    };
    let line: String = if message { line.char_indices().map(masked).collect() } else { line.to_owned() };
    line + "\n"
}

/// Whether a word stands there, and no number.
fn is_word(line: &str, place: usize) -> bool {
    let start = line[..place].rfind(char::is_whitespace).map_or(0, |before| before + 1);
    line[start..].split_whitespace().next().is_some_and(|word| word.ends_with(':'))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_what_only_one_has_however_often() {
        assert_eq!(difference("a\nb\nb\n", "b\nc\na\n"), ["-b", "+c"]);
    }

    #[test]
    fn the_upper_half_of_a_bar_is_no_bar() {
        let text = "\tRegion 2: Memory at 100000000 (64-bit, prefetchable)\n\tRegion 3: I/O ports at <unassigned>\n\t\
                    Region 4: I/O ports at <unassigned>\n";
        let lines: Vec<&str> = regions(text).collect();
        assert_eq!(lines.len(), 2, "{lines:?}");
        assert!(lines[1].contains("Region 4"));
    }

    #[test]
    fn the_numbers_of_a_message_are_masked() {
        let line = "\t\tAddress: 00000000fee01000  Data: 4021";
        assert_eq!(settled(line), "\t\tAddress: xxxxxxxxxxxxxxxx  Data: xxxx\n");
        assert_eq!(settled("\tRegion 0: Memory at feb1"), "\tRegion 0: Memory at feb1\n");
    }
}

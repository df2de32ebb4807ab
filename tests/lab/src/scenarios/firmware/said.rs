//! What the image says on its console: checks, figures, what a guest has read.

/// `check NAME: OUTCOME`.
pub(super) fn checks(lines: &[String]) -> impl Iterator<Item = (&str, &str)> {
    lines.iter().filter_map(|line| check(line))
}

fn check(line: &str) -> Option<(&str, &str)> {
    let said = line.strip_prefix("check ")?;
    // A name may have a colon, too.
    said.strip_suffix(": ok").map(|name| (name, "ok")).or_else(|| said.split_once(": FAILED: "))
}

/// `figure NAME NUMBER`.
pub(super) fn figures(lines: &[String]) -> impl Iterator<Item = (&str, u64)> {
    lines.iter().filter_map(|line| figure(line))
}

fn figure(line: &str) -> Option<(&str, u64)> {
    let (name, value) = line.strip_prefix("figure ")?.split_once(' ')?;
    Some((name, value.parse().ok()?))
}

/// Lines that are meant for the lab and are none of the above: a check that nobody hears of would hold.
pub(super) fn mistakes(lines: &[String]) -> impl Iterator<Item = &str> {
    let wrong = |line: &&String| {
        line.starts_with("check ") && check(line).is_none()
            || line.starts_with("figure ") && figure(line).is_none()
    };
    lines.iter().filter(wrong).map(String::as_str)
}

/// What a guest has read of a disk.
pub(super) struct DiskRead<'a> {
    pub(super) serial: &'a str,
    pub(super) vectors: &'a str,
    pub(super) bytes: &'a str,
    pub(super) digest: &'a str,
}

/// `disk SERIAL vectors NUMBER bytes NUMBER sha256 DIGEST`.
pub(super) fn disks_read(lines: &[String]) -> impl Iterator<Item = DiskRead<'_>> {
    lines.iter().filter_map(|line| match line.split_whitespace().collect::<Vec<_>>()[..] {
        ["disk", serial, "vectors", vectors, "bytes", bytes, "sha256", digest] => {
            Some(DiskRead { serial, vectors, bytes, digest })
        }
        _ => None,
    })
}

/// Sizes, and a row for each guest.
pub(super) fn table(image: u64, seconds: f64, lines: &[String]) -> String {
    const COLUMNS: [&str; 6] = [
        "registers_direct",
        "registers_trapped",
        "interrupts_forwarded",
        "steps_establish",
        "steps_failed",
        "dma_stopped",
    ];
    let value = |wanted: &str| figures(lines).find(|(name, _)| *name == wanted).map_or(0, |(_, value)| value);
    let mut text = format!("\n  {:<26}{image} bytes, ran {seconds:.1} s\n", "image");
    for (what, figure) in [
        ("core, 65 vectors", "core_bytes_65_vectors"),
        ("core, 2048 vectors", "core_bytes_2048_vectors"),
        ("events of the host", "host_lines_bytes"),
        ("storage of functions", "storage_bytes"),
        ("stack in use", "stack_bytes_used"),
        ("memory of the image", "image_memory_bytes"),
    ] {
        text += &format!("  {what:<26}{} bytes\n", value(figure));
    }
    let head = ["direct", "trapped", "interrupts", "established", "failed steps", "DMA stopped"];
    text += &format!("\n  {:<14}{}\n", "guest", head.map(|name| format!("{name:>14}")).concat());
    let guests = figures(lines).filter_map(|(name, _)| name.strip_suffix("_registers_direct"));
    for guest in guests {
        let row = COLUMNS.map(|column| format!("{:>14}", value(&format!("{guest}_{column}"))));
        text += &format!("  {guest:<14}{}\n", row.concat());
    }
    text + "\n"
}

#[cfg(test)]
mod tests {
    use super::*;

    fn lines(text: &str) -> Vec<String> {
        text.lines().map(str::to_owned).collect()
    }

    #[test]
    fn a_check_has_a_name_with_a_colon_and_an_outcome() {
        let said = lines("check disk 1: reset: ok\ncheck edu: DMA: FAILED: qword 3: 4\nsomething else");
        let found: Vec<_> = checks(&said).collect();
        assert_eq!(found, [("disk 1: reset", "ok"), ("edu: DMA", "qword 3: 4")]);
    }

    #[test]
    fn what_a_guest_read_is_found() {
        let said = lines("disk few vectors 65 bytes 8192 sha256 00ff");
        let found: Vec<_> =
            disks_read(&said).map(|read| (read.serial, read.vectors, read.bytes, read.digest)).collect();
        assert_eq!(found, [("few", "65", "8192", "00ff")]);
    }

    #[test]
    fn a_line_that_does_not_parse_is_a_mistake() {
        let said = lines("check edu: o\nfigure seconds 4x\nfigure a 1\ncheck b: ok\nsomething else");
        assert_eq!(mistakes(&said).collect::<Vec<_>>(), ["check edu: o", "figure seconds 4x"]);
    }
}

//! `docs/EMBEDDING.md` quotes programs of this repository and counts their lines; here is checked that both are so.

use std::path::{Path, PathBuf};

/// The chapters that quote: all after this heading.
const FIRST_CHAPTER: &str = "## Without an operating system";

fn root() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("..")
}

fn read(path: &str) -> String {
    std::fs::read_to_string(root().join(path)).unwrap_or_else(|error| panic!("{path}: {error}"))
}

fn chapters() -> String {
    let text = read("docs/EMBEDDING.md");
    let at = text.find(FIRST_CHAPTER).expect("the first chapter that quotes");
    text[at..].to_owned()
}

/// The blocks of Rust in a text.
fn blocks(text: &str) -> Vec<&str> {
    let blocks = text.split("```rust").skip(1).filter_map(|rest| rest.split_once('\n')?.1.split_once("```"));
    blocks.map(|(block, _)| block).collect()
}

/// The lines without what they are indented by.
fn trimmed(text: &str) -> Vec<&str> {
    text.lines().map(str::trim).filter(|line| !line.is_empty()).collect()
}

/// How many lines there are from the one that starts with `head` to the one that closes what it opens; of the whole
/// file without a head.
fn lines(file: &str, head: &str) -> Option<usize> {
    if head.is_empty() {
        return Some(file.lines().count());
    }
    let mut rest = file.lines().skip_while(|line| !line.trim_start().starts_with(head)).peekable();
    let first = rest.peek()?;
    let indent = first.len() - first.trim_start().len();
    let closes =
        |line: &&str| line.len() > indent && line[..indent].trim().is_empty() && line[indent..] == *"}";
    let before = rest.by_ref().position(|line| closes(&line))?;
    Some(before + 1)
}

/// A row of a table of lines: `| [file](../path) | `head`, or the whole file | lines |`.
struct Row<'a> {
    path: &'a str,
    head: &'a str,
    lines: &'a str,
}

/// The rows of all tables of lines. One that starts as such a row does and is none is an error: nobody would count it.
fn rows(text: &str) -> Vec<Row<'_>> {
    let rows = text.lines().filter(|line| line.starts_with("| ["));
    rows.map(|line| row(line).unwrap_or_else(|| panic!("no row of a table of lines: {line}"))).collect()
}

fn row(line: &str) -> Option<Row<'_>> {
    let (_, link) = line.strip_prefix("| [")?.split_once("](../")?;
    let (path, rest) = link.split_once(") | ")?;
    let (what, rest) = rest.split_once(" | ")?;
    let head = what.strip_prefix('`').and_then(|what| what.strip_suffix('`')).unwrap_or("");
    let lines = rest.split_once(" |")?.0;
    Some(Row { path, head, lines })
}

#[test]
fn what_is_quoted_is_in_a_program() {
    let text = chapters();
    let sources = [
        "tests/firmware/src/host.rs",
        "tests/firmware/src/main.rs",
        "tests/firmware/src/paravisor.rs",
        "tests/firmware/src/sys/windows.rs",
        "host-linux/examples/message_passing.rs",
        "host-linux/examples/rust_vmm/adapter.rs",
    ]
    .map(|path| trimmed(&read(path)).join("\n"));
    let blocks = blocks(&text);
    assert!(!blocks.is_empty(), "nothing is quoted");
    for block in blocks {
        let wanted = trimmed(block).join("\n");
        assert!(sources.iter().any(|source| source.contains(&wanted)), "no program has:\n{block}");
    }
}

#[test]
fn lines_are_as_many_as_the_tables_say() {
    let text = chapters();
    let rows = rows(&text);
    assert!(!rows.is_empty(), "nothing is counted");
    let wrong: Vec<String> = rows
        .iter()
        .filter_map(|Row { path, head, lines: said }| {
            let found = lines(&read(path), head).unwrap_or_else(|| panic!("{path} has no {head}"));
            (found.to_string() != *said).then(|| format!("{path} {head}: {found}, not {said}"))
        })
        .collect();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn an_adapter_has_fewer_than_200_lines() {
    assert!(read("host-linux/examples/rust_vmm/adapter.rs").lines().count() < 200);
}

#[test]
fn the_example_has_fewer_than_150_lines() {
    assert!(read("host-linux/examples/embed.rs").lines().count() < 150);
}

/// The files under a folder that have the word.
fn with_word(folder: &Path, word: &str) -> Vec<PathBuf> {
    let entries = std::fs::read_dir(folder).unwrap_or_else(|error| panic!("{}: {error}", folder.display()));
    let within = |path: PathBuf| {
        if path.is_dir() {
            return with_word(&path, word);
        }
        let text =
            std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{}: {error}", path.display()));
        if text.contains(word) { vec![path] } else { Vec::new() }
    };
    entries.flat_map(|entry| within(entry.expect("an entry").path())).collect()
}

#[test]
fn unsafe_code_of_the_image_is_in_one_place() {
    let image = root().join("tests/firmware/src");
    let (inside, outside): (Vec<_>, Vec<_>) =
        with_word(&image, "unsafe").into_iter().partition(|path| path.starts_with(image.join("sys")));
    assert!(!inside.is_empty(), "nothing is found anywhere");
    assert!(outside.is_empty(), "{outside:?}");
}

#[test]
fn a_block_is_counted_to_its_own_end() {
    let file = "impl A for B {\n    fn a() {\n    }\n}\n\nimpl C for B {\n}\n";
    assert_eq!(
        [lines(file, "impl A"), lines(file, "impl C"), lines(file, "fn a"), lines(file, "fn x")],
        [Some(4), Some(2), Some(2), None]
    );
}

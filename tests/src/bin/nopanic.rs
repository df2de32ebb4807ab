//! `cargo nopanic`: shows that the core cannot panic and needs no standard library.
//!
//! Builds `tests/freestanding` at each optimisation level: it keeps every public function of the core, and links
//! only if no panic is left. Two controls must fail to build, and for the right reason. That program is nothing but
//! the core, what the core uses of the language's library, and a host whose methods do nothing; so its text is the
//! core's size (`memcpy` and the like are the C library's, and not in it), and must stay within a limit, as must what
//! a function keeps in memory. The core must also build with each of its features alone, and with none.

use std::error::Error;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::{Command, ExitCode};
use vfio_assign_core::{AssignedFunction, Vector, Window};

/// The function that the panic handler calls and that nobody defines.
const SYMBOL: &str = "vfio_assign_core_can_panic";

/// The levels that the core is promised to hold at, with the most bytes of text where there is a limit.
const LEVELS: [(&str, u64); 5] =
    [("1", u64::MAX), ("2", u64::MAX), ("3", u64::MAX), ("s", 48 << 10), ("z", 48 << 10)];

/// The most bytes of state with 16 vectors, and with 2,048.
const STATE: [usize; 2] = [3 << 10, 64 << 10];

fn main() -> Result<ExitCode, Box<dyn Error>> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("the package has no workspace")?;
    let build = Build { root, target: target_directory()? };
    let mut holds = covers(root)?;
    for (level, limit) in LEVELS {
        holds &= build.links(level, limit)?;
    }
    holds &= build.fails("control-index", &["undefined", SYMBOL])?;
    holds &= build.fails("control-std", &["duplicate lang item", "panic_impl"])?;
    for features in features(&fs::read_to_string(root.join("core/Cargo.toml"))?) {
        holds &= build.has_features(&features)?;
    }
    let state = [state::<16>(), state::<2048>()];
    let small = state.iter().zip(STATE).all(|(bytes, most)| *bytes <= most);
    let verdict = if small { "" } else { ": FAILED: too many" };
    let [few, many] = state;
    println!("  state: {few} bytes with 16 vectors, {many} with 2048, windows apart{verdict}");
    holds &= small;
    println!("{}", if holds { "passed" } else { "failed" });
    Ok(if holds { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// The size of a function that stores its vectors itself and its windows elsewhere.
fn state<const VECTORS: usize>() -> usize {
    size_of::<AssignedFunction<[Vector; VECTORS], &mut [Window]>>()
}

/// A directory of its own, since this program may run under a cargo that holds the lock of the usual one.
fn target_directory() -> Result<PathBuf, Box<dyn Error>> {
    let program = std::env::current_exe()?;
    let target = program.ancestors().nth(2).ok_or("this program is in no target directory")?;
    Ok(target.join("nopanic"))
}

struct Build<'a> {
    root: &'a Path,
    target: PathBuf,
}

impl Build<'_> {
    fn cargo(&self, level: &str, feature: &str) -> Command {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(self.root).env("CARGO_TERM_COLOR", "never");
        cargo.args(["rustc", "--locked", "--profile", "freestanding"]);
        cargo.args(["--package", "vfio-assign-freestanding", "--bin", "freestanding", "--features", feature]);
        cargo.arg("--config").arg(format!("profile.freestanding.opt-level={}", toml(level)));
        cargo.arg("--target-dir").arg(&self.target);
        // No start files: the program has an entry of its own. The C library has memcpy and the like.
        cargo.args(["--", "-C", "link-arg=-nostartfiles", "-C", "link-arg=-lc"]);
        cargo
    }

    /// Whether the program links at this level and is small enough; prints its size, or what the linker said.
    fn links(&self, level: &str, limit: u64) -> Result<bool, Box<dyn Error>> {
        let output = self.cargo(level, "link").output()?;
        if output.status.success() {
            let text = text_size(&fs::read(self.target.join("freestanding/freestanding"))?);
            let text = text.ok_or("no section .text")?;
            let verdict = if text > limit { format!(": FAILED: more than {limit}") } else { String::new() };
            println!("opt-level {level}: no panic, {text} bytes of text{verdict}");
            return Ok(text <= limit);
        }
        println!("opt-level {level}: FAILED\n{}", String::from_utf8_lossy(&output.stderr));
        Ok(false)
    }

    /// Whether the core builds with these features and no others.
    fn has_features(&self, features: &str) -> Result<bool, Box<dyn Error>> {
        let mut cargo = Command::new(std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into()));
        cargo.current_dir(self.root).env("CARGO_TERM_COLOR", "never");
        cargo.args(["build", "--locked", "--package", "vfio-assign-core", "--no-default-features"]);
        let output = cargo.args(["--features", features, "--target-dir"]).arg(&self.target).output()?;
        let said =
            if output.status.success() { "builds".into() } else { String::from_utf8_lossy(&output.stderr) };
        println!("features [{features}]: {said}");
        Ok(output.status.success())
    }

    /// Whether the build with this feature fails, and says all of `reasons`.
    fn fails(&self, feature: &str, reasons: &[&str]) -> Result<bool, Box<dyn Error>> {
        let output = self.cargo("3", feature).output()?;
        let said = String::from_utf8_lossy(&output.stderr);
        if output.status.success() {
            println!("control {feature}: FAILED: it builds");
            return Ok(false);
        }
        if let Some(missing) = reasons.iter().find(|reason| !said.contains(**reason)) {
            println!("control {feature}: FAILED: it does not build, but nothing says {missing:?}:\n{said}");
            return Ok(false);
        }
        println!("control {feature}: does not build, as it must not: {}", reasons.join(" "));
        Ok(true)
    }
}

/// An optimisation level as a value of TOML.
fn toml(level: &str) -> String {
    if level.parse::<u8>().is_ok() { level.to_owned() } else { format!("{level:?}") }
}

/// No feature, and each of those that a manifest names.
fn features(manifest: &str) -> Vec<String> {
    let section = manifest.lines().skip_while(|line| line.trim() != "[features]").skip(1);
    let named = section.take_while(|line| !line.starts_with('[')).filter_map(|line| {
        let (name, _) = line.split_once('=')?;
        (!line.starts_with('#')).then(|| name.trim().to_owned())
    });
    std::iter::once(String::new()).chain(named).collect()
}

/// Whether the program keeps every public function of the core.
fn covers(root: &Path) -> Result<bool, Box<dyn Error>> {
    let kept = fs::read_to_string(root.join("tests/freestanding/src/functions.rs"))?;
    let functions = public_functions(&root.join("core/src"))?;
    let missing: Vec<_> = functions.iter().filter(|name| !keeps(&kept, name)).collect();
    println!("  functions: {} of {} kept", functions.len() - missing.len(), functions.len());
    for name in &missing {
        println!("  not kept: {name}");
    }
    Ok(missing.is_empty() && !functions.is_empty())
}

/// Whether `text` has the function as an argument: `(Type::function)`, perhaps with its types.
fn keeps(text: &str, function: &str) -> bool {
    text.match_indices(&format!("({function}"))
        .any(|(at, found)| text[at + found.len()..].starts_with([')', ':', ' ']))
}

/// The public functions in `folder`, as `Type::function`; those of the fake device are for tests.
fn public_functions(folder: &Path) -> Result<Vec<String>, Box<dyn Error>> {
    let mut functions = Vec::new();
    for entry in fs::read_dir(folder)? {
        let path = entry?.path();
        if path.is_dir() {
            if !path.ends_with("fake") {
                functions.extend(public_functions(&path)?);
            }
        } else {
            let text = fs::read_to_string(&path)?;
            let code = text.split("\n#[cfg(test)]\nmod tests").next().unwrap_or_default();
            functions.extend(functions_of(code));
        }
    }
    functions.sort();
    Ok(functions)
}

/// The public functions of a file.
fn functions_of(code: &str) -> Vec<String> {
    let mut owner = String::new();
    let mut found = Vec::new();
    for line in code.lines().map(str::trim_start) {
        if line.starts_with("impl") {
            owner = owner_of(line);
        }
        let function = line.strip_prefix("pub fn ").or_else(|| line.strip_prefix("pub const fn "));
        if let Some(function) = function {
            let name = function.split(['(', '<']).next().unwrap_or_default();
            found.push(format!("{owner}::{name}"));
        }
    }
    found
}

/// The type that an `impl` line is about. The types that a macro makes are alike, and one stands for all.
fn owner_of(line: &str) -> String {
    let mut depth = 0;
    let rest: String = line["impl".len()..]
        .chars()
        .filter(|letter| {
            depth += i32::from(*letter == '<');
            let outside = depth == 0;
            depth -= i32::from(*letter == '>');
            outside
        })
        .collect();
    let name = rest.trim().trim_end_matches('{').trim();
    if name == "$name" { "GuestAddr".to_owned() } else { name.to_owned() }
}

/// The size of `.text` in a little-endian 64-bit ELF file.
fn text_size(file: &[u8]) -> Option<u64> {
    let number = |at: usize, bytes: usize| -> Option<usize> {
        let mut value = [0; 8];
        value.get_mut(..bytes)?.copy_from_slice(file.get(at..at.checked_add(bytes)?)?);
        usize::try_from(u64::from_le_bytes(value)).ok()
    };
    let (table, size, count, names) =
        (number(0x28, 8)?, number(0x3a, 2)?, number(0x3c, 2)?, number(0x3e, 2)?);
    let header = |index: usize| table + size * index;
    let names = number(header(names) + 0x18, 8)?;
    (0..count).map(header).find_map(|header| {
        let name = file.get(names + number(header, 4)?..)?;
        name.starts_with(b".text\0").then(|| number(header + 0x20, 8))?.map(|size| size as u64)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn functions_are_found_with_their_type() {
        let code = "impl<V: AsRef<[Vector]>, W> Msix<V, W> {\n    pub const fn count(&self) {}\n    pub(crate) fn no() {}\n    pub fn plan<T>(x: T) {}";
        assert_eq!(functions_of(code), ["Msix::count", "Msix::plan"]);
    }

    #[test]
    fn functions_of_a_macro_go_by_one_type() {
        assert_eq!(functions_of("        impl $name {\n            pub fn get() {}"), ["GuestAddr::get"]);
    }

    #[test]
    fn function_is_kept_by_its_whole_name() {
        let text = "    f1(Span::first),\n    f2(Bars::drive::<Opaque>),\n    f3(Map::new as fn(_)),";
        let kept = ["Span::first", "Bars::drive", "Map::new", "Span::fir", "pan::first", "Bars::read"];
        assert_eq!(kept.map(|name| keeps(text, name)), [true, true, true, false, false, false]);
    }

    #[test]
    fn features_are_none_and_each_by_itself() {
        let manifest =
            "[package]\nname = \"a\"\n\n[features]\n# One = of them.\nfake = []\nlog = []\n\n[lints]\nx = 1";
        assert_eq!(features(manifest), ["", "fake", "log"]);
    }

    #[test]
    fn what_is_no_elf_file_has_no_text() {
        assert_eq!(text_size(b"nothing"), None);
    }
}

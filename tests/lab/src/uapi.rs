//! The layouts that the library relies on, held against the headers of L1's own kernel by the C compiler.
//!
//! The library compares them with its bindings when it is compiled (`host-linux/src/sys/uapi.rs`); those could be
//! wrong or old. Here the same statements become assertions in C.

use std::fs;
use std::io;
use std::path::Path;
use std::process::Command;

/// The library's statements.
const STATEMENTS: &str = include_str!("../../../host-linux/src/sys/uapi.rs");
const HEADERS: &[&str] = &["stddef.h", "linux/vfio.h", "linux/kvm.h", "linux/iommufd.h"];

/// A structure as the library has it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    name: String,
    size: String,
    /// Names and offsets.
    pub(crate) fields: Vec<(String, String)>,
}

/// Every structure that the library states a layout of.
pub(crate) fn layouts() -> Vec<Layout> {
    STATEMENTS.split("layout!(").skip(1).filter_map(Layout::parse).collect()
}

/// What the compiler says against the layouts; nothing where they are right.
pub(crate) fn complaints(layouts: &[Layout], headers: &Path) -> io::Result<String> {
    let folder = tempfile::tempdir()?;
    let probe = folder.path().join("probe.c");
    fs::write(&probe, source(layouts))?;
    let output = Command::new("gcc")
        .arg("-fsyntax-only")
        .arg("-I")
        .arg(headers)
        .arg(&probe)
        .env("LC_ALL", "C")
        .output()?;
    match output.status.success() {
        true => Ok(String::new()),
        false => Ok(String::from_utf8_lossy(&output.stderr).into_owned()),
    }
}

impl Layout {
    /// `v::name, size, { field: offset, … });` and whatever follows. The macro's own definition is none.
    fn parse(text: &str) -> Option<Self> {
        let (head, rest) = text.split_once('{')?;
        let (fields, _) = rest.split_once('}')?;
        let mut head = head.split(',').map(str::trim);
        let (_, name) = head.next()?.split_once("::")?;
        let size = head.next()?.to_owned();
        let fields = fields.split(',').filter_map(|field| {
            let (name, offset) = field.split_once(':')?;
            // Rust's bindings write C's `type` so, and have a name for a union that has none in C.
            let name = if name.trim() == "type_" { "type" } else { name.trim() };
            (!name.starts_with("__bindgen")).then(|| (name.to_owned(), offset.trim().to_owned()))
        });
        Some(Self { name: name.to_owned(), size, fields: fields.collect() })
    }
}

/// The layouts as assertions.
fn source(layouts: &[Layout]) -> String {
    let mut text: String = HEADERS.iter().map(|header| format!("#include <{header}>\n")).collect();
    for Layout { name, size, fields } in layouts {
        text += &format!("_Static_assert(sizeof(struct {name}) == {size}, \"size of {name}\");\n");
        for (field, offset) in fields {
            text += &format!(
                "_Static_assert(offsetof(struct {name}, {field}) == {offset}, \"{name}.{field}\");\n"
            );
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_over_one_line_and_over_several_are_found() {
        let layouts = layouts();
        let fields = |name: &str| {
            let found = layouts.iter().find(|layout| layout.name == name);
            found.map_or(0, |layout| layout.fields.len())
        };
        assert_eq!((fields("vfio_irq_set"), fields("kvm_userspace_memory_region")), (6, 5));
        assert_eq!((fields("iommu_ioas_map"), fields("vfio_device_bind_iommufd")), (6, 4));
    }

    #[test]
    fn a_wrong_offset_is_complained_of() {
        let folder = tempfile::tempdir().expect("a folder");
        fs::create_dir(folder.path().join("linux")).expect("a folder");
        for header in ["vfio.h", "kvm.h", "iommufd.h"] {
            let content = if header == "vfio.h" { "struct vfio_x { int a; int b; };\n" } else { "" };
            fs::write(folder.path().join("linux").join(header), content).expect("a header");
        }
        let layout = |offset: &str| Layout {
            name: "vfio_x".into(),
            size: "8".into(),
            fields: vec![("b".into(), offset.into())],
        };
        let right = complaints(&[layout("4")], folder.path()).expect("gcc runs");
        let wrong = complaints(&[layout("8")], folder.path()).expect("gcc runs");
        assert!(right.is_empty(), "{right}");
        assert!(wrong.contains("vfio_x.b"), "{wrong}");
    }
}

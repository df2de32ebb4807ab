//! Kernel modules of an unpacked kernel package, each after those it needs.
//!
//! The package has no `modules.dep` (that is made when it is installed), so what a module needs is read from the
//! module itself.

use std::collections::{HashMap, HashSet};
use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A kernel and its modules.
pub(crate) struct Kernel {
    /// The bzImage.
    pub(crate) image: PathBuf,
    /// What `uname -r` prints; empty where no module is looked for.
    pub(crate) release: String,
    unpacker: PathBuf,
    /// None where all is built in.
    modules: Option<HashMap<String, PathBuf>>,
    builtin: HashSet<String>,
}

/// A module, ready to be loaded.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Module {
    pub(crate) name: String,
    pub(crate) content: Vec<u8>,
}

/// Why a kernel's modules could not be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ModuleError {
    #[error("cannot read {}: {source}; remove the folder to have it downloaded again", path.display())]
    Read { path: PathBuf, source: io::Error },
    #[error("no {what} in {}; remove the folder to have it downloaded again", path.display())]
    Missing { what: &'static str, path: PathBuf },
    #[error("the kernel in {} has no module {name}", path.display())]
    NoModule { name: String, path: PathBuf },
    #[error("cannot decompress {}: {cause}", path.display())]
    Decompress { path: PathBuf, cause: String },
}

impl Kernel {
    /// A kernel with everything built in.
    pub(crate) fn whole(image: PathBuf) -> Self {
        Self {
            image,
            release: String::new(),
            unpacker: PathBuf::new(),
            modules: None,
            builtin: HashSet::new(),
        }
    }

    /// The kernel in the folder of an unpacked package; `busybox` decompresses its modules.
    pub(crate) fn open(package: &Path, busybox: &Path) -> Result<Self, ModuleError> {
        let only = |folder: PathBuf, what: &'static str, prefix: &str| {
            let names = list(&folder)?;
            let found = names.into_iter().find(|path| file_name(path).starts_with(prefix));
            found.ok_or(ModuleError::Missing { what, path: folder })
        };
        let image = only(package.join("boot"), "kernel image", "vmlinuz-")?;
        let libraries = ["lib/modules", "usr/lib/modules"].map(|folder| package.join(folder));
        let [classic, merged] = libraries;
        let tree = only(if classic.is_dir() { classic } else { merged }, "modules", "")?;
        let mut modules = HashMap::new();
        collect(&tree.join("kernel"), &mut modules)?;
        let list_path = tree.join("modules.builtin");
        let builtin = std::fs::read_to_string(&list_path)
            .map_err(|source| ModuleError::Read { path: list_path, source })?;
        let builtin = builtin.lines().map(|line| module_name(Path::new(line))).collect();
        let release = file_name(&tree);
        Ok(Self { image, release, unpacker: busybox.to_owned(), modules: Some(modules), builtin })
    }

    /// The modules named and all they need, in an order in which they can be loaded.
    pub(crate) fn closure(&self, names: &[&str]) -> Result<Vec<Module>, ModuleError> {
        let mut ordered = Vec::new();
        let mut seen = HashSet::new();
        for name in names {
            self.add(&name.replace('-', "_"), &mut seen, &mut ordered)?;
        }
        Ok(ordered)
    }

    fn add(
        &self,
        name: &str,
        seen: &mut HashSet<String>,
        ordered: &mut Vec<Module>,
    ) -> Result<(), ModuleError> {
        let Some(modules) = &self.modules else { return Ok(()) };
        if self.builtin.contains(name) || !seen.insert(name.to_owned()) {
            return Ok(());
        }
        let path = modules
            .get(name)
            .ok_or_else(|| ModuleError::NoModule { name: name.to_owned(), path: self.image.clone() })?;
        let content = self.content(path)?;
        for needed in needs(&content) {
            self.add(&needed, seen, ordered)?;
        }
        ordered.push(Module { name: name.to_owned(), content });
        Ok(())
    }

    fn content(&self, path: &Path) -> Result<Vec<u8>, ModuleError> {
        if path.extension().is_some_and(|extension| extension == "ko") {
            return std::fs::read(path).map_err(|source| ModuleError::Read { path: path.to_owned(), source });
        }
        let refuse = |cause: String| ModuleError::Decompress { path: path.to_owned(), cause };
        let output = Command::new(&self.unpacker)
            .arg("xzcat")
            .arg(path)
            .output()
            .map_err(|error| refuse(error.to_string()))?;
        if output.status.success() {
            Ok(output.stdout)
        } else {
            Err(refuse(String::from_utf8_lossy(&output.stderr).into_owned()))
        }
    }
}

/// The modules that a module names in its information section.
fn needs(module: &[u8]) -> Vec<String> {
    let key = b"\0depends=";
    let Some(start) = module.windows(key.len()).position(|window| window == key) else { return Vec::new() };
    let value = module[start + key.len()..].split(|&byte| byte == 0).next().unwrap_or_default();
    let value = String::from_utf8_lossy(value);
    value.split(',').filter(|name| !name.is_empty()).map(|name| name.replace('-', "_")).collect()
}

fn collect(folder: &Path, modules: &mut HashMap<String, PathBuf>) -> Result<(), ModuleError> {
    for path in list(folder)? {
        if path.is_dir() {
            collect(&path, modules)?;
        } else if file_name(&path).contains(".ko") {
            modules.insert(module_name(&path), path);
        }
    }
    Ok(())
}

fn list(folder: &Path) -> Result<Vec<PathBuf>, ModuleError> {
    let refuse = |source| ModuleError::Read { path: folder.to_owned(), source };
    std::fs::read_dir(folder)
        .map_err(refuse)?
        .map(|entry| entry.map(|entry| entry.path()).map_err(refuse))
        .collect()
}

fn file_name(path: &Path) -> String {
    path.file_name().unwrap_or_default().to_string_lossy().into_owned()
}

/// `…/kvm-amd.ko.xz` is the module `kvm_amd`.
fn module_name(path: &Path) -> String {
    let name = file_name(path);
    name.split_once(".ko").map_or(name.as_str(), |(stem, _)| stem).replace('-', "_")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_a_module_needs_is_in_the_module() {
        let module = b"\x7fELF\0license=GPL\0depends=nvme-core,nvme-auth\0retpoline=Y\0";
        assert_eq!(needs(module), ["nvme_core", "nvme_auth"]);
    }

    #[test]
    fn a_module_may_need_nothing() {
        assert!(needs(b"\x7fELF\0depends=\0name=9pnet\0").is_empty());
    }

    #[test]
    fn a_kernel_with_everything_built_in_needs_no_module() {
        let kernel = Kernel::whole(PathBuf::from("bzImage"));
        assert!(kernel.closure(&["vfio-pci"]).is_ok_and(|modules| modules.is_empty()));
    }

    #[test]
    fn a_module_is_named_without_dashes_or_suffixes() {
        assert_eq!(module_name(Path::new("kernel/arch/x86/kvm/kvm-amd.ko.xz")), "kvm_amd");
    }
}

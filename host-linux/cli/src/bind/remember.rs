//! Which driver a function had before VFIO, kept where it is gone after a restart, as the binding is. An address can
//! have another card meanwhile, so that it is kept which function it was.

use std::fs;
use std::io;
use std::path::PathBuf;

use serde::{Deserialize, Serialize};
use vfio_assign_core::Bdf;

use super::plan::Binding;
use crate::help::Help;
use crate::host::HostFiles;

/// Where it is kept.
pub(super) struct Memory {
    folder: PathBuf,
}

/// What is kept.
#[derive(Serialize, Deserialize)]
struct Kept {
    /// Which function it was; one that does not say belongs to none.
    #[serde(default)]
    id: String,
    #[serde(flatten)]
    binding: Binding,
}

/// It cannot be kept, or read again.
#[derive(Debug, thiserror::Error)]
#[error("cannot {what} the driver that {bdf} had, in {}: {source}", path.display())]
pub(crate) struct NoMemory {
    what: &'static str,
    bdf: Bdf,
    path: PathBuf,
    source: io::Error,
}

impl Help for NoMemory {
    fn help(&self) -> Option<String> {
        Some(match self.source.kind() {
            io::ErrorKind::PermissionDenied => "be root for this".into(),
            io::ErrorKind::InvalidData => "remove the file: the kernel then finds a driver".into(),
            _ => "see that /run can be written".into(),
        })
    }
}

impl Memory {
    /// The memory of this host.
    pub(super) fn of(host: &HostFiles) -> Self {
        Self { folder: host.path("/run/vfio-assign") }
    }

    fn path(&self, bdf: Bdf) -> PathBuf {
        self.folder.join(bdf.to_string())
    }

    /// Keeps who drives a function.
    pub(super) fn keep(&self, bdf: Bdf, id: &str, binding: &Binding) -> Result<(), NoMemory> {
        let path = self.path(bdf);
        let kept = Kept { id: id.into(), binding: binding.clone() };
        let text = serde_json::to_string(&kept).map_err(io::Error::from);
        let kept = fs::create_dir_all(&self.folder).and(text).and_then(|text| fs::write(&path, text + "\n"));
        kept.map_err(|source| NoMemory { what: "keep", bdf, path, source })
    }

    /// Who drove a function; none if that is not known of this one.
    pub(super) fn recall(&self, bdf: Bdf, id: &str) -> Result<Option<Binding>, NoMemory> {
        let path = self.path(bdf);
        let read = match fs::read_to_string(&path) {
            Ok(text) => serde_json::from_str::<Kept>(&text)
                .map_err(io::Error::from)
                .map(|kept| (kept.id == id).then_some(kept.binding)),
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(None),
            Err(error) => Err(error),
        };
        read.map_err(|source| NoMemory { what: "read", bdf, path, source })
    }

    /// Forgets it.
    pub(super) fn forget(&self, bdf: Bdf) -> Result<(), NoMemory> {
        let path = self.path(bdf);
        match fs::remove_file(&path) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => {
                Err(NoMemory { what: "forget", bdf, path, source: error })
            }
            _ => Ok(()),
        }
    }
}

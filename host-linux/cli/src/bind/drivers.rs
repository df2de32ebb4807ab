//! What the kernel does with drivers, as far as binding needs it: sysfs, or a fake of it.

use std::io;
use std::process::Command;

use vfio_assign_core::Bdf;
use vfio_assign_linux::{Sysfs, SysfsError};

use crate::help::Help;

/// Who drives functions.
pub(super) trait Drivers {
    /// Who drives this one.
    fn driver(&self, bdf: Bdf) -> Result<Option<String>, SysfsError>;
    /// Says which driver alone may have it; none lets any.
    fn set_override(&self, bdf: Bdf, driver: Option<&str>) -> Result<(), SysfsError>;
    /// Takes it from its driver.
    fn unbind(&self, bdf: Bdf) -> Result<(), SysfsError>;
    /// Lets the kernel look for a driver, which it does before this returns.
    fn probe(&self, bdf: Bdf) -> Result<(), SysfsError>;
    /// Loads a module.
    fn load(&self, module: &str) -> Result<(), NotLoaded>;
}

/// A module was not loaded.
#[derive(Debug, thiserror::Error)]
pub(crate) enum NotLoaded {
    /// There is no modprobe, or it may not be run.
    #[error("cannot run `modprobe {module}`: {source}")]
    Run { module: String, source: io::Error },
    /// It failed.
    #[error("`modprobe {module}` failed: {said}")]
    Failed { module: String, said: String },
}

impl Help for NotLoaded {
    fn help(&self) -> Option<String> {
        Some("`vfio-assign doctor` says whether this kernel has the module; only root can load it".into())
    }
}

impl Drivers for Sysfs {
    fn driver(&self, bdf: Bdf) -> Result<Option<String>, SysfsError> {
        Ok(self.function(bdf)?.driver.map(Into::into))
    }

    fn set_override(&self, bdf: Bdf, driver: Option<&str>) -> Result<(), SysfsError> {
        self.set_driver_override(bdf, driver)
    }

    fn unbind(&self, bdf: Bdf) -> Result<(), SysfsError> {
        Self::unbind(self, bdf)
    }

    fn probe(&self, bdf: Bdf) -> Result<(), SysfsError> {
        Self::probe(self, bdf)
    }

    fn load(&self, module: &str) -> Result<(), NotLoaded> {
        let module = module.to_owned();
        match Command::new("modprobe").arg(&module).output() {
            Err(source) => Err(NotLoaded::Run { module, source }),
            Ok(output) if output.status.success() => Ok(()),
            Ok(output) => {
                let said = String::from_utf8_lossy(&output.stderr).trim().to_owned();
                Err(NotLoaded::Failed { module, said })
            }
        }
    }
}

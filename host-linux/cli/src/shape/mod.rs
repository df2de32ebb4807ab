//! The shape of a device: from a capture, from VFIO where VFIO has the device, or else from what sysfs shows of it.

mod scrub;
mod sysfs;
mod vfio;

pub(crate) use scrub::{scrub, without_ids};
pub(crate) use vfio::of_open_device;

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use vfio_assign_core::Bdf;
use vfio_assign_core::fake::{Capture, CaptureError};
use vfio_assign_linux::{Backend, OpenError, RegionError};

use crate::help::{Help, Problem};
use crate::host::{HostFiles, named};

/// A shape, and where it is from.
#[derive(Clone, Debug)]
pub(crate) struct DeviceShape {
    pub(crate) capture: Capture,
    pub(crate) source: Source,
}

/// Where a shape is from.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) enum Source {
    /// A capture.
    Capture,
    /// VFIO, which has the device.
    Vfio,
    /// sysfs: what of BARs can be mapped is taken to be all.
    Sysfs,
    /// sysfs without root: configuration space ends after 64 bytes, so that capabilities are not known.
    SysfsHeader,
}

impl Source {
    /// As a sentence without a point.
    pub(crate) fn text(self) -> &'static str {
        match self {
            Self::Capture => "as captured",
            Self::Vfio => "as VFIO tells it",
            Self::Sysfs => "as sysfs shows it; VFIO may let less of the BARs be mapped",
            Self::SysfsHeader => "as sysfs shows it to users; only root sees capabilities and interrupts",
        }
    }
}

/// There is no shape to be had.
#[derive(Debug, thiserror::Error)]
pub(crate) enum ShapeError {
    /// The word is neither.
    #[error("{word:?} is no PCI address, and there is no file of that name")]
    Neither { word: String },
    /// The file cannot be read.
    #[error("cannot read {}: {source}", path.display())]
    Read { path: PathBuf, source: io::Error },
    /// The file is no text.
    #[error("{}: byte {at} is no text, so this is no capture", path.display())]
    NoText { path: PathBuf, at: usize },
    /// The file is no capture.
    #[error("{}: {source}", path.display())]
    Capture { path: PathBuf, source: CaptureError },
    /// VFIO did not open the device.
    #[error(transparent)]
    Open(#[from] OpenError),
    /// The device did not answer.
    #[error("{bdf}: {source}")]
    Config { bdf: Bdf, source: RegionError },
}

impl Help for ShapeError {
    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Neither { .. } => {
                "name a device as `vfio-assign list` shows it, such as 04:00.0, or a file that `vfio-assign capture` \
                 has written"
                    .into()
            }
            Self::Capture { .. } | Self::NoText { .. } => {
                "a capture is what `vfio-assign capture ADDRESS` writes; docs/captures.md describes it".into()
            }
            Self::Read { source, .. } if source.kind() == io::ErrorKind::IsADirectory => {
                "name one of the captures in it".into()
            }
            Self::Read { .. } | Self::Open(_) | Self::Config { .. } => return None,
        })
    }
}

/// The shape of what a word names: the device at an address, else a capture.
pub(crate) fn shape(host: &HostFiles, backend: Option<Backend>, word: &str) -> Result<DeviceShape, Problem> {
    // An address with a file of that name is not worth a rule: `./` in front makes it a path.
    match word.parse() {
        Ok(bdf) => of_device(host, backend, bdf),
        Err(_) => Ok(of_file(Path::new(word))?),
    }
}

/// The shape of a device of this host.
pub(crate) fn of_device(
    host: &HostFiles,
    backend: Option<Backend>,
    bdf: Bdf,
) -> Result<DeviceShape, Problem> {
    let function = named(host, bdf)?;
    // Whoever may not open it still sees what sysfs shows.
    if function.vfio && host.may_open_vfio(&function)? {
        return Ok(vfio::shape(host, backend, &function)?);
    }
    Ok(sysfs::shape(host, &function)?)
}

/// The shape in a file.
pub(crate) fn of_file(path: &Path) -> Result<DeviceShape, ShapeError> {
    let bytes = match fs::read(path) {
        Ok(bytes) => bytes,
        Err(error) if error.kind() == io::ErrorKind::NotFound => {
            return Err(ShapeError::Neither { word: path.display().to_string() });
        }
        Err(source) => return Err(ShapeError::Read { path: path.into(), source }),
    };
    let text = str::from_utf8(&bytes)
        .map_err(|error| ShapeError::NoText { path: path.into(), at: error.valid_up_to() })?;
    let capture = text.parse().map_err(|source| ShapeError::Capture { path: path.into(), source })?;
    Ok(DeviceShape { capture, source: Source::Capture })
}

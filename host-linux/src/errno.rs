//! The error number a system call gave, kept as it was.
//!
//! Every error of this crate that comes from the kernel carries one; nothing turns it into text early.

use std::fmt;
use std::io;

/// A Linux error number.
#[derive(Clone, Copy, PartialEq, Eq, Hash)]
pub struct Errno(rustix::io::Errno);

/// The ones a message calls by name: those that VFIO, KVM and sysfs give, and what people search for.
const NAMES: &[(Errno, &str)] = &[
    (Errno::EPERM, "EPERM"),
    (Errno::ENOENT, "ENOENT"),
    (Errno(rustix::io::Errno::INTR), "EINTR"),
    (Errno::EIO, "EIO"),
    (Errno(rustix::io::Errno::NXIO), "ENXIO"),
    (Errno::E2BIG, "E2BIG"),
    (Errno::EBADF, "EBADF"),
    (Errno::EAGAIN, "EAGAIN"),
    (Errno::ENOMEM, "ENOMEM"),
    (Errno::EACCES, "EACCES"),
    (Errno::EFAULT, "EFAULT"),
    (Errno::EBUSY, "EBUSY"),
    (Errno::EEXIST, "EEXIST"),
    (Errno::ENODEV, "ENODEV"),
    (Errno::EINVAL, "EINVAL"),
    (Errno(rustix::io::Errno::NFILE), "ENFILE"),
    (Errno::EMFILE, "EMFILE"),
    (Errno::ENOTTY, "ENOTTY"),
    (Errno::ENOSPC, "ENOSPC"),
    (Errno(rustix::io::Errno::ROFS), "EROFS"),
    (Errno(rustix::io::Errno::RANGE), "ERANGE"),
    (Errno(rustix::io::Errno::NOSYS), "ENOSYS"),
    (Errno(rustix::io::Errno::OVERFLOW), "EOVERFLOW"),
    (Errno(rustix::io::Errno::OPNOTSUPP), "EOPNOTSUPP"),
    (Errno(rustix::io::Errno::TIMEDOUT), "ETIMEDOUT"),
    (Errno::EMSGSIZE, "EMSGSIZE"),
    (Errno::EADDRINUSE, "EADDRINUSE"),
];

impl Errno {
    /// Operation not permitted.
    pub const EPERM: Self = Self(rustix::io::Errno::PERM);
    /// No such file.
    pub const ENOENT: Self = Self(rustix::io::Errno::NOENT);
    /// Input/output error: what VFIO gives when the device does not answer.
    pub const EIO: Self = Self(rustix::io::Errno::IO);
    /// Argument list too long: what VFIO gives when a mapping is larger than it can account for.
    pub const E2BIG: Self = Self(rustix::io::Errno::TOOBIG);
    /// Bad file descriptor.
    pub const EBADF: Self = Self(rustix::io::Errno::BADF);
    /// Try again.
    pub const EAGAIN: Self = Self(rustix::io::Errno::AGAIN);
    /// Out of memory, or over the limit for locked memory.
    pub const ENOMEM: Self = Self(rustix::io::Errno::NOMEM);
    /// Permission denied.
    pub const EACCES: Self = Self(rustix::io::Errno::ACCESS);
    /// Bad address.
    pub const EFAULT: Self = Self(rustix::io::Errno::FAULT);
    /// In use.
    pub const EBUSY: Self = Self(rustix::io::Errno::BUSY);
    /// Already there.
    pub const EEXIST: Self = Self(rustix::io::Errno::EXIST);
    /// No such device.
    pub const ENODEV: Self = Self(rustix::io::Errno::NODEV);
    /// Invalid argument.
    pub const EINVAL: Self = Self(rustix::io::Errno::INVAL);
    /// Too many files open in this process.
    pub const EMFILE: Self = Self(rustix::io::Errno::MFILE);
    /// The file does not know the request.
    pub const ENOTTY: Self = Self(rustix::io::Errno::NOTTY);
    /// No room left: of VFIO, no more mappings allowed.
    pub const ENOSPC: Self = Self(rustix::io::Errno::NOSPC);

    /// Message too long: what iommufd gives where its answer does not fit.
    pub const EMSGSIZE: Self = Self(rustix::io::Errno::MSGSIZE);
    /// Address in use: what iommufd gives where memory lies in a range that the host reserves.
    pub const EADDRINUSE: Self = Self(rustix::io::Errno::ADDRINUSE);

    /// The error with this number, as `errno.h` has it.
    pub fn from_raw(number: i32) -> Self {
        Self(rustix::io::Errno::from_raw_os_error(number))
    }

    /// The number, as `errno.h` has it.
    pub fn get(self) -> i32 {
        self.0.raw_os_error()
    }

    /// The number that a standard library call failed with, where the kernel gave one.
    pub fn of(error: &io::Error) -> Option<Self> {
        error.raw_os_error().map(Self::from_raw)
    }

    fn name(self) -> Option<&'static str> {
        NAMES.iter().find(|(errno, _)| *errno == self).map(|(_, name)| *name)
    }
}

impl From<rustix::io::Errno> for Errno {
    fn from(errno: rustix::io::Errno) -> Self {
        Self(errno)
    }
}

impl From<Errno> for io::Error {
    fn from(errno: Errno) -> Self {
        Self::from_raw_os_error(errno.get())
    }
}

impl fmt::Display for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let text = io::Error::from(*self).to_string();
        // The standard library ends its text with the number; a name is what people look for.
        let words = text.split(" (os error").next().unwrap_or(&text);
        match self.name() {
            Some(name) => write!(f, "{name}, {words}"),
            None => write!(f, "errno {}, {words}", self.get()),
        }
    }
}

impl fmt::Debug for Errno {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self.name() {
            Some(name) => f.write_str(name),
            None => write!(f, "Errno({})", self.get()),
        }
    }
}

impl std::error::Error for Errno {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn known_number_is_shown_by_name() {
        assert_eq!(Errno::EBUSY.to_string(), "EBUSY, Device or resource busy");
    }

    #[test]
    fn unknown_number_is_shown_as_number() {
        let errno = Errno(rustix::io::Errno::from_raw_os_error(117));
        assert!(errno.to_string().starts_with("errno 117, "), "{errno}");
    }
}

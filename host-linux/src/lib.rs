//! PCI device assignment on Linux.

//! Capability identifiers and the shape of the two lists.
//!
//! PCI Local Bus 3.0, 6.7 Capabilities List; PCI Express Base 5.0, 7.9 Extended Capabilities.

use crate::addr::ConfigOffset;

/// The first offset that can hold a capability.
pub const FIRST: ConfigOffset = ConfigOffset::low(0x40);
/// The offset of the first extended capability.
pub const EXTENDED_FIRST: u16 = 0x100;
/// The bits of a capability pointer that count: it points to a dword.
pub const POINTER: u8 = 0xfc;

/// PCI Power Management Interface.
pub const POWER_MANAGEMENT: u8 = 0x01;
/// Vital Product Data.
pub const VITAL_PRODUCT_DATA: u8 = 0x03;
/// Message Signaled Interrupts.
pub const MSI: u8 = 0x05;
/// Vendor-Specific.
pub const VENDOR_SPECIFIC: u8 = 0x09;
/// PCI Express.
pub const PCI_EXPRESS: u8 = 0x10;
/// MSI-X.
pub const MSIX: u8 = 0x11;
/// Advanced Features.
pub const ADVANCED_FEATURES: u8 = 0x13;

/// Advanced Error Reporting.
pub const EXTENDED_AER: u16 = 0x0001;
/// Device Serial Number.
pub const EXTENDED_DSN: u16 = 0x0003;
/// Access Control Services.
pub const EXTENDED_ACS: u16 = 0x000d;
/// Alternative Routing-ID Interpretation.
pub const EXTENDED_ARI: u16 = 0x000e;
/// Address Translation Services.
pub const EXTENDED_ATS: u16 = 0x000f;
/// Single Root I/O Virtualization.
pub const EXTENDED_SRIOV: u16 = 0x0010;
/// Page Request Interface.
pub const EXTENDED_PRI: u16 = 0x0013;
/// Resizable BAR.
pub const EXTENDED_RESIZABLE_BAR: u16 = 0x0015;
/// Latency Tolerance Reporting.
pub const EXTENDED_LTR: u16 = 0x0018;
/// Process Address Space ID.
pub const EXTENDED_PASID: u16 = 0x001b;
/// Resizable BAR of a physical function's virtual functions.
pub const EXTENDED_VF_RESIZABLE_BAR: u16 = 0x0024;

/// The id and version of an extended capability header; the rest is the next pointer.
pub const EXTENDED_ID_AND_VERSION: u32 = 0x000f_ffff;

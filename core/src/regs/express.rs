//! The PCI Express capability.
//!
//! PCI Express Base 5.0, 7.5.3 PCI Express Capability Structure.

/// Capability Version, as bits of the capability's first dword.
pub const VERSION: u32 = 0x000f_0000;
/// The first version, which ends with the registers that the port type needs.
pub const VERSION_1: u32 = 0x0001_0000;
/// The second version, as a bit of [`VERSION`]: all registers are there.
pub const VERSION_2: u32 = 0x0002_0000;
/// Device/Port Type, as bits of the capability's first dword.
pub const PORT_TYPE: u32 = 0x00f0_0000;
/// PCI Express Endpoint, as a value of [`PORT_TYPE`].
pub const ENDPOINT: u32 = 0x0000_0000;
/// Legacy PCI Express Endpoint, as a value of [`PORT_TYPE`].
pub const LEGACY_ENDPOINT: u32 = 0x0010_0000;
/// Root Complex Integrated Endpoint, as a value of [`PORT_TYPE`].
pub const INTEGRATED_ENDPOINT: u32 = 0x0090_0000;

/// Link Capabilities, from the start of the capability.
pub const LINK_CAPABILITIES: u16 = 0x0c;
/// Link Control and Link Status.
pub const LINK_CONTROL: u16 = 0x10;
/// Link Capabilities 2.
pub const LINK_CAPABILITIES_2: u16 = 0x2c;
/// Link Control 2 and Link Status 2.
pub const LINK_CONTROL_2: u16 = 0x30;

/// A link of one lane at 2.5 GT/s, in Link Capabilities and in Link Status.
pub const LINK_X1_2_5: u32 = 0x11;

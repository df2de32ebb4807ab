//! Power management and function-level reset.
//!
//! PCI Power Management 1.2, 3.2 PCI Power Management Interface; PCI Express Base 5.0, 7.5.3 PCI Express
//! Capability Structure; the PCI Advanced Capabilities ECN.

/// Power Management Capabilities: D1 is supported, as a bit of the capability's first dword.
pub const PMC_D1: u32 = 0x0200_0000;
/// Power Management Capabilities: D2 is supported, as a bit of the capability's first dword.
pub const PMC_D2: u32 = 0x0400_0000;
/// Power Management Control/Status, from the start of the capability.
pub const PMCSR: u16 = 4;
/// PowerState of the PMCSR.
pub const PMCSR_STATE: u32 = 0x3;
/// No_Soft_Reset of the PMCSR: D3hot to D0 keeps the function's state.
pub const PMCSR_NO_SOFT_RESET: u32 = 0x8;

/// Device Capabilities, from the start of the PCI Express capability.
pub const DEVICE_CAPABILITIES: u16 = 4;
/// Device Capabilities: Function Level Reset Capability.
pub const DEVICE_CAPABILITIES_FLR: u32 = 0x1000_0000;
/// Device Control, from the start of the PCI Express capability.
pub const DEVICE_CONTROL: u16 = 8;
/// Device Control: Initiate Function Level Reset.
pub const DEVICE_CONTROL_INITIATE_FLR: u32 = 0x8000;

/// AF Capabilities: TP and FLR, as bits of the capability's first dword.
pub const AF_CAPABILITIES_TP_FLR: u32 = 0x0300_0000;
/// AF Control, from the start of the Advanced Features capability.
pub const AF_CONTROL: u16 = 4;
/// AF Control: Initiate FLR.
pub const AF_INITIATE_FLR: u32 = 0x1;

/// A power state of the function; a deeper sleep is the greater.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug, Default)]
pub enum PowerState {
    /// Fully on.
    #[default]
    D0,
    /// Light sleep, optional.
    D1,
    /// Deeper sleep, optional.
    D2,
    /// Off but for configuration space.
    D3Hot,
}

impl PowerState {
    /// The state that the low two bits of a PMCSR name.
    pub const fn from_pmcsr(pmcsr: u32) -> Self {
        match pmcsr & PMCSR_STATE {
            0 => Self::D0,
            1 => Self::D1,
            2 => Self::D2,
            _ => Self::D3Hot,
        }
    }

    /// The low two bits of a PMCSR that name the state.
    pub const fn to_pmcsr(self) -> u32 {
        match self {
            Self::D0 => 0,
            Self::D1 => 1,
            Self::D2 => 2,
            Self::D3Hot => 3,
        }
    }
}

//! The policy of each register as data: which bits the guest reads from where, and where its writes go.

use crate::addr::BarIndex;
use crate::regs::{capability, express, header, msi, msix};

/// What a dword of configuration space is to us.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum Register {
    /// Hardware's own; the kernel guards what is dangerous in it.
    Hardware,
    /// Hidden: reads zero, takes no write.
    Hidden,
    /// The first dword of a hidden standard capability: a null id, and the link onwards.
    HiddenHeader,
    /// The first dword of a hidden extended capability: a null id, and the link onwards.
    HiddenExtendedHeader,
    /// Vendor ID and Device ID, where the embedder has given one of them.
    Ids,
    /// Subsystem Vendor ID and Subsystem ID, where the embedder has given one of them.
    SubsystemIds,
    /// Command and Status.
    Command,
    /// The same, with no pin: Interrupt Status reads zero, whatever the device wants to signal.
    CommandWithoutPin,
    /// The dword of Header Type: one function, whatever hardware says.
    HeaderType,
    /// A Base Address Register, or a half of one, or the ROM's.
    Bar(BarIndex),
    /// The dword of Interrupt Line and Interrupt Pin, with no pin.
    NoInterruptPin,
    /// Message Control of MSI, with the capability's id and link.
    MsiControl,
    /// Message Address of MSI.
    MsiAddress,
    /// Message Upper Address of MSI.
    MsiUpperAddress,
    /// Message Data of MSI.
    MsiData,
    /// Mask Bits of MSI.
    MsiMask,
    /// Pending Bits of MSI.
    MsiPending,
    /// Message Control of MSI-X, with the capability's id and link.
    MsixControl,
    /// Table Offset and Table BIR of MSI-X.
    MsixTable,
    /// PBA Offset and PBA BIR of MSI-X.
    MsixPba,
    /// Power Management Control/Status.
    PowerControl,
    /// PCI Express Capabilities, with the capability's id and link, where the port type is not hardware's.
    ExpressCapabilities,
    /// Link Capabilities of PCI Express, where hardware has no link and the guest's Endpoint must have one.
    LinkCapabilities,
    /// Link Control and Link Status there.
    LinkControl,
    /// Device Control of PCI Express, on a function that can be reset by it.
    DeviceControl,
    /// AF Control, on a function that can be reset by it.
    AdvancedFeaturesControl,
}

/// The policy for the 32 bits of a dword.
///
/// A bit that is in neither of the two write masks drops what the guest writes.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct Policy {
    /// Bits that the guest reads from the virtual register; the others come from hardware.
    pub virtual_read: u32,
    /// Bits of the virtual register that the guest writes.
    pub virtual_write: u32,
    /// Bits whose writes go to hardware.
    pub forward: u32,
}

impl Policy {
    const HARDWARE: Self = Self { virtual_read: 0, virtual_write: 0, forward: u32::MAX };
    /// Virtual, and the guest cannot change it.
    const READ_ONLY: Self = Self { virtual_read: u32::MAX, virtual_write: 0, forward: 0 };
    /// The Command bits that the guest reads as it wrote them: virtual functions read others.
    const COMMAND: u32 = {
        let [low, high] = header::Command::TRACKED.bits().to_le_bytes();
        u32::from_le_bytes([low, high, 0, 0])
    };
    /// Message Control's writable bits, in the upper half of its dword.
    const MSIX_CONTROL: u32 = {
        let [low, high] = (msix::ENABLE | msix::FUNCTION_MASK).to_le_bytes();
        u32::from_le_bytes([0, 0, low, high])
    };

    /// Message Control's writable bits of MSI, in the upper half of its dword.
    const MSI_CONTROL: u32 = {
        let [low, high] = (msi::ENABLE | msi::ENABLED).to_le_bytes();
        u32::from_le_bytes([0, 0, low, high])
    };

    /// Virtual, and the guest writes these bits.
    const fn virtual_bits(virtual_write: u32) -> Self {
        Self { virtual_read: u32::MAX, virtual_write, forward: 0 }
    }

    /// The policy of `register`.
    pub const fn of(register: Register) -> Self {
        match register {
            Register::Hardware
            | Register::PowerControl
            | Register::DeviceControl
            | Register::AdvancedFeaturesControl => Self::HARDWARE,
            Register::Hidden
            | Register::Ids
            | Register::SubsystemIds
            | Register::LinkCapabilities
            | Register::LinkControl
            | Register::MsixTable
            | Register::MsixPba
            | Register::MsiPending => Self::READ_ONLY,
            Register::ExpressCapabilities => {
                Self { virtual_read: express::PORT_TYPE, virtual_write: 0, forward: !express::PORT_TYPE }
            }
            Register::HiddenHeader => Self { virtual_read: !NEXT_POINTER, virtual_write: 0, forward: 0 },
            Register::HiddenExtendedHeader => {
                Self { virtual_read: capability::EXTENDED_ID_AND_VERSION, virtual_write: 0, forward: 0 }
            }
            Register::Command => {
                Self { virtual_read: Self::COMMAND, virtual_write: Self::COMMAND, forward: u32::MAX }
            }
            Register::CommandWithoutPin => {
                let command = Self::of(Register::Command);
                Self { virtual_read: command.virtual_read | header::INTERRUPT_STATUS, ..command }
            }
            Register::HeaderType => Self {
                virtual_read: header::MULTI_FUNCTION,
                virtual_write: 0,
                forward: !header::MULTI_FUNCTION,
            },
            Register::Bar(_) | Register::MsiUpperAddress | Register::MsiMask => Self::virtual_bits(u32::MAX),
            Register::MsiAddress => Self::virtual_bits(msi::ADDRESS_LOW_BITS),
            Register::MsiData => Self::virtual_bits(0xffff),
            Register::MsiControl => {
                Self { virtual_read: 0xffff_0000, virtual_write: Self::MSI_CONTROL, forward: 0 }
            }
            Register::NoInterruptPin => Self {
                virtual_read: header::INTERRUPT_PIN,
                virtual_write: 0,
                forward: !header::INTERRUPT_PIN,
            },
            Register::MsixControl => {
                Self { virtual_read: 0xffff_0000, virtual_write: Self::MSIX_CONTROL, forward: 0 }
            }
        }
    }
}

/// The link of a standard capability, as bits of its first dword.
const NEXT_POINTER: u32 = 0x0000_ff00;

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn command_tracks_decode_master_and_intx() {
        assert_eq!(Policy::of(Register::Command).virtual_read, 0x0407);
    }

    #[test]
    fn status_is_never_virtual() {
        assert_eq!(Policy::of(Register::Command).virtual_write & 0xffff_0000, 0);
    }

    #[test]
    fn bars_are_never_forwarded() {
        assert_eq!(Policy::of(Register::Bar(BarIndex::ROM)).forward, 0);
    }

    #[test]
    fn msix_control_writes_enable_and_function_mask_only() {
        assert_eq!(Policy::of(Register::MsixControl).virtual_write, 0xc000_0000);
    }
}

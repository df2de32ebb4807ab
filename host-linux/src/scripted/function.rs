//! A function of the scripted host: what its configuration space says, and what its driver can do with it.

use crate::irq::IrqKind;
use vfio_assign_core::Bdf;

/// A function that is bound to VFIO: one BAR, a pin, MSI, MSI-X with its table at 0x2000 of the BAR and its Pending Bit
/// Array at 0x3000.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct ScriptedFunction {
    pub(super) bdf: Bdf,
    pub(super) group: u32,
    name: String,
    /// How many interrupts of each kind there are, by VFIO's number of the kind.
    pub(super) irqs: [u32; 5],
    pub(super) noresize: bool,
    pub(super) resettable: bool,
    /// Whether an IOMMU stands behind it.
    pub(super) guarded: bool,
    pub(super) vf_token: Option<Box<str>>,
    /// What Command is when it has been opened.
    pub(super) command: u16,
}

/// Memory Space Enable, in Command.
pub(super) const MEMORY_SPACE: u16 = 2;
/// Where the BAR lies in the device's file.
pub(super) const BAR_OFFSET: u64 = 0;
/// Where configuration space lies in the device's file.
pub(super) const CONFIG_OFFSET: u64 = 0x1_0000;
/// The size of the BAR.
pub(super) const BAR_SIZE: u64 = 0x4000;
/// The size of configuration space.
pub(super) const CONFIG_SIZE: u64 = 256;

impl ScriptedFunction {
    /// A function with eight vectors of MSI, 64 of MSI-X which can be added to while they are on, and a reset of its
    /// own.
    pub fn new(bdf: Bdf, group: u32) -> Self {
        let name = format!("vfio{:x}{:x}", bdf.device(), bdf.function());
        Self {
            bdf,
            group,
            name,
            irqs: [1, 8, 64, 1, 1],
            noresize: false,
            resettable: true,
            guarded: true,
            vf_token: None,
            command: MEMORY_SPACE,
        }
    }

    /// The device's own file has this name.
    #[must_use]
    pub fn named(mut self, name: &str) -> Self {
        self.name = name.into();
        self
    }

    /// There are so many interrupts of this kind; of MSI, a power of two or none.
    #[must_use]
    pub fn with_irqs(mut self, kind: IrqKind, count: u32) -> Self {
        self.irqs[kind.position()] = count;
        self
    }

    /// The number of MSI-X vectors can only be changed by switching all off first, as before Linux 6.5.
    #[must_use]
    pub fn noresize(mut self) -> Self {
        self.noresize = true;
        self
    }

    /// There is no reset of the function alone.
    #[must_use]
    pub fn not_resettable(mut self) -> Self {
        self.resettable = false;
        self
    }

    /// There is no IOMMU for it: VFIO has made up its group, in its no-IOMMU mode.
    #[must_use]
    pub fn without_iommu(mut self) -> Self {
        self.guarded = false;
        self
    }

    /// It is a virtual function whose physical function's user has set this token.
    #[must_use]
    pub fn with_vf_token(mut self, token: &str) -> Self {
        self.vf_token = Some(token.into());
        self
    }

    /// Whether an IOMMU stands behind it.
    pub fn has_iommu(&self) -> bool {
        self.guarded
    }

    /// Its address.
    pub fn bdf(&self) -> Bdf {
        self.bdf
    }

    /// The number of its IOMMU group.
    pub fn group(&self) -> u32 {
        self.group
    }

    /// The device's name in VFIO's folder of device files.
    pub fn cdev_name(&self) -> &str {
        &self.name
    }

    /// How many interrupts of a kind there are, by VFIO's number of the kind.
    pub(super) fn irqs(&self, index: u32) -> u32 {
        self.irqs.get(index as usize).copied().unwrap_or(0)
    }

    /// Configuration space as it is when the device has been opened.
    pub(super) fn config(&self) -> Vec<u8> {
        let mut config = vec![0; CONFIG_SIZE as usize];
        let mut put = |at: usize, bytes: &[u8]| config[at..][..bytes.len()].copy_from_slice(bytes);
        put(0, &[0x36, 0x1b, 0x10, 0]);
        put(0x04, &self.command.to_le_bytes());
        // Capabilities List in Status; a storage controller; INTA#.
        put(0x06, &[0x10]);
        put(0x0b, &[1]);
        put(0x3d, &[1]);
        put(0x34, &[0x40]);
        let [_, msi, msix, _, _] = self.irqs;
        let next = if msi > 0 { 0x50 } else { 0 };
        let [size, _, _, _] = msix.saturating_sub(1).to_le_bytes();
        put(0x40, &[0x11, next, size, 0, 0, 0x20, 0, 0, 0, 0x30, 0, 0]);
        if msi > 0 {
            // Multiple Message Capable; addresses of 64 bits.
            put(0x50, &[5, 0, 0x80 | (msi.trailing_zeros() as u8) << 1, 0]);
        }
        config
    }
}

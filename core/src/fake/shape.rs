//! What a fake device looks like: its configuration space, its regions, and what its kernel can do.

use crate::addr::{BarIndex, PageSize};
use crate::description::{Description, Region};
use crate::host::HostInterrupts;
use crate::regs::{capability, header, msi, msix, power};
use crate::windows::MmapArea;
use alloc::vec;
use alloc::vec::Vec;

/// Where a device has its MSI-X structures.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct MsixPlan {
    /// The number of vectors, 1 to 2048.
    pub vectors: u16,
    /// Table BIR and Table Offset, in bytes.
    pub table: (BarIndex, u32),
    /// PBA BIR and PBA Offset, in bytes.
    pub pba: (BarIndex, u32),
}

/// A device before anybody opens it, and the host that it is plugged into.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Shape {
    /// Configuration space, 256 or 4096 bytes. Whatever the methods below cannot say is written here.
    pub config: Vec<u8>,
    /// The size of each region in bytes, by [`BarIndex`]; 0 is an absent region.
    pub sizes: [u64; 7],
    /// The parts of each region that the kernel lets the host mmap.
    pub areas: [Vec<MmapArea>; 7],
    /// The page size of the host.
    pub page_size: PageSize,
    /// Whether the kernel can add MSI-X vectors while others are in use (VFIO: `NORESIZE` is clear).
    pub resizable: bool,
    /// How many vectors the kernel can allocate for this device.
    pub host_vectors: u16,
    /// Which kinds of interrupt the embedder's host can carry to the guest: INTx, MSI and MSI-X.
    pub carried: [bool; 3],
    /// Whether the host unmasks the interrupt pin by itself when the guest has ended an interrupt.
    pub resample: bool,
    /// How many routes the interrupt controller has room for.
    pub routes: usize,
    /// Whether the device can be reset.
    pub resettable: bool,
    /// Whether it is a virtual function, which always decodes memory and says so.
    pub virtual_function: bool,
    /// Whether the kernel lets the host mmap the pages of the MSI-X structures, too.
    pub msix_mappable: bool,
    free: u8,
    free_extended: u16,
    last: Option<u16>,
    last_extended: Option<u16>,
}

impl Shape {
    /// A function without BARs and capabilities.
    pub fn new() -> Self {
        let mut shape = Self {
            config: vec![0; 4096],
            sizes: [0; 7],
            areas: Default::default(),
            page_size: PageSize::SIZE_4K,
            resizable: true,
            host_vectors: 2048,
            carried: [true; 3],
            resample: false,
            routes: 4096,
            resettable: true,
            virtual_function: false,
            msix_mappable: false,
            free: capability::FIRST.get().to_le_bytes()[0],
            free_extended: capability::EXTENDED_FIRST,
            last: None,
            last_extended: None,
        };
        shape.put(header::ID.get(), &[0x36, 0x1b, 0x10, 0x00]);
        // Mass storage, NVM, NVM Express.
        shape.put(0x08, &[0x02, 0x02, 0x08, 0x01]);
        shape.put(0x2c, &[0xf4, 0x1a, 0x00, 0x11]);
        shape.put(header::INTERRUPT_LINE.get(), &[0x0b, 0x00, 0x00, 0x00]);
        shape
    }

    /// An NVMe controller: BAR 0 with its registers in the first two pages, then the MSI-X table and, on a page
    /// of its own, the Pending Bit Array; power management and PCI Express with function-level reset.
    pub fn nvme(vectors: u16) -> Self {
        let table_size = u32::from(vectors) * 16;
        let pba = 0x2000 + table_size.next_multiple_of(0x1000);
        let size = u64::from(pba + 0x1000).next_power_of_two();
        let bar = BarIndex::BARS[0];
        Self::new()
            .wide_bar(bar, size)
            .power_management(0)
            .msix(MsixPlan { vectors, table: (bar, 0x2000), pba: (bar, pba) })
            .pci_express()
    }

    /// Bytes of configuration space.
    pub fn put(&mut self, offset: u16, bytes: &[u8]) {
        for (to, from) in self.config.iter_mut().skip(usize::from(offset)).zip(bytes) {
            *to = *from;
        }
    }

    fn bar(mut self, bar: BarIndex, size: u64, flags: u32) -> Self {
        let offset = if bar == BarIndex::ROM {
            header::ROM.get()
        } else {
            header::BAR0.get() + 4 * u16::from(bar.get())
        };
        self.put(offset, &flags.to_le_bytes());
        self.sizes[bar.position()] = size;
        self
    }

    /// A 32-bit memory BAR of `size` bytes, all of it offered for mmap.
    #[must_use]
    pub fn memory_bar(self, bar: BarIndex, size: u64) -> Self {
        self.bar(bar, size, header::bar::TYPE_32).mmap(bar, vec![MmapArea { offset: 0, size }])
    }

    /// A 64-bit prefetchable memory BAR of `size` bytes, all of it offered for mmap.
    #[must_use]
    pub fn wide_bar(self, bar: BarIndex, size: u64) -> Self {
        let flags = header::bar::TYPE_64 | header::bar::PREFETCHABLE;
        self.bar(bar, size, flags).mmap(bar, vec![MmapArea { offset: 0, size }])
    }

    /// An I/O BAR of `size` ports.
    #[must_use]
    pub fn io_bar(self, bar: BarIndex, size: u64) -> Self {
        self.bar(bar, size, header::bar::IO)
    }

    /// An Expansion ROM of `size` bytes.
    #[must_use]
    pub fn rom(self, size: u64) -> Self {
        self.bar(BarIndex::ROM, size, 0)
    }

    /// The kernel offers these parts of `bar`, and no others.
    #[must_use]
    pub fn mmap(mut self, bar: BarIndex, areas: Vec<MmapArea>) -> Self {
        self.areas[bar.position()] = areas;
        self
    }

    /// A standard capability with this id; `body` starts behind the link, at byte 2.
    #[must_use]
    pub fn capability(mut self, id: u8, body: &[u8]) -> Self {
        let at = u16::from(self.free);
        let link = self.last.map_or(header::CAPABILITIES_POINTER.get(), |last| last + 1);
        self.put(link, &[self.free]);
        self.put(at, &[id, 0]);
        self.put(at + 2, body);
        self.config[usize::from(header::STATUS.get())] |= 0x10;
        self.last = Some(at);
        let size = u8::try_from(body.len() + 2).unwrap_or(u8::MAX);
        self.free = self.free.saturating_add(size.next_multiple_of(4));
        self
    }

    /// An extended capability with this id, version 1; `body` starts behind the header, at byte 4.
    #[must_use]
    pub fn extended_capability(mut self, id: u16, body: &[u8]) -> Self {
        let at = self.free_extended;
        if let Some(last) = self.last_extended {
            let [low, high] = (at << 4 | 1).to_le_bytes();
            self.put(last + 2, &[low, high]);
        }
        let [low, high] = id.to_le_bytes();
        self.put(at, &[low, high, 1, 0]);
        self.put(at + 4, body);
        self.last_extended = Some(at);
        self.free_extended = at + u16::try_from(body.len() + 4).unwrap_or(0).next_multiple_of(4);
        self
    }

    /// Power Management with D1 and D2 and this initial PMCSR, of which No_Soft_Reset matters.
    #[must_use]
    pub fn power_management(self, pmcsr: u16) -> Self {
        let [low, high] = pmcsr.to_le_bytes();
        self.capability(capability::POWER_MANAGEMENT, &[0x03, 0x06, low, high, 0, 0])
    }

    /// MSI-X.
    #[must_use]
    pub fn msix(self, plan: MsixPlan) -> Self {
        let control = plan.vectors.wrapping_sub(1) & msix::TABLE_SIZE;
        let mut body = Vec::from(control.to_le_bytes());
        for (bar, offset) in [plan.table, plan.pba] {
            body.extend_from_slice(&(offset | u32::from(bar.get())).to_le_bytes());
        }
        self.capability(capability::MSIX, &body)
    }

    /// MSI with 2 to the power of `capable` vectors, addresses of 64 bits if `wide`, and masks if `maskable`.
    #[must_use]
    pub fn msi(self, capable: u16, wide: bool, maskable: bool) -> Self {
        let flag = |on: bool, bit: u16| if on { bit } else { 0 };
        let control = capable << msi::CAPABLE_SHIFT | flag(wide, msi::WIDE) | flag(maskable, msi::MASKABLE);
        let mut body = Vec::from(control.to_le_bytes());
        body.resize(usize::from(msi::size(control)) - 2, 0);
        self.capability(capability::MSI, &body)
    }

    /// The interrupt pin INTA#.
    #[must_use]
    pub fn pin(mut self) -> Self {
        self.put(header::INTERRUPT_LINE.get() + 1, &[1]);
        self
    }

    /// PCI Express with function-level reset.
    #[must_use]
    pub fn pci_express(self) -> Self {
        let mut body = [0; 0x3a];
        body[0] = 0x02;
        body[2..6].copy_from_slice(&power::DEVICE_CAPABILITIES_FLR.to_le_bytes());
        self.capability(capability::PCI_EXPRESS, &body)
    }

    /// Advanced Features with function-level reset.
    #[must_use]
    pub fn advanced_features(self) -> Self {
        self.capability(capability::ADVANCED_FEATURES, &[0x06, 0x03, 0x00, 0x00])
    }

    /// The kernel cannot add vectors while others are in use.
    #[must_use]
    pub fn noresize(mut self) -> Self {
        self.resizable = false;
        self
    }

    /// The kernel lets the host mmap the pages of the MSI-X structures, too.
    #[must_use]
    pub fn msix_mappable(mut self) -> Self {
        self.msix_mappable = true;
        self
    }

    /// What the host can carry. VFIO tells how many vectors the device has, not how many can be had.
    fn interrupts(&self) -> HostInterrupts {
        let [intx, msi, msix] = self.carried;
        HostInterrupts {
            intx,
            msi: if msi { HostInterrupts::ALL.msi } else { 0 },
            msix: if msix { HostInterrupts::ALL.msix } else { 0 },
            resizable: self.resizable,
        }
    }

    /// What the core is told of the device.
    pub fn description(&self) -> Description<'_> {
        let mut regions = [Region::default(); 7];
        for ((region, size), areas) in regions.iter_mut().zip(self.sizes).zip(&self.areas) {
            *region = Region { size, areas, msix_mappable: self.msix_mappable };
        }
        Description {
            config: &self.config,
            regions,
            page_size: self.page_size,
            interrupts: self.interrupts(),
            ..Description::default()
        }
    }
}

impl Default for Shape {
    fn default() -> Self {
        Self::new()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::caps::ConfigImage;

    #[test]
    fn capabilities_are_linked_in_order() {
        let shape = Shape::nvme(16);
        let ids: Vec<u8> =
            ConfigImage::new(&shape.config).capabilities().map(|found| found.unwrap().id).collect();
        assert_eq!(ids, [capability::POWER_MANAGEMENT, capability::MSIX, capability::PCI_EXPRESS]);
    }

    #[test]
    fn extended_capabilities_are_linked_in_order() {
        let shape = Shape::new().extended_capability(0x10, &[0; 60]).extended_capability(0xe, &[0; 4]);
        let offsets: Vec<u16> = ConfigImage::new(&shape.config)
            .extended_capabilities()
            .map(|found| found.unwrap().offset.get())
            .collect();
        assert_eq!(offsets, [0x100, 0x140]);
    }

    #[test]
    fn table_of_2048_vectors_has_room() {
        assert_eq!(Shape::nvme(2048).sizes[0], 0x1_0000);
    }
}

//! QEMU's `e1000e`, a network card, made to interrupt by hand: Intel 82574 datasheet, 10.2 "Registers".

use crate::edu::NoGuest;
use crate::rig::{capability, vm};
use vfio_assign_core::{Bdf, GuestAddr};
use vfio_assign_linux::{AssignOptions, Assigned};

/// Where the guest places BAR 0, of registers, BAR 1, of flash memory, and BAR 3, of the MSI-X table.
const BAR: u64 = 0xd000_0000;
const FLASH: u64 = 0xd010_0000;
const TABLE: u64 = 0xd020_0000;
/// Command, with memory on, and bus mastering, for a message is a write to memory.
const COMMAND: u32 = 4;
const MEMORY_AND_MASTER: [u8; 2] = [6, 0];
/// Capability id of MSI-X; Message Control with MSI-X Enable.
const MSIX: u8 = 0x11;
const ENABLED: [u8; 2] = [0, 0x80];

/// Which causes are forgotten, and interrupt no more, as soon as their message is sent; which interrupt; by which vector.
const AUTO_CLEAR: u64 = BAR + 0xdc;
const MASK_SET: u64 = BAR + 0xd0;
const VECTORS: u64 = BAR + 0xe4;
/// The first receive queue's cause, and its vector: the first, valid.
const QUEUE: u32 = 1 << 20;
const FIRST_VECTOR: u32 = 1 << 3;

/// The card.
pub(crate) struct Card;

impl Card {
    /// Interrupt Cause Set: the queue interrupts.
    pub(crate) const RAISE: (u64, u32) = (BAR + 0xc8, QUEUE);
    /// The cause may interrupt again.
    pub(crate) const END: (u64, u32) = (MASK_SET, QUEUE);

    /// The device, placed and decoding, its queue's cause leading to the first vector of MSI-X, which is on.
    pub(crate) fn with_msix(bdf: Bdf) -> Assigned<NoGuest> {
        let device = vm().open(bdf).expect("opens");
        let assigned = Assigned::new(device, NoGuest::with(None), &AssignOptions::default());
        let assigned = assigned.expect("it has BARs");
        for (register, place) in [(0x10, BAR), (0x14, FLASH), (0x1c, TABLE)] {
            assigned.config_write(register, &(place as u32).to_le_bytes());
        }
        assigned.config_write(COMMAND, &MEMORY_AND_MASTER);
        let write = |address: u64, value: u32| {
            assert!(assigned.memory_write(GuestAddr::new(address), &value.to_le_bytes()), "it decodes");
        };
        for (offset, value) in [(0, 0xfee0_0000), (4, 0), (8, 0x41), (12, 0)] {
            write(TABLE + offset, value);
        }
        assigned.config_write(capability(&assigned, MSIX) + 2, &ENABLED);
        write(AUTO_CLEAR, QUEUE);
        write(VECTORS, FIRST_VECTOR);
        write(Self::END.0, Self::END.1);
        assigned
    }
}

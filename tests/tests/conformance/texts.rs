//! What each error and each finding says: what is wrong, on what, and with which value.

use core::fmt::Display;
use vfio_assign_core::host::InterruptKind;
use vfio_assign_core::region_info::ChainFinding;
use vfio_assign_core::{
    BarIndex, BdfError, CapabilityFinding, ConfigMapError, Finding, GuestBarOffset, InterruptReason,
    IntxFinding, MsiFinding, MsixFinding, Reason, RelocationError, RestoreError, SaveError, SavedSection,
    WindowFinding,
};

const BAR: BarIndex = BarIndex::BARS[2];

fn says(cases: &[(&dyn Display, &str)]) {
    for (what, text) in cases {
        assert_eq!(what.to_string(), *text);
    }
}

#[test]
fn x2_an_address_that_is_none_says_which_part_is_wrong() {
    says(&[
        (
            &BdfError::Shape,
            "not of the form [SEGMENT:]BUS:DEVICE.FUNCTION in hexadecimal, such as 0000:00:04.0",
        ),
        (&BdfError::Device(0x20), "device number 0x20 is above 0x1f"),
        (&BdfError::Function(9), "function number 0x9 is above 7"),
    ]);
}

#[test]
fn x2_what_is_odd_in_configuration_space_says_where() {
    says(&[
        (&CapabilityFinding::Cycle(0x150), "the capability list leads back to 0x150"),
        (
            &CapabilityFinding::BelowFirst(0x20),
            "a capability pointer names 0x020, where no capability can be",
        ),
        (
            &CapabilityFinding::PastEnd(0x1000),
            "a capability pointer names 0x1000, past the end of configuration space",
        ),
        (&ConfigMapError::TooSmall(32), "configuration space has 32 bytes, fewer than the 64 of a header"),
        (&ConfigMapError::NotEndpoint(1), "header type 0x01 is no Type 0 header: bridges cannot be assigned"),
        (&ConfigMapError::Gone, "configuration space reads all-ones: the device is gone"),
        (&ConfigMapError::TooManyRules(128), "more than 128 registers need a rule of their own"),
    ]);
}

#[test]
fn x2_what_is_odd_about_interrupts_says_what_is_done_instead() {
    says(&[
        (&IntxFinding::NoSuchPin(7), "Interrupt Pin is 0x07, which is none of INTA# to INTD#"),
        (
            &MsiFinding::CapabilityTruncated(0xf8),
            "the MSI capability at 0xf8 runs past the end of the capability area",
        ),
        (&MsiFinding::SecondCapability(0x60), "a second MSI capability at 0x60 is ignored"),
        (
            &MsiFinding::ReservedCount(6),
            "Multiple Message Capable is 6, which is reserved; 32 vectors are taken",
        ),
        (
            &MsixFinding::CapabilityTruncated(0xfc),
            "the MSI-X capability at 0xfc runs past the end of the capability area",
        ),
        (&MsixFinding::SecondCapability(0x70), "a second MSI-X capability at 0x70 is ignored"),
        (&MsixFinding::TableBir(6), "the MSI-X table is in BAR6, which is no memory BAR"),
        (
            &MsixFinding::TablePastEnd { bar: BAR, offset: 0x2000, size: 0x40 },
            "the MSI-X table at 0x2000 of BAR2, 0x40 bytes, runs past the end of the BAR",
        ),
        (&MsixFinding::PbaBir(7), "the Pending Bit Array is in BAR7, which is no memory BAR"),
        (
            &MsixFinding::PbaPastEnd { bar: BAR, offset: 0x3000 },
            "the Pending Bit Array at 0x3000 of BAR2 runs past the end of the BAR",
        ),
        (
            &MsixFinding::PbaOverTable { bar: BAR, offset: 0x10 },
            "the Pending Bit Array at 0x10 of BAR2 lies over the table",
        ),
        (&MsixFinding::NoRoomForPba(BAR), "no room in BAR2 for a Pending Bit Array beside the table"),
        (
            &MsixFinding::StorageTooSmall { device: 2048, storage: 16 },
            "the device has 2048 MSI-X vectors and the storage given is for 16",
        ),
        (
            &Finding::NotCarried(InterruptKind::Intx),
            "the device has INTx, which this host cannot carry to the guest: it is hidden",
        ),
        (
            &Finding::NotCarried(InterruptKind::Msi),
            "the device has MSI, which this host cannot carry to the guest: it is hidden",
        ),
        (
            &Finding::NotCarried(InterruptKind::Msix),
            "the device has MSI-X, which this host cannot carry to the guest: it is hidden",
        ),
        (&RelocationError::NoBar(BAR), "the MSI-X table cannot be in BAR2, which is no memory BAR"),
        (
            &RelocationError::TooLarge { bar: BAR, size: 0x8000_0000 },
            "BAR2 cannot grow from 0x80000000 bytes to make room for the MSI-X table",
        ),
        (
            &RelocationError::NoRoom { bar: BAR, offset: GuestBarOffset::new(0x1004), needed: 0x30 },
            "no room for the MSI-X table, 0x30 bytes, at 0x1004 of BAR2",
        ),
        (&InterruptReason::Offered, "offered"),
        (&InterruptReason::NotInDevice, "not in the device"),
        (&InterruptReason::Chosen, "hidden by the embedder"),
        (&InterruptReason::NotCarried, "the host does not carry it"),
        (&InterruptReason::Unusable, "not usable as the device has it"),
    ]);
}

#[test]
fn x2_what_is_odd_about_bars_and_regions_says_which() {
    says(&[
        (
            &WindowFinding::AreaOutside { bar: BAR, offset: 0x1000, size: 0x2000 },
            "the mmap area at 0x1000 of BAR2, 0x2000 bytes, is not within the BAR",
        ),
        (
            &WindowFinding::StorageFull(BAR),
            "no storage for another window of BAR2: the rest of it is trapped",
        ),
        (&Finding::LargeIoBar { bar: BAR, size: 0x400 }, "BAR2 has 0x400 I/O ports, more than 256"),
        (
            &ChainFinding::IntoHeader { offset: 8, header: 32 },
            "capability offset 0x8 leads into the structure's own 0x20 bytes",
        ),
        (
            &ChainFinding::NotForward { offset: 0x20, previous: 0x40 },
            "capability offset 0x20 follows 0x40, which is not forward",
        ),
        (
            &ChainFinding::Truncated { offset: 0x40, size: 0x48 },
            "capability at 0x40 passes the end of the answer, 0x48 bytes",
        ),
        (&Reason::Offered, "whole pages that the kernel offers"),
        (&Reason::MsixTable, "MSI-X table"),
        (&Reason::PendingBitArray, "Pending Bit Array"),
        (&Reason::MsixPage, "shares a page with MSI-X"),
        (&Reason::Excluded, "excluded by the embedder"),
        (&Reason::BeyondDevice, "beyond the device's BAR"),
        (&Reason::IoPorts, "I/O ports"),
        (&Reason::ExpansionRom, "Expansion ROM"),
        (&Reason::BelowPageSize, "BAR smaller than a page"),
        (&Reason::NotOffered, "not offered for mmap"),
    ]);
}

#[test]
fn x2_a_state_that_is_not_saved_or_restored_says_why() {
    says(&[
        (&SavedSection::Function, "function"),
        (&SavedSection::Msix, "MSI-X"),
        (&SavedSection::Msi, "MSI"),
        (&SaveError::Running, "the function is not stopped"),
        (&SaveError::Busy, "an operation is under way"),
        (&SaveError::Lost, "the device is gone or quarantined"),
        (
            &SaveError::BufferTooSmall { needed: 1200, given: 64 },
            "the state takes 1200 bytes and the buffer has 64",
        ),
        (&RestoreError::InUse, "the function is in use"),
        (&RestoreError::NotSavedState, "no saved state"),
        (&RestoreError::Version(2), "the format has version 2, not 1"),
        (&RestoreError::Length { needed: 300, given: 299 }, "the state has 300 bytes and 299 were given"),
        (&RestoreError::Checksum, "the checksum does not match"),
        (&RestoreError::Section(SavedSection::Function), "the function section is not as it must be"),
        (&RestoreError::Section(SavedSection::Msix), "the MSI-X section is not as it must be"),
        (&RestoreError::Section(SavedSection::Msi), "the MSI section is not as it must be"),
        (&RestoreError::AnotherDevice, "the state is that of another device"),
        (&RestoreError::Bar(BAR), "BAR2 was of another kind or size"),
        (&RestoreError::Vectors { saved: 64, device: 32 }, "there were 64 MSI-X vectors and there are 32"),
    ]);
}

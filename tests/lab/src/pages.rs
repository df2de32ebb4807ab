//! Huge pages for guests in L1, without which some of QEMU's devices fail when they are assigned.
//!
//! QEMU's AHCI has the table of a command's pieces mapped at once (`ahci_populate_sglist`), and its e1000e each piece of
//! a packet (`net_tx_pkt_add_raw_fragment`). Where the next guest page is not beside it in L1's memory, QEMU 7.2 maps
//! less and gives up; hardware reads on. The AHCI fails the command ("mapped less than expected", traced six times in
//! four rounds of hot-plug beside no `vtd_dmar_fault`) or aborts in `ide_dma_cb`. The e1000e drops the packet, and as
//! often as it is sent again: the guest's TCP had sent the same 1,460 bytes, across the end of a page, seven times;
//! QEMU's trace had the descriptors, and what its network saw had no packet.

use crate::l1::{L1, L1Error};

const SETTINGS: [(&str, &str); 2] = [
    // Of memory in files, which that of a run with a control socket is. Linux gives it none unless told to.
    ("shmem_enabled", "advise"),
    // The first touch of a huge page may be a read, by a guest that runs before its memory is mapped for devices. Linux
    // 6.12 maps zeros then, and small pages when it is written: 41 huge pages and 215 split ones, of 256.
    ("use_zero_page", "0"),
];

/// Has L1's kernel give them.
pub(crate) fn give_huge(l1: &mut L1) -> Result<(), L1Error> {
    SETTINGS
        .iter()
        .try_for_each(|(name, value)| l1.write(&format!("/sys/kernel/mm/transparent_hugepage/{name}"), value))
}

//! MSI as the guest sees it: the capability's registers, all of them virtual.
//!
//! What follows from them for the host is worked out in `settle.rs`. All vectors that the guest enables are taken
//! at once, whatever is masked: the kernel cannot add to them later.

use super::settle::{Settle, live};
use super::vector::{PendingQuery, Vector, VectorState};
use crate::addr::{ConfigOffset, VectorIndex};
use crate::caps::ConfigImage;
use crate::config::Register;
use crate::description::Finding;
use crate::host::{InterruptKind, Message};
use crate::regs::capability;
use crate::regs::msi as regs;
use crate::text::say;
use core::fmt;

/// What is wrong with a device's MSI capability.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum MsiFinding {
    /// The capability does not fit into the 256-byte area: MSI is not offered.
    CapabilityTruncated(u16),
    /// A second capability; the first counts.
    SecondCapability(u16),
    /// The count of vectors is a reserved one: 32 are offered.
    ReservedCount(u16),
}

impl fmt::Display for MsiFinding {
    #[inline(never)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(
            f,
            match *self {
                Self::CapabilityTruncated(at) => (
                    "the MSI capability at %2 runs past the end of the capability area",
                    [u64::from(at), 0, 0],
                ),
                Self::SecondCapability(at) => {
                    ("a second MSI capability at %2 is ignored", [u64::from(at), 0, 0])
                }
                Self::ReservedCount(count) => (
                    "Multiple Message Capable is %d, which is reserved; 32 vectors are taken",
                    [u64::from(count), 0, 0],
                ),
            },
        )
    }
}

/// What is saved of MSI.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub(crate) struct MsiState {
    /// Message Control.
    pub(crate) control: u16,
    /// Message Address.
    pub(crate) address: u64,
    /// Message Data.
    pub(crate) data: u16,
    /// Mask Bits.
    pub(crate) masked: u32,
    /// The vectors of which an interrupt waits.
    pub(crate) waits: u32,
}

/// The MSI machine of a function.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Msi {
    capability: ConfigOffset,
    wide: bool,
    maskable: bool,
    /// Multiple Message Capable: the logarithm of the number of vectors.
    capable: u16,
    /// Multiple Message Enable, at most that.
    enabled: u16,
    address: u64,
    data: u16,
    vectors: [Vector; 32],
    pub(super) settle: Settle,
}

impl Msi {
    /// The machine in its state after reset. `host` is how many vectors the host has, not 0; the guest is offered no
    /// more. `finding` hears what is wrong with the capability.
    ///
    /// Source: PCI Local Bus 3.0, 6.8.1.
    #[inline(never)]
    pub(crate) fn new(image: ConfigImage<'_>, host: u16, finding: &mut dyn FnMut(Finding)) -> Option<Self> {
        let second = &mut |second| finding(MsiFinding::SecondCapability(second).into());
        let capability = image.find(capability::MSI, second)?;
        let control = regs::control(image.dword(capability));
        if usize::from(capability.get()).saturating_add(usize::from(regs::size(control))) > 0x100 {
            finding(MsiFinding::CapabilityTruncated(capability.get()).into());
            return None;
        }
        let mut capable = regs::multiple_message_capable(control);
        if capable > regs::MOST {
            finding(MsiFinding::ReservedCount(capable).into());
            capable = regs::MOST;
        }
        let host = u16::try_from(host.checked_ilog2()?).unwrap_or(regs::MOST);
        let mut msi = Self {
            capability,
            wide: control & regs::WIDE != 0,
            maskable: control & regs::MASKABLE != 0,
            capable: capable.min(host),
            enabled: 0,
            address: 0,
            data: 0,
            vectors: [Vector::with(VectorState::empty()); 32],
            settle: Settle::new(InterruptKind::Msi, false),
        };
        msi.settle.lossy = !msi.maskable;
        msi.reset();
        Some(msi)
    }

    /// Where the capability starts.
    pub fn capability(&self) -> ConfigOffset {
        self.capability
    }

    /// How many vectors the guest is offered, 1 to 32.
    // One copy of it: the core is to be small.
    #[inline(never)]
    pub fn count(&self) -> u16 {
        1u16.wrapping_shl(u32::from(self.capable))
    }

    /// Message Control as the guest reads it.
    pub fn message_control(&self) -> u16 {
        let bit = |on: bool, bit: u16| if on { bit } else { 0 };
        bit(self.settle.enable, regs::ENABLE)
            | self.capable.wrapping_shl(regs::CAPABLE_SHIFT)
            | self.enabled.wrapping_shl(regs::ENABLED_SHIFT)
            | bit(self.wide, regs::WIDE)
            | bit(self.maskable, regs::MASKABLE)
    }

    /// What the guest reads from one of the capability's registers; Pending Bits apart.
    pub(crate) fn read(&self, register: Register) -> u32 {
        let [low, upper] = [self.address, self.address.wrapping_shr(32)];
        match register {
            Register::MsiControl => u32::from(self.message_control()).wrapping_shl(16),
            Register::MsiAddress => u32::try_from(low & 0xffff_ffff).unwrap_or(0),
            Register::MsiUpperAddress => u32::try_from(upper).unwrap_or(0),
            Register::MsiData => u32::from(self.data),
            Register::MsiMask => self.bits(VectorState::MASKED),
            _ => 0,
        }
    }

    /// The guest writes one of the capability's registers whole; what is reserved is dropped.
    pub(crate) fn write(&mut self, register: Register, value: u32) {
        let [low, high] =
            [value & 0xffff, value.wrapping_shr(16)].map(|half| u16::try_from(half).unwrap_or(0));
        match register {
            Register::MsiControl => self.write_control(high),
            Register::MsiAddress => {
                let upper = self.address & 0xffff_ffff_0000_0000;
                self.address = upper | u64::from(value & regs::ADDRESS_LOW_BITS);
            }
            Register::MsiUpperAddress => {
                self.address = (self.address & 0xffff_ffff) | u64::from(value).wrapping_shl(32);
            }
            Register::MsiData => self.data = low,
            Register::MsiMask => self.write_mask(value),
            _ => return,
        }
        self.program();
    }

    fn write_control(&mut self, value: u16) {
        let enable = value & regs::ENABLE != 0;
        let enabled = regs::multiple_message_enable(value).min(self.capable);
        if enabled != self.enabled || (enable && !self.settle.enable) {
            let (settle, table) = self.parts_mut();
            settle.retry(table);
        }
        self.settle.enable = enable;
        self.enabled = enabled;
    }

    fn write_mask(&mut self, value: u32) {
        let mut bits = value;
        for vector in self.table_mut() {
            let masked = bits & 1 != 0;
            let wired = vector.state.contains(VectorState::WIRED);
            if !masked && wired && vector.state.contains(VectorState::MASKED) {
                vector.state.remove(VectorState::REFUSED);
            }
            vector.state.set(VectorState::MASKED, masked);
            bits = bits.wrapping_shr(1);
        }
    }

    /// Each vector's message is the one that the guest has programmed, with the vector's number in the low bits that
    /// Multiple Message Enable gives to the device: 6.8.1.6.
    fn program(&mut self) {
        let Self { address, data, enabled, .. } = *self;
        let used = 1u16.wrapping_shl(u32::from(enabled));
        for (index, vector) in (0u16..).zip(self.table_mut()) {
            let data = (data & !used.wrapping_sub(1)) | index;
            let changed = vector.set_message(Message { address, data: u32::from(data) });
            if changed && vector.state.contains(VectorState::WIRED) {
                vector.state.remove(VectorState::REFUSED);
            }
            vector.state.set(VectorState::UNUSED, index >= used);
        }
        self.settle.touch_all();
    }

    /// The vectors for which `state` holds, a bit each.
    fn bits(&self, state: VectorState) -> u32 {
        self.table()
            .iter()
            .rev()
            .fold(0, |bits, vector| bits.wrapping_shl(1) | u32::from(vector.state.contains(state)))
    }

    /// What is to be saved of it.
    pub(crate) fn saved(&self) -> MsiState {
        MsiState {
            control: self.message_control(),
            address: self.address,
            data: self.data,
            masked: self.bits(VectorState::MASKED),
            waits: self.bits(VectorState::LATCHED),
        }
    }

    /// Whether this can be the state of this function.
    pub(crate) fn can_be(&self, state: MsiState) -> bool {
        let written = regs::ENABLE | regs::ENABLED;
        let vectors = u64::MAX.wrapping_shr(64u32.wrapping_sub(u32::from(self.count())));
        let beyond = |bits: u32| u64::from(bits) & !vectors != 0;
        state.control & !written == self.message_control() & !written
            && regs::multiple_message_enable(state.control) <= self.capable
            && state.address & 3 == 0
            && (self.wide || state.address <= u64::from(u32::MAX))
            && (self.maskable || state.masked == 0)
            && !beyond(state.masked | state.waits)
    }

    /// The machine becomes what was [`saved`](Self::saved). Nothing of it stands in the host.
    pub(crate) fn restore(&mut self, saved: MsiState) {
        (self.address, self.data) = (saved.address, saved.data);
        self.settle.enable = saved.control & regs::ENABLE != 0;
        self.enabled = regs::multiple_message_enable(saved.control);
        let mut bit = 1u32;
        for vector in self.table_mut() {
            let mut state = VectorState::empty();
            state.set(VectorState::MASKED, saved.masked & bit != 0);
            state.set(VectorState::LATCHED, saved.waits & bit != 0);
            *vector = Vector::with(state);
            bit = bit.wrapping_shl(1);
        }
        self.program();
    }

    /// Where the pending bits of the vectors are. All are with the host while MSI is on: the device has no bits of its
    /// own to ask for.
    pub fn pending(&self) -> PendingQuery {
        let query = self.settle.pending(self.table(), VectorIndex::default());
        PendingQuery { hardware: 0, ..query }
    }

    /// How many vectors signal an event, and how many of those events reach the guest.
    pub fn live(&self) -> (u16, u16) {
        live(self.table())
    }

    /// How many vectors the host said it has, if it was last asked for more than that.
    pub fn host_vectors(&self) -> Option<u16> {
        self.settle.fewer
    }

    fn table(&self) -> &[Vector] {
        self.vectors.get(..usize::from(self.count())).unwrap_or(&self.vectors)
    }

    fn table_mut(&mut self) -> &mut [Vector] {
        self.parts_mut().1
    }

    /// What settles it, and the vectors that are settled.
    pub(super) fn parts(&self) -> (&Settle, &[Vector]) {
        (&self.settle, self.table())
    }

    /// The same, to change.
    pub(super) fn parts_mut(&mut self) -> (&mut Settle, &mut [Vector]) {
        let count = usize::from(self.count());
        (&mut self.settle, self.vectors.get_mut(..count).unwrap_or(&mut []))
    }

    pub(super) fn reset(&mut self) {
        (self.enabled, self.address, self.data) = (0, 0, 0);
        self.vectors.iter_mut().for_each(|vector| vector.reset_to(VectorState::empty()));
        self.program();
    }
}

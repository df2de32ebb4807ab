//! The state of a machine's parts inside KVM: taken when they are new and put back at a reset, or taken at any time and
//! put into the parts of another machine.
//!
//! KVM has no call that resets a machine. What it gave at creation is exactly what a reset must bring back, so
//! nothing here knows what the registers mean.

use std::sync::Once;

use kvm_bindings::{
    KVM_IRQCHIP_IOAPIC, KVM_IRQCHIP_PIC_MASTER, KVM_IRQCHIP_PIC_SLAVE, MsrList, Msrs, kvm_debugregs, kvm_fpu,
    kvm_irqchip, kvm_lapic_state, kvm_mp_state, kvm_msr_entry, kvm_pit_state2, kvm_regs, kvm_sregs,
    kvm_vcpu_events, kvm_xcrs,
};
use kvm_ioctls::{VcpuFd, VmFd};
use serde::{Deserialize, Serialize};
use vfio_assign_linux::kvm::{KvmVm, Xsave};

use super::run_loop::Vcpu;
use super::vm::{KvmCall, VmError};

/// The time stamp counter goes on counting: setting it back would take the processors apart.
const TIME_STAMP_COUNTER: u32 = 0x10;
/// As the time stamp counter's own offset.
const TIME_STAMP_ADJUST: u32 = 0x3b;
/// Default memory type, and the first variable range.
const MTRR_DEFAULT_TYPE: u32 = 0x2ff;
const MTRR_BASE_0: u32 = 0x200;
const MTRR_MASK_0: u32 = 0x201;

/// A processor, as KVM created it or at any later time.
pub(crate) struct ProcessorState {
    regs: kvm_regs,
    pub(crate) sregs: kvm_sregs,
    floating_point: FloatingPoint,
    xcrs: Option<kvm_xcrs>,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    mp_state: kvm_mp_state,
    events: kvm_vcpu_events,
    msrs: Vec<kvm_msr_entry>,
}

/// Whether a processor's state has its time.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Time {
    /// It has: time goes on from there.
    Kept,
    /// It has not: time goes on as it does.
    Left,
}

/// A processor's state in a file. On a host without XSAVE there is none.
#[derive(Serialize, Deserialize)]
pub(crate) struct SavedProcessor {
    regs: kvm_regs,
    sregs: kvm_sregs,
    xsave: Vec<u32>,
    xcrs: Option<kvm_xcrs>,
    debug: kvm_debugregs,
    lapic: kvm_lapic_state,
    mp_state: kvm_mp_state,
    events: kvm_vcpu_events,
    msrs: Vec<kvm_msr_entry>,
}

/// Registers of computation.
enum FloatingPoint {
    /// On a host with XSAVE, all that there are.
    All(Xsave),
    /// x87 and SSE.
    Legacy(Box<kvm_fpu>),
}

impl ProcessorState {
    /// Reads the state of a processor of `vm` that does not run; of one that never has without its time, for that is not
    /// what a reset brings back.
    pub(crate) fn capture(vcpu: &Vcpu, vm: &KvmVm, msrs: &MsrList, time: Time) -> Result<Self, VmError> {
        let refused = |errno| VmError::Devices { what: "give a processor's XSAVE area", errno };
        let xsave = Xsave::capture(vm, vcpu.own()).map_err(refused)?;
        let vcpu = vcpu.fd();
        // First: it makes KVM look at signals to the processor that are under way.
        let mp_state = vcpu.get_mp_state().during("KVM_GET_MP_STATE")?;
        Ok(Self {
            regs: vcpu.get_regs().during("KVM_GET_REGS")?,
            sregs: vcpu.get_sregs().during("KVM_GET_SREGS")?,
            floating_point: match xsave {
                Some(area) => FloatingPoint::All(area),
                None => FloatingPoint::Legacy(Box::new(vcpu.get_fpu().during("KVM_GET_FPU")?)),
            },
            // Absent on a host without XSAVE.
            xcrs: vcpu.get_xcrs().ok(),
            debug: vcpu.get_debug_regs().during("KVM_GET_DEBUGREGS")?,
            lapic: vcpu.get_lapic().during("KVM_GET_LAPIC")?,
            mp_state,
            events: vcpu.get_vcpu_events().during("KVM_GET_VCPU_EVENTS")?,
            msrs: capture_msrs(vcpu, msrs, time)?,
        })
    }

    /// The state for a file; none on a host without XSAVE.
    pub(crate) fn save(self) -> Option<SavedProcessor> {
        let Self { regs, sregs, floating_point, xcrs, debug, lapic, mp_state, events, msrs } = self;
        let FloatingPoint::All(area) = floating_point else { return None };
        let xsave = area.words().to_vec();
        Some(SavedProcessor { regs, sregs, xsave, xcrs, debug, lapic, mp_state, events, msrs })
    }

    /// The state of a file, for a processor of `vm`.
    pub(crate) fn of_saved(saved: SavedProcessor, vm: &KvmVm) -> Self {
        let SavedProcessor { regs, sregs, xsave, xcrs, debug, lapic, mp_state, events, msrs } = saved;
        let floating_point = FloatingPoint::All(Xsave::from_words(vm, xsave));
        Self { regs, sregs, floating_point, xcrs, debug, lapic, mp_state, events, msrs }
    }

    /// Puts the state back.
    pub(crate) fn restore(&self, vcpu: &Vcpu) -> Result<(), VmError> {
        let own = vcpu.own();
        let vcpu = vcpu.fd();
        // The local interrupt controller's base address is among the system registers: they go first.
        vcpu.set_sregs(&self.sregs).during("KVM_SET_SREGS")?;
        vcpu.set_regs(&self.regs).during("KVM_SET_REGS")?;
        if let Some(xcrs) = &self.xcrs {
            vcpu.set_xcrs(xcrs).during("KVM_SET_XCRS")?;
        }
        match &self.floating_point {
            FloatingPoint::All(area) => area
                .restore(own)
                .map_err(|errno| VmError::Devices { what: "take a processor's XSAVE area", errno })?,
            FloatingPoint::Legacy(fpu) => vcpu.set_fpu(fpu).during("KVM_SET_FPU")?,
        }
        vcpu.set_debug_regs(&self.debug).during("KVM_SET_DEBUGREGS")?;
        // Before the MSRs: the deadline of the timer among them counts in the mode that this sets.
        vcpu.set_lapic(&self.lapic).during("KVM_SET_LAPIC")?;
        restore_msrs(vcpu, &self.msrs)?;
        vcpu.set_vcpu_events(&self.events).during("KVM_SET_VCPU_EVENTS")?;
        vcpu.set_mp_state(self.mp_state).during("KVM_SET_MP_STATE")
    }
}

/// KVM reads as many as it can in one go and says how many; what it stops at has no value to keep.
fn capture_msrs(vcpu: &VcpuFd, list: &MsrList, time: Time) -> Result<Vec<kvm_msr_entry>, VmError> {
    let is_time = |index: u32| matches!(index, TIME_STAMP_COUNTER | TIME_STAMP_ADJUST);
    let kept = |index: &&u32| time == Time::Kept || !is_time(**index);
    let entry = |index: &u32| kvm_msr_entry { index: *index, ..kvm_msr_entry::default() };
    let mut rest: Vec<kvm_msr_entry> = list.as_slice().iter().filter(kept).map(entry).collect();
    let mut captured = Vec::with_capacity(rest.len());
    while !rest.is_empty() {
        let mut batch = batch(&rest)?;
        let done = vcpu.get_msrs(&mut batch).during("KVM_GET_MSRS")?;
        captured.extend_from_slice(&batch.as_slice()[..done]);
        rest.drain(..(done + 1).min(rest.len()));
    }
    Ok(captured)
}

/// As [`capture_msrs`]: what KVM refuses to set to its own first value could not have been changed either.
fn restore_msrs(vcpu: &VcpuFd, msrs: &[kvm_msr_entry]) -> Result<(), VmError> {
    // A guest may reset its processors for ever.
    static TOLD: Once = Once::new();
    let mut rest = msrs;
    while !rest.is_empty() {
        let done = vcpu.set_msrs(&batch(rest)?).during("KVM_SET_MSRS")?;
        if let Some(refused) = rest.get(done) {
            TOLD.call_once(|| log::debug!("KVM keeps MSR {:#x} as it is, and may others", refused.index));
        }
        rest = rest.get(done + 1..).unwrap_or_default();
    }
    Ok(())
}

fn batch(entries: &[kvm_msr_entry]) -> Result<Msrs, VmError> {
    Msrs::from_entries(entries).map_err(|_| VmError::TooMany { what: "MSRs", count: entries.len() })
}

/// Memory types as firmware leaves them: RAM is cached, the window of devices from `uncached` to 4 GiB is not.
///
/// A host that honours the guest's memory types (Intel, with a device whose DMA is not coherent) would run
/// everything uncached without.
pub(crate) fn set_memory_types(vcpu: &VcpuFd, uncached: u64, address_bits: u8) -> Result<(), VmError> {
    const ENABLED: u64 = 1 << 11;
    const WRITE_BACK: u64 = 6;
    const UNCACHED: u64 = 0;
    let addresses = 1_u64.checked_shl(u32::from(address_bits)).unwrap_or(0).wrapping_sub(1);
    let size = (1_u64 << 32) - uncached;
    let entry = |index, data| kvm_msr_entry { index, data, ..kvm_msr_entry::default() };
    restore_msrs(
        vcpu,
        &[
            entry(MTRR_BASE_0, uncached | UNCACHED),
            entry(MTRR_MASK_0, addresses & !(size - 1) | ENABLED),
            entry(MTRR_DEFAULT_TYPE, ENABLED | WRITE_BACK),
        ],
    )
}

/// Interrupt controllers and timer.
#[derive(Serialize, Deserialize)]
pub(crate) struct ChipState {
    chips: [kvm_irqchip; 3],
    timer: kvm_pit_state2,
}

impl ChipState {
    /// Reads the state of a machine of which no processor runs.
    pub(crate) fn capture(vm: &VmFd) -> Result<Self, VmError> {
        let chip = |chip_id| {
            let mut chip = kvm_irqchip { chip_id, ..kvm_irqchip::default() };
            vm.get_irqchip(&mut chip).during("KVM_GET_IRQCHIP").map(|()| chip)
        };
        Ok(Self {
            chips: [chip(KVM_IRQCHIP_PIC_MASTER)?, chip(KVM_IRQCHIP_PIC_SLAVE)?, chip(KVM_IRQCHIP_IOAPIC)?],
            timer: vm.get_pit2().during("KVM_GET_PIT2")?,
        })
    }

    /// Puts the state back.
    pub(crate) fn restore(&self, vm: &VmFd) -> Result<(), VmError> {
        for chip in &self.chips {
            vm.set_irqchip(chip).during("KVM_SET_IRQCHIP")?;
        }
        vm.set_pit2(&self.timer).during("KVM_SET_PIT2")
    }
}

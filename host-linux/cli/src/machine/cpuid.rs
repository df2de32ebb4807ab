//! What the guest's processors say about themselves: what KVM can do, with this machine's topology.
//!
//! Intel SDM vol. 2, CPUID; AMD APM vol. 3, appendix E. One package, one core for each processor, one thread
//! for each core.

use kvm_bindings::{CpuId, KVM_CPUID_FLAG_SIGNIFCANT_INDEX, kvm_cpuid_entry2};
use vmm_sys_util::fam::Error as FamError;

const FEATURES: u32 = 0x1;
const CACHES: u32 = 0x4;
const TOPOLOGY: u32 = 0xb;
const TOPOLOGY_V2: u32 = 0x1f;
const EXTENDED_FEATURES: u32 = 0x8000_0001;
const ADDRESS_SIZES: u32 = 0x8000_0008;
const AMD_CACHES: u32 = 0x8000_001d;
const AMD_TOPOLOGY: u32 = 0x8000_001e;

/// Leaf 1 ECX.
const VMX: u32 = 1 << 5;
const TSC_DEADLINE: u32 = 1 << 24;
const HYPERVISOR: u32 = 1 << 31;
/// Leaf 1 EDX: more than one logical processor in the package.
const HTT: u32 = 1 << 28;
/// Leaf 0x8000_0001 ECX.
const CMP_LEGACY: u32 = 1 << 1;
const SVM: u32 = 1 << 2;
/// Bits of guest-physical address on a processor that does not say.
const DEFAULT_ADDRESS_BITS: u8 = 36;

/// What all processors of a machine have in common.
#[derive(Clone)]
pub(crate) struct CpuModel {
    supported: Vec<kvm_cpuid_entry2>,
    cpus: u8,
    tsc_deadline: bool,
}

impl CpuModel {
    /// A machine of `cpus` processors on a host whose KVM supports `supported`.
    pub(crate) fn new(supported: &CpuId, cpus: u8, tsc_deadline: bool) -> Self {
        Self { supported: supported.as_slice().to_vec(), cpus, tsc_deadline }
    }

    /// Bits of a guest-physical address.
    pub(crate) fn address_bits(&self) -> u8 {
        let sizes = self.supported.iter().find(|entry| entry.function == ADDRESS_SIZES);
        let bits = sizes.map_or(0, |entry| entry.eax as u8);
        if bits == 0 { DEFAULT_ADDRESS_BITS } else { bits }
    }

    /// The leaves of processor number `cpu`.
    ///
    /// # Errors
    /// More leaves than KVM takes.
    pub(crate) fn leaves(&self, cpu: u8) -> Result<CpuId, FamError> {
        let topology = |entry: &kvm_cpuid_entry2| matches!(entry.function, TOPOLOGY | TOPOLOGY_V2);
        let mut leaves: Vec<_> = self.supported.iter().filter(|entry| !topology(entry)).copied().collect();
        for leaf in &mut leaves {
            self.adapt(leaf, cpu);
        }
        if self.supported.iter().any(|entry| entry.function == 0 && entry.eax >= TOPOLOGY) {
            leaves.extend(self.topology(cpu));
        }
        CpuId::from_entries(&leaves)
    }

    fn adapt(&self, leaf: &mut kvm_cpuid_entry2, cpu: u8) {
        let (id, cpus) = (u32::from(cpu), u32::from(self.cpus));
        match leaf.function {
            FEATURES => {
                leaf.ebx = leaf.ebx & 0xffff | cpus.next_power_of_two().min(255) << 16 | id << 24;
                // A guest of this machine has no guests of its own: a reset could not take it out of one.
                leaf.ecx = leaf.ecx & !VMX | HYPERVISOR;
                leaf.ecx |= if self.tsc_deadline { TSC_DEADLINE } else { 0 };
                set(&mut leaf.edx, HTT, self.cpus > 1);
            }
            CACHES => {
                let level = leaf.eax >> 5 & 7;
                let sharing = if level >= 3 { cpus - 1 } else { 0 };
                leaf.eax = leaf.eax & 0x3fff | sharing << 14 | (cpus - 1).min(63) << 26;
            }
            EXTENDED_FEATURES => {
                leaf.ecx &= if self.cpus > 1 { !SVM } else { !(SVM | CMP_LEGACY) };
            }
            ADDRESS_SIZES => leaf.ecx = self.id_bits() << 12 | (cpus - 1),
            AMD_CACHES => {
                let level = leaf.eax >> 5 & 7;
                let sharing = if level >= 3 { cpus - 1 } else { 0 };
                leaf.eax = leaf.eax & 0x3fff | sharing << 14;
            }
            AMD_TOPOLOGY => (leaf.eax, leaf.ebx, leaf.ecx) = (id, id, 0),
            _ => {}
        }
    }

    /// Bits of an APIC id that number the cores.
    fn id_bits(&self) -> u32 {
        u32::from(self.cpus).next_power_of_two().trailing_zeros()
    }

    /// Leaf 0xB: threads, cores, end.
    fn topology(&self, cpu: u8) -> [kvm_cpuid_entry2; 3] {
        let level = |index: u32, shift: u32, count: u32, kind: u32| kvm_cpuid_entry2 {
            function: TOPOLOGY,
            index,
            flags: KVM_CPUID_FLAG_SIGNIFCANT_INDEX,
            eax: shift,
            ebx: count,
            ecx: kind << 8 | index,
            edx: u32::from(cpu),
            ..kvm_cpuid_entry2::default()
        };
        [level(0, 0, 1, 1), level(1, self.id_bits(), u32::from(self.cpus), 2), level(2, 0, 0, 0)]
    }
}

fn set(register: &mut u32, bit: u32, on: bool) {
    *register = if on { *register | bit } else { *register & !bit };
}

#[cfg(test)]
mod tests {
    use super::*;

    fn model(cpus: u8) -> CpuModel {
        let leaf =
            |function, eax, ecx| kvm_cpuid_entry2 { function, eax, ecx, ..kvm_cpuid_entry2::default() };
        let supported = [
            leaf(0, 0xd, 0),
            leaf(FEATURES, 0, VMX),
            leaf(EXTENDED_FEATURES, 0, SVM),
            leaf(ADDRESS_SIZES, 40, 0),
        ];
        CpuModel::new(&CpuId::from_entries(&supported).unwrap(), cpus, true)
    }

    fn leaf(cpuid: &CpuId, function: u32, index: u32) -> kvm_cpuid_entry2 {
        *cpuid.as_slice().iter().find(|leaf| leaf.function == function && leaf.index == index).unwrap()
    }

    #[test]
    fn each_processor_has_its_own_apic_id() {
        let leaves = model(2).leaves(1).unwrap();
        assert_eq!((leaf(&leaves, FEATURES, 0).ebx >> 24, leaf(&leaves, TOPOLOGY, 0).edx), (1, 1));
    }

    #[test]
    fn one_processor_is_no_multiprocessor() {
        assert_eq!(leaf(&model(1).leaves(0).unwrap(), FEATURES, 0).edx & HTT, 0);
    }

    #[test]
    fn three_cores_need_two_bits() {
        let core = leaf(&model(3).leaves(0).unwrap(), TOPOLOGY, 1);
        assert_eq!((core.eax, core.ebx, core.ecx), (2, 3, 0x201));
    }

    #[test]
    fn the_guest_has_no_guests() {
        let leaves = model(1).leaves(0).unwrap();
        let virtualisation =
            (leaf(&leaves, FEATURES, 0).ecx & VMX, leaf(&leaves, EXTENDED_FEATURES, 0).ecx & SVM);
        assert_eq!(virtualisation, (0, 0));
    }

    #[test]
    fn the_deadline_timer_and_the_hypervisor_are_told() {
        let features = leaf(&model(1).leaves(0).unwrap(), FEATURES, 0).ecx;
        assert_eq!(features & (TSC_DEADLINE | HYPERVISOR), TSC_DEADLINE | HYPERVISOR);
    }

    #[test]
    fn address_bits_come_from_the_processor() {
        assert_eq!(model(1).address_bits(), 40);
    }
}

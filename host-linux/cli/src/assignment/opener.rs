//! How a device is opened for the machine: what it is connected to, and where its pin leads.

use std::sync::Arc;

use vfio_assign_core::{Options, Placement};
use vfio_assign_linux::kvm::{Gsi, IrqchipRoutes, KvmGuest, KvmVfio, Routes};
use vfio_assign_linux::{
    AssignError, AssignOptions, Assigned, Device, FaultHandler, HandedDevice, LineEnd, RegionIndex,
    RegisterPath, Reservation, StepObserver, Vm, VmOptions,
};

use super::device::AssignedDevice;
use super::devices::Opening;
use super::record::{Recording, Turn};
use super::tap::TappedGuest;
use super::{AssignmentError, Means};
use crate::machine::layout::intx_gsi;
use crate::machine::vm::ForDevices;

/// What every device of a machine is connected to.
pub(super) struct Opener {
    /// The machine's side of VFIO.
    pub(super) vm: Vm,
    routes: Arc<Routes>,
    registers: RegisterPath,
    /// Devices are behind ports.
    hot_plug: bool,
    recording: Option<Arc<Recording>>,
    machine: ForDevices,
}

impl Opener {
    /// What devices of this machine are connected to; they are opened by this interface.
    pub(super) fn new(
        machine: ForDevices,
        Means { sysfs, backend, recording, observer }: Means,
        hot_plug: bool,
    ) -> Result<Self, AssignmentError> {
        let refused = |errno| AssignmentError::Kvm { what: "tell its route limit", errno };
        let routes = Routes::new(machine.kvm.clone(), IrqchipRoutes::X86Full).map_err(refused)?;
        let registers = RegisterPath::Mapping(FaultHandler::install()?);
        let files = Arc::new(KvmVfio::new(machine.kvm.clone()));
        let options = VmOptions { sysfs, files: Some(files), backend, observer, ..VmOptions::default() };
        let vm = Vm::new(machine.host.clone(), options);
        let recording = recording.map(Arc::new);
        Ok(Self { vm, routes: Arc::new(routes), registers, hot_plug, recording, machine })
    }

    /// Opens a device and connects it to the machine, for this slot of the bus.
    pub(super) fn open(
        &self,
        device: Reservation,
        slot: u8,
        _: &Opening<'_>,
    ) -> Result<AssignedDevice, AssignmentError> {
        self.connect(device.open()?, slot, Assigned::new)
    }

    /// Goes on with a device that another process had in this slot.
    pub(super) fn take_over(
        &self,
        device: HandedDevice,
        slot: u8,
        state: &[u8],
    ) -> Result<AssignedDevice, AssignmentError> {
        let go_on =
            |device, guest, options: &AssignOptions<'_>| Assigned::take_over(device, guest, options, state);
        self.connect(self.vm.take_over(device)?, slot, go_on)
    }

    fn connect(
        &self,
        device: Device,
        slot: u8,
        assign: impl FnOnce(Device, TappedGuest, &AssignOptions<'_>) -> Result<Assigned<TappedGuest>, AssignError>,
    ) -> Result<AssignedDevice, AssignmentError> {
        let ForDevices { host, kvm, slots, .. } = &self.machine;
        let mut guest = KvmGuest::new(kvm.clone(), slots.clone(), self.routes.clone());
        if let Some(pin) = interrupt_pin(&device)? {
            guest = guest.with_line(Gsi(intx_gsi(slot, pin)), LineEnd::Resampled);
        }
        let placement = if self.hot_plug { Placement::BehindPort } else { Placement::RootComplex };
        let function = Options { placement, ..Options::default() };
        let steps = self.recording.clone().map(|recording| recording as Arc<dyn StepObserver>);
        let options =
            AssignOptions { registers: self.registers, function, steps, ..AssignOptions::default() };
        if let Some(recording) = &self.recording {
            recording.begin(&device)?;
        }
        let guest = TappedGuest::new(guest, self.recording.clone())
            .map_err(|source| AssignmentError::Recorder { source })?;
        let turn = Turn::take(self.recording.as_deref());
        let assigned = assign(device, guest, &options)?;
        turn.did(format_args!("attach"));
        Ok(AssignedDevice::new(assigned, host.clone(), self.recording.clone()))
    }
}

/// Interrupt Pin: PCI Local Bus 3.0, 6.2.4.
const INTERRUPT_PIN: u64 = 0x3d;

/// The device's interrupt pin, 0 for INTA; none if it has none.
fn interrupt_pin(device: &Device) -> Result<Option<u8>, AssignmentError> {
    let mut pin = [0];
    let read = device.read(RegionIndex::CONFIG, INTERRUPT_PIN, &mut pin);
    read.map_err(|error| AssignError::Config { bdf: device.bdf(), error })?;
    let [pin] = pin;
    Ok((1..=4).contains(&pin).then(|| pin - 1))
}

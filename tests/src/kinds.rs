//! All kinds of interrupts against a naive model: who hears of an interrupt, and what the guest's line is.

use crate::interrupts::MsixModel;
use crate::rig::Rig;
use vfio_assign_core::fake::Shape;
use vfio_assign_core::host::InterruptKind;

use crate::rig::vector;

/// Vectors of MSI and of MSI-X.
const VECTORS: u16 = 4;

/// One thing that a guest or a device does.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub enum KindOp {
    /// The guest turns MSI-X on or off.
    Msix(bool),
    /// The guest turns MSI on or off, with all its vectors.
    Msi(bool),
    /// The guest writes Interrupt Disable.
    Disable(bool),
    /// The guest masks or unmasks a vector of both.
    Mask(u16, bool),
    /// The device sends a message.
    Raise(u16),
    /// The device asserts its pin, or no longer does.
    Pin(bool),
    /// The guest ends the interrupt of its line.
    End,
    /// The machine stops and goes on.
    Pause,
    /// The machine is reset.
    Reset,
}

impl KindOp {
    /// The operation that this byte stands for.
    pub fn from_byte(byte: u8) -> Self {
        let (vector, on) = (u16::from(byte & 3), byte & 4 != 0);
        match byte >> 3 {
            0..=2 => Self::Msix(on),
            3..=5 => Self::Msi(on),
            6..=9 => Self::Disable(on),
            10..=15 => Self::Mask(vector, on),
            16..=22 => Self::Raise(vector),
            23..=26 => Self::Pin(on),
            27..=29 => Self::End,
            30 => Self::Pause,
            _ => Self::Reset,
        }
    }
}

/// A function with all kinds of interrupts, and what it must do.
#[derive(Clone, Debug)]
pub struct Kinds {
    /// The function and its host.
    pub rig: Rig,
    msix: MsixModel,
    msi: MsixModel,
    msix_on: bool,
    msi_on: bool,
    disabled: bool,
    pin: bool,
    line: bool,
}

impl Kinds {
    /// A new function, its vectors unmasked, on a host that unmasks the pin by itself or is told to.
    pub fn new(resample: bool) -> Self {
        let mut shape = Shape::nvme(VECTORS).msi(2, true, true).pin();
        shape.resample = resample;
        let mut kinds = Self {
            rig: Rig::started(&shape),
            msix: MsixModel::new(VECTORS),
            msi: MsixModel::new(VECTORS),
            msix_on: false,
            msi_on: false,
            disabled: false,
            pin: false,
            line: false,
        };
        kinds.program();
        kinds
    }

    fn program(&mut self) {
        self.rig.program_msi(0x4140);
        (self.msix, self.msi) = (MsixModel::new(VECTORS), MsixModel::new(VECTORS));
        for index in 0..VECTORS {
            self.rig.program(index);
            self.rig.unmask(index);
            self.msix.mask(index, false);
            self.msi.mask(index, false);
        }
    }

    /// Lets it happen, and looks whether everything is as it must be.
    ///
    /// # Panics
    ///
    /// It is not.
    pub fn apply(&mut self, op: KindOp) {
        let rig = &mut self.rig;
        match op {
            KindOp::Msix(on) => {
                rig.msix_control(on, false);
                self.msix_on = on;
            }
            KindOp::Msi(on) => {
                rig.msi_control(on, 2);
                self.msi_on = on;
            }
            KindOp::Disable(disabled) => {
                rig.config_write(4, 2, if disabled { 0x406 } else { 6 });
                self.disabled = disabled;
            }
            KindOp::Mask(index, masked) => {
                if masked {
                    rig.mask(index);
                } else {
                    rig.unmask(index);
                }
                let (bits, bit) = (rig.config_read(Rig::MSI + 16, 4), 1 << index);
                rig.config_write(Rig::MSI + 16, 4, if masked { bits | bit } else { bits & !bit });
                self.msix.mask(index, masked);
                self.msi.mask(index, masked);
            }
            KindOp::Raise(index) => {
                rig.host.raise(vector(index));
                self.msix.raise(index);
                self.msi.raise(index);
            }
            KindOp::Pin(asserted) => {
                rig.host.assert_pin(asserted);
                self.pin = asserted;
            }
            KindOp::End => {
                rig.end_interrupt();
                self.line = false;
            }
            KindOp::Pause => {
                rig.function.stop(vfio_assign_core::BusMastering::Kept, &mut rig.host);
                assert!(!rig.host.line().0, "a stopped function asserts the guest's line");
                rig.function.start(&mut rig.host);
                self.line = false;
            }
            KindOp::Reset => {
                rig.function.reset(&mut rig.host);
                rig.map_bar0();
                rig.host.take_delivered();
                (self.msix_on, self.msi_on, self.disabled, self.pin) = (false, false, false, false);
                self.line = false;
                self.program();
            }
        }
        self.msix.control(self.msix_on, false);
        self.msi.control(self.msi_on && !self.msix_on, false);
        self.line = !self.disabled && self.mode() == InterruptKind::Intx && (self.line || self.pin);
        self.check(op);
    }

    fn mode(&self) -> InterruptKind {
        match (self.msix_on, self.msi_on) {
            (true, _) => InterruptKind::Msix,
            (false, true) => InterruptKind::Msi,
            (false, false) => InterruptKind::Intx,
        }
    }

    fn check(&mut self, op: KindOp) {
        let rig = &mut self.rig;
        let failed: Vec<_> = rig.host.calls().iter().filter(|call| call.failed.is_some()).collect();
        assert!(failed.is_empty(), "{op:?}: {failed:?}");
        assert_eq!(rig.host.line().0, self.line, "{op:?}: the guest's line");
        let msi = rig.config_read(Rig::MSI + 20, 4);
        for index in 0..VECTORS {
            let told = |data: u32| rig.host.delivered().iter().filter(|(_, sent)| sent.data == data).count();
            let (index_u, index) = (usize::from(index), index);
            let counts = (told(0x4000 + u32::from(index)), told(0x4140 + u32::from(index)));
            let expected = (self.msix.delivered()[index_u] as usize, self.msi.delivered()[index_u] as usize);
            assert_eq!(counts, expected, "{op:?}: vector {index}, of MSI-X and of MSI");
            assert_eq!(msi >> index & 1 != 0, self.msi.is_pending(index), "{op:?}: vector {index} of MSI");
        }
        if self.msix_on {
            for index in 0..VECTORS {
                assert_eq!(
                    rig.is_pending(index),
                    self.msix.is_pending(index),
                    "{op:?}: vector {index} of MSI-X"
                );
            }
        }
        let mode = Some(self.mode());
        assert_eq!(
            (self.rig.function.interrupt_mode(), self.rig.host.interrupt_mode()),
            (mode, mode),
            "{op:?}"
        );
        assert_eq!(self.rig.host.lost_interrupts(), 0, "{op:?}");
        self.rig.host.take_steps();
    }
}

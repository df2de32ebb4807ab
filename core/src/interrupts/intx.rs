//! The interrupt pin: a level, which the host masks each time that it is asserted and unmasks when the guest has
//! ended the interrupt.
//!
//! Who unmasks it is the embedder's choice: a host with KVM's resample events does so by itself, and any other tells
//! [`handle_intx_eoi`](crate::AssignedFunction::handle_intx_eoi) of it.

use super::settle::Settle;
use super::vector::{Vector, VectorState};
use crate::caps::ConfigImage;
use crate::description::Finding;
use crate::host::InterruptKind;
use crate::regs::header;
use crate::text::say;
use core::fmt;

/// An interrupt pin.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Debug)]
pub enum InterruptPin {
    /// INTA#, the only one that a function alone on its device may use.
    A,
    /// INTB#.
    B,
    /// INTC#.
    C,
    /// INTD#.
    D,
}

impl fmt::Display for InterruptPin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::A => "INTA#",
            Self::B => "INTB#",
            Self::C => "INTC#",
            Self::D => "INTD#",
        })
    }
}

/// What is wrong with a device's interrupt pin.
#[derive(Clone, Copy, PartialEq, Eq, Debug, thiserror::Error)]
#[non_exhaustive]
pub enum IntxFinding {
    /// The register names none of the four: the pin is hidden.
    NoSuchPin(u8),
}

impl fmt::Display for IntxFinding {
    #[inline(never)]
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        say(
            f,
            match *self {
                Self::NoSuchPin(pin) => {
                    ("Interrupt Pin is %2, which is none of INTA# to INTD#", [u64::from(pin), 0, 0])
                }
            },
        )
    }
}

/// The machine of a function's interrupt pin.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct Intx {
    pin: InterruptPin,
    vector: [Vector; 1],
    pub(super) settle: Settle,
}

impl Intx {
    /// The pin as after reset: a level has no message, so that there is nothing to route.
    const RESET: VectorState = VectorState::ROUTED;

    /// The machine of the function whose configuration space this is, if it has a pin.
    ///
    /// Source: PCI Local Bus 3.0, 6.2.4 Interrupt Pin.
    pub(crate) fn new(image: ConfigImage<'_>, finding: &mut dyn FnMut(Finding)) -> Option<Self> {
        let [_, pin, ..] = image.dword(header::INTERRUPT_LINE).to_le_bytes();
        let pin = match pin {
            0 => return None,
            1 => InterruptPin::A,
            2 => InterruptPin::B,
            3 => InterruptPin::C,
            4 => InterruptPin::D,
            other => {
                finding(IntxFinding::NoSuchPin(other).into());
                return None;
            }
        };
        let vector = [Vector::with(Self::RESET)];
        Some(Self { pin, vector, settle: Settle::new(InterruptKind::Intx, false) })
    }

    /// Which pin it is.
    pub fn pin(&self) -> InterruptPin {
        self.pin
    }

    /// Whether it is on in the host, and whether it reaches the guest.
    pub fn live(&self) -> (bool, bool) {
        let [vector] = self.vector;
        (vector.state.contains(VectorState::WIRED), vector.state.contains(VectorState::ARMED))
    }

    /// What settles it, and its one vector.
    pub(super) fn parts(&self) -> (&Settle, &[Vector]) {
        (&self.settle, &self.vector)
    }

    /// The same, to change.
    pub(super) fn parts_mut(&mut self) -> (&mut Settle, &mut [Vector]) {
        (&mut self.settle, &mut self.vector)
    }

    /// The guest writes Interrupt Disable.
    pub(crate) fn set_disabled(&mut self, disabled: bool) {
        let [Vector { state, .. }] = &mut self.vector;
        if disabled != state.contains(VectorState::MASKED) {
            state.set(VectorState::MASKED, disabled);
            state.remove(VectorState::REFUSED);
            self.settle.touch_all();
        }
    }

    /// The guest has ended the interrupt.
    pub(crate) fn eoi(&mut self) {
        self.settle.unmask_due();
    }

    pub(super) fn turn_on(&mut self) {
        self.settle.enable = true;
        self.settle.touch_all();
    }

    pub(super) fn reset(&mut self) {
        let [vector] = &mut self.vector;
        vector.reset_to(Self::RESET);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pin(value: u8) -> (Option<InterruptPin>, Option<Finding>) {
        let mut bytes = [0; 64];
        bytes[0x3d] = value;
        let mut found = None;
        let intx = Intx::new(ConfigImage::new(&bytes), &mut |wrong| found = Some(wrong));
        (intx.map(|intx| intx.pin()), found)
    }

    #[test]
    fn pin_0_is_none() {
        assert_eq!(pin(0), (None, None));
    }

    #[test]
    fn pin_4_is_the_last() {
        assert_eq!(pin(4), (Some(InterruptPin::D), None));
    }

    #[test]
    fn pins_are_told_by_their_names() {
        let pins = [1, 2, 3, 4].map(|value| pin(value).0.unwrap());
        assert_eq!(pins.map(|pin| std::format!("{pin}")), ["INTA#", "INTB#", "INTC#", "INTD#"]);
    }

    #[test]
    fn pin_5_is_none_and_a_finding() {
        assert_eq!(pin(5), (None, Some(IntxFinding::NoSuchPin(5).into())));
    }
}

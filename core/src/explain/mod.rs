//! The plan as data and as text: where each byte of configuration space comes from, what of each BAR the guest reaches
//! directly, which interrupts it is offered, and why.

mod bars;
mod config;

pub use bars::{BarPiece, Reason, Treatment};
pub use config::{ConfigPiece, Source, Writes};

use crate::addr::BarIndex;
use crate::caps::ConfigImage;
use crate::description::Description;
use crate::function::AssignedFunction;
use crate::host::InterruptKind;
use crate::interrupts::Vector;
use crate::options::CapabilityId;
use crate::regs::{capability, header};
use crate::text::say;
use crate::windows::Window;
use core::fmt;

/// What a guest is given of a device, and why. Its text has a line for each run of bytes that are treated alike.
#[derive(Clone, Copy, Debug)]
pub struct Explanation<'a, V, W> {
    function: &'a AssignedFunction<V, W>,
    description: &'a Description<'a>,
}

/// Why the guest is offered a kind of interrupt, or is not.
#[derive(Clone, Copy, PartialEq, Eq, Hash, Debug)]
#[non_exhaustive]
pub enum InterruptReason {
    /// It is offered: the device has it and the host carries it.
    Offered,
    /// The device does not have it.
    NotInDevice,
    /// The embedder hides its capability.
    Chosen,
    /// The host does not carry it to the guest.
    NotCarried,
    /// What the device says of it cannot be; a [`Finding`](crate::Finding) says what.
    Unusable,
}

impl InterruptReason {
    fn text(self) -> &'static str {
        match self {
            Self::Offered => "offered",
            Self::NotInDevice => "not in the device",
            Self::Chosen => "hidden by the embedder",
            Self::NotCarried => "the host does not carry it",
            Self::Unusable => "not usable as the device has it",
        }
    }
}

impl fmt::Display for InterruptReason {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.text())
    }
}

/// A kind of interrupt, of which the guest has one at a time.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
pub struct InterruptPlan {
    /// The kind.
    pub kind: InterruptKind,
    /// How many vectors the guest is offered; 0 if it is offered none.
    pub vectors: u16,
    /// The most vectors that the host will need for them. They are taken when the guest first wants them, not before.
    pub host_vectors: u16,
    /// Why.
    pub reason: InterruptReason,
}

impl<V, W> AssignedFunction<V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    /// What the guest is given of this function's device, and why. `description` is the one that the function was made
    /// from.
    pub fn explain<'a>(&'a self, description: &'a Description<'a>) -> Explanation<'a, V, W> {
        Explanation { function: self, description }
    }
}

impl<V, W> Explanation<'_, V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    /// Each kind of interrupt.
    pub fn interrupts(&self) -> [InterruptPlan; 3] {
        InterruptKind::ALL.map(|kind| self.interrupt(kind))
    }

    fn interrupt(&self, kind: InterruptKind) -> InterruptPlan {
        let Self { function, description } = self;
        let image = ConfigImage::new(description.config);
        let has = |id: u8| image.find(id, &mut |_| {}).is_some();
        let (in_device, id, carried, vectors) = match kind {
            InterruptKind::Msix => {
                let vectors = function.msix().map_or(0, |msix| msix.count());
                (has(capability::MSIX), Some(capability::MSIX), description.interrupts.msix, vectors)
            }
            InterruptKind::Msi => {
                let vectors = function.msi().map_or(0, |msi| msi.count());
                (has(capability::MSI), Some(capability::MSI), description.interrupts.msi, vectors)
            }
            InterruptKind::Intx => {
                let pin = image.dword(header::INTERRUPT_LINE) & header::INTERRUPT_PIN;
                let vectors = u16::from(function.intx().is_some());
                (pin != 0, None, u16::from(description.interrupts.intx), vectors)
            }
        };
        let reason = if vectors != 0 {
            InterruptReason::Offered
        } else if !in_device {
            InterruptReason::NotInDevice
        } else if id.is_some_and(|id| description.options.hides(CapabilityId::Standard(id))) {
            InterruptReason::Chosen
        } else if carried == 0 {
            InterruptReason::NotCarried
        } else {
            InterruptReason::Unusable
        };
        InterruptPlan { kind, vectors, host_vectors: vectors.min(carried), reason }
    }
}

impl<V, W> fmt::Display for Explanation<'_, V, W>
where
    V: AsRef<[Vector]> + AsMut<[Vector]>,
    W: AsRef<[Window]> + AsMut<[Window]>,
{
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for piece in self.config() {
            piece.fmt(f)?;
            f.write_str("\n")?;
        }
        for bar in &BarIndex::ALL {
            for piece in self.bar(*bar) {
                say(f, ("%b ", [bar.number(), 0, 0]))?;
                piece.fmt(f)?;
                f.write_str("\n")?;
            }
        }
        for InterruptPlan { kind, vectors, host_vectors, reason } in self.interrupts() {
            kind.fmt(f)?;
            let numbers = [u64::from(vectors), u64::from(host_vectors), 0];
            say(f, (" %d vectors, %d of the host's: ", numbers))?;
            f.write_str(reason.text())?;
            f.write_str("\n")?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::description::Region;
    use crate::options::{CapabilityChoice, Options};
    use crate::windows::MmapArea;
    use std::string::{String, ToString};

    /// A function of 64 bytes and MSI-X with one vector in BAR 0, which has 8 KiB.
    fn explained(options: Options<'_>) -> String {
        let mut config = [0; 0x4c];
        config[0] = 0x36;
        config[6] = 0x10;
        config[0x34] = 0x40;
        config[0x40] = 0x11;
        config[0x45] = 0x10;
        config[0x49] = 0x18;
        config[0x3d] = 1;
        let mut regions = [Region::default(); 7];
        let areas = [MmapArea { offset: 0, size: 0x2000 }];
        regions[0] = Region { size: 0x2000, areas: &areas, ..Region::default() };
        let description = Description { config: &config, regions, options, ..Description::default() };
        let windows = [Window::default(); 4];
        let function = AssignedFunction::new(&description, [Vector::RESET; 1], windows, |_| {}).unwrap();
        function.explain(&description).to_string()
    }

    #[test]
    fn text_has_a_line_for_each_run() {
        let expected = "\
config 0x000..=0x003 hardware, forwarded: Vendor ID, Device ID
config 0x004..=0x005 merged, both: Command, Status
config 0x006..=0x006 merged, forwarded: Command, Status
config 0x007..=0x007 hardware, forwarded: Command, Status
config 0x008..=0x00b hardware, forwarded: Revision ID, Class Code
config 0x00c..=0x00d hardware, forwarded: Header Type
config 0x00e..=0x00e merged, forwarded: Header Type
config 0x00f..=0x00f hardware, forwarded: Header Type
config 0x010..=0x027 virtual, virtual: Base Address Register
config 0x028..=0x02b hardware, forwarded: CardBus CIS Pointer
config 0x02c..=0x02f hardware, forwarded: Subsystem IDs
config 0x030..=0x033 virtual, virtual: Expansion ROM
config 0x034..=0x037 hardware, forwarded: Capabilities Pointer
config 0x038..=0x03b hardware, forwarded: reserved
config 0x03c..=0x03c hardware, forwarded: Interrupt Line, Interrupt Pin
config 0x03d..=0x03d virtual, dropped: Interrupt Line, Interrupt Pin
config 0x03e..=0x03f hardware, forwarded: Interrupt Line, Interrupt Pin
config 0x040..=0x041 hardware, dropped: MSI-X
config 0x042..=0x042 virtual, dropped: MSI-X
config 0x043..=0x043 virtual, virtual: MSI-X
config 0x044..=0x04b virtual, dropped: MSI-X
BAR0 0x0..=0xfff mapped by 0x1000: whole pages that the kernel offers
BAR0 0x1000..=0x100f emulated: MSI-X table
BAR0 0x1010..=0x17ff trapped: shares a page with MSI-X
BAR0 0x1800..=0x1807 emulated: Pending Bit Array
BAR0 0x1808..=0x1fff trapped: shares a page with MSI-X
INTx 0 vectors, 0 of the host's: the host does not carry it
MSI 0 vectors, 0 of the host's: not in the device
MSI-X 1 vectors, 1 of the host's: offered
";
        assert_eq!(explained(Options::default()), expected);
    }

    #[test]
    fn text_names_what_the_embedder_chose() {
        let capabilities = [CapabilityChoice { id: CapabilityId::Standard(0x11), hidden: true }];
        let text = explained(Options { capabilities: &capabilities, ..Options::default() });
        let lines = [
            "config 0x040..=0x040 hidden, dropped: MSI-X, as the embedder chose",
            "config 0x041..=0x041 hardware, dropped: MSI-X, as the embedder chose",
            "config 0x042..=0x04b hidden, dropped: MSI-X, as the embedder chose",
            "BAR0 0x1000..=0x1fff trapped: shares a page with MSI-X",
            "MSI-X 0 vectors, 0 of the host's: hidden by the embedder",
        ];
        assert_eq!(lines.map(|line| text.lines().any(|other| other == line)), [true; 5], "{text}");
    }
}

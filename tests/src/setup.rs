//! [`Setup`]: a device with what its embedder decides about it, as models and fuzz targets make it up.

use crate::op::Choices;
use crate::rig::{BASE, bar};
use std::fmt;
use vfio_assign_core::fake::Shape;
use vfio_assign_core::{
    Apertures, BarIndex, Capability, CapabilityChoice, CapabilityId, ConfigImage, Description, Exclusion,
    GuestAddr, GuestBarOffset, GuestPort, Ids, MmapArea, Options, PageSize, PhysBarOffset, Pin, Placement,
    Relocation, Span,
};

/// A device, and its embedder's [`Options`] with what they point to.
#[derive(Clone)]
pub struct Setup {
    /// The device.
    pub shape: Shape,
    /// All options but those below.
    pub options: Options<'static>,
    /// Capabilities to hide or to keep.
    pub capabilities: Vec<CapabilityChoice>,
    /// What is not mapped.
    pub unmapped: Vec<Exclusion>,
}

/// Without configuration space, which says in four thousand lines what the shape's other fields and the flags do.
impl fmt::Debug for Setup {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Self { shape, options, capabilities, unmapped } = self;
        let Shape { sizes, areas, page_size, resizable, virtual_function, msix_mappable, .. } = shape;
        let capability = |found: Result<Capability, _>| found.ok().map(|found| (found.id, found.offset));
        let list: Vec<_> = ConfigImage::new(&shape.config).capabilities().filter_map(capability).collect();
        f.debug_struct("Setup")
            .field("list", &list)
            .field("sizes", sizes)
            .field("areas", areas)
            .field("page_size", page_size)
            .field("resizable", resizable)
            .field("virtual_function", virtual_function)
            .field("msix_mappable", msix_mappable)
            .field("options", options)
            .field("capabilities", capabilities)
            .field("unmapped", unmapped)
            .finish_non_exhaustive()
    }
}

impl From<&Shape> for Setup {
    /// Nothing is decided.
    fn from(shape: &Shape) -> Self {
        let (capabilities, unmapped) = (Vec::new(), Vec::new());
        Self { shape: shape.clone(), options: Options::default(), capabilities, unmapped }
    }
}

impl From<&Setup> for Setup {
    fn from(setup: &Setup) -> Self {
        setup.clone()
    }
}

impl Setup {
    /// What the core is told.
    pub fn description(&self) -> Description<'_> {
        let Self { shape, options, capabilities, unmapped } = self;
        Description { options: Options { capabilities, unmapped, ..*options }, ..shape.description() }
    }

    /// What an embedder may decide about a device that [`Choices::shape`] has made. A zero decides nothing, and so do
    /// bytes that are not there: that is what a failing case shrinks to.
    pub fn decided(shape: Shape, choices: &mut Choices<'_>) -> Self {
        let mut setup = Self::from(&shape);
        setup.larger_pages(choices.byte().unwrap_or(0));
        setup.decide(choices).unwrap_or(());
        setup
    }

    /// Pages of another size, and a BAR 0 that has some of them.
    fn larger_pages(&mut self, choice: u8) {
        let page = match choice % 4 {
            1 => PageSize::SIZE_16K,
            2 => PageSize::SIZE_64K,
            _ => return,
        };
        self.shape.page_size = page;
        self.shape.sizes[0] = self.shape.sizes[0].saturating_mul(16);
        self.shape.areas[0] = vec![MmapArea { offset: 0, size: self.shape.sizes[0] }];
    }

    fn decide(&mut self, choices: &mut Choices<'_>) -> Option<()> {
        const CAPABILITIES: [CapabilityId; 6] = [
            CapabilityId::Standard(0x01),
            CapabilityId::Standard(0x05),
            CapabilityId::Standard(0x10),
            CapabilityId::Standard(0x11),
            CapabilityId::Standard(0x13),
            CapabilityId::Extended(0x10),
        ];
        if choices.byte()? & 1 != 0 {
            self.options.placement = Placement::BehindPort;
        }
        for _ in 0..choices.byte()? % 4 {
            let choice = choices.byte()?;
            let id = CAPABILITIES[usize::from(choice / 2) % CAPABILITIES.len()];
            self.capabilities.push(CapabilityChoice { id, hidden: choice & 1 != 0 });
        }
        let given = choices.byte()?;
        let mut id = |bit: u8| (given & bit != 0).then(|| choices.number(2).unwrap_or(0) as u16);
        self.options.ids = Ids { vendor: id(1), device: id(2), subsystem_vendor: id(4), subsystem: id(8) };
        self.options.apertures = apertures(choices.byte()?);
        self.pin(choices.byte()?);
        for _ in 0..choices.byte()? % 4 {
            let (owner, first, size) = (choices.byte()? % 7, choices.number(2)?, choices.number(2)?);
            let part = Span::from_size(PhysBarOffset::new(first), size);
            self.unmapped.push(Exclusion { bar: BarIndex::ALL[usize::from(owner)], part });
        }
        let at =
            GuestBarOffset::new(u64::from(choices.byte()?) * 8 + u64::from(choices.byte()? % 3) * 0x1000);
        self.options.relocation = match choices.byte()? % 4 {
            1 => Some(Relocation::Behind(bar(0))),
            2 => Some(Relocation::At { bar: bar(0), offset: at }),
            3 if self.shape.sizes[2] != 0 => Some(Relocation::Behind(bar(2))),
            _ => None,
        };
        self.shape.msix_mappable = choices.byte()? & 1 != 0;
        Some(())
    }

    /// BAR 0 where the device has it, BAR 0 or 2 at an address of the embedder's, a multiple of its size even if it has
    /// grown.
    fn pin(&mut self, choice: u8) {
        let at = |size: u64| Some(Pin::At(BASE.wrapping_add(size.wrapping_mul(u64::from(choice / 4) * 2))));
        let [size, _, size_2, ..] = self.shape.sizes;
        match choice % 4 {
            1 => self.options.pinned[0] = at(size),
            2 => {
                let [.., top] = (BASE as u32).to_le_bytes();
                self.shape.put(0x13, &[top]);
                self.options.pinned[0] = Some(Pin::Host);
            }
            3 if size_2 != 0 => self.options.pinned[2] = at(size_2),
            _ => {}
        }
    }
}

/// Where BARs may decode.
fn apertures(choice: u8) -> Apertures {
    let memory = |first: u64, size| Span::from_size(GuestAddr::new(first), size);
    let whole = [memory(BASE, 0x1000_0000), memory(1 << 40, 1 << 40), None];
    match choice % 4 {
        1 => Apertures { memory: whole, ports: None },
        2 => {
            let size = u64::from(choice) * 0x1000;
            let halves = [memory(BASE, size), memory(BASE + size, 0x1_0000), None];
            Apertures { memory: halves, ports: Span::from_size(GuestPort::new(0x1000), 0x1000) }
        }
        3 => Apertures { memory: [None; 3], ports: Span::from_size(GuestPort::new(0), 0x100) },
        _ => Apertures::default(),
    }
}

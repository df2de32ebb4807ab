//! [`Rig`]: an assigned function on a fake host, used as a guest would.

use vfio_assign_core::fake::{CallKind, FakeHost, Shape};
use vfio_assign_core::host::{GuestRange, Message, Step};
use vfio_assign_core::{
    Access, AssignedFunction, BarIndex, Bytes, Decoded, Description, DescriptionError, Finding, GuestAddr,
    GuestPort, Options, Span, Target, Vector, VectorIndex, Window,
};

/// Where [`Rig::map_bar0`] puts BAR 0.
pub const BASE: u64 = 0xe000_0000;

/// A message address of the first processor.
pub const MESSAGE: u64 = 0xfee0_0000;

/// BAR `index`.
pub fn bar(index: u8) -> BarIndex {
    BarIndex::new(index).expect("BARs are 0 to 5")
}

/// Vector `index`.
pub fn vector(index: u16) -> VectorIndex {
    VectorIndex::new(index).expect("vectors are 0 to 2047")
}

/// The message that [`Rig::program`] gives to a vector.
pub fn message(index: u16) -> Message {
    Message { address: MESSAGE, data: 0x4000 + u32::from(index) }
}

/// A function and its host.
#[derive(Clone, Debug)]
pub struct Rig {
    /// The function.
    pub function: AssignedFunction<Vec<Vector>, Vec<Window>>,
    /// Its host.
    pub host: FakeHost,
    /// What was odd about the device.
    pub findings: Vec<Finding>,
}

/// Offsets in the configuration space of [`Shape::nvme`].
impl Rig {
    /// Power Management Control/Status.
    pub const PMCSR: u32 = 0x44;
    /// The MSI-X capability.
    pub const MSIX: u32 = 0x48;
    /// Message Control of MSI-X.
    pub const MSIX_CONTROL: u32 = 0x4a;
    /// Device Control of PCI Express.
    pub const DEVICE_CONTROL: u32 = 0x5c;
    /// What was added to it first: MSI, of the tests about that.
    pub const MSI: u32 = 0x90;
}

impl Rig {
    /// The function of this device, attached, with no call on record.
    pub fn new(shape: &Shape) -> Self {
        let mut rig = Self::unattached(shape);
        rig.function.attach(&mut rig.host);
        rig.host.take_steps();
        rig
    }

    /// The function of this device, not yet attached.
    pub fn unattached(shape: &Shape) -> Self {
        Self::described(shape, &shape.description()).expect("a device that can be assigned")
    }

    /// The function of this device as the embedder wants it, attached, with no call on record.
    ///
    /// # Errors
    ///
    /// It cannot be as the embedder wants it.
    pub fn with(shape: &Shape, options: Options<'_>) -> Result<Self, DescriptionError> {
        let mut rig = Self::described(shape, &Description { options, ..shape.description() })?;
        rig.function.attach(&mut rig.host);
        rig.host.take_steps();
        Ok(rig)
    }

    fn described(shape: &Shape, description: &Description<'_>) -> Result<Self, DescriptionError> {
        let mut findings = Vec::new();
        let (vectors, windows) = (vec![Vector::RESET; 2048], vec![Window::default(); 32]);
        let function =
            AssignedFunction::new(description, vectors, windows, |finding| findings.push(finding))?;
        Ok(Self { function, host: FakeHost::new(shape), findings })
    }

    /// A function with so many vectors, BAR 0 placed at [`BASE`], memory and bus mastering on.
    pub fn nvme(vectors: u16) -> Self {
        Self::started(&Shape::nvme(vectors))
    }

    /// The same for a shape like [`Shape::nvme`].
    pub fn started(shape: &Shape) -> Self {
        let mut rig = Self::new(shape);
        rig.map_bar0();
        rig.host.take_steps();
        rig
    }

    /// Places the 64-bit BAR 0 and turns memory and bus mastering on.
    pub fn map_bar0(&mut self) {
        self.config_write(0x10, 4, BASE);
        self.config_write(0x14, 4, BASE >> 32);
        self.config_write(4, 2, 6);
    }

    /// The guest accesses the function.
    pub fn access(&mut self, access: Access) -> Bytes {
        self.function.access(access, &mut self.host)
    }

    fn read_at(&mut self, target: Target, size: usize) -> u64 {
        value(self.access(Access::Read { target, size }))
    }

    fn write_at(&mut self, target: Target, size: usize, value: u64) {
        let data = Bytes::from_slice(&value.to_le_bytes()[..size]);
        self.access(Access::Write { target, data });
    }

    /// Reads up to 8 bytes of configuration space.
    pub fn config_read(&mut self, offset: u32, size: usize) -> u64 {
        self.read_at(Target::Config(offset), size)
    }

    /// Writes up to 8 bytes of configuration space.
    pub fn config_write(&mut self, offset: u32, size: usize, value: u64) {
        self.write_at(Target::Config(offset), size, value);
    }

    /// Reads up to 8 bytes of guest-physical memory, trapped.
    pub fn read(&mut self, address: u64, size: usize) -> u64 {
        self.read_at(Target::Memory(GuestAddr::new(address)), size)
    }

    /// Writes up to 8 bytes of guest-physical memory, trapped.
    pub fn write(&mut self, address: u64, size: usize, value: u64) {
        self.write_at(Target::Memory(GuestAddr::new(address)), size, value);
    }

    /// Reads from I/O ports.
    pub fn port_read(&mut self, port: u64, size: usize) -> u64 {
        self.read_at(Target::Port(GuestPort::new(port)), size)
    }

    /// Writes to I/O ports.
    pub fn port_write(&mut self, port: u64, size: usize, value: u64) {
        self.write_at(Target::Port(GuestPort::new(port)), size, value);
    }

    /// Where an access of a vCPU's goes that no window takes.
    pub fn decode(&self, address: u64, size: u64) -> Decoded {
        self.function.decoder().memory(GuestAddr::new(address), size)
    }

    /// The guest address of byte `at` of a vector's table entry.
    pub fn entry(&self, index: u16, at: u64) -> u64 {
        let table = self.function.msix().expect("MSI-X").layout().table;
        BASE + table.span.first().get() + 16 * u64::from(index) + at
    }

    /// The guest address of the Pending Bit Array's qword that has this vector.
    pub fn pba(&self, index: u16) -> u64 {
        let pba = self.function.msix().expect("MSI-X").layout().pba;
        BASE + pba.span.first().get() + u64::from(index / 64) * 8
    }

    /// Whether the guest reads this vector as pending.
    pub fn is_pending(&mut self, index: u16) -> bool {
        let address = self.pba(index);
        self.read(address, 8) >> (index % 64) & 1 != 0
    }

    /// The embedder settles the function.
    pub fn settle(&mut self) {
        self.function.settle(&mut self.host);
    }

    /// Gives a vector its [`message`], masked or not as it is.
    pub fn program(&mut self, index: u16) {
        let Message { address, data } = message(index);
        self.write(self.entry(index, 0), 4, address);
        self.write(self.entry(index, 4), 4, 0);
        self.write(self.entry(index, 8), 4, u64::from(data));
    }

    /// Sets a vector's Mask Bit.
    pub fn mask(&mut self, index: u16) {
        self.write(self.entry(index, 12), 4, 1);
    }

    /// Clears a vector's Mask Bit.
    pub fn unmask(&mut self, index: u16) {
        self.write(self.entry(index, 12), 4, 0);
    }

    /// Writes Message Control of a function shaped like [`Shape::nvme`].
    pub fn msix_control(&mut self, enable: bool, function_mask: bool) {
        let value = u64::from(enable) << 15 | u64::from(function_mask) << 14;
        self.config_write(Self::MSIX_CONTROL, 2, value);
    }

    /// MSI-X Enable and Function Mask as the guest reads them.
    pub fn msix_bits(&mut self) -> (bool, bool) {
        let control = self.config_read(Self::MSIX_CONTROL, 2);
        (control & 0x8000 != 0, control & 0x4000 != 0)
    }

    /// Turns MSI-X on and unmasks the vectors below `count`, each programmed, all at once; no call on record.
    pub fn start_interrupts(&mut self, count: u16) {
        self.msix_control(true, true);
        for index in 0..count {
            self.program(index);
            self.unmask(index);
        }
        self.msix_control(true, false);
        self.host.take_steps();
    }

    /// Writes address and data of a wide MSI at [`Rig::MSI`]; `data` has room for the vector's number.
    pub fn program_msi(&mut self, data: u16) {
        self.config_write(Self::MSI + 4, 4, MESSAGE);
        self.config_write(Self::MSI + 8, 4, 0);
        self.config_write(Self::MSI + 12, 2, u64::from(data));
    }

    /// Writes Message Control of MSI: on or off, with 2 to the power of `enabled` vectors.
    pub fn msi_control(&mut self, enable: bool, enabled: u16) {
        self.config_write(Self::MSI + 2, 2, u64::from(enable) | u64::from(enabled) << 4);
    }

    /// MSI Enable and Multiple Message Enable as the guest reads them.
    pub fn msi_bits(&mut self) -> (bool, u64) {
        let control = self.config_read(Self::MSI + 2, 2);
        (control & 1 != 0, control >> 4 & 7)
    }

    /// The guest ends the interrupt of its line; the embedder tells the function of it where it must.
    pub fn end_interrupt(&mut self) {
        if self.host.end_interrupt() {
            self.function.handle_intx_eoi();
            self.settle();
        }
    }

    /// The calls since the last time, by kind.
    pub fn kinds(&mut self) -> Vec<CallKind> {
        self.host.take_steps().into_iter().map(CallKind::of).collect()
    }

    /// The calls since the last time.
    pub fn steps(&mut self) -> Vec<Step> {
        self.host.take_steps()
    }

    /// The vectors delivered since the last time.
    pub fn delivered(&mut self) -> Vec<u16> {
        self.host.take_delivered().into_iter().map(|(vector, _)| vector.get()).collect()
    }

    /// What a BAR decodes, as the first and last guest address; `None` also if it decodes ports.
    pub fn decoded(&self, bar: BarIndex) -> Option<(u64, u64)> {
        match self.function.decoder().range(bar)? {
            GuestRange::Memory(span) => Some(ends(span)),
            GuestRange::Ports(_) => None,
        }
    }

    /// The windows that the guest sees: BAR, first and last guest address, sorted.
    pub fn windows(&self) -> Vec<(u8, u64, u64)> {
        let mut windows: Vec<_> = self
            .host
            .windows()
            .iter()
            .map(|window| {
                let (first, last) = ends(window.guest);
                (window.bar.get(), first, last)
            })
            .collect();
        windows.sort_unstable();
        windows
    }
}

fn ends(span: Span<GuestAddr>) -> (u64, u64) {
    (span.first().get(), span.last().get())
}

/// The little-endian value of at most 8 bytes.
fn value(bytes: Bytes) -> u64 {
    let mut value = [0; 8];
    for (to, from) in value.iter_mut().zip(bytes.as_slice()) {
        *to = *from;
    }
    u64::from_le_bytes(value)
}

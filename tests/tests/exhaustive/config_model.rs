//! What each byte of configuration space is to a guest, byte by byte: who answers for its bits, which of them change,
//! and whether a write goes to hardware. Made from a device's bytes without the core.

/// One byte of configuration space.
#[derive(Clone, Copy, Debug)]
struct Byte {
    /// Bits that are not hardware's.
    own: u8,
    /// What they are, and what they are after a reset.
    value: u8,
    reset: u8,
    /// Those of them that a guest changes.
    writable: u8,
    /// Writes reach hardware.
    forwarded: bool,
}

impl Byte {
    const HARDWARE: Self = Self { own: 0, value: 0, reset: 0, writable: 0, forwarded: true };

    const fn own(value: u8, writable: u8) -> Self {
        Self { own: 0xff, value, reset: value, writable, forwarded: false }
    }
}

/// A write that reaches hardware: where, and what.
pub(crate) type Sent = (usize, u8);

/// Configuration space as a guest sees it.
#[derive(Clone, Debug)]
pub(crate) struct ConfigModel {
    bytes: Vec<Byte>,
    /// Bits that begin a function-level reset.
    resets: Vec<(usize, u8)>,
    /// The byte of PMCSR with the power state, the states that there are, and whether waking from D3hot resets.
    power: Option<(usize, [bool; 4], bool)>,
    state: u8,
    /// Multiple Message Enable, and the most that it can be.
    multiple: Option<(usize, u8)>,
    standard: Vec<(u8, usize)>,
}

/// PCI Local Bus 3.0, Appendix H, and PCI Express Base 5.0, 7.6.3: what is hidden, and how many bytes it has.
const HIDDEN: [(u16, usize); 7] =
    [(0x0e, 8), (0x0f, 8), (0x10, 64), (0x13, 16), (0x15, 12), (0x1b, 8), (0x24, 12)];

impl ConfigModel {
    /// A device with these bytes and these BAR sizes, after power-on.
    pub(crate) fn new(config: &[u8], sizes: [u64; 7]) -> Self {
        let mut model = Self {
            bytes: vec![Byte::HARDWARE; config.len()],
            resets: Vec::new(),
            power: None,
            state: 0,
            multiple: None,
            standard: standard(config),
        };
        model.header(config, sizes);
        for (id, at) in model.capabilities() {
            match id {
                0x01 => {
                    let supported = [true, config[at + 3] & 2 != 0, config[at + 3] & 4 != 0, true];
                    model.power = Some((at + 4, supported, config[at + 4] & 8 == 0));
                }
                0x05 => model.msi(at, config[at + 2], config[at + 3]),
                0x10 => model.express(at, config),
                0x11 => model.msix(at, config),
                // Both of Transactions Pending and Function Level Reset.
                0x13 if config[at + 3] & 3 == 3 => model.resets.push((at + 4, 1)),
                _ => {}
            }
        }
        for (id, at) in extended(config) {
            if let Some((_, size)) = HIDDEN.iter().find(|(hidden, _)| *hidden == id) {
                // Id and version are none, the link is hardware's, the rest is zero.
                model.bytes[at..at + size].fill(Byte::own(0, 0));
                model.bytes[at + 2].own = 0x0f;
                model.bytes[at + 3].own = 0;
            }
        }
        model
    }

    /// F4: Command and BARs; F6: a function alone.
    fn header(&mut self, config: &[u8], sizes: [u64; 7]) {
        for (at, tracked) in [(4, 0x07), (5, 0x04)] {
            self.bytes[at] = Byte { own: tracked, writable: tracked, ..Byte::HARDWARE };
        }
        self.bytes[0x0e].own = 0x80;
        self.own(0x10, &[0; 24], &[0; 24]);
        self.own(0x30, &[0; 4], &[0; 4]);
        for (bar, size) in sizes.into_iter().enumerate().filter(|(_, size)| *size != 0) {
            let at = if bar == 6 { 0x30 } else { 0x10 + 4 * bar };
            let register = config[at];
            let mask = !(size - 1);
            match bar {
                6 => self.own(at, &[0; 4], &(mask as u32 & 0xffff_f800 | 1).to_le_bytes()),
                _ if register & 1 != 0 => self.own(at, &[1, 0, 0, 0], &(mask as u32).to_le_bytes()),
                _ if register & 6 == 4 => {
                    let flags = register & 0xf;
                    self.own(at, &[flags, 0, 0, 0, 0, 0, 0, 0], &mask.to_le_bytes());
                }
                _ => self.own(at, &[register & 0xf, 0, 0, 0], &(mask as u32).to_le_bytes()),
            }
        }
    }

    fn own(&mut self, at: usize, values: &[u8], writable: &[u8]) {
        for (byte, (value, writable)) in self.bytes[at..].iter_mut().zip(values.iter().zip(writable)) {
            *byte = Byte::own(*value, *writable);
        }
    }

    /// F5: the first two bytes are hardware's. None of its bytes is written in hardware.
    fn msi(&mut self, at: usize, low: u8, high: u8) {
        let (wide, maskable) = (low & 0x80 != 0, high & 1 != 0);
        self.bytes[at].forwarded = false;
        self.bytes[at + 1].forwarded = false;
        self.own(at + 2, &[low & 0x8e, high & 1], &[0x71, 0]);
        self.multiple = Some((at + 2, low >> 1 & 7));
        let mut next = at + 4;
        let mut registers = vec![[0xfc, 0xff, 0xff, 0xff]];
        if wide {
            registers.push([0xff; 4]);
        }
        registers.push([0xff, 0xff, 0, 0]);
        if maskable {
            // A bit for each vector that there is.
            let vectors = u32::MAX >> (32 - (1 << (low >> 1 & 7)));
            registers.extend([vectors.to_le_bytes(), [0; 4]]);
        }
        for writable in registers {
            self.own(next, &[0; 4], &writable);
            next += 4;
        }
    }

    /// F5: Message Control is virtual but for the size of the table; table and Pending Bit Array are where the device has
    /// them, in none of these devices anywhere else.
    fn msix(&mut self, at: usize, config: &[u8]) {
        self.bytes[at].forwarded = false;
        self.bytes[at + 1].forwarded = false;
        self.own(at + 2, &[config[at + 2], config[at + 3] & 7], &[0, 0xc0]);
        self.own(at + 4, &config[at + 4..at + 12], &[0; 8]);
    }

    /// X2: on a root bus the function is a Root Complex Integrated Endpoint, and has no link.
    fn express(&mut self, at: usize, config: &[u8]) {
        let port_type = match config[at + 2] & 0xf0 {
            0x00 | 0x10 => 0x90,
            other => other,
        };
        let byte = &mut self.bytes[at + 2];
        (byte.own, byte.value, byte.reset) = (0xf0, port_type, port_type);
        if config[at + 2] & 0xf >= 2 {
            for register in [0x0c, 0x10, 0x2c, 0x30] {
                self.own(at + register, &[0; 4], &[0; 4]);
            }
        }
        if config[at + 7] & 0x10 != 0 {
            self.resets.push((at + 9, 0x80));
        }
    }

    /// What a guest reads at `at`, where hardware would answer `hardware`.
    pub(crate) fn read(&self, at: usize, hardware: impl Fn(usize) -> u8) -> u8 {
        match self.bytes.get(at) {
            Some(byte) => (byte.value & byte.own) | (hardware(at) & !byte.own),
            None => 0xff,
        }
    }

    /// Whether a read of `at` needs hardware.
    pub(crate) fn asks_hardware(&self, at: usize) -> bool {
        self.bytes.get(at).is_some_and(|byte| byte.own != 0xff)
    }

    /// The runs of dwords with bits that are not hardware's: where, and how many bytes, at most 64.
    pub(crate) fn own_runs(&self) -> Vec<(usize, usize)> {
        let mut runs: Vec<(usize, usize)> = Vec::new();
        for (at, dword) in (0..).step_by(4).zip(self.bytes.chunks(4)) {
            if dword.iter().all(|byte| byte.own == 0) {
                continue;
            }
            match runs.last_mut() {
                Some((first, size)) if *first + *size == at && *size < 64 => *size += 4,
                _ => runs.push((at, 4)),
            }
        }
        runs
    }

    /// The standard capabilities: ids and places.
    pub(crate) fn capabilities(&self) -> Vec<(u8, usize)> {
        self.standard.clone()
    }

    /// How many bytes there are.
    pub(crate) fn len(&self) -> usize {
        self.bytes.len()
    }

    /// The guest writes these bytes from `offset` on; what hardware is to hear, in order.
    pub(crate) fn write(&mut self, offset: usize, data: &[u8]) -> Vec<Sent> {
        let mut sent = Vec::new();
        let mut resets = false;
        for (index, value) in data.iter().copied().enumerate() {
            let at = offset + index;
            if let Some(byte) = self.bytes.get_mut(at) {
                byte.value = (byte.value & !byte.writable) | (value & byte.writable);
                if byte.forwarded {
                    sent.push((at, value));
                }
                self.limit(at);
                resets |= self.resets.iter().any(|(place, bit)| *place == at && value & bit != 0);
                resets |= self.changes_power(at, value);
            }
            // What a dword's bytes do they do together.
            if resets && (at % 4 == 3 || index + 1 == data.len()) {
                resets = false;
                self.reset(&mut sent);
            }
        }
        sent
    }

    /// I1: no more messages than the device is capable of.
    fn limit(&mut self, at: usize) {
        if let Some((_, most)) = self.multiple.filter(|(place, _)| *place == at) {
            let byte = &mut self.bytes[at];
            byte.value = (byte.value & !0x70) | ((byte.value >> 4 & 7).min(most) << 4);
        }
    }

    /// F7: the power state is tracked; whether this wakes the function as a reset does.
    fn changes_power(&mut self, at: usize, value: u8) -> bool {
        let Some((_, supported, resets)) = self.power.filter(|(place, ..)| *place == at) else {
            return false;
        };
        let (old, new) = (self.state, value & 3);
        if supported[usize::from(new)] && (new == 0 || new > old) {
            self.state = new;
        }
        old == 3 && new == 0 && resets
    }

    /// P2: registers as after power-on, hardware awake, and its Command as the guest's.
    fn reset(&mut self, sent: &mut Vec<Sent>) {
        if let Some((at, ..)) = self.power.filter(|_| self.state != 0) {
            sent.push((at, 0));
            self.state = 0;
        }
        sent.extend([(4, 0), (5, 0)]);
        self.bytes.iter_mut().for_each(|byte| byte.value = byte.reset);
    }
}

/// The standard capabilities: ids and places.
fn standard(config: &[u8]) -> Vec<(u8, usize)> {
    let mut found = Vec::new();
    let mut at = if config[6] & 0x10 == 0 { 0 } else { usize::from(config[0x34]) & !3 };
    while at != 0 {
        found.push((config[at], at));
        at = usize::from(config[at + 1]) & !3;
    }
    found
}

/// The extended capabilities: ids and places.
fn extended(config: &[u8]) -> Vec<(u16, usize)> {
    let mut found = Vec::new();
    let mut at = 0x100;
    while let Some(header) = config.get(at..at + 4).filter(|header| **header != [0; 4]) {
        found.push((u16::from_le_bytes([header[0], header[1]]), at));
        at = usize::from(u16::from_le_bytes([header[2], header[3]]) >> 4);
        if at == 0 {
            break;
        }
    }
    found
}

//! A naive model of MSI-X: a bool for each thing that a vector can be.

/// One vector.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
struct Entry {
    masked: bool,
    pending: bool,
    delivered: u32,
}

/// MSI-X as the specification tells it, for a device that loses nothing.
#[derive(Clone, PartialEq, Eq, Debug)]
pub struct MsixModel {
    enable: bool,
    function_mask: bool,
    entries: Vec<Entry>,
}

impl MsixModel {
    /// After reset.
    pub fn new(vectors: u16) -> Self {
        let entry = Entry { masked: true, pending: false, delivered: 0 };
        Self { enable: false, function_mask: false, entries: vec![entry; usize::from(vectors)] }
    }

    /// The guest writes Message Control.
    pub fn control(&mut self, enable: bool, function_mask: bool) {
        (self.enable, self.function_mask) = (enable, function_mask);
        self.drain();
    }

    /// The guest writes a vector's Mask Bit.
    pub fn mask(&mut self, vector: u16, masked: bool) {
        self.entries[usize::from(vector)].masked = masked;
        self.drain();
    }

    /// The device signals. While MSI-X is off it has nowhere to.
    pub fn raise(&mut self, vector: u16) {
        if self.enable {
            self.entries[usize::from(vector)].pending = true;
            self.drain();
        }
    }

    /// Whether the Pending Bit Array says so.
    pub fn is_pending(&self, vector: u16) -> bool {
        self.entries[usize::from(vector)].pending
    }

    /// Whether MSI-X Enable is set.
    pub fn is_enabled(&self) -> bool {
        self.enable
    }

    /// How often each vector has reached the guest.
    pub fn delivered(&self) -> Vec<u32> {
        self.entries.iter().map(|entry| entry.delivered).collect()
    }

    fn drain(&mut self) {
        let able = self.enable && !self.function_mask;
        for entry in self.entries.iter_mut().filter(|entry| able && !entry.masked && entry.pending) {
            entry.pending = false;
            entry.delivered += 1;
        }
    }
}

//! Orders to a guest: a function of `guest-devices.sh` by its name, and what the guest said until it was done.

use crate::guest::Mark;
use crate::l1::L1;
use crate::monitor::{Life, LifeError};

/// What became of an order.
pub(crate) struct Done {
    /// All that the guest said of it.
    pub(crate) marks: Vec<Mark>,
    /// What went wrong, in the guest's words.
    pub(crate) faults: Vec<String>,
}

/// A guest that takes orders.
pub(crate) struct Servant {
    /// Its life.
    pub(crate) life: Life,
    orders: u32,
    /// How much the guest had said when it got its last order.
    said: usize,
}

impl Servant {
    /// Waits until the guest is ready for orders.
    pub(crate) fn new(mut life: Life, l1: &mut L1) -> Result<Self, LifeError> {
        life.until(l1, "ready")?;
        Ok(Self { life, orders: 0, said: 0 })
    }

    /// The same guest, with whose run another process goes on that has just been started.
    pub(crate) fn go_on_as(self, next: Life) -> Self {
        Self { life: self.life.go_on_as(next), ..self }
    }

    /// Gives an order and waits until it is carried out.
    pub(crate) fn order(&mut self, l1: &mut L1, order: &str) -> Result<Done, LifeError> {
        self.begin(l1, order)?;
        self.finish(l1)
    }

    /// Gives an order.
    pub(crate) fn begin(&mut self, l1: &mut L1, order: &str) -> Result<(), LifeError> {
        self.orders += 1;
        self.said = self.life.marks.len();
        self.life.type_line(l1, &format!("{} {order}", self.orders))
    }

    /// Waits until the last order is carried out.
    pub(crate) fn finish(&mut self, l1: &mut L1) -> Result<Done, LifeError> {
        let wanted = self.orders.to_string();
        // A guest that comes up again has lost its order.
        while self.life.until_unless(l1, "done", Some("up"))?.value("number") != Some(&wanted) {}
        let marks = self.life.marks[self.said..].to_vec();
        let faults = marks.iter().filter(|mark| mark.word == "fault").map(|mark| mark.rest.clone());
        Ok(Done { faults: faults.collect(), marks })
    }
}

impl Done {
    /// What the guest said under this word.
    pub(crate) fn said(&self, word: &str) -> Option<&Mark> {
        self.marks.iter().find(|mark| mark.word == word)
    }

    /// `key=value` of what it said under this word; empty where it did not.
    pub(crate) fn value(&self, word: &str, key: &str) -> &str {
        self.said(word).and_then(|mark| mark.value(key)).unwrap_or_default()
    }
}

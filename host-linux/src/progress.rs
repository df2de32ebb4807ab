//! How far a long mapping is, for whoever wants to show it.

use crate::dma::GuestRegion;
use std::fmt;
use std::sync::{Mutex, PoisonError};

/// Whoever wants to know how far memory is mapped: hundreds of GiB take minutes.
pub trait MappingObserver: Send + Sync + fmt::Debug {
    /// The mapping has come so far. Calls come from several threads, one at a time, and hold the mapping up.
    fn mapping(&self, progress: MappingProgress);
}

/// How far the mapping of some memory into one address space is.
#[derive(Clone, Copy, PartialEq, Eq, Debug, Default)]
#[non_exhaustive]
pub struct MappingProgress {
    /// Bytes for which the kernel has found pages, which takes most of the time.
    pub found: u64,
    /// Bytes that devices reach.
    pub mapped: u64,
    /// Bytes there are to map.
    pub total: u64,
}

/// A mapping under way.
#[derive(Debug)]
pub(crate) struct Progress<'a> {
    observer: Option<&'a dyn MappingObserver>,
    now: Mutex<MappingProgress>,
}

impl<'a> Progress<'a> {
    /// A mapping that starts.
    pub(crate) fn new(observer: Option<&'a dyn MappingObserver>, regions: &[GuestRegion]) -> Self {
        let total = regions.iter().map(|region| region.guest.size()).sum();
        Self { observer, now: Mutex::new(MappingProgress { total, ..MappingProgress::default() }) }
    }

    /// A mapping for which there are pages.
    pub(crate) fn with_pages(observer: Option<&'a dyn MappingObserver>, regions: &[GuestRegion]) -> Self {
        let mut progress = Self::new(observer, regions);
        let now = progress.now.get_mut().unwrap_or_else(PoisonError::into_inner);
        now.found = now.total;
        progress
    }

    /// There are pages for so many more bytes.
    pub(crate) fn found(&self, bytes: u64) {
        self.advance(|now| now.found += bytes);
    }

    /// So many more bytes are mapped.
    pub(crate) fn mapped(&self, bytes: u64) {
        self.advance(|now| now.mapped += bytes);
    }

    fn advance(&self, step: impl FnOnce(&mut MappingProgress)) {
        let Some(observer) = self.observer else {
            return;
        };
        let mut now = self.now.lock().unwrap_or_else(PoisonError::into_inner);
        step(&mut now);
        // Under the lock, so that what is told only grows.
        observer.mapping(*now);
    }
}

//! The function that a person names, or those that may have been meant.

use vfio_assign_core::Bdf;

use super::{HostFiles, PciFunction, functions};
use crate::help::{Help, Problem};

/// There is no such function.
#[derive(Debug, thiserror::Error)]
#[error("there is no PCI function {bdf} on this host{}", Meant(.similar))]
pub(crate) struct NoFunction {
    bdf: Bdf,
    similar: Vec<(Bdf, String)>,
}

struct Meant<'a>(&'a [(Bdf, String)]);

impl std::fmt::Display for Meant<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        for (place, (bdf, name)) in self.0.iter().enumerate() {
            write!(f, "{}{bdf} ({name})", if place == 0 { "; did you mean " } else { ", or " })?;
        }
        Ok(())
    }
}

impl Help for NoFunction {
    fn help(&self) -> Option<String> {
        Some("`vfio-assign list` shows those there are".into())
    }
}

/// The function at an address.
pub(crate) fn named(host: &HostFiles, bdf: Bdf) -> Result<PciFunction, Problem> {
    if host.has(&super::folder(bdf)) {
        return PciFunction::read(host, bdf);
    }
    let text = bdf.to_string();
    let mut similar: Vec<(usize, PciFunction)> = Vec::new();
    for function in functions(host)? {
        let other = function.bdf.to_string();
        let different = other.bytes().zip(text.bytes()).filter(|(one, other)| one != other).count();
        // Two digits can be swapped, or the wrong function or bus named.
        if different <= 2 && other.len() == text.len() {
            similar.push((different, function));
        }
    }
    similar.sort_by_key(|(different, function)| (function.is_bridge(), *different, function.bdf));
    let similar = similar.into_iter().take(2).map(|(_, function)| (function.bdf, function.name()));
    Err(NoFunction { bdf, similar: similar.collect() }.into())
}

//! How many host calls one operation can cost at most.

/// What `docs/THREAT_MODEL.md` promises.
pub const BOUND: &str = "5 × vectors + 34 × windows + 600";

/// The most host calls of one access, and of one command of the embedder's, for a function with so many MSI-X vectors and
/// so many windows: a vector is disarmed, wired, routed, signalled and armed once each; an access has at most 17 dwords,
/// and each of them can take every window away and put it back.
pub fn most_host_calls(vectors: usize, windows: usize) -> usize {
    5 * vectors + 34 * windows + 600
}

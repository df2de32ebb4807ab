//! What is measured: each case once, whoever measures it.
//!
//! The host answers at once and does nothing, so that what is measured is the core alone.

mod accesses;
mod host;
mod interrupts;
mod peers;
mod setup;

/// Somebody who measures: time, or instructions.
pub(crate) trait Measure {
    /// One case: `run` on what `prepare` has made, which does not count.
    fn case<S, R>(
        &mut self,
        group: &str,
        name: &str,
        prepare: impl FnMut() -> S,
        run: impl FnMut(&mut S) -> R,
    );

    /// One case that can be run again as it stands.
    fn repeat<R>(&mut self, group: &str, name: &str, run: impl FnMut() -> R);
}

/// Has every case measured.
pub(crate) fn measure(by: &mut impl Measure) {
    accesses::measure(by);
    interrupts::measure(by);
    setup::measure(by);
}

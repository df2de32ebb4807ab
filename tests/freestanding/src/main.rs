//! Calls every public function of the core with values that the optimiser cannot see.
//!
//! Built so that a panic aborts, it is a program without an operating system, and its panic handler calls a
//! function that nobody defines: it links only if no panic is left after optimisation. Built otherwise it is an
//! ordinary program, for the linters.
#![cfg_attr(panic = "abort", no_std, no_main)]

#[cfg(panic = "abort")]
mod bare;
mod functions;
mod host;

#[cfg(not(panic = "abort"))]
fn main() {
    functions::all();
}

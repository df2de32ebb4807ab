//! One test for each requirement of the behaviour that the core covers, named for its id.

mod access;
mod bars;
mod bound;
mod cases;
mod config;
mod every_failure;
mod explain;
mod failures;
mod intx;
mod mode;
mod msi;
mod msix;
mod operation;
mod options;
mod power;
mod restored;
mod saved;
mod stop;
mod texts;
mod vectors;
mod windows;

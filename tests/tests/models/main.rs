//! The machines against naive models and oracles, on operations that proptest makes up and shrinks.

mod bound;
mod kinds;
mod msix;
mod saved;
mod whole;

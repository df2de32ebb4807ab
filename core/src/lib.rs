//! What a guest sees of an assigned PCI function.
#![no_std]

//! The command as a person and a program call it, on hosts that are folders of files.

mod bad_input;
mod bind;
mod doctor;
mod explain;
mod golden;
mod inspect;
mod list;
mod readme;
mod replay;
mod run;
mod schema;
mod tree;

//! Wrong input: each is an error that names it and says what would be right, and none is a panic.

use std::fs::OpenOptions;

use crate::run::{call, command};
use crate::tree::Tree;

#[test]
fn an_id_that_is_none_says_what_one_looks_like() {
    let called = call(Tree::good().root(), 80, "list --id 8086");
    assert_eq!(called.status, Some(2));
    assert!(called.errors.contains("8086:10d3"), "{}", called.errors);
}

#[test]
fn a_command_that_is_almost_one_is_guessed() {
    let called = call(Tree::good().root(), 80, "lst");
    assert_eq!(called.status, Some(2));
    assert!(called.errors.contains("'list'"), "{}", called.errors);
}

#[test]
fn an_error_that_nobody_can_be_told_is_an_error_all_the_same() {
    let full = OpenOptions::new().write(true).open("/dev/full").unwrap();
    let status = command(Tree::good().root()).args(["doctor", "09:00.0"]).stderr(full).status().unwrap();
    assert_eq!(status.code(), Some(1));
}

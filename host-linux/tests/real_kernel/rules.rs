//! The rules that the scripted kernel keeps, as the real one has them.

#[path = "../rules/table.rs"]
mod table;

use crate::rig::{Rig, figure, open};

#[test]
fn the_real_kernel_answers_as_the_table_says() {
    let Some(rig) = Rig::get() else { return };
    let (wrong, requests) = table::run(&|| open(rig.nvme));
    figure("rules_requests", requests);
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

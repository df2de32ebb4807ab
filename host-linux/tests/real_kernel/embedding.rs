//! The example of `docs/EMBEDDING.md`, run: its guest asks the device who it is.

#[path = "../../examples/embed.rs"]
#[expect(dead_code, reason = "what the example does with its command line")]
mod embed;

use crate::rig::{Rig, open};

#[test]
fn the_guest_of_the_example_finds_the_device() {
    let Some(rig) = Rig::get() else { return };
    let device = open(rig.nvme).read_config().expect("configuration space");
    let found = embed::embed(rig.nvme).expect("the example");
    assert_eq!(found, device[..4]);
}

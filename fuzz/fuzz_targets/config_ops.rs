//! Configuration space of any device: an access of any length is made of its bytes, registers keep to their masks,
//! and what is hidden stays so.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfio_assign_core::BarIndex;
use vfio_assign_core::fake::CallKind;
use vfio_assign_tests::{Choices, Op, Rig, World};

fuzz_target!(|bytes: &[u8]| {
    let mut choices = Choices::new(bytes);
    let Some(mut world) = choices.setup().and_then(World::new) else {
        return;
    };
    for op in choices.take(200) {
        match op {
            Op::ConfigRead { offset, size } => is_made_of_its_bytes(&mut world.rig, offset, size),
            Op::ConfigWrite { .. } => {
                world.apply(op);
                bars_keep_to_their_masks(&mut world.rig);
            }
            _ => {}
        }
    }
});

fn is_made_of_its_bytes(rig: &mut Rig, offset: u32, size: u8) {
    let size = usize::from(size.min(8));
    let whole = rig.config_read(offset, size).to_le_bytes();
    for (at, byte) in whole.into_iter().take(size).enumerate() {
        let single = u32::try_from(at).ok().and_then(|at| offset.checked_add(at));
        let single = single.map_or(0xff, |offset| rig.config_read(offset, 1));
        assert_eq!(u64::from(byte), single, "byte {at} of {size} at {offset:#x}");
    }
}

/// BARs read what their size allows, without a call to hardware.
fn bars_keep_to_their_masks(rig: &mut Rig) {
    rig.steps();
    for (offset, bar) in (0x10..0x28).step_by(4).zip(BarIndex::BARS) {
        let value = rig.config_read(offset, 4);
        match rig.function.bars().get(bar).map(|found| found.size) {
            Some(size) => assert_eq!(value & !0xf & (size - 1), 0, "{bar} reads {value:#x}"),
            None if bar == BarIndex::BARS[0] => assert_eq!(value, 0, "{bar} is absent"),
            None => {}
        }
    }
    assert_eq!(rig.host.count(CallKind::ReadConfig), 0, "a BAR was read from hardware");
}

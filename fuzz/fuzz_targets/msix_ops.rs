//! MSI-X delivery on a kernel that adds vectors, against the naive model: each interrupt once, when it may.
#![no_main]

use libfuzzer_sys::fuzz_target;
use vfio_assign_core::fake::Shape;
use vfio_assign_tests::{MsixModel, Rig, vector};

const VECTORS: u16 = 4;

fuzz_target!(|bytes: &[u8]| {
    let mut rig = Rig::started(&Shape::nvme(VECTORS));
    let mut model = MsixModel::new(VECTORS);
    (0..VECTORS).for_each(|index| rig.program(index));
    for byte in bytes.iter().take(512) {
        let index = u16::from(byte & 3);
        let (one, two) = (byte & 4 != 0, byte & 8 != 0);
        match byte >> 4 {
            0..=1 => {
                rig.msix_control(one, two);
                model.control(one, two);
            }
            2..=8 => {
                rig.host.raise(vector(index));
                model.raise(index);
            }
            _ if one => {
                rig.mask(index);
                model.mask(index, true);
            }
            _ => {
                rig.unmask(index);
                model.mask(index, false);
            }
        }
        let mut delivered = [0; VECTORS as usize];
        for (vector, _) in rig.host.delivered() {
            delivered[vector.position()] += 1;
        }
        assert_eq!(delivered[..], model.delivered()[..], "delivered");
        if model.is_enabled() {
            let pending = |rig: &mut Rig| (0..VECTORS).map(|index| rig.is_pending(index)).collect::<Vec<_>>();
            let expected: Vec<_> = (0..VECTORS).map(|index| model.is_pending(index)).collect();
            assert_eq!(pending(&mut rig), expected, "pending");
        }
    }
});

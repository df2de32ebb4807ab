//! What VFIO answers to two VMs that want devices of one group, as a table; run like the other.

use vfio_assign_core::Bdf;
use vfio_assign_linux::{Backend, CdevError, Errno, GroupError, OpenError, Vm};

/// A request: which VM, and which device of the group.
#[derive(Clone, Copy, Debug)]
enum Do {
    Open(usize, usize),
    Close(usize, usize),
}

/// What the kernel says to it.
#[derive(Clone, Copy, Debug)]
enum Says {
    Done,
    /// `EBUSY` where devices are opened by their group, and `EPERM` by their own files.
    GroupTaken,
}

use Do::{Close, Open};
use Says::{Done, GroupTaken};

const SCRIPT: &[(Do, Says)] = &[
    (Open(0, 0), Done),
    (Open(1, 1), GroupTaken),
    (Open(0, 1), Done),
    (Close(0, 0), Done),
    (Open(1, 0), GroupTaken),
    (Close(0, 1), Done),
    (Open(1, 0), Done),
    (Open(0, 1), GroupTaken),
];

/// Runs the script with two VMs and two devices of a group; where it went otherwise.
pub(crate) fn run(backend: Backend, vms: &[Vm; 2], group: [Bdf; 2]) -> Vec<String> {
    let mut open = [const { [const { None }; 2] }; 2];
    let mut wrong = Vec::new();
    for (place, (request, says)) in SCRIPT.iter().enumerate() {
        let said = match *request {
            Open(vm, device) => vms[vm].open(group[device]).map(|opened| open[vm][device] = Some(opened)),
            Close(vm, device) => {
                open[vm][device] = None;
                Ok(())
            }
        };
        let said = match said {
            Ok(()) => None,
            Err(OpenError::Group(GroupError::InUse { .. })) => Some(Errno::EBUSY),
            Err(OpenError::Cdev(CdevError::Bind { errno, .. })) => Some(errno),
            Err(error) => panic!("{error}"),
        };
        let expected = match (says, backend) {
            (Done, _) => None,
            (GroupTaken, Backend::Group) => Some(Errno::EBUSY),
            (GroupTaken, Backend::Cdev) => Some(Errno::EPERM),
        };
        if said != expected {
            wrong.push(format!("request {place}, {request:?}: {said:?}, and not {expected:?}"));
        }
    }
    wrong
}

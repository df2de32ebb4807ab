//! Moving functions between drivers: all of them, or none.

use vfio_assign_core::Bdf;
use vfio_assign_linux::{Errno, SysfsError};

use super::drivers::Drivers;
use super::plan::{Binding, Move, Target, VFIO};
use crate::help::Help;

/// A function is not where it should be.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(crate) enum NotMoved {
    /// The kernel refused a step.
    #[error("{bdf}: {source}{}", Undone(.not_undone))]
    Refused { bdf: Bdf, source: SysfsError, not_undone: Vec<String> },
    /// The driver did not take it.
    #[error(
        "{bdf} was not taken by {wanted}: it is with {}{}",
        .found.as_deref().unwrap_or("no driver"), Undone(.not_undone)
    )]
    NotTaken { bdf: Bdf, wanted: String, found: Option<String>, not_undone: Vec<String> },
    /// VFIO took it again.
    #[error("{bdf} was given back, and {VFIO} took it again{}", Undone(.not_undone))]
    TakenAgain { bdf: Bdf, not_undone: Vec<String> },
}

/// What became of the rest.
struct Undone<'a>(&'a [String]);

impl std::fmt::Display for Undone<'_> {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        if self.0.is_empty() {
            f.write_str("; everything is as it was")
        } else {
            write!(f, "; this could not be undone: {}", self.0.join("; "))
        }
    }
}

impl Help for NotMoved {
    fn help(&self) -> Option<String> {
        match self {
            Self::Refused {
                source: SysfsError::Write { errno: Errno::EACCES | Errno::EPERM, .. }, ..
            } => Some("be root for this".into()),
            Self::NotTaken { bdf, .. } => Some(format!("`dmesg | grep {bdf}` may say why")),
            Self::TakenAgain { .. } => Some(
                "`vfio-pci.ids=` on the kernel's command line or `options vfio-pci ids=` in /etc/modprobe.d gives it \
                 to VFIO: take it out, and restart"
                    .into(),
            ),
            Self::Refused { .. } => None,
        }
    }
}

/// What became of moves.
pub(super) struct CarriedOut {
    /// Who drives each function now.
    pub(super) result: Result<Vec<Option<String>>, NotMoved>,
    /// Those that are as they were before.
    pub(super) undone: Vec<Bdf>,
}

/// Carries moves out, in order. Where one fails, all are undone, the last first.
pub(super) fn carry_out(drivers: &impl Drivers, moves: &[Move]) -> CarriedOut {
    let mut found = Vec::new();
    for (done, one) in moves.iter().enumerate() {
        let mut error = match carry_one_out(drivers, one.bdf, &one.to) {
            Ok(driver) => {
                found.push(driver);
                continue;
            }
            Err(error) => error,
        };
        let mut undone = Vec::new();
        let mut not_undone = Vec::new();
        // The one that failed may have gone half the way.
        for one in moves[..=done].iter().rev() {
            match carry_one_out(drivers, one.bdf, &Target::Known(one.from.clone())) {
                Ok(_) => undone.push(one.bdf),
                Err(error) => not_undone.push(error.cause()),
            }
        }
        // Those that were not come to are as they were, too.
        undone.extend(moves[done + 1..].iter().map(|one| one.bdf));
        *error.not_undone() = not_undone;
        return CarriedOut { result: Err(error), undone };
    }
    CarriedOut { result: Ok(found), undone: Vec::new() }
}

/// Carries one move out, and says who drives the function then.
fn carry_one_out(drivers: &impl Drivers, bdf: Bdf, to: &Target) -> Result<Option<String>, NotMoved> {
    let refused = |source| NotMoved::Refused { bdf, source, not_undone: Vec::new() };
    let Target::Known(Binding { driver, driver_override }) = to else {
        drivers.set_override(bdf, None).map_err(refused)?;
        drivers.unbind(bdf).map_err(refused)?;
        drivers.probe(bdf).map_err(refused)?;
        let found = drivers.driver(bdf).map_err(refused)?;
        if found.as_deref() == Some(VFIO) {
            return Err(NotMoved::TakenAgain { bdf, not_undone: Vec::new() });
        }
        return Ok(found);
    };
    let Some(wanted) = driver else {
        drivers.unbind(bdf).map_err(refused)?;
        drivers.set_override(bdf, driver_override.as_deref()).map_err(refused)?;
        return Ok(None);
    };
    // With the override the kernel asks that driver alone, and not another that would take the function, too.
    drivers.set_override(bdf, Some(wanted)).map_err(refused)?;
    if drivers.driver(bdf).map_err(refused)?.as_ref() != Some(wanted) {
        drivers.unbind(bdf).map_err(refused)?;
        drivers.probe(bdf).map_err(refused)?;
    }
    let found = drivers.driver(bdf).map_err(refused)?;
    if driver_override.as_ref() != Some(wanted) {
        drivers.set_override(bdf, driver_override.as_deref()).map_err(refused)?;
    }
    if found.as_ref() == Some(wanted) {
        return Ok(found);
    }
    Err(NotMoved::NotTaken { bdf, wanted: wanted.clone(), found, not_undone: Vec::new() })
}

impl NotMoved {
    fn not_undone(&mut self) -> &mut Vec<String> {
        match self {
            Self::Refused { not_undone, .. }
            | Self::NotTaken { not_undone, .. }
            | Self::TakenAgain { not_undone, .. } => not_undone,
        }
    }

    /// Without what became of the rest.
    fn cause(&self) -> String {
        match self {
            Self::Refused { bdf, source, .. } => format!("{bdf}: {source}"),
            Self::NotTaken { bdf, wanted, .. } => format!("{bdf} was not taken by {wanted}"),
            Self::TakenAgain { bdf, .. } => format!("{bdf} was taken by {VFIO} again"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::drivers::NotLoaded;
    use super::*;
    use std::cell::RefCell;
    use std::collections::BTreeMap;

    /// Two functions, whose kernel knows which drivers fit, and fails the calls it is told to.
    struct Fake {
        bindings: RefCell<BTreeMap<Bdf, Binding>>,
        /// The driver that the kernel finds by itself.
        native: &'static str,
        /// A driver that takes nothing.
        broken: Option<&'static str>,
        calls: RefCell<usize>,
        fail_at: Option<usize>,
    }

    fn first() -> Bdf {
        Bdf::new(0, 4, 0, 0).unwrap()
    }

    fn second() -> Bdf {
        Bdf::new(0, 4, 0, 1).unwrap()
    }

    fn binding(driver: Option<&str>, driver_override: Option<&str>) -> Binding {
        Binding { driver: driver.map(Into::into), driver_override: driver_override.map(Into::into) }
    }

    impl Fake {
        fn new() -> Self {
            let bindings =
                [(first(), binding(Some("nvme"), None)), (second(), binding(None, Some("pci-stub")))];
            Self {
                bindings: RefCell::new(bindings.into()),
                native: "nvme",
                broken: None,
                calls: RefCell::default(),
                fail_at: None,
            }
        }

        fn call(&self) -> Result<(), SysfsError> {
            let call = self.calls.replace_with(|calls| *calls + 1);
            if Some(call) == self.fail_at {
                return Err(SysfsError::Read { path: "somewhere".into(), errno: Errno::EIO });
            }
            Ok(())
        }

        fn change<T>(&self, bdf: Bdf, change: impl FnOnce(&mut Binding) -> T) -> T {
            change(self.bindings.borrow_mut().get_mut(&bdf).unwrap())
        }
    }

    impl Drivers for Fake {
        fn driver(&self, bdf: Bdf) -> Result<Option<String>, SysfsError> {
            self.call()?;
            Ok(self.change(bdf, |found| found.driver.clone()))
        }

        fn set_override(&self, bdf: Bdf, driver: Option<&str>) -> Result<(), SysfsError> {
            self.call()?;
            self.change(bdf, |found| found.driver_override = driver.map(Into::into));
            Ok(())
        }

        fn unbind(&self, bdf: Bdf) -> Result<(), SysfsError> {
            self.call()?;
            self.change(bdf, |found| found.driver = None);
            Ok(())
        }

        fn probe(&self, bdf: Bdf) -> Result<(), SysfsError> {
            self.call()?;
            self.change(bdf, |found| {
                let fits = found.driver_override.clone().unwrap_or_else(|| self.native.into());
                if found.driver.is_none() && self.broken != Some(&*fits) {
                    found.driver = Some(fits);
                }
            });
            Ok(())
        }

        fn load(&self, _: &str) -> Result<(), NotLoaded> {
            Ok(())
        }
    }

    fn moves() -> [Move; 2] {
        let vfio = Target::Known(binding(Some("vfio-pci"), Some("vfio-pci")));
        [
            Move { bdf: first(), id: String::new(), from: binding(Some("nvme"), None), to: vfio.clone() },
            Move { bdf: second(), id: String::new(), from: binding(None, Some("pci-stub")), to: vfio },
        ]
    }

    #[test]
    fn all_go_where_they_are_sent() {
        let fake = Fake::new();
        assert_eq!(carry_out(&fake, &moves()).result, Ok(vec![Some("vfio-pci".into()); 2]));
        let vfio = binding(Some("vfio-pci"), Some("vfio-pci"));
        assert_eq!(*fake.bindings.borrow(), [(first(), vfio.clone()), (second(), vfio)].into());
    }

    #[test]
    fn what_goes_back_is_as_it_was() {
        let fake = Fake::new();
        let before = fake.bindings.borrow().clone();
        assert!(carry_out(&fake, &moves()).result.is_ok());
        let back = moves().map(|one| Move { to: Target::Known(one.from.clone()), ..one });
        assert_eq!(carry_out(&fake, &back).result, Ok(vec![Some("nvme".into()), None]));
        assert_eq!(*fake.bindings.borrow(), before);
    }

    #[test]
    fn where_nothing_is_known_the_kernel_finds_a_driver() {
        let fake = Fake::new();
        assert!(carry_out(&fake, &moves()).result.is_ok());
        let back = [Move { bdf: second(), id: String::new(), from: Binding::default(), to: Target::Any }];
        assert_eq!(carry_out(&fake, &back).result, Ok(vec![Some("nvme".into())]));
        assert_eq!(fake.bindings.borrow()[&second()], binding(Some("nvme"), None));
    }

    #[test]
    fn what_the_kernel_gives_to_vfio_again_is_not_given_back() {
        let fake = Fake { native: "vfio-pci", ..Fake::new() };
        assert!(carry_out(&fake, &moves()).result.is_ok());
        let before = fake.bindings.borrow().clone();
        let from = before[&second()].clone();
        let back = [Move { bdf: second(), id: String::new(), from, to: Target::Any }];
        let error = NotMoved::TakenAgain { bdf: second(), not_undone: vec![] };
        assert_eq!(carry_out(&fake, &back).result, Err(error));
        assert_eq!(*fake.bindings.borrow(), before);
    }

    #[test]
    fn a_driver_that_takes_nothing_leaves_all_as_it_was() {
        let fake = Fake { broken: Some("vfio-pci"), ..Fake::new() };
        let before = fake.bindings.borrow().clone();
        let CarriedOut { result, undone } = carry_out(&fake, &moves());
        let wanted = "vfio-pci".into();
        let error = NotMoved::NotTaken { bdf: first(), wanted, found: None, not_undone: vec![] };
        assert_eq!((result, undone), (Err(error), vec![first(), second()]));
        assert_eq!(*fake.bindings.borrow(), before);
    }

    #[test]
    fn whichever_call_fails_all_is_as_it_was() {
        let whole = Fake::new();
        let before = whole.bindings.borrow().clone();
        assert!(carry_out(&whole, &moves()).result.is_ok());
        for call in 0..*whole.calls.borrow() {
            let fake = Fake { fail_at: Some(call), ..Fake::new() };
            let error = carry_out(&fake, &moves()).result.unwrap_err();
            assert!(error.to_string().ends_with("everything is as it was"), "{error}");
            assert_eq!(*fake.bindings.borrow(), before, "call {call}");
        }
    }
}

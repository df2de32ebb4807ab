//! What ends the wait for L1.

use super::*;
use std::os::unix::fs::PermissionsExt;

/// What comes of booting a QEMU that is a shell script.
fn boot(script: &str, watch: Watch) -> L1Error {
    let folder = tempfile::tempdir().expect("a folder");
    let qemu = folder.path().join("qemu");
    std::fs::write(&qemu, format!("#!/bin/sh\n{script}\n")).expect("a script");
    std::fs::set_permissions(&qemu, std::fs::Permissions::from_mode(0o755)).expect("executable");
    let progress = Rc::new(Progress::new(false));
    let booted = L1::boot(&qemu, &Machine::new(), Path::new("kernel"), "initramfs", &progress, watch);
    booted.err().expect("a script is no machine")
}

fn patient() -> Watch {
    Watch::total(Duration::from_secs(60))
}

#[test]
fn a_machine_that_ends_is_noticed_with_its_last_words() {
    let error = boot("echo cannot allocate memory >&2; exit 3", patient());
    assert!(error.to_string().contains("exit status: 3"), "{error}");
    assert!(error.to_string().contains("cannot allocate memory"), "{error}");
}

#[test]
fn a_kernel_panic_ends_the_wait() {
    let error = boot("echo 'Kernel panic - not syncing: no init'; exec sleep 600", patient());
    assert!(matches!(error, L1Error::Panic { .. }), "{error}");
}

#[test]
fn silence_ends_the_wait() {
    let watch = Watch { silence: Duration::from_millis(200), deadline: None };
    assert!(matches!(boot("exec sleep 600", watch), L1Error::Silence { .. }));
}

#[test]
fn murmur_without_progress_is_silence() {
    let watch = Watch { silence: Duration::from_millis(200), deadline: None };
    assert!(matches!(boot("while :; do echo rcu stall; sleep 0.01; done", watch), L1Error::Silence { .. }));
}

#[test]
fn talk_without_end_ends_the_wait() {
    let watch = Watch {
        silence: Duration::from_secs(60),
        deadline: Some(Instant::now() + Duration::from_millis(300)),
    };
    assert!(matches!(boot("while :; do echo still here; sleep 0.01; done", watch), L1Error::TooLong { .. }));
}

//! What process 1 does before it can take requests: file systems, kernel modules, the port.

use crate::protocol::{Event, HOST_ROOT, PLAN_PATH, PORT_NAME, Plan, Refusal};
use rustix::mount::{MountFlags, mount};
use std::ffi::CString;
use std::fs::{self, File};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

/// How long the kernel may take to bring up the port after its driver is loaded.
const PORT_PATIENCE: Duration = Duration::from_secs(20);

/// Makes L1 usable and opens the port to the lab.
pub(super) fn prepare() -> Result<File, Refusal> {
    for (kind, target) in [
        ("devtmpfs", "/dev"),
        ("proc", "/proc"),
        ("sysfs", "/sys"),
        ("tmpfs", "/tmp"),
        ("tmpfs", "/run"),
        ("debugfs", "/sys/kernel/debug"),
    ] {
        mount_at(kind, target, kind, MountFlags::empty(), "")?;
    }
    let text = fs::read(PLAN_PATH).map_err(|error| io_refusal("read", PLAN_PATH, &error))?;
    let plan: Plan = serde_json::from_slice(&text).map_err(|error| Refusal {
        operation: "parse".into(),
        object: PLAN_PATH.into(),
        cause: error.to_string(),
        errno: None,
    })?;
    for module in &plan.modules {
        load_module(module)?;
    }
    if plan.host_root {
        show_host_files()?;
    }
    open_port()
}

/// The outer machine's files, read-only, with L1's own kernel file systems and an empty `/tmp` in their places.
fn show_host_files() -> Result<(), Refusal> {
    let options = "trans=virtio,version=9p2000.L,msize=1048576,cache=loose";
    mount_at("host", HOST_ROOT, "9p", MountFlags::RDONLY, options)?;
    mount_at("tmpfs", &format!("{HOST_ROOT}/tmp"), "tmpfs", MountFlags::empty(), "")?;
    for (source, target) in [("/dev", "dev"), ("/proc", "proc"), ("/sys", "sys")] {
        let target = format!("{HOST_ROOT}/{target}");
        rustix::mount::mount_bind(source, target.as_str())
            .map_err(|error| errno_refusal("bind-mount", &target, error))?;
    }
    for folder in ["lab", "guest"] {
        let target = format!("{HOST_ROOT}/tmp/{folder}");
        fs::create_dir(&target).map_err(|error| io_refusal("create", &target, &error))?;
        rustix::mount::mount_bind(format!("/{folder}").as_str(), target.as_str())
            .map_err(|error| errno_refusal("bind-mount", &target, error))?;
    }
    Ok(())
}

fn mount_at(source: &str, target: &str, kind: &str, flags: MountFlags, options: &str) -> Result<(), Refusal> {
    let options = CString::new(options).map_err(|error| Refusal {
        operation: "mount".into(),
        object: target.into(),
        cause: error.to_string(),
        errno: None,
    })?;
    mount(source, target, kind, flags, Some(options.as_c_str()))
        .map_err(|error| errno_refusal("mount", target, error))
}

fn load_module(path: &str) -> Result<(), Refusal> {
    let file = File::open(path).map_err(|error| io_refusal("open", path, &error))?;
    match rustix::system::finit_module(&file, c"", 0) {
        Ok(()) | Err(rustix::io::Errno::EXIST) => Ok(()),
        Err(error) => Err(errno_refusal("load kernel module", path, error)),
    }
}

fn open_port() -> Result<File, Refusal> {
    let deadline = Instant::now() + PORT_PATIENCE;
    loop {
        if let Some(device) = find_port() {
            let object = device.display().to_string();
            return File::options()
                .read(true)
                .write(true)
                .open(&device)
                .map_err(|error| io_refusal("open", &object, &error));
        }
        if Instant::now() > deadline {
            return Err(Refusal {
                operation: "find serial port".into(),
                object: PORT_NAME.into(),
                cause: format!("not there after {} s", PORT_PATIENCE.as_secs()),
                errno: None,
            });
        }
        std::thread::sleep(Duration::from_millis(10));
    }
}

fn find_port() -> Option<PathBuf> {
    let ports = fs::read_dir("/sys/class/virtio-ports").ok()?;
    ports.flatten().find_map(|port| {
        let name = fs::read_to_string(port.path().join("name")).ok()?;
        let device = Path::new("/dev").join(port.file_name());
        (name.trim() == PORT_NAME && device.exists()).then_some(device)
    })
}

/// Milliseconds since L1's kernel started.
pub(super) fn uptime_milliseconds() -> u64 {
    let now = rustix::time::clock_gettime(rustix::time::ClockId::Boottime);
    u64::try_from(now.tv_sec).unwrap_or(0) * 1000 + u64::try_from(now.tv_nsec).unwrap_or(0) / 1_000_000
}

/// A record of `/dev/kmsg`: `priority,sequence,time,flags;text`, then lines of properties that begin with a space.
pub(super) fn kernel_record(record: &str) -> Option<Event> {
    let (head, text) = record.split_once(';')?;
    let priority: u32 = head.split(',').next()?.parse().ok()?;
    let text = text.lines().next().unwrap_or_default().to_owned();
    Some(Event::Kernel { level: (priority % 8) as u8, text })
}

pub(super) fn errno_refusal(operation: &str, object: &str, error: rustix::io::Errno) -> Refusal {
    io_refusal(operation, object, &std::io::Error::from(error))
}

pub(super) fn io_refusal(operation: &str, object: &str, error: &std::io::Error) -> Refusal {
    Refusal {
        operation: operation.into(),
        object: object.into(),
        cause: error.to_string(),
        errno: error.raw_os_error(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_kernel_record_gives_level_and_text() {
        let event =
            kernel_record("4,339,5140900,-;DMAR: a warning; really\n SUBSYSTEM=pci\n").expect("a record");
        assert!(matches!(event, Event::Kernel { level: 4, text } if text == "DMAR: a warning; really"));
    }

    #[test]
    fn the_facility_is_no_part_of_the_level() {
        let event = kernel_record("30,1,1,-;from user space").expect("a record");
        assert!(matches!(event, Event::Kernel { level: 6, .. }));
    }
}

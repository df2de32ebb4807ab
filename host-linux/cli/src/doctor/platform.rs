//! The machine and its kernel: KVM, the IOMMU, interrupt remapping, how far the IOMMU reaches.

use std::path::Path;

use super::check::Check;
use super::facts::{Device, Facts};
use crate::display::size;
use crate::host::{Unreadable, folder};
use crate::machine::layout::MemoryLayout;

type Found = Result<Check, Unreadable>;

pub(super) fn kvm(facts: &Facts<'_>) -> Found {
    const FILE: &str = "/dev/kvm";
    let processor = &facts.processor;
    let modules = if processor.intel { "kvm_intel" } else { "kvm_amd" };
    if let Some(owner) = facts.host.owner(FILE)? {
        if facts.may_use(FILE, owner) {
            return Ok(Check::ok("/dev/kvm is there and may be used"));
        }
        let check = Check::problem("/dev/kvm may not be used by this user", "No guest can be started.");
        let (user, (_, group, mode)) = (facts.process.user, owner);
        // Whoever is in the group of root may do much more than this.
        return Ok(if group != 0 && mode & 0o060 == 0o060 {
            check
                .run(format!("usermod -aG \"$(stat -c %g {FILE})\" \"$(id -nu {user})\""))
                .act("Log in again, or go on as root.")
        } else {
            check.run(format!("chown {user} {FILE}")).act("Or go on as root.")
        });
    }
    let meaning = "No guest can be started.";
    if facts.host.has(&format!("/sys/module/{modules}")) {
        let check = Check::problem("KVM is loaded, and there is no /dev/kvm here", meaning);
        return Ok(check.act(
            "In a container: hand /dev/kvm in when it is started (`--device /dev/kvm`). Else see whether udev runs.",
        ));
    }
    let check = if processor.virtualises {
        Check::problem("there is no /dev/kvm: KVM is not loaded", meaning).run(format!("modprobe {modules}"))
    } else if processor.is_virtual {
        Check::problem("this host is a virtual machine, and its processor cannot virtualise", meaning).act(
            "Turn nested virtualisation on in the hypervisor that runs this host, and show the guest its processor.",
        )
    } else {
        Check::problem("the processor shows no virtualisation", meaning).act(format!(
            "Switch {} on in the firmware's settings.",
            if processor.intel { "Intel VT-x (Virtualization Technology)" } else { "AMD-V (SVM)" }
        ))
    };
    Ok(check)
}

/// What no device can be assigned without.
const NO_IOMMU: &str =
    "Without an IOMMU nothing keeps a guest's device out of the host's memory: VFIO gives it to nobody.";

pub(super) fn iommu(facts: &Facts<'_>) -> Found {
    let host = facts.host;
    let units = host.names("/sys/class/iommu")?.unwrap_or_default();
    let mut groups = 0;
    for group in host.names("/sys/kernel/iommu_groups")?.unwrap_or_default() {
        // VFIO makes groups, too, where it was told to do without an IOMMU.
        let name = host.text(&format!("/sys/kernel/iommu_groups/{group}/name"))?;
        groups += u32::from(name.as_deref() != Some("vfio-noiommu"));
    }
    if !units.is_empty() || groups > 0 {
        let units = if units.is_empty() { "on".into() } else { format!("on: {}", units.join(", ")) };
        let groups = if groups == 1 { "1 group".into() } else { format!("{groups} groups") };
        return Ok(Check::ok(format!("{units}; {groups}")));
    }
    let tables = host.names("/sys/firmware/acpi/tables")?.unwrap_or_default();
    let intel = tables.iter().any(|table| table == "DMAR");
    let amd = tables.iter().any(|table| table == "IVRS");
    // What is said to the driver of the other maker's changes nothing.
    let (intels, amds) =
        if intel || amd { (intel, amd) } else { (facts.processor.intel, !facts.processor.intel) };
    let off: Vec<&str> = [("intel_iommu=off", intels), ("amd_iommu=off", amds), ("iommu=off", true)]
        .into_iter()
        .filter(|(word, counts)| *counts && facts.command_line.iter().any(|given| given == word))
        .map(|(word, _)| word)
        .collect();
    if let [word, ..] = off[..] {
        let check = Check::problem(format!("`{word}` on the kernel's command line keeps it off"), NO_IOMMU);
        return without_word(facts, check, word);
    }
    if intel && !facts.command_line.iter().any(|word| word.starts_with("intel_iommu=on")) {
        let found = "the firmware describes one (DMAR), and the kernel was not told to use it";
        return with_word(facts, Check::problem(found, NO_IOMMU), "intel_iommu=on");
    }
    if intel || amd {
        let found = "the firmware describes one, and the kernel has not taken it into use";
        let check = Check::problem(found, NO_IOMMU);
        return Ok(
            check.act("Look for the reason in what `dmesg | grep -i -e DMAR -e AMD-Vi -e IOMMU` prints.")
        );
    }
    let check =
        Check::problem("there is none: the firmware describes none (no DMAR or IVRS table)", NO_IOMMU);
    Ok(if facts.processor.is_virtual {
        check.act("This host is a virtual machine: give it an IOMMU where it is configured, or use the machine below it.")
    } else if facts.processor.intel {
        let check = check.act(
            "Switch VT-d (Intel Virtualization Technology for Directed I/O) on in the firmware's settings.",
        );
        match facts.command_line.iter().any(|word| word.starts_with("intel_iommu=on")) {
            true => check,
            false => with_word(facts, check, "intel_iommu=on")?,
        }
    } else {
        check.act("Switch the IOMMU (AMD-Vi) on in the firmware's settings.")
    })
}

/// Where Debian's way to configure GRUB has the kernel's command line, and what it looks like.
const GRUB: &str = "/etc/default/grub";
const GRUB_LINE: &str = "GRUB_CMDLINE_LINUX=\"";

/// How a word gets onto the kernel's command line here.
fn with_word(facts: &Facts<'_>, check: Check, word: &str) -> Result<Check, Unreadable> {
    let by_hand = || format!("Add `{word}` to the kernel's command line in the boot loader's configuration.");
    let check = if facts.host.has("/usr/sbin/grubby") {
        check.run(format!("grubby --update-kernel=ALL --args={word}"))
    } else if facts.host.has("/usr/sbin/update-grub") {
        let text = facts.host.text(GRUB)?.unwrap_or_default();
        let lines = || text.lines().filter(|line| line.starts_with("GRUB_CMDLINE_LINUX"));
        let check = if lines().any(|line| line.split(['"', ' ']).any(|given| given == word)) {
            // It was written there, and the boot loader was not told.
            check
        } else if lines().any(|line| line.starts_with(GRUB_LINE)) {
            check.run(format!("sed -i 's/^{GRUB_LINE}/&{word} /' {GRUB}"))
        } else {
            check
                .act(format!("Add a line `{GRUB_LINE}{word}\"` to {GRUB}, or the word to one that is there."))
        };
        check.run("update-grub")
    } else {
        check.act(by_hand())
    };
    Ok(check.act("Restart the host."))
}

/// How a word gets off it.
fn without_word(facts: &Facts<'_>, check: Check, word: &str) -> Result<Check, Unreadable> {
    let check = if facts.host.has("/usr/sbin/grubby") {
        check.run(format!("grubby --update-kernel=ALL --remove-args={word}"))
    } else if facts.host.has("/usr/sbin/update-grub") {
        let text = facts.host.text(GRUB)?.unwrap_or_default();
        if text.contains(word) {
            check.run(format!("sed -i 's/\\b{word}\\b//' {GRUB}")).run("update-grub")
        } else {
            check
                .act(format!("Take `{word}` out of where `grep -rs {word} /etc/default /boot` finds it."))
                .run("update-grub")
        }
    } else {
        check.act(format!("Take `{word}` off the kernel's command line in the boot loader's configuration."))
    };
    Ok(check.act("Restart the host."))
}

pub(super) fn interrupt_remapping(facts: &Facts<'_>) -> Found {
    // Each of the kernel's interfaces has a parameter of its own.
    let module = if run_takes_iommufd(facts)? { "iommufd" } else { "vfio_iommu_type1" };
    let allow = format!("/sys/module/{module}/parameters/allow_unsafe_interrupts");
    let Some(interrupts) = facts.host.text("/proc/interrupts")? else {
        return Ok(Check::cannot_tell("there is no /proc/interrupts to see it by", "VFIO asks for it."));
    };
    // The names of interrupt controllers say whether their interrupts go through the IOMMU.
    if interrupts.split_whitespace().any(|word| word.starts_with("IR-")) {
        return Ok(Check::ok("on"));
    }
    if facts.host.text(&allow)?.as_deref() == Some("Y") {
        let meaning = "A guest can send the host's processors any interrupt: it must be one that you trust.";
        return Ok(Check::unsure("off, and VFIO was told to go on without", meaning));
    }
    let meaning = "VFIO refuses (EPERM), for a guest could send the host's processors any interrupt.";
    for word in ["intremap=off", "nointremap"] {
        if facts.command_line.iter().any(|given| given == word) {
            let check =
                Check::problem(format!("`{word}` on the kernel's command line keeps it off"), meaning);
            return without_word(facts, check, word);
        }
    }
    let check = Check::problem("off: no interrupt controller of /proc/interrupts uses it", meaning);
    let where_it_is = if facts.processor.is_virtual {
        "This host is a virtual machine: give its IOMMU interrupt remapping where it is configured (QEMU: `intremap=on`)."
    } else {
        "Switch interrupt remapping (often together with x2APIC) on in the firmware's settings."
    };
    Ok(check.act(where_it_is).act(format!("Only for a guest that you trust, instead: `echo Y > {allow}`.")))
}

/// Whether `run` would open devices by their own files and iommufd, as it does where it can.
pub(super) fn run_takes_iommufd(facts: &Facts<'_>) -> Result<bool, Unreadable> {
    if !facts.host.has("/dev/iommu") {
        return Ok(false);
    }
    // What is not yet VFIO's has no file; the kernel would make one.
    let Some(device) = facts.device.as_ref().filter(|device| device.function.vfio) else { return Ok(true) };
    let files = facts.host.vfio_files(&device.function)?;
    Ok(files.iter().any(|file| file.starts_with("/dev/vfio/devices/") && facts.host.has(file)))
}

pub(super) fn iova_width(facts: &Facts<'_>, device: Option<&Device>) -> Found {
    // The device's own, if the kernel says which that is.
    let own = match device {
        Some(device) => facts.host.link(&format!("{}/iommu", folder(device.function.bdf)))?,
        None => None,
    };
    let units = match own.as_deref().and_then(Path::file_name) {
        Some(unit) => vec![unit.to_string_lossy().into_owned()],
        None => facts.host.names("/sys/class/iommu")?.unwrap_or_default(),
    };
    let mut narrowest = None;
    for unit in units {
        let path = format!("/sys/class/iommu/{unit}/intel-iommu/cap");
        let Some(capabilities) = facts.host.text(&path)? else { continue };
        let Ok(capabilities) = u64::from_str_radix(&capabilities, 16) else { continue };
        // Maximum Guest Address Width, and the widest of the page tables that it walks (39, 48, 57 bits).
        let most = (capabilities >> 16 & 0x3f) + 1;
        let levels = [(8, 30), (9, 39), (10, 48), (11, 57)];
        let tables =
            levels.iter().filter(|(bit, _)| capabilities >> bit & 1 != 0).map(|(_, width)| *width).max();
        let width = most.min(tables.unwrap_or(most));
        narrowest = Some(narrowest.map_or(width, |known: u64| known.min(width)));
    }
    let end = match top_of_memory(facts) {
        Ok(end) => end,
        Err(check) => return Ok(*check),
    };
    let Some(width) = narrowest else {
        return Ok(Check::ok("48 bits, as any IOMMU of AMD's has, or none that says otherwise"));
    };
    if width < 64 && end > 1 << width {
        let found =
            format!("{width} bits, which reach {}; guest memory ends at {}", size(1 << width), size(end));
        let meaning = "The device would not reach all of the guest's memory.";
        return Ok(Check::problem(found, meaning).act(format!(
            "Give the guest less than {} with --memory, or the IOMMU more bits where this host is configured.",
            size(1 << width)
        )));
    }
    Ok(Check::ok(format!("{width} bits")))
}

/// Where the guest's memory ends, or that there is no place for it.
fn top_of_memory(facts: &Facts<'_>) -> Result<u64, Box<Check>> {
    let layout = layout(facts).map_err(|error| {
        let check = Check::problem(error.to_string(), "The guest does not start.");
        Box::new(check.act("Give it less with --memory."))
    })?;
    Ok(layout.ram().last().map_or(0, |(start, size)| start + size))
}

/// The machine that `run` would build.
pub(super) fn layout(facts: &Facts<'_>) -> Result<MemoryLayout, crate::machine::layout::LayoutError> {
    // What every x86-64 processor has at least that can virtualise.
    const LEAST_BITS: u8 = 36;
    MemoryLayout::new(facts.memory, facts.processor.address_bits.unwrap_or(LEAST_BITS))
}

//! The machine and its kernel: KVM, the IOMMU, interrupt remapping, how far the IOMMU reaches.

use super::check::Check;
use super::facts::Facts;
use crate::display::size;
use crate::host::Unreadable;
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
        return Ok(check
            .run(format!("usermod -aG kvm \"$(id -nu {})\"", facts.process.user))
            .act("Log in again, or go on as root."));
    }
    let meaning = "No guest can be started.";
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
    let off: Vec<&str> = ["intel_iommu=off", "amd_iommu=off", "iommu=off"]
        .into_iter()
        .filter(|word| facts.command_line.iter().any(|given| given == word))
        .collect();
    if let [word, ..] = off[..] {
        let check = Check::problem(format!("`{word}` on the kernel's command line keeps it off"), NO_IOMMU);
        return Ok(without_word(facts, check, word));
    }
    if intel && !facts.command_line.iter().any(|word| word.starts_with("intel_iommu=on")) {
        let found = "the firmware describes one (DMAR), and the kernel was not told to use it";
        return Ok(with_word(facts, Check::problem(found, NO_IOMMU), "intel_iommu=on"));
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
            false => with_word(facts, check, "intel_iommu=on"),
        }
    } else {
        check.act("Switch the IOMMU (AMD-Vi) on in the firmware's settings.")
    })
}

/// How a word gets onto the kernel's command line here.
fn with_word(facts: &Facts<'_>, check: Check, word: &str) -> Check {
    let check = if facts.host.has("/usr/sbin/grubby") {
        check.run(format!("grubby --update-kernel=ALL --args={word}"))
    } else if facts.host.has("/usr/sbin/update-grub") {
        check.run(format!("sed -i 's/^GRUB_CMDLINE_LINUX=\"/&{word} /' /etc/default/grub")).run("update-grub")
    } else {
        check.act(format!("Add `{word}` to the kernel's command line in the boot loader's configuration."))
    };
    check.act("Restart the host.")
}

/// How a word gets off it.
fn without_word(facts: &Facts<'_>, check: Check, word: &str) -> Check {
    let check = if facts.host.has("/usr/sbin/grubby") {
        check.run(format!("grubby --update-kernel=ALL --remove-args={word}"))
    } else if facts.host.has("/usr/sbin/update-grub") {
        check.run(format!("sed -i 's/\\b{word}\\b//' /etc/default/grub")).run("update-grub")
    } else {
        check.act(format!("Take `{word}` off the kernel's command line in the boot loader's configuration."))
    };
    check.act("Restart the host.")
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
            return Ok(without_word(facts, check, word));
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
fn run_takes_iommufd(facts: &Facts<'_>) -> Result<bool, Unreadable> {
    if !facts.host.has("/dev/iommu") {
        return Ok(false);
    }
    // What is not yet VFIO's has no file; the kernel would make one.
    let Some(device) = facts.device.as_ref().filter(|device| device.function.vfio) else { return Ok(true) };
    let files = facts.host.vfio_files(&device.function)?;
    Ok(files.iter().any(|file| file.starts_with("/dev/vfio/devices/") && facts.host.has(file)))
}

pub(super) fn iova_width(facts: &Facts<'_>) -> Found {
    let units = facts.host.names("/sys/class/iommu")?.unwrap_or_default();
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

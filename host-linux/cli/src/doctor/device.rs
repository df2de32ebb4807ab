//! The device itself: whether it is one that can be given away, whether the host needs it, who drives it.

use super::check::Check;
use super::facts::{Device, Facts};
use super::platform::layout;
use crate::display::{quoted, size};
use crate::host::{Unreadable, Use, folder};
use crate::machine::layout::WINDOW_32;

type Found = Result<Check, Unreadable>;

pub(super) fn kind(_: &Facts<'_>, device: &Device) -> Found {
    let function = &device.function;
    if function.is_bridge() {
        let check = Check::problem(
            format!("{}: a bridge", function.class_name()),
            "Bridges forward what others do, and are never given away.",
        );
        return Ok(check.act("Name a device below it: `vfio-assign list` shows those there are."));
    }
    Ok(Check::ok(function.class_name()))
}

pub(super) fn power(facts: &Facts<'_>, device: &Device) -> Found {
    let at = folder(device.function.bdf);
    let state = facts.host.text(&format!("{at}/power_state"))?;
    let cannot_tell = |found: String| {
        Check::cannot_tell(found, "Whether it answers is not known.")
            .act("Look again as root, where sysfs is.")
    };
    let config = match &device.config {
        Ok(config) => config,
        Err(error) => return Ok(cannot_tell(error.to_string())),
    };
    let Some(first) = config.first_chunk::<4>() else {
        return Ok(cannot_tell(format!("{at}/config has {} bytes", config.len())));
    };
    // Reading wakes what the kernel has put to sleep, so that the state alone says nothing.
    if *first != [0xff; 4] {
        let colder = facts.host.text(&format!("{at}/d3cold_allowed"))?.as_deref() == Some("1");
        let note = match (state.as_deref(), colder) {
            (Some("D3cold"), _) => "; it answers all the same, for the kernel wakes it",
            (_, true) => "; D3cold is allowed, from which VFIO wakes it",
            (_, false) => "",
        };
        return Ok(Check::ok(format!("{}{note}", state.as_deref().unwrap_or("awake"))));
    }
    let found = "it does not answer: its configuration space reads all ones";
    if state.as_deref() == Some("D3cold") {
        let meaning = "Without power (D3cold) what it shows of itself is not true.";
        return Ok(Check::problem(found, meaning)
            .run(format!("echo 0 > {at}/d3cold_allowed"))
            .run(format!("echo on > {at}/power/control")));
    }
    let check = Check::problem(found, "It is gone, or hangs.");
    Ok(if device.uses.of(device.function.bdf).is_empty() {
        check.run(format!("echo 1 > {at}/remove")).run("echo 1 > /sys/bus/pci/rescan")
    } else {
        check.act("Free it of the host's use, if that still goes, and restart the host.")
    })
}

pub(super) fn bars(facts: &Facts<'_>, device: &Device) -> Found {
    let bars = || device.function.bars.iter().filter(|bar| bar.index < 6);
    let homeless: Vec<String> = bars()
        .filter(|bar| bar.has_no_place())
        .map(|bar| format!("BAR {} ({})", bar.index, size(bar.size)))
        .collect();
    if !homeless.is_empty() {
        let check = Check::problem(
            format!("the host has no place for {}", homeless.join(", ")),
            "A BAR that is nowhere cannot be mapped for anybody.",
        );
        return Ok(check.act(
            "Switch \"Above 4G decoding\" on in the firmware's settings; else add `pci=realloc` to the kernel's command line.",
        ));
    }
    let total = |wide: bool| {
        let of_width = bars().filter(|bar| !bar.is_io() && bar.is_wide() == wide);
        of_width.map(|bar| bar.size).fold(0, u64::saturating_add)
    };
    let (narrow, wide) = (total(false), total(true));
    let Ok(layout) = layout(facts) else {
        return Ok(Check::cannot_tell("the guest's memory has no place", "BARs stand beside it."));
    };
    let room =
        (WINDOW_32.end() - WINDOW_32.start() + 1, layout.window_64.end() - layout.window_64.start() + 1);
    for (need, room, bits) in [(narrow, room.0, "32"), (wide, room.1, "64")] {
        if need > room {
            let found = format!(
                "{} of {bits}-bit BARs; a guest on this processor has {} for them",
                size(need),
                size(room)
            );
            let check = Check::problem(found, "The guest could not reach all of the device.");
            return Ok(check.act(if bits == "64" {
                "Give the guest less with --memory, or use a host whose processor has more address bits."
            } else {
                "Use a device with 64-bit BARs."
            }));
        }
    }
    Ok(Check::ok(format!("{} fit into the guest's addresses", size(narrow.saturating_add(wide)))))
}

pub(super) fn virtual_functions(facts: &Facts<'_>, device: &Device) -> Found {
    let function = &device.function;
    if let Some((active, total)) = function.virtual_functions {
        if active > 0 {
            let check = Check::problem(
                format!("{active} of its {total} virtual functions are in use"),
                "They are its own, and go when it is given away.",
            );
            return Ok(check
                .run(format!("echo 0 > {}/sriov_numvfs", folder(function.bdf)))
                .act("Or give the guest one of the virtual functions instead."));
        }
        return Ok(Check::ok(format!("it can have {total} virtual functions, and has none")));
    }
    let Some(physical) = function.physical else { return Ok(Check::ok("not there")) };
    let driver = facts.host.link(&format!("{}/driver", folder(physical)))?;
    if driver.as_deref().and_then(|path| path.file_name()).is_some_and(|name| name == "vfio-pci") {
        let check = Check::problem(
            format!("its physical function {physical} is with vfio-pci"),
            "It could then be opened with a token only, which `run` does not take.",
        );
        let file = format!("{}/sriov_numvfs", folder(physical));
        let count = facts.host.text(&file)?.unwrap_or_else(|| "1".into());
        return Ok(check
            .run(format!("vfio-assign unbind {physical}"))
            .act("That takes its virtual functions away, this one too. Its own driver makes new ones:")
            .run(format!("echo {count} > {file}")));
    }
    Ok(Check::ok(format!("a virtual function of {physical}")))
}

pub(super) fn uses(facts: &Facts<'_>, device: &Device) -> Found {
    let own = device.function.bdf;
    let mut found = Vec::new();
    let mut steps = Vec::new();
    let mut unseen = None;
    let members = device.members.iter().filter_map(|member| member.name.parse().ok());
    let mut members: Vec<_> = members.filter(|bdf| *bdf != own).collect();
    members.insert(0, own);
    for bdf in members {
        for one in device.uses.of(bdf) {
            if bdf == own && matches!(one, Use::VirtualFunctions { .. }) {
                // There is a check of its own for it.
                continue;
            }
            found.push(if bdf == own { one.to_string() } else { format!("{one} ({bdf}, of its group)") });
            steps.push((bdf, one));
        }
        unseen = unseen.or_else(|| device.uses.unseen(bdf).next());
    }
    if found.is_empty() {
        if let Some(unseen) = unseen {
            let check = Check::cannot_tell(unseen.to_string(), "The host may need it.");
            return Ok(check.act("Look again as root."));
        }
        const NONE: &str = "none that is seen: no disk in use, default route, boot display";
        return Ok(match facts.host.is_container() {
            false => Check::ok(NONE),
            true => Check::unsure(NONE, "This is a container, which does not see all that the host does."),
        });
    }
    let mut check = Check::problem(found.join("; "), "The host would lose it.");
    if steps.iter().any(|(_, one)| matches!(one, Use::Mounted { at, .. } if at == "/")) {
        return Ok(check.act("The host runs from it: use another device."));
    }
    // Swap files are in file systems, and what was mounted last may be in what was mounted before.
    steps.reverse();
    steps.sort_by_key(|(_, one)| !matches!(one, Use::Swap { .. }));
    for (bdf, one) in steps {
        check = match one {
            Use::Mounted { at, .. } => check.run(format!("umount {}", quoted(at))),
            Use::Swap { path } => check.run(format!("swapoff {}", quoted(path))),
            Use::Claimed { device } => check.act(format!(
                "`lsblk -f /dev/{device}` shows what is on it: stop what uses it, and unmount or export it, in containers too."
            )),
            Use::DefaultRoute { .. } => check.act(
                "Give the host another way to the network first; if you are not connected over it, `bind --force` takes it.",
            ),
            Use::BootDisplay => check.act(
                "Let the host boot with another display, or without; `bind --force` takes this one, and the console with it.",
            ),
            Use::VirtualFunctions { .. } => check.run(format!("echo 0 > {}/sriov_numvfs", folder(bdf))),
        };
    }
    Ok(check)
}

pub(super) fn driver(_: &Facts<'_>, device: &Device) -> Found {
    let function = &device.function;
    match &function.driver {
        Some(driver) if function.vfio => Ok(Check::ok(driver.as_str())),
        driver => {
            let found =
                driver.as_ref().map_or_else(|| "none".into(), |driver| format!("{driver}, the host's"));
            let check = Check::problem(found, "VFIO has to have a device before it can give it away.");
            Ok(check.run(format!("vfio-assign bind {}", function.bdf)))
        }
    }
}

pub(super) fn reset(facts: &Facts<'_>, device: &Device) -> Found {
    let at = folder(device.function.bdf);
    let methods = facts.host.text(&format!("{at}/reset_method"))?;
    let can = facts.host.has(&format!("{at}/reset"));
    let meaning = "A guest that restarts, and the next guest, find the device as the last one left it.";
    match methods.as_deref() {
        Some("") => Ok(Check::unsure("all ways to reset it are switched off", meaning)
            .run(format!("echo default > {at}/reset_method"))),
        Some(methods) => Ok(Check::ok(methods.replace(' ', ", "))),
        None if can => Ok(Check::ok("there is a way; the kernel does not say which (since Linux 5.15)")),
        None => Ok(Check::unsure("the kernel knows no way to reset it alone", meaning)),
    }
}

//! The device's IOMMU group: whether it has one, who else is in it and why, and which addresses are taken.

use vfio_assign_core::{Bdf, ConfigImage};

use super::check::Check;
use super::facts::{Device, Facts};
use super::platform::layout;
use crate::arguments::LEAST_MEMORY;
use crate::display::size;
use crate::host::{Unreadable, folder};

type Found = Result<Check, Unreadable>;

pub(super) fn group(facts: &Facts<'_>, device: &Device) -> Found {
    let bdf = device.function.bdf;
    let Some(group) = device.function.group else {
        let check = Check::problem(
            "it is in no IOMMU group: no IOMMU of this host is responsible for it",
            "VFIO gives nobody a device that it cannot keep out of the host's memory.",
        );
        return Ok(check.act(
            "Put the device into another slot, or see in the firmware's settings whether the IOMMU covers all devices.",
        ));
    };
    let name = facts.host.text(&format!("/sys/kernel/iommu_groups/{group}/name"))?;
    if name.as_deref() == Some("vfio-noiommu") {
        let check = Check::problem(
            format!("group {group} was made up by VFIO for a host without an IOMMU"),
            "Nothing would keep the guest's device out of the host's memory.",
        );
        return Ok(check
            .run(format!("vfio-assign unbind {bdf}"))
            .run("echo N > /sys/module/vfio/parameters/enable_unsafe_noiommu_mode")
            .act("Switch the IOMMU on in the firmware's settings and on the kernel's command line, and restart."));
    }
    Ok(Check::ok(format!("group {group}")))
}

pub(super) fn siblings(_: &Facts<'_>, device: &Device) -> Found {
    let own = device.function.bdf.to_string();
    let others: Vec<_> = device.members.iter().filter(|member| *member.name != own).collect();
    let in_the_way: Vec<_> = others.iter().filter(|member| member.in_the_way).collect();
    if in_the_way.is_empty() {
        return Ok(Check::ok(match others.len() {
            0 => "there are none".into(),
            count => format!("{count}, none of them in the way"),
        }));
    }
    let named = |member: &&&vfio_assign_linux::GroupMember| {
        format!("{} ({})", member.name, member.driver.as_deref().unwrap_or("no driver"))
    };
    let named: Vec<String> = in_the_way.iter().map(named).collect();
    let check = Check::problem(
        format!("with drivers of the host: {}", named.join(", ")),
        "Devices of one group can reach each other past the IOMMU: a guest gets all of them or none.",
    );
    Ok(check.run(format!("vfio-assign bind --siblings {own}")))
}

/// Bridges and ports between the device and the root of its bus, the nearest first.
fn ports_above(facts: &Facts<'_>, bdf: Bdf) -> Result<Vec<Bdf>, Unreadable> {
    let Some(real) = facts.host.real(&folder(bdf))? else { return Ok(Vec::new()) };
    let names = real.components().rev().skip(1).map(|part| part.as_os_str().to_string_lossy().into_owned());
    let names: Vec<String> = names.collect();
    Ok(names.iter().map_while(|name| name.parse().ok()).collect())
}

/// Access Control Services.
const ACS: u16 = 0x0d;

pub(super) fn acs(facts: &Facts<'_>, device: &Device) -> Found {
    let bdf = device.function.bdf;
    let own = bdf.to_string();
    let others = device.members.iter().filter(|member| *member.name != own);
    let others: Vec<Bdf> = others.filter_map(|member| member.name.parse().ok()).collect();
    if others.is_empty() {
        return Ok(Check::ok("the device is alone in its group"));
    }
    let mut without = Vec::new();
    for port in ports_above(facts, bdf)? {
        let config = facts.host.bytes(&format!("{}/config", folder(port)))?.unwrap_or_default();
        if config.len() <= 64 {
            let found = format!("only root can read whether {port} above it has ACS");
            return Ok(Check::unsure(found, "A port without ACS puts all that is below it into one group."));
        }
        let mut capabilities = ConfigImage::new(&config).extended_capabilities().flatten();
        if !capabilities.any(|found| found.id == ACS) {
            without.push(port.to_string());
        }
    }
    let same_slot = others.iter().any(|other| {
        (other.segment(), other.bus(), other.device()) == (bdf.segment(), bdf.bus(), bdf.device())
    });
    Ok(Check::ok(if !without.is_empty() {
        format!(
            "the group is shared because {} above it has none; another slot may be alone",
            without.join(", ")
        )
    } else if same_slot {
        "the group is shared because functions of one device can reach each other".into()
    } else {
        "the group is shared for a reason that is not seen here".into()
    }))
}

pub(super) fn reserved_regions(facts: &Facts<'_>, device: &Device) -> Found {
    let Some(group) = device.function.group else { return Ok(Check::ok("none")) };
    let path = format!("/sys/kernel/iommu_groups/{group}/reserved_regions");
    let Some(text) = facts.host.text(&path)? else {
        let meaning = "Memory that the firmware keeps for the device would be in the guest's way.";
        return Ok(Check::cannot_tell(format!("there is no {path}"), meaning));
    };
    let memory = layout(facts).map(|layout| layout.ram()).unwrap_or_default();
    let mut count = 0;
    for line in text.lines() {
        let words: Vec<&str> = line.split_whitespace().collect();
        let [first, last, kind] = words[..] else { continue };
        let number = |text: &str| u64::from_str_radix(text.trim_start_matches("0x"), 16).ok();
        let (Some(first), Some(last)) = (number(first), number(last)) else { continue };
        count += 1;
        let place = format!("{first:#x} to {last:#x}");
        if kind == "direct" {
            let check = Check::problem(
                format!("the firmware keeps {place} for the device (RMRR)"),
                "The kernel gives nobody a device that the firmware itself uses.",
            );
            return Ok(check.act(
                "Turn off what uses it in the firmware's settings (shared memory of the device, remote management), \
                 or use another device or slot.",
            ));
        }
        let in_memory = memory.iter().find(|(start, size)| first < start + size && *start <= last);
        if kind != "direct-relaxable"
            && let Some((start, _)) = in_memory
        {
            let check = Check::problem(
                format!("{place} is taken ({kind}), in the middle of the guest's memory"),
                "The device would not reach that part of the guest's memory, and the kernel refuses (EINVAL).",
            );
            // Memory that comes before, and what of this piece does.
            let before = memory.iter().filter(|(other, _)| other < start).map(|(_, size)| size).sum::<u64>();
            let below = (before + first.saturating_sub(*start)) >> 20;
            return Ok(match below << 20 >= LEAST_MEMORY {
                true => check.act(format!("Give the guest at most --memory {below}M.")),
                false => check.act("No guest fits below it: use another device or slot."),
            });
        }
    }
    Ok(Check::ok(format!("{count}, none within the guest's {}", size(facts.memory))))
}

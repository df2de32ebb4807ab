//! `vfio-assign bind` and `unbind`: gives a device to VFIO, and back to the driver that it had.

mod carry_out;
mod drivers;
mod plan;
mod remember;
mod show;

use clap::Args;
use vfio_assign_core::Bdf;

use crate::display;
use crate::exit::Exit;
use crate::help::{Help, Problem};
use crate::host::{Holder, HostFiles, Unreadable, Use, holders, named, uses};
use carry_out::{CarriedOut, carry_out};
use drivers::Drivers as _;
use plan::{Device, Move, Target, VFIO, to_vfio};
use remember::Memory;

/// What to give to VFIO.
#[derive(Debug, Args)]
pub(crate) struct BindArguments {
    /// The device, such as 0000:04:00.0 or 04:00.0
    #[arg(value_name = "ADDRESS")]
    pub(crate) device: Bdf,

    /// Give the others of its IOMMU group to VFIO, too, which a guest needs
    #[arg(long, conflicts_with = "alone")]
    pub(crate) siblings: bool,

    /// Leave the others of its IOMMU group with their drivers
    #[arg(long)]
    pub(crate) alone: bool,

    #[command(flatten)]
    pub(crate) how: How,
}

/// What to give back.
#[derive(Debug, Args)]
pub(crate) struct UnbindArguments {
    /// The device, such as 0000:04:00.0 or 04:00.0
    #[arg(value_name = "ADDRESS")]
    pub(crate) device: Bdf,

    /// Give back the others of its IOMMU group, too
    #[arg(long)]
    pub(crate) siblings: bool,

    #[command(flatten)]
    pub(crate) how: How,
}

/// How to go about it.
#[derive(Debug, Args)]
pub(crate) struct How {
    /// Do it even where the host needs the device, or a process has it open
    #[arg(long)]
    pub(crate) force: bool,

    /// Only print what would be done, as lines for a shell
    #[arg(long)]
    pub(crate) dry_run: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// Why nothing was changed.
#[derive(Debug, thiserror::Error)]
pub(crate) enum Refused {
    /// Never a device.
    #[error("{bdf} is a bridge, and is never given away")]
    Bridge { bdf: Bdf },
    /// No IOMMU.
    #[error("{bdf} is in no IOMMU group, so VFIO would give it to nobody")]
    NoGroup { bdf: Bdf },
    /// The host needs it.
    #[error("the host needs {bdf}: {}", joined(.uses))]
    InUse { bdf: Bdf, uses: Vec<Use> },
    /// The host may need it.
    #[error("whether the host needs {bdf} cannot be told: {unseen}")]
    Unseen { bdf: Bdf, unseen: Unreadable },
    /// Others of the group.
    #[error("others of its IOMMU group are with drivers of the host: {}", joined(.siblings))]
    Siblings { bdf: Bdf, siblings: Vec<String> },
    /// A process has it.
    #[error("process {} ({}) has {} open", .holder.process, .holder.name, .holder.file)]
    Held { bdf: Bdf, holder: Holder },
}

fn joined(items: &[impl ToString]) -> String {
    items.iter().map(ToString::to_string).collect::<Vec<_>>().join("; ")
}

impl Help for Refused {
    fn help(&self) -> Option<String> {
        Some(match self {
            Self::Bridge { .. } => "`vfio-assign list` shows the devices".into(),
            Self::NoGroup { bdf } => format!("`vfio-assign doctor {bdf}` says why"),
            Self::InUse { bdf, .. } => {
                format!("`vfio-assign doctor {bdf}` says how to free it; --force takes it all the same")
            }
            Self::Unseen { unseen, .. } => {
                let first = unseen.help().map_or_else(String::new, |help| format!("{help}; "));
                format!("{first}--force takes it all the same")
            }
            Self::Siblings { .. } => {
                "--siblings gives them to VFIO, too, which a guest needs; --alone leaves them".into()
            }
            Self::Held { .. } => {
                "end it first: the kernel waits until the device is closed; --force waits with it".into()
            }
        })
    }
}

/// Gives a device to VFIO.
pub(crate) fn bind(host: &HostFiles, arguments: &BindArguments) -> Result<Exit, Problem> {
    let devices = devices(host, arguments.device)?;
    let others = if arguments.siblings { Others::Too } else { Others::Refuse };
    let others = if arguments.alone { Others::Leave } else { others };
    let moves = to_vfio(&devices, others, arguments.how.force)?;
    finish(host, &moves, &arguments.how, true)
}

/// Gives a device back to the driver that it had.
pub(crate) fn unbind(host: &HostFiles, arguments: &UnbindArguments) -> Result<Exit, Problem> {
    let devices = devices(host, arguments.device)?;
    let memory = Memory::of(host);
    let mut moves = Vec::new();
    for device in &devices {
        let bdf = device.function.bdf;
        let wanted = bdf == arguments.device || arguments.siblings;
        if !wanted {
            continue;
        }
        let known = memory.recall(bdf, &device.id)?;
        if !device.function.vfio && !known.as_ref().is_some_and(|known| device.is_on_its_way(known)) {
            continue;
        }
        if let Some(holder) = holders(host, &host.vfio_files(&device.function)?).found.into_iter().next()
            && !arguments.how.force
        {
            return Err(Refused::Held { bdf, holder }.into());
        }
        let to = known.map_or(Target::Any, Target::Known);
        moves.push(Move { bdf, id: device.id.clone(), from: device.binding.clone(), to });
    }
    finish(host, &moves, &arguments.how, false)
}

/// What happens to others of the group.
#[derive(Clone, Copy, PartialEq, Eq, Debug)]
enum Others {
    Refuse,
    Too,
    Leave,
}

/// The device, and then the others of its group.
fn devices(host: &HostFiles, bdf: Bdf) -> Result<Vec<Device>, Problem> {
    let function = named(host, bdf)?;
    let uses = uses(host);
    let members = match function.group {
        Some(group) => host.sysfs().group_members(group)?,
        None => Vec::new(),
    };
    let mut found = vec![Device::read(host, function, false, &uses)?];
    for member in members {
        let Ok(other) = member.name.parse::<Bdf>() else { continue };
        if other != bdf {
            let function = named(host, other)?;
            found.push(Device::read(host, function, member.in_the_way, &uses)?);
        }
    }
    Ok(found)
}

/// Prints what would be done, or does it and prints that.
fn finish(host: &HostFiles, moves: &[Move], how: &How, to_vfio: bool) -> Result<Exit, Problem> {
    let module = to_vfio && !moves.is_empty() && !host.has("/sys/bus/pci/drivers/vfio-pci");
    let mut found = None;
    if !how.dry_run {
        let drivers = host.sysfs();
        let memory = Memory::of(host);
        if module {
            drivers.load("vfio-pci")?;
        }
        let mut kept = Vec::new();
        for one in moves.iter().filter(|_| to_vfio) {
            // A `bind` that was ended half way has kept the driver that the function had; now it has none.
            let half_way = one.from.driver_override.as_deref() == Some(VFIO);
            if !half_way || memory.recall(one.bdf, &one.id)?.is_none() {
                memory.keep(one.bdf, &one.id, &one.from)?;
                kept.push(one.bdf);
            }
        }
        let CarriedOut { result, undone } = carry_out(&drivers, moves);
        // What is with its own driver again needs no memory of it.
        if to_vfio {
            let mut forget = undone.into_iter().filter(|bdf| kept.contains(bdf));
            forget.try_for_each(|bdf| memory.forget(bdf))?;
        } else if result.is_ok() {
            moves.iter().try_for_each(|one| memory.forget(one.bdf))?;
        }
        found = Some(result?);
    }
    if how.json {
        display::print_json(&show::Moves::of(moves, module, found.as_deref()))?;
    } else {
        display::print(&show::moves(moves, module, found.as_deref()))?;
    }
    Ok(Exit::Done)
}

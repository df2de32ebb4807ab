//! `vfio-assign list`: the PCI functions of the host, and which of them a guest could have.

mod filter;
mod json;
mod readiness;
mod show;

pub(crate) use filter::{ClassFilter, DriverFilter, IdFilter};
use readiness::{Readiness, readiness};

use std::collections::BTreeMap;

use clap::Args;
use vfio_assign_core::Bdf;
use vfio_assign_linux::GroupMember;

use crate::display;
use crate::exit::Exit;
use crate::help::Problem;
use crate::host::{HostFiles, PciFunction, Use, folder, functions, uses};

/// What to list.
#[derive(Debug, Default, Args)]
pub(crate) struct ListArguments {
    /// Only functions of this class: hexadecimal digits that its code begins with, or a part of its name
    #[arg(long, value_name = "CLASS")]
    pub(crate) class: Option<ClassFilter>,

    /// Only functions of this driver; `none` for those without one
    #[arg(long, value_name = "DRIVER")]
    pub(crate) driver: Option<DriverFilter>,

    /// Only functions with this vendor and device id, such as 8086:10d3, or 8086: for all of a vendor
    #[arg(long, value_name = "VENDOR:DEVICE")]
    pub(crate) id: Option<IdFilter>,

    /// Put functions of one IOMMU group together: a guest gets all of a group or nothing
    #[arg(long)]
    pub(crate) groups: bool,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// A function, and what is to be said about it.
pub(crate) struct Listed {
    pub(crate) function: PciFunction,
    pub(crate) readiness: Readiness,
    pub(crate) uses: Vec<Use>,
}

/// Lists the functions of a host.
pub(crate) fn list(host: &HostFiles, arguments: &ListArguments) -> Result<Exit, Problem> {
    let all = listed(host)?;
    let there_are = all.len();
    let shown: Vec<Listed> = all.into_iter().filter(|one| arguments.shows(&one.function)).collect();
    if arguments.json {
        display::print_json(&json::List::of(&shown))?;
    } else if shown.is_empty() {
        display::print(&show::nothing(there_are))?;
    } else {
        display::print(&show::list(&shown, arguments.groups, display::columns()))?;
    }
    Ok(Exit::Done)
}

/// All functions of a host.
pub(crate) fn listed(host: &HostFiles) -> Result<Vec<Listed>, Problem> {
    let uses = uses(host);
    uses.unseen_of_any().for_each(|error| log::warn!("{error}, so not all that the host needs may be seen"));
    let mut groups: BTreeMap<u32, Vec<GroupMember>> = BTreeMap::new();
    let mut all = Vec::new();
    for function in functions(host)? {
        let members = match function.group {
            None => &Vec::new(),
            Some(number) => match groups.entry(number) {
                std::collections::btree_map::Entry::Occupied(found) => found.into_mut(),
                std::collections::btree_map::Entry::Vacant(place) => {
                    match host.sysfs().group_members(number) {
                        // The last of its group has just gone.
                        Err(_) if !host.has(&folder(function.bdf)) => continue,
                        members => place.insert(members?),
                    }
                }
            },
        };
        let no_iommu = match function.group {
            Some(number) => host.sysfs().is_no_iommu(number)?,
            None => false,
        };
        let uses = uses.of(function.bdf).to_vec();
        let readiness = readiness(&function, members, no_iommu, &uses);
        all.push(Listed { function, readiness, uses });
    }
    Ok(all)
}

impl ListArguments {
    fn shows(&self, function: &PciFunction) -> bool {
        self.class.as_ref().is_none_or(|class| class.matches(function))
            && self.driver.as_ref().is_none_or(|driver| driver.matches(function))
            && self.id.is_none_or(|id| id.matches(function))
    }
}

/// The address as short as it can be said: without the segment where all have segment 0.
pub(crate) fn short(bdf: Bdf) -> String {
    let text = bdf.to_string();
    if bdf.segment() == 0 { text[5..].into() } else { text }
}

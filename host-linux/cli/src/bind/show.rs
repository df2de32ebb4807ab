//! What was moved, or would be, for a person and for programs.

use std::fmt::Write as _;
use std::io::IsTerminal as _;

use serde::Serialize;
use vfio_assign_core::Bdf;

use super::plan::{Binding, Move, Target};

/// The schema's name, with its version at the end.
const SCHEMA: &str = "vfio-assign/bind/1";

/// What was moved, and who drives each now; where nothing was, what a shell would have to do for it.
pub(super) fn moves(moves: &[Move], module: bool, found: Option<&[Option<String>]>) -> String {
    if moves.is_empty() {
        return "There is nothing to do.\n".into();
    }
    let mut text = String::new();
    let Some(found) = found else {
        // A person sees that it is for root; a shell that reads it is to do it.
        let prompt = if std::io::stdout().is_terminal() { "# " } else { "" };
        commands(moves, module).iter().for_each(|line| {
            let _infallible = writeln!(text, "{prompt}{line}");
        });
        return text;
    };
    for (one, to) in moves.iter().zip(found) {
        let to = to.as_deref().unwrap_or("no driver");
        let from = one.from.driver.as_deref().unwrap_or("no driver");
        let _infallible = writeln!(text, "{}: from {from} to {to}", one.bdf);
    }
    text
}

/// The same for programs, whose members `docs/json.md` describes.
#[derive(Serialize)]
pub(super) struct Moves {
    schema: &'static str,
    dry_run: bool,
    moves: Vec<One>,
    commands: Vec<String>,
}

#[derive(Serialize)]
struct One {
    address: String,
    from: Option<String>,
    to: Option<String>,
    found_by_kernel: bool,
}

impl Moves {
    /// These.
    pub(super) fn of(moves: &[Move], module: bool, found: Option<&[Option<String>]>) -> Self {
        let one = |(place, one): (usize, &Move)| One {
            address: one.bdf.to_string(),
            from: one.from.driver.clone(),
            to: match &one.to {
                Target::Known(binding) => binding.driver.clone(),
                Target::Any => found.and_then(|found| found.get(place)?.clone()),
            },
            found_by_kernel: one.to == Target::Any,
        };
        Self {
            schema: SCHEMA,
            dry_run: found.is_none(),
            moves: moves.iter().enumerate().map(one).collect(),
            commands: commands(moves, module),
        }
    }
}

/// Lines for a shell that do the same.
fn commands(moves: &[Move], module: bool) -> Vec<String> {
    let mut lines = Vec::new();
    if module {
        lines.push("modprobe vfio-pci".into());
    }
    for one in moves {
        let bdf = one.bdf;
        let unbind = one
            .from
            .driver
            .is_some()
            .then(|| format!("echo {bdf} > /sys/bus/pci/devices/{bdf}/driver/unbind"));
        let probe = format!("echo {bdf} > /sys/bus/pci/drivers_probe");
        match &one.to {
            Target::Any => {
                lines.push(set_override(bdf, None));
                lines.extend(unbind);
                lines.push(probe);
            }
            Target::Known(Binding { driver: None, driver_override }) => {
                lines.extend(unbind);
                lines.push(set_override(bdf, driver_override.as_deref()));
            }
            Target::Known(Binding { driver: Some(driver), driver_override }) => {
                lines.push(set_override(bdf, Some(driver)));
                lines.extend(unbind);
                lines.push(probe);
                if driver_override.as_ref() != Some(driver) {
                    lines.push(set_override(bdf, driver_override.as_deref()));
                }
            }
        }
    }
    lines
}

fn set_override(bdf: Bdf, driver: Option<&str>) -> String {
    let driver = driver.map_or_else(String::new, |driver| format!("{driver} "));
    format!("echo {driver}> /sys/bus/pci/devices/{bdf}/driver_override")
}

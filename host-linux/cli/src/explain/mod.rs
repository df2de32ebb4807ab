//! `vfio-assign explain`: what a guest would be given of a device, and why, before anything starts.

mod picture;
mod plan;
mod show;

pub(crate) use plan::{NoPlan, Plan};

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::Args;
use serde::Serialize;

use crate::arguments::BackendArgument;
use crate::display;
use crate::exit::Exit;
use crate::help::{Help, Problem};
use crate::host::HostFiles;
use crate::shape::shape;

/// What to explain.
#[derive(Debug, Args)]
pub(crate) struct ExplainArguments {
    /// A device, such as 0000:04:00.0 or 04:00.0, or a file that `vfio-assign capture` has written
    #[arg(value_name = "ADDRESS|CAPTURE")]
    pub(crate) what: String,

    /// The kernel's interface by which a device that VFIO has is opened
    #[arg(long, value_name = "INTERFACE", value_enum, default_value_t = BackendArgument::Auto)]
    pub(crate) backend: BackendArgument,

    /// Write a picture of the BARs to this file
    #[arg(long, value_name = "FILE")]
    pub(crate) svg: Option<PathBuf>,

    /// Print JSON
    #[arg(long)]
    pub(crate) json: bool,
}

/// The schema's name, with its version at the end.
const SCHEMA: &str = "vfio-assign/explain/1";

#[derive(Serialize)]
struct Schema<'a> {
    schema: &'static str,
    #[serde(flatten)]
    plan: &'a Plan,
}

/// The picture cannot be written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write the picture {}: {source}", path.display())]
struct NoPicture {
    path: PathBuf,
    source: io::Error,
}

impl Help for NoPicture {
    fn help(&self) -> Option<String> {
        Some("give --svg a path in a folder that exists and can be written".into())
    }
}

/// Explains a device.
pub(crate) fn explain(host: &HostFiles, arguments: &ExplainArguments) -> Result<Exit, Problem> {
    let plan = Plan::of(&shape(host, arguments.backend.into(), &arguments.what)?)?;
    if let Some(path) = &arguments.svg {
        fs::write(path, picture::picture(&plan))
            .map_err(|source| NoPicture { path: path.clone(), source })?;
    }
    if arguments.json {
        display::print_json(&Schema { schema: SCHEMA, plan: &plan })?;
    } else {
        display::print(&show::plan(&plan, display::text_width()))?;
    }
    Ok(Exit::Done)
}

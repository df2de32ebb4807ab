//! `vfio-assign completions` and `man`: made from the definition of the arguments, so that they say what it says.

use std::fs;
use std::io;
use std::path::PathBuf;

use clap::{Args, CommandFactory as _};
use clap_complete::Shell;

use crate::arguments::Arguments;
use crate::display;
use crate::exit::Exit;
use crate::help::{Help, Problem};

/// For which shell.
#[derive(Debug, Args)]
pub(crate) struct CompletionsArguments {
    /// The shell
    #[arg(value_name = "SHELL", value_enum)]
    pub(crate) shell: Shell,
}

/// Where to.
#[derive(Debug, Args)]
pub(crate) struct ManArguments {
    /// Write a page for each command into this folder, instead of the first page to standard output
    #[arg(long, value_name = "FOLDER")]
    pub(crate) folder: Option<PathBuf>,
}

/// Pages were not written.
#[derive(Debug, thiserror::Error)]
#[error("cannot write manual pages{}: {source}", .folder.as_ref().map(|folder| format!(" into {}", folder.display())).unwrap_or_default())]
struct NotWritten {
    folder: Option<PathBuf>,
    source: io::Error,
}

impl Help for NotWritten {
    fn help(&self) -> Option<String> {
        Some("give --folder a folder that can be made and written".into())
    }
}

/// Prints what a shell completes by.
pub(crate) fn completions(arguments: &CompletionsArguments) -> Result<Exit, Problem> {
    let mut text = Vec::new();
    clap_complete::generate(arguments.shell, &mut Arguments::command(), "vfio-assign", &mut text);
    display::print(&String::from_utf8_lossy(&text))?;
    Ok(Exit::Done)
}

/// Prints or writes manual pages.
pub(crate) fn man(arguments: &ManArguments) -> Result<Exit, Problem> {
    let failed = |source| NotWritten { folder: arguments.folder.clone(), source };
    let command = Arguments::command();
    if let Some(folder) = &arguments.folder {
        fs::create_dir_all(folder).map_err(failed)?;
        clap_mangen::generate_to(command, folder).map_err(failed)?;
    } else {
        let mut page = Vec::new();
        clap_mangen::Man::new(command).render(&mut page).map_err(failed)?;
        display::print(&String::from_utf8_lossy(&page))?;
    }
    Ok(Exit::Done)
}

//! `lbd man` and `lbd completions`: manual pages and shell completions, generated from the definition of
//! the command line.

use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use lbd::os::terminal::{print, tell};

use crate::args::Args;

#[allow(dead_code)] // only the argument definitions are used here
#[path = "../loadgen/args.rs"]
mod loadgen;

/// A manual page and its file name.
struct ManualPage {
    file: String,
    text: String,
}

/// Prints the page of `lbd`, or writes the pages of all commands to a directory.
pub fn man(dir: Option<&Path>) -> Result<()> {
    let mut pages = vec![];
    add_pages(described(Args::command(), "lbd"), &mut pages)?;
    let Some(dir) = dir else {
        let main = pages.iter().find(|page| page.file == "lbd.1").expect("it was added");
        print(format_args!("{}", main.text))?;
        return Ok(());
    };
    add_pages(described(loadgen::Args::command(), "loadgen"), &mut pages)?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot create {}", dir.display()))?;
    for ManualPage { file, text } in &pages {
        let path = dir.join(file);
        std::fs::write(&path, text).with_context(|| format!("cannot write {}", path.display()))?;
    }
    tell(format_args!(
        "{} pages in {}; read one with `man {}`",
        pages.len(),
        dir.display(),
        dir.join("lbd.1").display()
    ));
    Ok(())
}

/// Prints the shell completions of `lbd`.
pub fn completions(shell: Shell) -> Result<()> {
    let mut script = vec![];
    clap_complete::generate(shell, &mut Args::command(), "lbd", &mut script);
    print(format_args!("{}", String::from_utf8(script)?))?;
    Ok(())
}

/// Completes a command's definition with what clap computes at run time, such as full names of
/// subcommands.
fn described(command: clap::Command, name: &'static str) -> clap::Command {
    let mut command = command.name(name).disable_help_subcommand(true);
    command.build();
    command
}

/// Adds the pages of a command and all its subcommands.
fn add_pages(command: clap::Command, pages: &mut Vec<ManualPage>) -> Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        add_pages(below.clone(), pages)?;
    }
    let man = Man::new(command).source(concat!("lbd ", env!("CARGO_PKG_VERSION"))).manual("lbd");
    let mut text = vec![];
    man.render(&mut text)?;
    pages.push(ManualPage { file: man.get_filename(), text: String::from_utf8(text)? });
    Ok(())
}

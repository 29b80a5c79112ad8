//! `lbd man` and `lbd completions`: manual pages and shell completions, made from the command line's own description.

use std::path::Path;

use anyhow::{Context, Result};
use clap::CommandFactory;
use clap_complete::Shell;
use clap_mangen::Man;
use lbd::os::terminal::{print, tell};

use crate::args::Args;

#[allow(dead_code)] // only its description is used here
#[path = "../loadgen/args.rs"]
mod loadgen;

/// A page, and the name of its file.
struct Page {
    file: String,
    text: String,
}

/// Prints the page of `lbd` itself, or writes the pages of all commands to a folder.
pub fn man(dir: Option<&Path>) -> Result<()> {
    let mut pages = vec![];
    add_pages(described(Args::command(), "lbd"), &mut pages)?;
    let Some(dir) = dir else {
        let main = pages.iter().find(|page| page.file == "lbd.1").expect("it was added");
        print(format_args!("{}", main.text))?;
        return Ok(());
    };
    add_pages(described(loadgen::Args::command(), "loadgen"), &mut pages)?;
    std::fs::create_dir_all(dir).with_context(|| format!("cannot make {}", dir.display()))?;
    for Page { file, text } in &pages {
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

/// Prints the completions of `lbd` for a shell.
pub fn completions(shell: Shell) -> Result<()> {
    let mut script = vec![];
    clap_complete::generate(shell, &mut Args::command(), "lbd", &mut script);
    print(format_args!("{}", String::from_utf8(script)?))?;
    Ok(())
}

/// With everything that is only known when a command is used, such as the full names of subcommands.
fn described(command: clap::Command, name: &'static str) -> clap::Command {
    let mut command = command.name(name).disable_help_subcommand(true);
    command.build();
    command
}

/// The pages of a command and of all below it.
fn add_pages(command: clap::Command, pages: &mut Vec<Page>) -> Result<()> {
    for below in command.get_subcommands().filter(|below| !below.is_hide_set()) {
        add_pages(below.clone(), pages)?;
    }
    let man = Man::new(command).source(concat!("lbd ", env!("CARGO_PKG_VERSION"))).manual("lbd");
    let mut text = vec![];
    man.render(&mut text)?;
    pages.push(Page { file: man.get_filename(), text: String::from_utf8(text)? });
    Ok(())
}

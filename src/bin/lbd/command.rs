//! Command lines that start this program with another subcommand, and its terminal output.

use anyhow::{Context, Result};
use lbd::config::{Config, NativePool, Run};
use lbd::os::terminal::tell;

use crate::args::Common;

pub fn say(common: &Common, text: std::fmt::Arguments<'_>) {
    if !common.quiet {
        tell(text);
    }
}

/// The command line that starts this program with another subcommand and the same configuration.
pub fn own_command(subcommand: &str, config: &Config) -> Result<Vec<String>> {
    let program = std::env::current_exe().context("cannot find the path of this program")?;
    let mut words = vec![program.display().to_string(), subcommand.to_owned()];
    if let Some(path) = &config.source {
        words.extend(["--config".to_owned(), path.display().to_string()]);
    }
    words.push("--quiet".to_owned());
    Ok(words)
}

/// The command line of `lbd server`, with placeholders for id and port.
pub fn server_command(config: &Config) -> Result<Vec<String>> {
    let mut words = own_command("server", config)?;
    words.extend(["--id", "{id}", "--port", "{port}"].map(str::to_owned));
    Ok(words)
}

/// The replicas of a native pool; an error if the pool has none.
pub fn replicas(pool: &NativePool) -> Result<&Run> {
    let run = pool.run.as_ref().with_context(|| {
        format!("pool {} has no \"run\", so lbd starts no servers for it; add that to the pool", pool.name)
    })?;
    Ok(&run.run)
}

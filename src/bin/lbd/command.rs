//! Command lines that start this program with another subcommand, and its terminal output.

use std::io::IsTerminal;
use std::net::SocketAddr;

use anyhow::{Context, Result, bail};
use lbd::config::{Config, NativePool, Pool, Run, Token};
use lbd::os::terminal::tell;

use crate::args::CommonArgs;

pub fn say(common: &CommonArgs, text: std::fmt::Arguments<'_>) {
    if !common.quiet {
        tell(text);
    }
}

/// The address of the dashboard for the operator. The token follows it only on a terminal: output that goes
/// to a file or a log must not hold a secret.
pub fn dashboard_link(addr: SocketAddr, token: &Token) -> String {
    let token =
        if std::io::stderr().is_terminal() { format!("#token={}", token.as_str()) } else { String::new() };
    format!("http://{addr}/{token}")
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

/// The native pool of this name, else the first one, in which `component` takes part.
pub fn native_pool<'a>(config: &'a Config, name: Option<&str>, component: &str) -> Result<&'a NativePool> {
    let Some(name) = name else { return Ok(config.require_native(component)?) };
    match config.pool(name) {
        Some(Pool::Native(pool)) => Ok(pool),
        Some(Pool::Datagram(_)) => {
            bail!("--pool {name} is a datagram pool; {component} takes part in native pools")
        }
        None => {
            let names: Vec<&str> = config.native_pools().map(|pool| pool.name.as_str()).collect();
            bail!("--pool {name}: no pool has this name; the native pools are {}", names.join(", "))
        }
    }
}

/// The name of a log file of a component: those of the pool of the native sections have no directory of their
/// own.
pub fn log_name(pool: &NativePool, directory: &str, file: &str) -> String {
    match pool.name.as_str() {
        "native" => format!("{directory}/{file}"),
        name => format!("{directory}/{name}/{file}"),
    }
}

/// `lbd server` for this pool, with placeholders for id and port.
pub fn server_command(config: &Config, pool: &NativePool) -> Result<Vec<String>> {
    let mut words = own_command("server", config)?;
    words.extend(["--pool", &pool.name, "--id", "{id}", "--port", "{port}"].map(str::to_owned));
    Ok(words)
}

/// The replicas of a native pool; an error if the pool has none.
pub fn replicas(pool: &NativePool) -> Result<&Run> {
    let run = pool.run.as_ref().with_context(|| {
        format!("pool {} has no \"run\", so lbd starts no servers for it; add that to the pool", pool.name)
    })?;
    Ok(&run.run)
}

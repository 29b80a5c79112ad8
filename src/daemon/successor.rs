//! The balancer that shall follow this one without losing a request: the program that stands at the same path, a newer one
//! after an upgrade, with the same arguments and `--takeover`.
//!
//! As a child of this process it is in the same service, with the same rights; a service manager takes it for the main
//! process as soon as it is told.

use std::ffi::OsString;
use std::io;
use std::path::PathBuf;
use std::process::{Command, Stdio};

use tracing::{info, warn};

use crate::os::notify;
use crate::os::process::Exit;

/// How it is asked for.
const TAKEOVER: &str = "--takeover";
/// Arguments about a standard input that a successor has not.
const OF_STDIN: [&str; 2] = ["--sockets-by-stdin", "--until-stdin-ends"];

/// How a successor is started.
#[derive(Clone, Debug)]
pub struct Successor {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Successor {
    /// Of this process. To be called at its start: later its program may have been replaced, and then only the path
    /// leads to the new one.
    pub fn of_this_process() -> io::Result<Successor> {
        let arguments = with_takeover(std::env::args_os().skip(1).collect());
        Ok(Successor { program: std::env::current_exe()?, arguments })
    }

    /// Starts it. One that ends before it has taken over is told of, and this process goes on.
    pub fn start(&self) -> io::Result<()> {
        let mut command = Command::new(&self.program);
        notify::pass_on_to(command.args(&self.arguments).stdin(Stdio::null()));
        let mut child = command.spawn()?;
        info!(pid = child.id(), program = %self.program.display(), "a successor was started");
        std::thread::Builder::new().name("successor".into()).spawn(move || match child.wait() {
            Ok(exit) => warn!("the successor has ended ({}): going on", Exit::Seen(exit)),
            Err(error) => warn!(%error, "the successor cannot be waited for"),
        })?;
        Ok(())
    }
}

/// These arguments, with the takeover asked for once and of the balancer that the configuration says.
fn with_takeover(arguments: Vec<OsString>) -> Vec<OsString> {
    let mut kept = vec![];
    let mut arguments = arguments.into_iter().peekable();
    while let Some(argument) = arguments.next() {
        if argument == TAKEOVER {
            // Its value, if it has one: nothing else of the command stands without a dash.
            arguments.next_if(|next| !next.as_encoded_bytes().starts_with(b"-"));
        } else if !argument.as_encoded_bytes().starts_with(b"--takeover=")
            && !OF_STDIN.iter().any(|flag| argument == *flag)
        {
            kept.push(argument);
        }
    }
    kept.push(TAKEOVER.into());
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_takes_over_from_whoever_starts_it_once() {
        let of = |words: &str| {
            let words = with_takeover(words.split(' ').map(OsString::from).collect());
            words.join(" ".as_ref()).into_string().unwrap()
        };
        assert_eq!(of("balancer --config a.json"), "balancer --config a.json --takeover");
        assert_eq!(of("balancer --takeover --config a.json"), "balancer --config a.json --takeover");
        assert_eq!(of("balancer --takeover /run/x --quiet"), "balancer --quiet --takeover");
        assert_eq!(
            of("balancer --sockets-by-stdin --quiet --until-stdin-ends"),
            "balancer --quiet --takeover"
        );
        assert_eq!(of("balancer --takeover=/run/x --quiet"), "balancer --quiet --takeover");
    }
}

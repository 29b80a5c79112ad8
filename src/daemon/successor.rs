//! A balancer that takes over from this process without losing a request: the program at the same path, a
//! newer one after an upgrade, with the same arguments and `--takeover`.
//!
//! As a child of this process it is in the same service, with the same rights. A service manager takes it for
//! the main process as soon as it is notified.

use std::ffi::OsString;
use std::io;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};

use tracing::{info, warn};

use crate::os::notify;
use crate::os::process::Exit;

/// The option with which a balancer takes over.
const TAKEOVER: &str = "--takeover";
/// Options that a successor does not get, since they need the parent's standard input.
const OF_STDIN: [&str; 2] = ["--sockets-by-stdin", "--until-stdin-ends"];

/// The command that starts a successor.
#[derive(Clone, Debug)]
pub struct Successor {
    program: PathBuf,
    arguments: Vec<OsString>,
}

impl Successor {
    /// The command for a successor of this process, whose socket for successors is at `socket`. Must be
    /// called at the start of the process: later its program may have been replaced, and then only the path
    /// leads to the new program.
    pub fn of_this_process(socket: &Path) -> io::Result<Successor> {
        let arguments = with_takeover(std::env::args_os().skip(1).collect(), socket);
        Ok(Successor { program: std::env::current_exe()?, arguments })
    }

    /// Starts the successor. If the successor ends before it has taken over, this process logs that and keeps
    /// serving.
    pub fn start(&self) -> io::Result<()> {
        let mut command = Command::new(&self.program);
        notify::pass_on_to(command.args(&self.arguments).stdin(Stdio::null()));
        let mut child = command.spawn()?;
        info!(pid = child.id(), program = %self.program.display(), "successor started");
        std::thread::Builder::new().name("successor".into()).spawn(move || match child.wait() {
            Ok(exit) => {
                let (exit, effect) = (Exit::Seen(exit).to_string(), "still serving");
                warn!(exit, effect, "successor ended");
            }
            Err(error) => warn!(error = error.to_string(), "cannot wait for the successor"),
        })?;
        Ok(())
    }
}

/// These arguments with `--takeover=SOCKET` instead of any other takeover. The path is explicit, since a
/// changed configuration may lead to another path.
fn with_takeover(arguments: Vec<OsString>, socket: &Path) -> Vec<OsString> {
    let mut kept = vec![];
    let mut arguments = arguments.into_iter().peekable();
    while let Some(argument) = arguments.next() {
        if argument == TAKEOVER {
            // Skips the value of the option, if it has one: all other arguments of the command begin with a
            // dash.
            arguments.next_if(|next| !next.as_encoded_bytes().starts_with(b"-"));
        } else if !argument.as_encoded_bytes().starts_with(b"--takeover=")
            && !OF_STDIN.iter().any(|flag| argument == *flag)
        {
            kept.push(argument);
        }
    }
    let mut takeover = OsString::from(TAKEOVER);
    takeover.push("=");
    takeover.push(socket);
    kept.push(takeover);
    kept
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_successor_takes_over_from_the_process_that_starts_it_once() {
        let of = |words: &str| {
            let words = with_takeover(words.split(' ').map(OsString::from).collect(), Path::new("/run/y"));
            words.join(" ".as_ref()).into_string().unwrap()
        };
        assert_eq!(of("balancer --config a.json"), "balancer --config a.json --takeover=/run/y");
        assert_eq!(of("balancer --takeover --config a.json"), "balancer --config a.json --takeover=/run/y");
        assert_eq!(of("balancer --takeover /run/x --quiet"), "balancer --quiet --takeover=/run/y");
        assert_eq!(
            of("balancer --sockets-by-stdin --quiet --until-stdin-ends"),
            "balancer --quiet --takeover=/run/y"
        );
        assert_eq!(of("balancer --takeover=/run/x --quiet"), "balancer --quiet --takeover=/run/y");
    }
}

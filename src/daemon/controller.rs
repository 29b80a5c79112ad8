//! The controller's loop: carries out what its role decides, with real processes.

use std::collections::BTreeMap;
use std::io;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};
use std::time::Duration;

use tracing::{info, warn};

use super::process::{Process, describe_exit};
use crate::io::DatagramIo;
use crate::role::Role;
use crate::role::controller::{Action, ControllerRole, StartFailure};
use crate::time::{Clock, Instant, earliest};

/// How a server is started: a program and its arguments, in which `{id}`, `{port}` and `{config}` are filled in.
#[derive(Clone, Debug)]
pub struct ServerCommand {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// What `{config}` stands for.
    pub config: String,
    /// Where servers listen: the address on which a port must be free.
    pub ip: IpAddr,
}

impl ServerCommand {
    fn command(&self, id: u32, port: u16) -> Command {
        let fill = |word: &String| {
            word.replace("{id}", &id.to_string())
                .replace("{port}", &port.to_string())
                .replace("{config}", &self.config)
        };
        let mut words = self.words.iter().map(fill);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn port_is_free(&self, port: u16) -> bool {
        UdpSocket::bind(SocketAddr::new(self.ip, port)).is_ok()
    }
}

/// A controller with its servers.
pub struct Supervisor<I> {
    role: ControllerRole,
    io: I,
    clock: Clock,
    command: ServerCommand,
    servers: BTreeMap<u32, Process>,
    events: Vec<String>,
}

/// Exits are noticed at once by SIGCHLD; this bounds how late, should one be missed.
const REAP_EVERY: Duration = Duration::from_millis(200);

impl<I: DatagramIo> Supervisor<I> {
    /// A controller that has not started anything yet.
    pub fn new(role: ControllerRole, io: I, clock: Clock, command: ServerCommand) -> Self {
        Supervisor { role, io, clock, command, servers: BTreeMap::new(), events: vec![] }
    }

    /// One turn, of `patience` at most: orders, exits, starts and stops.
    pub fn turn(&mut self, patience: Duration) -> io::Result<Instant> {
        let at_latest = self.clock.now() + patience.min(REAP_EVERY);
        self.carry_out();
        self.io.wait(earliest(self.role.next_deadline(), Some(at_latest)))?;
        self.io.receive()?;
        let now = self.clock.now();
        let (rx, tx) = self.io.turn();
        self.role.on_batch(now, rx, tx);
        self.role.on_timeout(now, tx);
        self.io.flush()?;
        self.reap(now);
        self.carry_out();
        Ok(now)
    }

    /// Stops every server; go on with turns until [`Supervisor::is_empty`].
    pub fn shut_down(&mut self) {
        self.role.shut_down(self.clock.now());
        self.carry_out();
    }

    /// Whether no server is left.
    pub fn is_empty(&self) -> bool {
        self.role.is_empty()
    }

    /// Ends what is left, without a drain.
    pub fn kill_all(&mut self) {
        for server in self.servers.values_mut() {
            server.kill();
        }
    }

    /// What happened since the last call, in words, oldest first.
    pub fn take_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    fn reap(&mut self, now: Instant) {
        let role = &mut self.role;
        self.servers.retain(|&id, server| {
            let Some(status) = server.poll_exit() else { return true };
            role.on_exited(now, id, &describe_exit(status));
            false
        });
    }

    fn carry_out(&mut self) {
        while let Some(action) = self.role.poll_action() {
            match action {
                Action::Start { id, port } => self.start(id, port),
                Action::Stop { id } => {
                    info!(server = id, "stopping");
                    self.with_server(id, Process::terminate);
                }
                Action::Kill { id } => {
                    warn!(server = id, "it does not stop: killing it");
                    self.with_server(id, Process::kill);
                }
                Action::Tell(text) => {
                    info!("{text}");
                    self.events.push(text);
                }
            }
        }
    }

    fn with_server(&mut self, id: u32, act: impl FnOnce(&mut Process)) {
        if let Some(server) = self.servers.get_mut(&id) {
            act(server);
        }
    }

    fn start(&mut self, id: u32, port: u16) {
        let now = self.clock.now();
        if !self.command.port_is_free(port) {
            warn!(server = id, port, "the port is in use: trying the next one");
            return self.role.on_start_failed(now, id, StartFailure::PortInUse);
        }
        match Process::start(&mut self.command.command(id, port)) {
            Ok(process) => {
                info!(server = id, port, pid = process.id(), "started");
                self.servers.insert(id, process);
                self.role.on_started(now, id);
            }
            Err(error) => {
                let program = &self.command.words[0];
                let text = format!("cannot start server {id} with {program}: {error}");
                warn!("{text}");
                self.events.push(text);
                self.role.on_start_failed(now, id, StartFailure::Other);
            }
        }
    }
}

impl<I> Drop for Supervisor<I> {
    /// An error on the way out leaves no server behind.
    fn drop(&mut self) {
        for server in self.servers.values_mut() {
            server.terminate();
        }
    }
}

//! Runs the processes of one pool's replicas.

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr, UdpSocket};
use std::process::{Command, Stdio};

use tracing::{info, warn};

use super::ledger::{Ledger, LedgerRecord};
use crate::base::time::Instant;
use crate::os::process::{INSTANCE_VARIABLE, Process};
use crate::supervise::servers::{Replica, ReplicaAction, Replicas, StartFailure};

/// The command that starts a server; `{id}`, `{port}` and `{config}` are replaced in its arguments.
#[derive(Clone, Debug)]
pub struct ServerCommand {
    /// The program and its arguments.
    pub words: Vec<String>,
    /// The value of `{config}`.
    pub config: String,
    /// The address of the servers, on which their ports must be free.
    pub ip: IpAddr,
}

impl ServerCommand {
    fn command(&self, id: u32, port: u16, instance: &str) -> Command {
        let fill = |word: &String| {
            word.replace("{id}", &id.to_string())
                .replace("{port}", &port.to_string())
                .replace("{config}", &self.config)
        };
        let mut words = self.words.iter().map(fill);
        let mut command = Command::new(words.next().unwrap_or_default());
        command.args(words).env(INSTANCE_VARIABLE, instance).stdin(Stdio::null()).stdout(Stdio::null());
        command
    }

    fn port_is_free(&self, port: u16) -> bool {
        UdpSocket::bind(SocketAddr::new(self.ip, port)).is_ok()
    }
}

/// The processes of one pool's replicas.
#[derive(Debug)]
pub struct Runner {
    /// The pool's name.
    pool: String,
    command: ServerCommand,
    servers: BTreeMap<u32, Process>,
    events: Vec<String>,
    /// The error of the last start, as text: the same error is not reported again.
    last_failure: String,
}

impl Runner {
    /// A runner without processes.
    pub fn new(pool: &str, command: ServerCommand) -> Self {
        let (servers, events) = (BTreeMap::new(), vec![]);
        Runner { pool: pool.to_owned(), command, servers, events, last_failure: String::new() }
    }

    /// The pool's name.
    pub fn pool(&self) -> &str {
        &self.pool
    }

    /// Adopts the servers of this pool that the controller before has left, then begins.
    pub fn begin(
        &mut self,
        now: Instant,
        replicas: &mut Replicas,
        left: &mut Vec<LedgerRecord>,
        ledger: &mut Ledger,
    ) {
        let mine: Vec<LedgerRecord> = left.extract_if(.., |record| record.pool == self.pool).collect();
        let mut adopted = vec![];
        for record in mine {
            let LedgerRecord { id, port, ends, .. } = record;
            if !replicas.adopt(now, Replica { id, port, ends }) {
                continue;
            }
            match record.find() {
                Some(process) => {
                    self.tell(format!("server {id} runs already (process {}): adopted", process.id()));
                    adopted.push((id, record.instance, process.identity()));
                    self.servers.insert(id, process);
                }
                None => replicas.on_exited(now, id, "while there was no controller"),
            }
        }
        replicas.begin(now);
        ledger.keep(&self.pool, replicas.places());
        for (id, instance, process) in adopted {
            ledger.note(&self.pool, id, &instance, process);
        }
    }

    /// Checks which servers have ended, then carries out the actions of the replicas.
    pub fn turn(&mut self, now: Instant, replicas: &mut Replicas, ledger: &mut Ledger) {
        self.servers.retain(|&id, server| {
            let Some(exit) = server.poll_exit() else { return true };
            replicas.on_exited(now, id, &exit.to_string());
            false
        });
        ledger.keep(&self.pool, replicas.places());
        while let Some(action) = replicas.poll_action() {
            match action {
                ReplicaAction::Start { id, port } => self.start(now, id, port, replicas, ledger),
                ReplicaAction::Stop { id } => {
                    info!(pool = self.pool, server = id, "stopping server");
                    self.with_server(id, Process::terminate);
                }
                ReplicaAction::Kill { id } => {
                    warn!(pool = self.pool, server = id, "server did not stop, sending SIGKILL");
                    self.with_server(id, Process::kill);
                }
                ReplicaAction::Tell(text) => self.tell(text),
                ReplicaAction::ReportEnd { id, how } => {
                    warn!(pool = self.pool, server = id, exit = how, "server ended unexpectedly");
                    self.note(format!("server {id} ended unexpectedly ({how})"));
                }
            }
        }
        ledger.save();
    }

    /// Stops all servers (SIGTERM).
    pub fn terminate_all(&mut self) {
        self.servers.values_mut().for_each(Process::terminate);
    }

    /// Kills all servers (SIGKILL).
    pub fn kill_all(&mut self) {
        self.servers.values_mut().for_each(Process::kill);
    }

    /// Events since the last call, as text, oldest first.
    pub fn take_events(&mut self) -> Vec<String> {
        std::mem::take(&mut self.events)
    }

    fn tell(&mut self, text: String) {
        info!(pool = self.pool, change = text, "replicas changed");
        self.note(text);
    }

    fn note(&mut self, text: String) {
        self.events.push(format!("pool {}: {text}", self.pool));
    }

    fn with_server(&mut self, id: u32, act: impl FnOnce(&mut Process)) {
        if let Some(server) = self.servers.get_mut(&id) {
            act(server);
        }
    }

    fn start(&mut self, now: Instant, id: u32, port: u16, replicas: &mut Replicas, ledger: &mut Ledger) {
        let pool = &self.pool;
        if !self.command.port_is_free(port) {
            warn!(pool, server = id, port, "port in use, trying the next");
            return replicas.on_start_failed(now, id, StartFailure::PortInUse);
        }
        let instance = format!("{:032x}", rand::random::<u128>());
        ledger.keep(pool, replicas.places());
        ledger.note(pool, id, &instance, None);
        ledger.save();
        match Process::start(&mut self.command.command(id, port, &instance)) {
            Ok(process) => {
                ledger.note(pool, id, &instance, process.identity());
                ledger.save();
                info!(pool, server = id, port, pid = process.id(), "server started");
                self.servers.insert(id, process);
                self.last_failure.clear();
                replicas.on_started(now, id);
            }
            Err(error) => {
                ledger.note(pool, id, "", None);
                let program = self.command.words[0].clone();
                let text = format!("cannot start server {id} with {program}: {error}");
                let why = error.to_string();
                if self.last_failure != why {
                    warn!(pool = self.pool, server = id, program, error = why, "server not started");
                    self.note(text);
                    self.last_failure = why;
                }
                replicas.on_start_failed(now, id, StartFailure::Other);
            }
        }
    }
}

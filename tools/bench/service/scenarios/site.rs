//! A site: a directory with a configuration, its own ports, and the processes that use it. A balancer serves
//! four servers at the start.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::{Context, Result, bail};
use lbd::admin::status::Status;
use lbd::admin::{AdminClient, find_token};
use lbd::base::time::Clock;
use lbd::config::Admin;
use lbd::pool::order::Order;
use rustix::process::Signal;
use serde_json::{Value, json};
use tempfile::TempDir;

use super::fakes::Fakes;
use super::ports::Ports;
use super::processes::{self, Process, Seen};
use super::speech::Speech;
use super::traffic::{Plan, Traffic};
use super::{Outcome, Setup, wait_until};

/// Servers at the start.
pub const SERVERS: u32 = 4;
/// Servers at most; those beyond [`SERVERS`] are added and removed.
pub const PLACES: u16 = 8;
/// Number of clients, each with its own socket.
const CLIENTS: u16 = 64;
/// Time limit of every step except a request.
pub const PATIENCE: Duration = Duration::from_secs(30);

const NATIVE_FRONT: u16 = 1;
const NATIVE_BACK: u16 = 2;
const CONTROLLER: u16 = 3;
const ADMIN: u16 = 4;
const POOL_FRONT: u16 = 5;
/// Port index of a second pool.
pub const OTHER_FRONT: u16 = 6;
const SERVERS_AT: u16 = 10;
const CLIENTS_AT: u16 = 40;

/// A server in the balancer's status.
pub struct Server {
    pub id: u32,
    pub state: String,
    pub dispatched: u64,
}

/// A running site: its configuration, ports, balancer and servers. Dropping it ends its processes.
pub struct Site<'a> {
    pub setup: &'a Setup,
    pub speech: Speech,
    pub clock: Clock,
    pub balancer: Option<Process>,
    /// Native servers with their ids.
    pub servers: Vec<(u32, Process)>,
    /// Servers of a datagram pool; the index is the id. `None` for a native pool.
    pub fakes: Option<Fakes>,
    config: Value,
    ports: Ports,
    dir: TempDir,
    started: u32,
}

impl<'a> Site<'a> {
    /// Prepares a site with a pool of this protocol. `changes` override its configuration; the object `pool`
    /// in them overrides the settings of its datagram pool.
    pub fn new(setup: &'a Setup, speech: Speech, mut changes: Value) -> Result<Site<'a>> {
        let (dir, ports) = (tempfile::tempdir()?, Ports::take());
        processes::remember(dir.path());
        let mut config = json!({
            "admin": {"listen": addr(ports.at(ADMIN)).to_string()},
            "state_dir": dir.path().join("state"),
            "logs": {"dir": dir.path().join("logs"), "level": "info"},
        });
        match speech {
            Speech::Native => merge(
                &mut config,
                json!({
                    "server": {"port_range_start": ports.at(SERVERS_AT),
                        "port_range_end": ports.at(CLIENTS_AT), "count": SERVERS},
                    "client": {"port_range_start": ports.at(CLIENTS_AT), "port_range_end": ports.end()},
                    "load_balancer": {"server_side_port": ports.at(NATIVE_BACK),
                        "client_side_port": ports.at(NATIVE_FRONT)},
                    "controller": {"port": ports.at(CONTROLLER)},
                }),
            ),
            Speech::Datagram | Speech::Dns => {
                let mut pool = pool(&ports, speech, "pool", POOL_FRONT, 0..SERVERS);
                merge(&mut pool, changes["pool"].take());
                merge(&mut config, json!({"pools": [pool]}));
            }
        }
        changes.as_object_mut().context("changes are sections")?.remove("pool");
        merge(&mut config, changes);
        let site = Site {
            setup,
            speech,
            clock: Clock::start(),
            balancer: None,
            servers: vec![],
            fakes: None,
            config,
            ports,
            dir,
            started: 0,
        };
        site.write(&site.config)?;
        Ok(site)
    }

    /// Starts a site: a running balancer with [`SERVERS`] servers, all up.
    pub fn running(setup: &'a Setup, speech: Speech, changes: Value) -> Result<Site<'a>> {
        let mut site = Site::new(setup, speech, changes)?;
        if speech != Speech::Native {
            let addrs: Vec<SocketAddr> =
                (0..PLACES).map(|place| addr(site.ports.at(SERVERS_AT + place))).collect();
            site.fakes = Some(Fakes::start(speech, &addrs, site.clock)?);
        }
        site.balancer = Some(site.start(&["balancer"])?);
        if speech == Speech::Native {
            for id in 0..SERVERS {
                site.add_server(id)?;
            }
        }
        site.wait_until_up(SERVERS as usize)?;
        Ok(site)
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    /// The configuration at the start.
    pub fn config(&self) -> &Value {
        &self.config
    }

    /// The configuration of a datagram pool with these servers.
    pub fn pool(&self, name: &str, front: u16, ids: impl IntoIterator<Item = u32>) -> Value {
        pool(&self.ports, self.speech, name, front, ids)
    }

    /// Port index of the pool under load.
    pub fn main_front() -> u16 {
        POOL_FRONT
    }

    /// Replaces the configuration file at once: a reader finds the whole old file or the whole new one.
    pub fn write(&self, config: &Value) -> Result<()> {
        let (path, unfinished) = (self.config_path(), self.path().join("config.new"));
        std::fs::write(&unfinished, config.to_string())?;
        std::fs::rename(unfinished, path).context("cannot write the configuration")
    }

    fn config_path(&self) -> PathBuf {
        self.path().join("config.json")
    }

    /// The text of a log so far.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join("logs").join(name)).unwrap_or_default()
    }

    /// Starts `lbd` with these arguments and this configuration.
    pub fn start(&mut self, words: &[&str]) -> Result<Process> {
        let mut all: Vec<String> = words.iter().map(|&word| word.to_owned()).collect();
        all.extend(["--config".to_owned(), self.config_path().display().to_string()]);
        self.started += 1;
        let name = format!("{}-{}", words[0], self.started);
        Process::start(&self.setup.bin_dir.join("lbd"), &all, self.path(), &name)
    }

    /// Starts a native server. Ids that differ by a multiple of 30 share a port.
    pub fn add_server(&mut self, id: u32) -> Result<()> {
        let port = self.ports.at(SERVERS_AT + (id % u32::from(CLIENTS_AT - SERVERS_AT)) as u16);
        let server = self.start(&["server", "--id", &id.to_string(), "--port", &port.to_string()])?;
        self.servers.push((id, server));
        Ok(())
    }

    /// The balancer's process.
    pub fn balancer(&mut self) -> &mut Process {
        self.balancer.as_mut().expect("started")
    }

    /// The processes `lbd COMMAND` of this site, started by this tool or by one of its processes.
    pub fn processes(&self, command: &str) -> Vec<Seen> {
        let mut all = processes::of_folder(self.path());
        all.retain(|process| process.is(command));
        all
    }

    pub fn admin_addr(&self) -> SocketAddr {
        addr(self.ports.at(ADMIN))
    }

    pub fn controller_port(&self) -> u16 {
        self.ports.at(CONTROLLER)
    }

    /// Reads the status from the balancer's admin interface.
    pub fn status(&self) -> Result<Status> {
        Ok(AdminClient::new(self.admin_addr(), None).status()?)
    }

    /// The servers of the pool under load.
    pub fn seen(&self) -> Result<Vec<Server>> {
        let status = self.status()?;
        let name = match self.speech {
            Speech::Native => "native",
            Speech::Datagram | Speech::Dns => "pool",
        };
        let servers = status.pools.into_iter().filter(|pool| pool.name == name).flat_map(|pool| pool.servers);
        Ok(servers.map(|s| Server { id: s.id, state: s.state, dispatched: s.dispatched }).collect())
    }

    /// One server of the pool under load.
    pub fn server(&self, id: u32) -> Result<Server> {
        let found = self.seen()?.into_iter().find(|server| server.id == id);
        found.with_context(|| format!("the balancer shows no server {id}"))
    }

    /// Number of servers that are up; 0 if the balancer does not answer.
    pub fn up(&self) -> usize {
        self.seen().map_or(0, |servers| servers.iter().filter(|server| server.state == "up").count())
    }

    /// Waits until this number of servers is up.
    pub fn wait_until_up(&mut self, count: usize) -> Result<()> {
        wait_until(&format!("{count} servers up"), PATIENCE, || {
            if let Some(balancer) = &mut self.balancer {
                balancer.must_run()?;
            }
            Ok(self.up() == count)
        })
    }

    /// Waits until a server is in this state.
    pub fn wait_for_state(&self, id: u32, state: &str) -> Result<()> {
        wait_until(&format!("server {id} {state}"), PATIENCE, || Ok(self.server(id)?.state == state))
    }

    /// Sends an order as an operator on this machine does, with the token that the balancer has left.
    pub fn order(&self, id: u32, order: Order) -> Result<()> {
        let addr = self.admin_addr();
        let admin = Admin { listen: Some(addr), is_written: true, token: None };
        let token = match find_token(&admin, &self.path().join("state"), addr.port()) {
            Ok(token) => token,
            Err(problem) => bail!(problem),
        };
        Ok(AdminClient::new(addr, Some(token)).order(None, id, order)?)
    }

    /// Starts the clients at the rate of the settings, and waits for the first answers.
    pub fn traffic(&self) -> Result<Traffic> {
        let traffic = self.traffic_at(self.setup.rate)?;
        traffic.wait_for(10)?;
        Ok(traffic)
    }

    /// Starts the clients at another rate, in requests per second.
    pub fn traffic_at(&self, rate: f64) -> Result<Traffic> {
        let front = if self.speech == Speech::Native { NATIVE_FRONT } else { POOL_FRONT };
        let plan = Plan {
            speech: self.speech,
            target: addr(self.ports.at(front)),
            clients: CLIENTS,
            rate,
            patience: self.setup.patience,
        };
        Traffic::start(plan, self.clock)
    }

    /// Ends the balancer as an operator does, and returns its final status.
    pub fn end_balancer(&mut self) -> Result<Status> {
        let mut balancer = self.balancer.take().context("the balancer has been ended already")?;
        balancer.signal(Signal::TERM);
        balancer.wait_for_good_end(PATIENCE)?;
        last_words(&balancer)
    }

    /// Ends the balancer, and adds its count of datagrams that the kernel dropped to the outcome.
    pub fn finish(mut self, outcome: &mut Outcome) -> Result<()> {
        let last = self.end_balancer()?;
        outcome.kernel_drops += kernel_drops(&last);
        Ok(())
    }
}

impl Drop for Site<'_> {
    fn drop(&mut self) {
        processes::forget(self.dir.path());
    }
}

/// The status that a balancer prints when it ends.
pub fn last_words(balancer: &Process) -> Result<Status> {
    let text = balancer.stdout();
    let line = text.lines().last().context("the balancer printed no status at its end")?;
    serde_json::from_str(line).context("the balancer's final status is not JSON")
}

/// Datagrams that the kernel dropped because the balancer's receive buffers were full.
pub fn kernel_drops(status: &Status) -> u64 {
    status.pools.iter().map(|pool| pool.kernel_drops + pool.kernel_drops_back).sum()
}

fn pool(ports: &Ports, speech: Speech, name: &str, front: u16, ids: impl IntoIterator<Item = u32>) -> Value {
    let server = |id: u32| json!({"address": addr(ports.at(SERVERS_AT + id as u16)).to_string(), "id": id});
    json!({
        "name": name,
        "listen": addr(ports.at(front)).to_string(),
        "protocol": speech.name(),
        "servers": ids.into_iter().map(server).collect::<Vec<_>>(),
    })
}

fn addr(port: u16) -> SocketAddr {
    (Ipv4Addr::LOCALHOST, port).into()
}

/// Overrides `config` with `changes`: objects key by key, any other value as a whole.
pub fn merge(config: &mut Value, changes: Value) {
    match (config, changes) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                merge(old.entry(key).or_insert(Value::Null), value);
            }
        }
        (_, Value::Null) => {}
        (old, new) => *old = new,
    }
}

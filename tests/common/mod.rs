//! Runs the real program: free ports, a folder of its own, captured output, bounded waits.
#![allow(dead_code, unused_imports)] // each test file uses its part

pub mod browser;
pub mod fake_admin;
pub mod fake_dns;
pub mod fakes;
mod ports;
mod running;
pub mod terminal;

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use lbd::daemon::client::Summary;
use serde_json::{Value, json};
use tempfile::TempDir;

use lbd::admin::status::{PoolStatus, Status};
use ports::Ports;
pub use running::{Finished, Running, send_signal};

/// How long a test waits for a fact before it fails.
pub const PATIENCE: Duration = Duration::from_secs(30);

/// The first port of the servers and of the clients within the block of a site.
const SERVERS_AT: u16 = 8;
const CLIENTS_AT: u16 = 32;
/// The first port of what a test starts by itself.
const OTHERS_AT: u16 = 64;

/// Waits until `look` finds something. Failing that, the test fails with `what` and what `explain` says.
#[track_caller]
pub fn wait_for<T>(what: &str, mut look: impl FnMut() -> Option<T>, explain: impl Fn() -> String) -> T {
    let give_up = Instant::now() + PATIENCE;
    loop {
        if let Some(found) = look() {
            return found;
        }
        assert!(Instant::now() < give_up, "{what}: not seen within {PATIENCE:?}\n{}", explain());
        std::thread::sleep(Duration::from_millis(2)); // the pace of looking, not a wait for an event
    }
}

/// A folder with a config.json, and a block of ports for the components that run from it.
pub struct Site {
    dir: TempDir,
    ports: Ports,
}

impl Site {
    /// A site whose configuration is the usual one of tests, changed by `changes`, section by section.
    ///
    /// Clients are patient, so that a slow machine costs time and not requests.
    pub fn new(changes: Value) -> Site {
        let ports = Ports::take();
        let mut config = json!({
            "server": {
                "port_range_start": ports.at(SERVERS_AT),
                "port_range_end": ports.at(CLIENTS_AT),
            },
            "client": {
                "port_range_start": ports.at(CLIENTS_AT),
                "port_range_end": ports.at(OTHERS_AT),
                "count": 4,
                "timeout": "2s",
                "deadline": "20s",
                "retries": 100,
            },
            "load_balancer": {"server_side_port": ports.at(1), "client_side_port": ports.at(2)},
            "controller": {"port": ports.at(3)},
            "admin": {"listen": format!("127.0.0.1:{}", ports.at(4))},
            "state_dir": "state",
        });
        merge(&mut config, changes);
        let site = Site { dir: tempfile::tempdir().expect("a temporary folder"), ports };
        site.write("config.json", &config.to_string());
        site
    }

    pub fn path(&self) -> &Path {
        self.dir.path()
    }

    pub fn write(&self, name: &str, text: &str) -> PathBuf {
        let path = self.path().join(name);
        std::fs::write(&path, text).expect("the folder can be written");
        path
    }

    /// The socket on which the site's balancer listens for successors.
    pub fn takeover_socket(&self) -> PathBuf {
        let entries = std::fs::read_dir(self.path().join("state")).expect("the state directory");
        let is_for_successors = |path: &PathBuf| {
            let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
            name.ends_with(".sock") && !name.starts_with("admin-")
        };
        entries.flatten().map(|entry| entry.path()).find(is_for_successors).expect("a socket for successors")
    }

    /// What a log holds so far; empty if there is none yet.
    pub fn log(&self, name: &str) -> String {
        std::fs::read_to_string(self.path().join("logs").join(name)).unwrap_or_default()
    }

    pub fn server_side(&self) -> u16 {
        self.ports.at(1)
    }

    pub fn client_side(&self) -> u16 {
        self.ports.at(2)
    }

    pub fn controller_port(&self) -> u16 {
        self.ports.at(3)
    }

    pub fn admin_port(&self) -> u16 {
        self.ports.at(4)
    }

    /// The port that `lbd server --id N` takes.
    pub fn server_port(&self, id: u16) -> u16 {
        self.ports.at(SERVERS_AT + id)
    }

    /// The port of the `n`-th client of `lbd up`.
    pub fn client_port(&self, n: u16) -> u16 {
        self.ports.at(CLIENTS_AT + n)
    }

    /// The `n`-th port for what the test starts by itself.
    pub fn port(&self, n: u16) -> u16 {
        self.ports.at(OTHERS_AT + n)
    }

    /// Starts `lbd` with these arguments, and with this site's configuration.
    pub fn start(&self, args: &[&str]) -> Running {
        let config = self.path().join("config.json");
        let mut words = args.to_vec();
        words.extend(["--config", config.to_str().expect("a plain path")]);
        self.start_bare(&words)
    }

    /// Starts `lbd` with these arguments and no others, in this site's folder.
    pub fn start_bare(&self, args: &[&str]) -> Running {
        Running::start(env!("CARGO_BIN_EXE_lbd").as_ref(), args, self.path())
    }

    /// A balancer that shows its figures and has its ports.
    pub fn balancer(&self) -> Running {
        let balancer = self.start(&["balancer", "--status-every", "50ms"]);
        balancer.status();
        balancer
    }

    /// A balancer with these datagram pools and nothing else; it shows its figures, and every server is up.
    pub fn pools(&self, pools: Value) -> Running {
        let balancer = self.start_pools(&pools, &["--status-every", "50ms"]);
        balancer.wait_until("the pools' servers up", |status| {
            let all_up = |(pool, wanted): (&PoolStatus, &Value)| {
                wanted["servers"].as_array().is_some_and(|servers| servers.len() <= pool.servers.len())
                    && pool.servers.iter().all(|server| server.state == "up")
            };
            let wanted = pools.as_array().expect("a list of pools");
            status.pools.len() == wanted.len() && status.pools.iter().zip(wanted).all(all_up)
        });
        balancer
    }

    /// A configuration with these datagram pools and nothing else.
    pub fn write_pools(&self, pools: &Value) -> PathBuf {
        let admin = json!({"listen": format!("127.0.0.1:{}", self.admin_port())});
        let config = json!({"pools": pools, "admin": admin, "state_dir": "state"});
        self.write("pools.json", &config.to_string())
    }

    /// Starts a balancer with these datagram pools and nothing else.
    pub fn start_pools(&self, pools: &Value, more: &[&str]) -> Running {
        let file = self.write_pools(pools);
        self.start_bare(&[&["balancer", "--config", file.to_str().expect("a plain path")], more].concat())
    }

    /// A server with this id on its usual port.
    pub fn server(&self, id: u32, more: &[&str]) -> Running {
        let id = id.to_string();
        self.start(&[&["server", "--id", &id, "--json"], more].concat())
    }

    /// A client that runs beside the test; see [`Running::summary`].
    pub fn client(&self, more: &[&str]) -> Running {
        self.start(&[&["client", "--json"], more].concat())
    }

    /// Runs a client to its end: whether all was well, and what it did.
    pub fn ask(&self, more: &[&str]) -> (i32, Summary) {
        self.client(more).summary()
    }

    /// A balancer with `servers` echo servers, all of them up.
    pub fn pool(&self, servers: u32, more: &[&str]) -> (Running, Vec<Running>) {
        let balancer = self.balancer();
        let servers: Vec<Running> = (0..servers).map(|id| self.server(id, more)).collect();
        balancer.wait_until_up(servers.len());
        (balancer, servers)
    }

    /// The processes that were started from this site, by us or by others: their command line names its
    /// folder.
    pub fn processes(&self) -> Vec<i32> {
        let folder = self.path().to_str().expect("a plain path").as_bytes();
        let mut found = vec![];
        for entry in std::fs::read_dir("/proc").expect("a Linux system").flatten() {
            let Some(pid) = entry.file_name().to_str().and_then(|name| name.parse().ok()) else { continue };
            // A process that has ended has an empty command line.
            let line = std::fs::read(entry.path().join("cmdline")).unwrap_or_default();
            if line.windows(folder.len()).any(|part| part == folder) {
                found.push(pid);
            }
        }
        found
    }
}

/// What must hold of a pool at any time at which the balancer itself processes no datagram.
#[track_caller]
pub fn assert_adds_up(pool: &PoolStatus) {
    let refused: u64 = pool.refused.values().sum();
    let ended = pool.answered + pool.datagram.unwrap().timed_out + pool.datagram.unwrap().forwarded + refused;
    assert_eq!(pool.received, ended + pool.datagram.unwrap().in_flight, "{pool:?}");
    let by_worker: u64 = pool.workers.iter().sum();
    assert_eq!(pool.arrived, pool.received + pool.kernel_drops, "{pool:?}");
    assert_eq!(by_worker + pool.datagram.unwrap().tcp_queries, pool.received, "{pool:?}");
    let sum = |of: fn(&lbd::admin::status::ServerStatus) -> u64| pool.servers.iter().map(of).sum::<u64>();
    assert_eq!(sum(|s| s.answered), pool.answered, "{pool:?}");
    assert_eq!(sum(|s| s.datagram.unwrap().timed_out), pool.datagram.unwrap().timed_out, "{pool:?}");
    assert_eq!(sum(|s| s.datagram.unwrap().forwarded), pool.datagram.unwrap().forwarded, "{pool:?}");
    assert_eq!(sum(|s| s.datagram.unwrap().delivered), pool.datagram.unwrap().delivered, "{pool:?}");
    assert_eq!(sum(|s| s.datagram.unwrap().in_flight), pool.datagram.unwrap().in_flight, "{pool:?}");
    let count =
        |latency: &lbd::admin::status::Latencies| latency.histogram.iter().map(|(_, n)| n).sum::<u64>();
    assert_eq!(count(&pool.latency_us), pool.answered, "{pool:?}");
    for server in &pool.servers {
        let is_at_rest = pool.datagram.unwrap().flows + pool.datagram.unwrap().in_flight == 0;
        assert!(!is_at_rest || server.queue == 0, "{pool:?}");
        let ended = server.answered + server.datagram.unwrap().timed_out + server.datagram.unwrap().forwarded;
        assert_eq!(server.dispatched, ended + server.datagram.unwrap().in_flight, "{pool:?}");
        assert_eq!(count(&server.latency_us), server.answered, "{pool:?}");
    }
}

impl Drop for Site {
    /// A test that failed leaves nothing behind, not even the children of what it started.
    fn drop(&mut self) {
        for pid in self.processes() {
            running::send_signal(pid, libc::SIGKILL);
        }
    }
}

/// Lays `changes` over `config`: objects key by key, anything else as a whole.
fn merge(config: &mut Value, changes: Value) {
    match (config, changes) {
        (Value::Object(old), Value::Object(new)) => {
            for (key, value) in new {
                merge(old.entry(key).or_insert(Value::Null), value);
            }
        }
        (old, new) => *old = new,
    }
}

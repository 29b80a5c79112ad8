//! The commands to a running balancer: the real program before an admin interface whose balancer is the test.

mod common;

use std::net::{SocketAddr, TcpListener};
use std::sync::{Arc, Mutex};

use common::{Finished, Running, Site, wait_for};
use lbd::admin::status::{EventKind, EventLog, PoolStatus, ServerStatus, Status};
use lbd::admin::{AdminServer, Control, Listeners, Refusal, serve, token_for};
use lbd::config::{Admin, Token};
use lbd::pool::desired::DesiredServer;
use lbd::pool::order::Order;
use serde_json::json;

const TOKEN: &str = "a-token-of-the-test";

/// A native server 3 that finishes one request at each query of the status, and a pool `dns` with servers 3
/// and 4.
struct Fake {
    status: Mutex<Status>,
    events: EventLog,
    orders: Mutex<Vec<String>>,
    /// Queries of the status until an operator enables the server again.
    enabled_after: Mutex<Option<u32>>,
}

impl Fake {
    /// Serves HTTP on this listener.
    fn serve(self: &Arc<Self>, listener: TcpListener, token: Token) -> AdminServer {
        let listeners = Listeners { http: Some((listener, token)), owner: None };
        serve(listeners, Arc::clone(self) as _).unwrap()
    }
}

impl Control for Fake {
    fn status(&self) -> Arc<Status> {
        let mut status = self.status.lock().unwrap();
        let server = &mut status.pools[0].servers[0];
        if server.state == "draining" {
            server.queue = server.queue.saturating_sub(1);
            let mut left = self.enabled_after.lock().unwrap();
            match *left {
                Some(0) => server.state = "up".into(),
                _ => *left = left.map(|looks| looks - 1),
            }
        }
        Arc::new(status.clone())
    }

    fn events(&self) -> &EventLog {
        &self.events
    }

    fn order(&self, pool: Option<&str>, id: u32, order: Order) -> Result<(), Refusal> {
        self.orders.lock().unwrap().push(format!("{} {id} {order:?}", pool.unwrap_or("-")));
        match (pool, id, order) {
            (Some("native"), 3, Order::Drain) => {
                self.status.lock().unwrap().pools[0].servers[0].state = "draining".into()
            }
            (Some("native"), 3, _) | (None, 4, _) => {}
            (None, 3, _) => {
                return Err(Refusal::Invalid("several pools have a server 3: native, dns".into()));
            }
            _ => return Err(Refusal::NotFound(format!("no server has the id {id}; there are 3, 4"))),
        }
        Ok(())
    }

    fn set_servers(&self, _: &str, _: Vec<DesiredServer>) -> Result<(), Refusal> {
        Err(Refusal::Failed("no test requests this".into()))
    }

    fn reload(&self) -> Result<String, Refusal> {
        Ok("pool dns: server 5 added".into())
    }
}

struct Bench {
    site: Site,
    fake: Arc<Fake>,
    addr: SocketAddr,
    server: Option<AdminServer>,
}

impl Bench {
    fn new() -> Bench {
        let server = |id, queue| ServerStatus { id, state: "up".into(), queue, ..Default::default() };
        let pool = |name: &str, protocol: &str, servers| PoolStatus {
            name: name.into(),
            protocol: protocol.into(),
            servers,
            ..Default::default()
        };
        let fake = Arc::new(Fake {
            status: Mutex::new(Status {
                version: "9.9.9".into(),
                ready: true,
                pools: vec![
                    pool("native", "native", vec![server(3, 4)]),
                    pool("dns", "dns", vec![server(3, 0), server(4, 0)]),
                ],
                ..Default::default()
            }),
            events: EventLog::default(),
            orders: Mutex::default(),
            enabled_after: Mutex::new(None),
        });
        fake.events.note(EventKind::Notice, "", None, "started");
        let site = Site::new(json!({}));
        let file = site.write("token", TOKEN);
        std::fs::set_permissions(file, std::os::unix::fs::PermissionsExt::from_mode(0o600)).unwrap();
        let mut bench = Bench { site, fake, addr: ([127, 0, 0, 1], 0).into(), server: None };
        bench.start();
        bench
    }

    /// Starts the admin interface, at the address that it had before.
    fn start(&mut self) {
        let listener = TcpListener::bind(self.addr).unwrap();
        let server = self.fake.serve(listener, Token::new(TOKEN).unwrap());
        self.addr = server.addr().unwrap();
        self.server = Some(server);
    }

    fn begin(&self, words: &[&str]) -> Running {
        let admin = self.addr.to_string();
        self.site.start_bare(&[words, &["--admin", &admin, "--token-file", "token"]].concat())
    }

    fn run(&self, words: &[&str]) -> Finished {
        self.begin(words).finish()
    }

    fn take_orders(&self) -> Vec<String> {
        std::mem::take(&mut self.fake.orders.lock().unwrap())
    }
}

#[test]
fn the_status_is_for_people_and_for_programs() {
    let bench = Bench::new();
    let table = bench.run(&["status"]);
    assert_eq!((table.code, table.stderr.as_str()), (0, ""), "{table:?}");
    assert!(table.stdout.starts_with("lbd 9.9.9,") && table.stdout.contains("pool dns"), "{table:?}");
    assert!(!table.stdout.contains('\x1b'), "no colours in a pipe: {table:?}");
    let line = bench.run(&["status", "--json"]);
    assert_eq!((line.code, line.stdout.lines().count()), (0, 1), "{line:?}");
    assert_eq!(serde_json::from_str::<Status>(&line.stdout).unwrap(), *bench.fake.status());
}

#[test]
fn watching_goes_on_when_the_balancer_is_away() {
    let mut bench = Bench::new();
    let watch = bench.begin(&["status", "--watch"]);
    let shows = |what: &'static str, watch: &Running| {
        let seen = watch.stdout().len();
        let look = || watch.stdout()[seen..].contains(what).then_some(());
        wait_for(what, look, || watch.stdout());
    };
    shows("pool native", &watch);
    bench.server = None;
    shows("no response from", &watch);
    bench.start();
    shows("pool native", &watch);
}

#[test]
fn orders_are_given_and_refusals_told() {
    let bench = Bench::new();
    for (words, order) in [
        (&["drain", "4"][..], "- 4 Drain"),
        (&["enable", "3", "--pool", "native"], "native 3 Enable"),
        (&["disable", "4"], "- 4 Disable"),
        (&["weight", "4", "100"], "- 4 Weight(100)"),
    ] {
        let finished = bench.run(words);
        assert_eq!((finished.code, finished.stderr.as_str()), (0, ""), "{words:?}: {finished:?}");
        assert!(finished.stdout.starts_with(&format!("server {}: {}", words[1], words[0])), "{finished:?}");
        assert_eq!(bench.take_orders(), [order]);
    }
    let reloaded = bench.run(&["reload"]);
    assert_eq!((reloaded.code, reloaded.stdout.as_str()), (0, "pool dns: server 5 added\n"));
    for (words, told) in [
        (&["drain", "7"][..], "lbd: no server has the id 7; there are 3, 4\n"),
        (&["drain", "3"], "lbd: several pools have a server 3: native, dns\n"),
        (&["weight", "4", "101"], "lbd: a weight is a whole number from 1 to 100\n"),
    ] {
        let finished = bench.run(words);
        assert_eq!((finished.code, finished.stderr.as_str()), (2, told), "{words:?}: {finished:?}");
    }
    for words in [&["drain", "all"][..], &["drain"], &["weight", "4", "-1"], &["enable", "4", "--wait"]] {
        assert_eq!(bench.run(words).code, 2, "{words:?}");
    }
}

#[test]
fn a_drain_is_waited_for_until_the_queue_is_empty() {
    let bench = Bench::new();
    let drain: &[&str] = &["drain", "3", "--pool", "native", "--wait"];
    let finished = bench.run(drain);
    assert_eq!(
        (finished.code, finished.stdout.as_str()),
        (0, "server 3: drain\nserver 3 is empty\n"),
        "{finished:?}"
    );
    let told: Vec<&str> = finished.stderr.lines().collect();
    assert_eq!(told, ["3", "2", "1"].map(|left| format!("server 3: {left} requests left")), "{finished:?}");

    let queue = |queue| {
        let server = &mut bench.fake.status.lock().unwrap().pools[0].servers[0];
        (server.queue, server.state) = (queue, "up".into());
    };
    queue(u64::MAX);
    let finished = bench.run(&[drain, &["300ms"]].concat());
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.stderr.ends_with(" requests after 300ms; draining continues\n"), "{finished:?}");

    queue(u64::MAX);
    *bench.fake.enabled_after.lock().unwrap() = Some(3);
    let finished = bench.run(drain);
    assert_eq!(finished.code, 1, "{finished:?}");
    assert!(finished.stderr.contains("server 3 is up again: an operator enabled it"), "{finished:?}");
}

#[test]
fn nobody_there_and_a_token_that_does_not_fit_are_told_with_the_remedy() {
    let mut bench = Bench::new();
    bench.site.write("other", "another-token-than-that");
    std::fs::set_permissions(
        bench.site.path().join("other"),
        std::os::unix::fs::PermissionsExt::from_mode(0o600),
    )
    .unwrap();
    let admin = bench.addr.to_string();
    let with = |words: &[&str]| {
        bench.site.start_bare(&[&["drain", "4", "--admin", &admin], words].concat()).finish()
    };
    let refused = with(&["--token-file", "other"]);
    assert_eq!(refused.code, 2, "{refused:?}");
    assert!(
        refused.stderr.contains("refused the token") && refused.stderr.contains("token_file"),
        "{refused:?}"
    );
    let absent = with(&["--token-file", "absent"]);
    assert_eq!(absent.code, 2, "{absent:?}");
    assert!(absent.stderr.contains("cannot read absent"), "{absent:?}");
    let none = with(&[]);
    assert_eq!(none.code, 2, "{none:?}");
    assert!(none.stderr.contains(".token") && none.stderr.contains("--token-file"), "{none:?}");
    assert!(bench.take_orders().is_empty());
    bench.server = None;
    for words in [&["status"][..], &["drain", "4"], &["reload"]] {
        let finished = bench.run(words);
        assert_eq!(finished.code, 2, "{finished:?}");
        assert!(finished.stderr.starts_with(&format!("lbd: no response from {admin}: ")), "{finished:?}");
        assert!(
            finished.stderr.contains("check that the balancer runs and that admin.listen is this address"),
            "{finished:?}"
        );
    }
}

#[test]
fn the_configuration_says_where_the_balancer_is_and_its_state_has_the_token() {
    let mut bench = Bench::new();
    bench.server = None;
    let state_dir = bench.site.path().join("state");
    let admin = Admin { listen: Some(bench.addr), is_written: true, token: None };
    let kept: Token = token_for(&admin, &state_dir, bench.addr.port()).unwrap();
    let listener = TcpListener::bind(bench.addr).unwrap();
    let _server = bench.fake.serve(listener, kept.clone());
    let config =
        json!({"admin": {"listen": format!("0.0.0.0:{}", bench.addr.port()), "token_file": "token"}});
    bench.site.write("wildcard.json", &config.to_string());
    bench
        .site
        .write("config.json", &json!({"admin": {"listen": bench.addr}, "state_dir": state_dir}).to_string());
    let finished = bench.site.start_bare(&["drain", "4"]).finish();
    assert_eq!((finished.code, finished.stdout.as_str()), (0, "server 4: drain\n"), "{finished:?}");
    let finished = bench.site.start_bare(&["status", "--config", "wildcard.json"]).finish();
    assert_eq!(finished.code, 0, "{finished:?}");

    bench.site.write("off.json", r#"{"admin": {"listen": "off"}}"#);
    let finished = bench.site.start_bare(&["status", "--config", "off.json"]).finish();
    assert_eq!(finished.code, 2, "{finished:?}");
    assert!(finished.stderr.contains("admin.listen is off"), "{finished:?}");
    bench.site.write("broken.json", "{");
    let finished = bench.site.start_bare(&["reload", "--config", "broken.json"]).finish();
    assert_eq!(finished.code, 2, "{finished:?}");
    assert!(
        finished.stderr.contains("broken.json") && finished.stderr.contains("--admin ADDR"),
        "{finished:?}"
    );
}

//! The admin interface over real connections, before a balancer that is none. Hostile requests are written by
//! hand.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::os::unix::net::UnixStream;
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};

use serde_json::{Value, json};

use super::live::READERS_MAX;
use super::server::CONNECTIONS_MAX;
use super::{
    AdminClient, AdminPlace, AdminServer, ClientError, Control, Listeners, Refusal, serve, socket_path,
};
use crate::admin::status::{EventKind, EventLog, History, KEPT_MAX, PoolStatus, ServerStatus, Status};
use crate::config::{Config, Token};
use crate::os::private_socket::PrivateSocket;
use crate::pool::desired::DesiredServer;
use crate::pool::order::Order;

const TOKEN: &str = "0123456789abcdef";
const LIFE: u64 = 1_700_000_000_000;
/// How long a test waits for a fact.
const PATIENCE: Duration = Duration::from_secs(30);

/// Remembers what it was asked for; refuses as a balancer with a native server 3 and a pool "dns" would.
struct Fake {
    status: Mutex<Arc<Status>>,
    events: EventLog,
    asked: Mutex<Vec<String>>,
}

impl Fake {
    fn note(&self, asked: String) {
        self.asked.lock().unwrap().push(asked);
    }

    fn take_asked(&self) -> Vec<String> {
        std::mem::take(&mut self.asked.lock().unwrap())
    }
}

impl Control for Fake {
    fn status(&self) -> Arc<Status> {
        Arc::clone(&self.status.lock().unwrap())
    }

    fn events(&self) -> &EventLog {
        &self.events
    }

    fn order(&self, pool: Option<&str>, id: u32, order: Order) -> Result<(), Refusal> {
        self.note(format!("{pool:?} {id} {order:?}"));
        match (pool, id) {
            (None | Some("native"), 3) => Ok(()),
            (None, 5) => {
                Err(Refusal::Invalid("several pools have a server 5: say which with pool=NAME".into()))
            }
            (None, 6) => Err(Refusal::Failed("the worker has ended".into())),
            (None, 7) => panic!("a mistake of ours"),
            _ => Err(Refusal::NotFound(format!("no server {id}: there is 3"))),
        }
    }

    fn set_servers(&self, pool: &str, servers: Vec<DesiredServer>) -> Result<(), Refusal> {
        self.note(format!("{pool} {servers:?}"));
        if pool == "dns" { Ok(()) } else { Err(Refusal::NotFound("no such pool".into())) }
    }

    fn reload(&self) -> Result<String, Refusal> {
        self.note("reload".into());
        Err(Refusal::Failed("config.json:3: server.count: too many".into()))
    }
}

fn status() -> Status {
    Status {
        started_unix_ms: LIFE,
        pools: vec![
            PoolStatus {
                name: "native".into(),
                protocol: "native".into(),
                workers: vec![10, 20],
                received: 30,
                servers: vec![ServerStatus { id: 3, state: "up".into(), ..ServerStatus::default() }],
                ..PoolStatus::default()
            },
            PoolStatus { name: "dns".into(), protocol: "dns".into(), ..PoolStatus::default() },
        ],
        ..Status::default()
    }
}

fn start() -> (AdminServer, Arc<Fake>) {
    let fake = Arc::new(Fake {
        status: Mutex::new(Arc::new(status())),
        events: EventLog::default(),
        asked: Mutex::default(),
    });
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    let listeners = Listeners { http: Some((listener, Token::new(TOKEN).unwrap())), owner: None };
    (serve(listeners, Arc::clone(&fake) as Arc<dyn Control>).unwrap(), fake)
}

/// The address for HTTP.
fn http(server: &AdminServer) -> SocketAddr {
    server.addr().unwrap()
}

/// An answer: its status, its head in lower case, its body.
#[derive(Debug)]
struct Said {
    status: u16,
    head: String,
    body: String,
}

impl Said {
    fn error(&self) -> String {
        let json: Value = serde_json::from_str(&self.body).unwrap_or_else(|e| panic!("{e}: {self:?}"));
        json["error"].as_str().unwrap_or_else(|| panic!("{self:?}")).to_owned()
    }
}

fn connect(addr: SocketAddr) -> TcpStream {
    let stream = TcpStream::connect(addr).unwrap();
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    stream
}

/// Sends these bytes and reads until the other end closes.
fn say(addr: SocketAddr, bytes: &str) -> Said {
    let mut stream = connect(addr);
    // A refusal may come, and the connection end, before all is written.
    let _ = stream.write_all(bytes.as_bytes());
    read_all(stream)
}

fn read_all(mut stream: TcpStream) -> Said {
    let mut bytes = vec![];
    if let Err(error) = stream.read_to_end(&mut bytes) {
        assert_eq!(error.kind(), std::io::ErrorKind::ConnectionReset, "{}", String::from_utf8_lossy(&bytes));
    }
    let text = String::from_utf8(bytes).unwrap();
    let (head, body) = text.split_once("\r\n\r\n").unwrap_or((&text, ""));
    let status = head.split(' ').nth(1).and_then(|code| code.parse().ok()).unwrap_or(0);
    Said { status, head: head.to_lowercase(), body: body.to_owned() }
}

/// One request, with the usual head and these lines more.
fn ask(addr: SocketAddr, request: &str, more: &str, body: &str) -> Said {
    let length = body.len();
    say(
        addr,
        &format!(
            "{request} HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\
             Content-Length: {length}\r\n{more}\r\n{body}"
        ),
    )
}

fn get(addr: SocketAddr, path: &str) -> Said {
    ask(addr, &format!("GET {path}"), "", "")
}

fn with_token(addr: SocketAddr, request: &str, body: &str) -> Said {
    ask(addr, request, &format!("Authorization: Bearer {TOKEN}\r\n"), body)
}

#[test]
fn what_is_shown_is_shown_to_anybody_on_this_machine() {
    let (server, fake) = start();
    let addr = http(&server);
    assert_eq!(get(addr, "/healthz").status, 200);
    let not_ready = get(addr, "/readyz");
    assert_eq!((not_ready.status, not_ready.body.as_str()), (503, "pool dns: no server has an address\n"));
    assert_eq!(get(addr, "/healthz").status, 200, "it lives all the same");

    let shown = get(addr, "/api/status");
    assert!(shown.head.contains("content-type: application/json"), "{shown:?}");
    assert_eq!(serde_json::from_str::<Status>(&shown.body).unwrap(), status());
    let json: Value = serde_json::from_str(&shown.body).unwrap();
    assert_eq!((&json["requests"], &json["servers"][0]["id"]), (&30.into(), &3.into()), "the keys of 0.1");
    let metrics = get(addr, "/metrics");
    assert!(metrics.head.contains("content-type: text/plain; version=0.0.4"), "{metrics:?}");
    assert!(metrics.body.contains("\nlbd_requests_total{pool=\"native\",worker=\"1\"} 20\n"), "{metrics:?}");
    let open = ask(addr, "GET /metrics", "Accept: application/openmetrics-text\r\n", "");
    assert!(open.head.contains("content-type: application/openmetrics-text"), "{open:?}");
    assert!(open.body.ends_with("# EOF\n"), "{open:?}");
    assert_eq!(ask(addr, "HEAD /api/status", "", "").status, 200);
    assert!(fake.take_asked().is_empty());
}

#[test]
fn readiness_names_each_pool_that_is_not_ready() {
    let (server, fake) = start();
    let ask = |path: &str| {
        let said = get(http(&server), path);
        (said.status, said.body)
    };
    let set = |states: [&str; 2]| {
        let mut all = status();
        for (pool, state) in all.pools.iter_mut().zip(states) {
            pool.servers = vec![ServerStatus { state: state.into(), ..ServerStatus::default() }];
        }
        *fake.status.lock().unwrap() = Arc::new(all);
    };
    set(["up", "up"]);
    assert_eq!(ask("/readyz"), (200, "ready\n".into()));
    set(["down", "suspect"]);
    let both = "pool native: no server is up (1 down)\npool dns: no server is up (1 suspect)\n";
    assert_eq!(ask("/readyz"), (503, both.into()));
    set(["up", "down"]);
    assert_eq!(ask("/readyz?pool=native"), (200, "ready\n".into()));
    assert_eq!(ask("/readyz?pool=dns"), (503, "pool dns: no server is up (1 down)\n".into()));
    let unknown = get(http(&server), "/readyz?pool=web");
    assert_eq!(unknown.status, 404);
    assert_eq!(unknown.error(), "there is no pool web; the pools are native, dns");
}

/// Opens more connections than there are seats: `head` is what each sends. Nothing is read.
fn crowd(addr: SocketAddr, head: &str) -> Vec<TcpStream> {
    let open = |_| {
        let mut stream = connect(addr);
        let _ = stream.write_all(head.as_bytes()); // it may have ended already
        stream
    };
    (0..2 * CONNECTIONS_MAX).map(open).collect()
}

#[test]
fn connections_of_strangers_keep_nobody_out() {
    let (server, _fake) = start();
    let addr = http(&server);
    for head in ["", "GET /metr", "GET /api/events HTTP/1.1\r\nHost: 127.0.0.1\r\n\r\n"] {
        let crowd = crowd(addr, head);
        let began = Instant::now();
        assert_eq!(get(addr, "/api/status").status, 200, "{head}");
        assert!(began.elapsed() < Duration::from_secs(2), "{head}: {:?}", began.elapsed());
        drop(crowd);
    }
}

#[test]
fn who_waits_longest_without_a_request_makes_room() {
    let (server, fake) = start();
    let addr = http(&server);
    let mut reader = follow(addr, "/api/events", "");
    let mut crowd = crowd(addr, "");
    let first = crowd.remove(0);
    assert_eq!(read_all(first).body, "", "its connection ended");
    fake.events.note(EventKind::Notice, "", None, "here");
    assert_eq!(entries(&mut reader, 1), [1], "a reader of events is served on");
}

/// The socket of an owner in this directory, and a client over it and nothing else.
fn owned(dir: &std::path::Path) -> (PrivateSocket, AdminPlace) {
    let text = format!(r#"{{"admin": {{"listen": "off"}}, "state_dir": "{}"}}"#, dir.display());
    let config = Config::parse(&text, None).unwrap();
    (PrivateSocket::bind(&socket_path(&config)).unwrap(), AdminPlace::of(&config))
}

#[test]
fn the_owner_needs_neither_http_nor_a_token() {
    let dir = tempfile::tempdir().unwrap();
    let (socket, place) = owned(&dir.path().join("state"));
    let path = socket.path().to_owned();
    let (_, fake) = start();
    let listeners = Listeners { owner: Some(socket), ..Listeners::default() };
    let server = serve(listeners, Arc::clone(&fake) as Arc<dyn Control>).unwrap();
    let mode = std::os::unix::fs::MetadataExt::mode(&std::fs::metadata(&path).unwrap());
    assert_eq!((server.addr(), mode & 0o777), (None, 0o600));
    let client = AdminClient::new(place.clone(), None);
    assert_eq!(client.status().unwrap(), status());
    client.order(Some("native"), 3, Order::Weight(7)).unwrap();
    assert_eq!(fake.take_asked(), ["Some(\"native\") 3 Weight(7)"]);
    assert_eq!(client.reload().unwrap_err().to_string(), "config.json:3: server.count: too many");
    let idle: Vec<_> = (0..100).map(|_| UnixStream::connect(&path).unwrap()).collect();
    assert_eq!(client.status().unwrap(), status(), "own idle connections are no obstacle either");
    drop(idle);
    server.stop();
    assert!(!path.exists(), "a clean end removes the file");
    let error = client.status().unwrap_err().to_string();
    assert!(error.starts_with(&format!("no response from {}: ", path.display())), "{error}");
}

#[test]
fn without_a_listener_on_the_socket_commands_use_http() {
    let (server, fake) = start();
    let dir = tempfile::tempdir().unwrap();
    let addr = http(&server);
    let text = format!(r#"{{"admin": {{"listen": "{addr}"}}, "state_dir": "{}"}}"#, dir.path().display());
    let place = AdminPlace::of(&Config::parse(&text, None).unwrap());
    let client = AdminClient::new(place.clone(), Token::new(TOKEN));
    client.order(None, 3, Order::Drain).unwrap();
    // As a killed process leaves it.
    let path = dir.path().join(format!("admin-{}.sock", addr.port()));
    drop(std::os::unix::net::UnixListener::bind(&path).unwrap());
    client.order(None, 3, Order::Enable).unwrap();
    assert_eq!(fake.take_asked(), ["None 3 Drain", "None 3 Enable"]);
}

#[test]
fn the_page_comes_from_here_alone() {
    let (server, _fake) = start();
    let page = get(http(&server), "/");
    assert_eq!((page.status, page.body.as_str()), (200, include_str!("dashboard.html")));
    for wanted in [
        "content-type: text/html",
        "content-security-policy: default-src 'none';",
        "connect-src 'self'",
        "frame-ancestors 'none'",
        "x-content-type-options: nosniff",
        "x-frame-options: deny",
        "referrer-policy: no-referrer",
        "cache-control: no-store",
    ] {
        assert!(page.head.contains(wanted), "{wanted}: {page:?}");
    }
    let elsewhere = ["src=\"http", "href=\"http", "url(http", "@import", "//cdn"];
    assert!(elsewhere.iter().all(|word| !page.body.contains(word)), "it loads nothing from elsewhere");
    assert!(get(http(&server), "/api/status").head.contains("x-content-type-options: nosniff"));
}

#[test]
fn orders_reach_the_balancer_and_its_refusals_the_operator() {
    let (server, fake) = start();
    let addr = http(&server);
    let order = |path: &str, body: &str| with_token(addr, &format!("POST /api/servers/{path}"), body);
    for (path, body, asked) in [
        ("3/drain", "", "None 3 Drain"),
        ("3/enable?pool=native", "", "Some(\"native\") 3 Enable"),
        ("3/disable", "", "None 3 Disable"),
        ("3/weight?weight=7", "", "None 3 Weight(7)"),
        ("3/weight", "{\"weight\": 100}", "None 3 Weight(100)"),
    ] {
        let said = order(path, body);
        assert_eq!(said.status, 200, "{path}: {said:?}");
        assert!(said.body.contains("\"done\":\""), "{said:?}");
        assert_eq!(fake.take_asked(), [asked], "{path}");
    }
    for (path, status, words) in [
        ("4/drain", 404, "no server 4: there is 3"),
        ("3/drain?pool=web", 404, "no server 3"),
        ("5/drain", 400, "say which with pool=NAME"),
        ("6/drain", 409, "the worker has ended"),
        ("7/drain", 500, "see the log"),
    ] {
        let said = order(path, "");
        assert_eq!(said.status, status, "{path}: {said:?}");
        assert!(said.error().contains(words), "{path}: {said:?}");
    }
    fake.take_asked();
    let number = "a weight is a whole number from 1 to 100";
    for (path, body, status, words) in [
        ("x/drain", "", 400, "\"x\" is not a server id"),
        ("-1/drain", "", 400, "is not a server id"),
        ("4294967296/drain", "", 400, "is not a server id"),
        ("%ff/drain", "", 400, ""),
        ("3/stop", "", 404, "use drain, enable, disable or weight"),
        ("3/drain?pool=a&pool=b", "", 400, "pool"),
        ("3/weight", "", 400, "no weight; give"),
        ("3/weight", "{\"wait\": 5}", 400, "no weight; give"),
        ("3/weight?weight=5.5", "", 400, "no weight; give"),
        ("3/weight?weight=0", "", 400, number),
        ("3/weight?weight=101", "", 400, number),
        ("3/weight", "{\"weight\": 65537}", 400, number),
    ] {
        let said = order(path, body);
        assert_eq!(said.status, status, "{path}: {said:?}");
        assert!(said.error().contains(words), "{path}: {said:?}");
    }
    assert!(fake.take_asked().is_empty(), "none of these was asked of the balancer");
    assert_eq!(get(addr, "/healthz").status, 200, "a panic ends nothing else");
}

#[test]
fn the_servers_of_a_pool_are_set_as_a_whole() {
    let (server, fake) = start();
    let put = |pool: &str, body: Value| {
        with_token(http(&server), &format!("PUT /api/pools/{pool}/servers"), &body.to_string())
    };
    let said = put(
        "dns",
        json!({"servers": [{"id": 0, "addr": "127.0.0.1:5300"}, {"id": 1, "addr": "[::1]:53", "weight": 9}]}),
    );
    assert_eq!(said.status, 200, "{said:?}");
    let asked = fake.take_asked();
    assert!(asked[0].contains("addr: 127.0.0.1:5300, id: 0, weight: 1"), "{asked:?}");
    assert!(asked[0].contains("addr: [::1]:53, id: 1, weight: 9"), "{asked:?}");
    assert_eq!(put("dns", json!({"servers": []})).status, 200);
    assert_eq!(fake.take_asked(), ["dns []"]);
    assert_eq!(put("web", json!({"servers": []})).status, 404);
    fake.take_asked();
    let one = |id: u32, addr: &str, weight: u32| json!({"id": id, "addr": addr, "weight": weight});
    for (servers, words) in [
        (json!([one(0, "localhost:53", 1)]), "the body: "),
        (json!([one(0, "127.0.0.1:53", 0)]), "servers[0]: a weight is"),
        (
            json!([one(0, "127.0.0.1:53", 1), one(0, "127.0.0.1:54", 1)]),
            "servers[1]: another server has the id 0",
        ),
        (json!([one(0, "127.0.0.1:53", 1), one(1, "127.0.0.1:53", 1)]), "the address 127.0.0.1:53"),
        (json!([{"id": 0}]), "missing field `addr`"),
        (json!("all"), "the body: "),
    ] {
        let said = put("dns", json!({ "servers": servers }));
        assert_eq!(said.status, 400, "{said:?}");
        assert!(said.error().contains(words), "{said:?}");
    }
    assert_eq!(put("dns", json!({"server": []})).status, 400);
    assert!(fake.take_asked().is_empty());
}

#[test]
fn changes_need_the_token_and_nothing_is_done_without_it() {
    let (server, fake) = start();
    for request in ["POST /api/servers/3/drain", "PUT /api/pools/dns/servers", "POST /api/reload"] {
        for more in ["", "Authorization: Bearer 0123456789abcdeX\r\n", "Authorization: Basic Og==\r\n"] {
            let said = ask(http(&server), request, more, "{\"servers\": []}");
            assert_eq!(said.status, 401, "{said:?}");
            assert!(said.head.contains("www-authenticate: bearer"), "{said:?}");
            let error = said.error();
            assert!(error.contains("Authorization: Bearer TOKEN") && error.contains("token_file"), "{error}");
        }
    }
    assert!(fake.take_asked().is_empty());
    let said = with_token(http(&server), "POST /api/reload", "");
    assert_eq!((said.status, said.error().as_str()), (409, "config.json:3: server.count: too many"));
    assert_eq!(fake.take_asked(), ["reload"]);
}

#[test]
fn other_addresses_and_methods_are_refused_in_words() {
    let (server, fake) = start();
    let addr = http(&server);
    assert_eq!(get(addr, "/api/nothing").error(), "/api/nothing does not exist");
    assert_eq!(get(addr, "/api/nothing").status, 404);
    for (request, allowed) in [
        ("POST /api/status", "allow: get,head"),
        ("DELETE /", "allow: get,head"),
        ("GET /api/reload", "allow: post"),
    ] {
        let said = ask(addr, request, "", "");
        assert_eq!(said.status, 405, "{request}: {said:?}");
        assert!(said.head.contains(allowed) && !said.error().is_empty(), "{said:?}");
    }
    assert!(fake.take_asked().is_empty());
}

#[test]
fn a_page_of_a_stranger_cannot_ask_here() {
    let (server, fake) = start();
    let addr = http(&server);
    let port = addr.port();
    for (hosts, status) in [
        (format!("Host: 127.0.0.1:{port}\r\n"), 200),
        (format!("Host: localhost:{port}\r\n"), 200),
        (format!("Host: [::1]:{port}\r\n"), 200),
        (format!("Host: evil.example:{port}\r\n"), 403),
        (String::new(), 403),
        (format!("Host: 127.0.0.1:{port}\r\nHost: evil.example\r\n"), 403),
    ] {
        let said = say(addr, &format!("GET /api/status HTTP/1.1\r\n{hosts}Connection: close\r\n\r\n"));
        assert_eq!(said.status, status, "{hosts}: {said:?}");
        let said = say(
            addr,
            &format!(
                "POST /api/servers/3/drain HTTP/1.1\r\n{hosts}Authorization: Bearer {TOKEN}\r\n\
                 Connection: close\r\n\r\n"
            ),
        );
        assert_eq!(said.status, status, "{hosts}: {said:?}");
        assert_eq!(fake.take_asked().len(), usize::from(status == 200));
    }
    let absolute =
        "GET http://evil.example/api/status HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n";
    assert_eq!(say(addr, absolute).status, 403);
}

#[test]
fn what_is_too_long_or_no_http_is_refused() {
    let (server, fake) = start();
    let addr = http(&server);
    let long = "x".repeat(64 * 1024 + 1);
    let said = with_token(addr, "PUT /api/pools/dns/servers", &long);
    assert_eq!(said.status, 413, "{said:?}");
    assert!(said.error().contains("65536 bytes"), "{said:?}");
    // A body without end, in chunks.
    let head = format!(
        "PUT /api/pools/dns/servers HTTP/1.1\r\nHost: {addr}\r\nConnection: close\r\n\
        Authorization: Bearer {TOKEN}\r\nTransfer-Encoding: chunked\r\n\r\n"
    );
    let said = say(
        addr,
        &(head
            + &"400\r\n"
                .chars()
                .chain("y".repeat(1024).chars())
                .chain("\r\n".chars())
                .collect::<String>()
                .repeat(65)),
    );
    assert_eq!(said.status, 413, "{said:?}");
    let said = ask(addr, "GET /", &format!("X-Long: {}\r\n", "z".repeat(64 * 1024)), "");
    assert_eq!(said.status, 431, "{said:?}");
    let said = ask(addr, &format!("GET /{}", "z".repeat(64 * 1024)), "", "");
    assert!([414, 431].contains(&said.status), "{said:?}");
    assert_eq!(say(addr, "\x16\x03\x01 this is not HTTP\r\n\r\n").status, 400);
    assert_eq!(say(addr, "GET / HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: -1\r\n\r\n").status, 400);
    assert!(fake.take_asked().is_empty());
    assert_eq!(get(addr, "/healthz").status, 200);
}

#[test]
fn slow_connections_are_closed_and_others_are_served() {
    let (server, _fake) = start();
    let addr = http(&server);
    let mut slow = connect(addr);
    slow.write_all(b"GET /healthz HTTP/1.1\r\nHost: 127").unwrap();
    let idle = connect(addr);
    let mut body = connect(addr);
    let head = format!(
        "POST /api/servers/3/weight HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {TOKEN}\r\n\
        Connection: close\r\nContent-Length: 10\r\n\r\n{{"
    );
    body.write_all(head.as_bytes()).unwrap();
    assert_eq!(get(addr, "/healthz").status, 200);
    let said = read_all(body);
    assert_eq!(said.status, 408, "{said:?}");
    assert!([0, 408].contains(&read_all(slow).status));
    assert_eq!(read_all(idle).body, "");
}

/// A reader of events; its head is read.
fn follow(addr: SocketAddr, path: &str, more: &str) -> BufReader<TcpStream> {
    let mut stream = connect(addr);
    write!(stream, "GET {path} HTTP/1.1\r\nHost: {addr}\r\n{more}\r\n").unwrap();
    let mut reader = BufReader::new(stream);
    let mut line = String::new();
    reader.read_line(&mut line).unwrap();
    assert!(line.contains("200"), "{line}");
    while line != "\r\n" {
        line.clear();
        reader.read_line(&mut line).unwrap();
    }
    reader
}

/// The next event: id, name, data. Lines with the length of a chunk are passed over.
fn next_event(reader: &mut BufReader<TcpStream>) -> Option<(String, String, Value)> {
    let (mut id, mut name) = (String::new(), String::new());
    loop {
        let mut line = String::new();
        if reader.read_line(&mut line).unwrap() == 0 {
            return None;
        }
        if let Some(value) = line.strip_prefix("id: ") {
            id = value.trim().to_owned();
        } else if let Some(value) = line.strip_prefix("event: ") {
            name = value.trim().to_owned();
        } else if let Some(value) = line.strip_prefix("data: ") {
            return Some((id, name, serde_json::from_str(value).unwrap()));
        }
    }
}

/// The numbers of the next `count` entries.
fn entries(reader: &mut BufReader<TcpStream>, count: usize) -> Vec<u64> {
    let (mut numbers, give_up) = (vec![], Instant::now() + PATIENCE);
    while numbers.len() < count {
        assert!(Instant::now() < give_up, "{count} entries, but only {numbers:?}");
        let (id, name, data) = next_event(reader).unwrap();
        if name == "entry" {
            let number = data["number"].as_u64().unwrap();
            assert_eq!(id, format!("{LIFE}-{number}"));
            numbers.push(number);
        }
    }
    numbers
}

#[test]
fn readers_get_what_is_kept_then_what_comes_and_the_status_each_second() {
    let (server, fake) = start();
    let addr = http(&server);
    for n in 1..=3 {
        fake.events.note(EventKind::Scaling, "native", None, format!("grow to {n}\nand \"more\""));
    }
    let mut reader = follow(addr, "/api/events", "");
    assert_eq!(entries(&mut reader, 3), [1, 2, 3]);
    fake.events.note(EventKind::Server, "dns", Some(7), "up");
    let (_, name, data) =
        std::iter::from_fn(|| next_event(&mut reader)).find(|event| event.1 == "entry").unwrap();
    assert_eq!((name.as_str(), &data["kind"], &data["server"]), ("entry", &json!("server"), &json!(7)));
    let (id, name, data) = next_event(&mut reader).unwrap();
    assert_eq!((id.as_str(), name.as_str()), ("", "status"), "a status moves no number");
    assert_eq!(serde_json::from_value::<Status>(data).unwrap(), status());

    // A returning reader continues after its last entry. A number of an earlier balancer has no meaning.
    for (path, more, expected) in [
        ("/api/events?after=2", String::new(), vec![3, 4]),
        ("/api/events", format!("Last-Event-ID: {LIFE}-3\r\n"), vec![4]),
        ("/api/events?after=1", format!("Last-Event-ID: {LIFE}-3\r\n"), vec![4]),
        ("/api/events", "Last-Event-ID: 99-3\r\n".to_owned(), vec![1, 2, 3, 4]),
        ("/api/events?after=99", String::new(), vec![1, 2, 3, 4]),
        ("/api/events?after=nonsense", String::new(), vec![1, 2, 3, 4]),
    ] {
        assert_eq!(entries(&mut follow(addr, path, &more), expected.len()), expected, "{path} {more}");
    }
}

#[test]
fn the_history_fills_by_itself() {
    let (server, _fake) = start();
    let give_up = Instant::now() + PATIENCE;
    loop {
        let said = get(http(&server), "/api/history");
        assert!(said.head.contains("content-type: application/json"), "{said:?}");
        let history: History = serde_json::from_str(&said.body).unwrap();
        if history.seconds.len() > 1 {
            let [before, last] = [0, 1].map(|place| &history.seconds[place]);
            let passed = last.unix_ms - before.unix_ms;
            assert!((900..30_000).contains(&passed), "{passed}");
            assert_eq!((last.all.up, last.all.servers, last.pools.len()), (1, 1, 2));
            break;
        }
        assert!(Instant::now() < give_up);
    }
}

/// A reader of events that takes nothing, and for whom the kernel holds little at this end.
fn stall(addr: SocketAddr) -> BufReader<TcpStream> {
    let socket = socket2::Socket::new(socket2::Domain::IPV4, socket2::Type::STREAM, None).unwrap();
    socket.set_recv_buffer_size(4_096).unwrap();
    socket.connect(&addr.into()).unwrap();
    let mut stream = TcpStream::from(socket);
    stream.set_read_timeout(Some(PATIENCE)).unwrap();
    write!(stream, "GET /api/events HTTP/1.1\r\nHost: {addr}\r\n\r\n").unwrap();
    BufReader::new(stream)
}

#[test]
fn a_reader_that_stalls_skips_and_costs_what_the_kernel_holds_for_it() {
    let (server, fake) = start();
    let mut stalled = stall(http(&server));
    let mut brisk = follow(http(&server), "/api/events", "");
    // 16 MiB of events, in steps that a reader who reads can follow.
    let (count, text) = (1_024, "x".repeat(16 * 1024));
    for n in 0..count {
        fake.events.note(EventKind::Notice, "", None, &*text);
        if n % 64 == 63 {
            let last = std::iter::from_fn(|| Some(entries(&mut brisk, 1)[0])).find(|&number| number == n + 1);
            assert_eq!(last, Some(n + 1));
        }
    }
    let mut read = vec![];
    while read.last() != Some(&count) {
        read.extend(entries(&mut stalled, 1));
    }
    assert!(read.is_sorted() && read.len() < count as usize * 3 / 4, "it read {} of {count}", read.len());
    assert!(read.len() >= KEPT_MAX, "{}", read.len());
}

/// Whether there is no place for another reader of events.
fn is_full(addr: SocketAddr) -> bool {
    let mut stream = connect(addr);
    write!(stream, "GET /api/events HTTP/1.1\r\nHost: {addr}\r\n\r\n").unwrap();
    let mut head = [0; 12];
    stream.read_exact(&mut head).unwrap();
    &head == b"HTTP/1.1 503"
}

#[test]
fn readers_that_take_nothing_are_let_go() {
    let (server, fake) = start();
    let addr = http(&server);
    let stalled: Vec<_> = (0..READERS_MAX).map(|_| stall(addr)).collect();
    let began = Instant::now();
    while !is_full(addr) {
        assert!(began.elapsed() < PATIENCE, "not all of them have been taken");
    }
    let text = "x".repeat(4 * 1024);
    while is_full(addr) {
        assert!(began.elapsed() < 2 * PATIENCE, "they are still there");
        fake.events.note(EventKind::Notice, "", None, &*text);
        std::thread::sleep(Duration::from_millis(50)); // the pace of what happens, not a wait for an event
    }
    assert!(began.elapsed() > Duration::from_secs(5), "a reader may be slow for a while");
    drop(stalled);
}

#[test]
fn there_are_so_many_readers_and_no_more_and_a_place_is_free_again() {
    let (server, _fake) = start();
    let addr = http(&server);
    let mut readers: Vec<_> = (0..READERS_MAX).map(|_| follow(addr, "/api/events", "")).collect();
    let said = get(addr, "/api/events");
    assert_eq!(said.status, 503, "{said:?}");
    assert!(said.error().contains("64 readers"), "{said:?}");
    assert_eq!(get(addr, "/api/status").status, 200, "others are served");
    readers.pop();
    let give_up = Instant::now() + PATIENCE;
    while is_full(addr) {
        assert!(Instant::now() < give_up);
    }
}

#[test]
fn it_stops_soon_whoever_is_connected_and_gives_its_address_back() {
    let (server, fake) = start();
    let addr = http(&server);
    let mut reader = follow(addr, "/api/events", "");
    let idle = connect(addr);
    let began = Instant::now();
    server.stop();
    assert!(began.elapsed() < Duration::from_secs(5), "{:?}", began.elapsed());
    while next_event(&mut reader).is_some() {}
    assert_eq!(read_all(idle).body, "");
    assert!(TcpStream::connect(addr).is_err());
    assert_eq!(Arc::strong_count(&fake), 1, "nothing of it stays behind");
}

#[test]
fn the_client_asks_and_understands() {
    let (server, fake) = start();
    let client = AdminClient::new(http(&server), Token::new(TOKEN));
    assert_eq!(client.status().unwrap(), status());
    for (pool, order, asked) in [
        (None, Order::Drain, "None 3 Drain"),
        (Some("native"), Order::Enable, "Some(\"native\") 3 Enable"),
        (None, Order::Disable, "None 3 Disable"),
        (None, Order::Weight(100), "None 3 Weight(100)"),
    ] {
        client.order(pool, 3, order).unwrap();
        assert_eq!(fake.take_asked(), [asked]);
    }
    match client.order(Some("a b&c"), 3, Order::Drain) {
        Err(ClientError::Refused { status: 404, why }) => assert_eq!(why, "no server 3: there is 3"),
        other => panic!("{other:?}"),
    }
    assert_eq!(fake.take_asked(), ["Some(\"a b&c\") 3 Drain"]);
    let wanted = DesiredServer { addr: "127.0.0.1:5300".parse().unwrap(), id: 4, weight: 2 };
    client.set_servers("dns", std::slice::from_ref(&wanted)).unwrap();
    assert_eq!(fake.take_asked(), [format!("dns {:?}", [wanted])]);
    assert_eq!(client.reload().unwrap_err().to_string(), "config.json:3: server.count: too many");
}

#[test]
fn the_client_says_what_is_wrong_at_the_other_end() {
    let (server, fake) = start();
    let addr = http(&server);
    for token in [None, Token::new("another-token-than-that")] {
        let error = AdminClient::new(addr, token).reload().unwrap_err();
        assert!(matches!(error, ClientError::Token { .. }), "{error:?}");
        assert!(error.to_string().contains("Authorization: Bearer TOKEN"), "{error}");
    }
    assert!(fake.take_asked().is_empty());
    server.stop();
    let error = AdminClient::new(addr, None).status().unwrap_err();
    assert!(matches!(error, ClientError::NoAnswer { .. }), "{error:?}");
    assert!(error.to_string().starts_with(&format!("no response from {addr}: ")), "{error}");

    // Others than a balancer: one that says something else, one that says nothing.
    let other = TcpListener::bind("127.0.0.1:0").unwrap();
    let addr = other.local_addr().unwrap();
    let answers = [
        "HTTP/1.1 200 OK\r\nContent-Length: 5\r\n\r\nhello",
        "HTTP/1.1 404 No\r\nContent-Length: 0\r\n\r\n",
        "SSH-2.0-x\r\n",
    ];
    let thread = std::thread::spawn(move || {
        for answer in answers {
            let (mut stream, _) = other.accept().unwrap();
            let _ = stream.read(&mut [0; 1024]).unwrap();
            stream.write_all(answer.as_bytes()).unwrap();
        }
        other
    });
    for answer in answers {
        let error = AdminClient::new(addr, None).status().unwrap_err();
        assert!(matches!(error, ClientError::NotUnderstood { .. }), "{answer}: {error:?}");
    }
    let _silent = thread.join().unwrap();
    let began = Instant::now();
    let error = AdminClient::new(addr, None).status().unwrap_err();
    assert!(error.to_string().contains("no response in time"), "{error}");
    assert!(began.elapsed() < Duration::from_secs(10));
}

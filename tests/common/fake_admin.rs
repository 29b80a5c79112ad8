//! The admin interface of a balancer that is not there: canned answers over HTTP, and what was asked.

use std::io::{BufRead, BufReader, Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;
use std::time::Duration;

use serde_json::{Value, json};

/// How often a reader of events gets the status.
const TICK: Duration = Duration::from_millis(50);
/// What the real interface says of its page.
const POLICY: &str = "default-src 'none'; script-src 'unsafe-inline'; style-src 'unsafe-inline'; \
    img-src data:; connect-src 'self'; form-action 'none'; base-uri 'none'; frame-ancestors 'none'";

/// What it answers.
#[derive(Clone, Debug, Default)]
pub struct Canned {
    pub page: String,
    pub status: Value,
    pub history: Value,
    pub entries: Vec<Value>,
    /// The token that changes need.
    pub token: String,
    /// What a change with that token is refused with.
    pub refusal: Option<(u16, String)>,
}

/// One request, as it came.
#[derive(Clone, Debug)]
pub struct Asked {
    pub method: String,
    pub path: String,
    pub authorization: String,
}

pub struct FakeAdmin {
    addr: SocketAddr,
    shared: Arc<Shared>,
    running: Option<(Arc<AtomicBool>, JoinHandle<()>)>,
}

#[derive(Default)]
struct Shared {
    canned: Mutex<Canned>,
    asked: Mutex<Vec<Asked>>,
}

impl FakeAdmin {
    pub fn start(addr: SocketAddr, canned: Canned) -> FakeAdmin {
        let shared = Arc::new(Shared { canned: Mutex::new(canned), asked: Mutex::default() });
        let mut fake = FakeAdmin { addr, shared, running: None };
        fake.come_back();
        fake
    }

    pub fn url(&self) -> String {
        format!("http://{}/", self.addr)
    }

    pub fn addr(&self) -> SocketAddr {
        self.addr
    }

    /// Changes what is answered from now on.
    pub fn change(&self, change: impl FnOnce(&mut Canned)) {
        change(&mut self.shared.canned.lock().unwrap());
    }

    pub fn asked(&self) -> Vec<Asked> {
        self.shared.asked.lock().unwrap().clone()
    }

    /// The changes that were asked for.
    pub fn posts(&self) -> Vec<Asked> {
        self.asked().into_iter().filter(|asked| asked.method == "POST").collect()
    }

    /// Ends it, with all connections.
    pub fn go(&mut self) {
        if let Some((stop, thread)) = self.running.take() {
            stop.store(true, Ordering::Relaxed);
            let _ = TcpStream::connect(self.addr); // wakes the listener
            thread.join().unwrap();
        }
    }

    /// Starts it again, at the same address.
    pub fn come_back(&mut self) {
        let listener = TcpListener::bind(self.addr).expect("a free port");
        let stop = Arc::new(AtomicBool::new(false));
        let (shared, stopped) = (Arc::clone(&self.shared), Arc::clone(&stop));
        let thread = std::thread::spawn(move || {
            let mut connections = vec![];
            for stream in listener.incoming().flatten() {
                if stopped.load(Ordering::Relaxed) {
                    break;
                }
                let (shared, stopped) = (Arc::clone(&shared), Arc::clone(&stopped));
                // A client that goes away is no failure.
                connections.push(std::thread::spawn(move || drop(serve(stream, &shared, &stopped))));
            }
            connections.into_iter().for_each(|connection| connection.join().unwrap());
        });
        self.running = Some((stop, thread));
    }
}

impl Drop for FakeAdmin {
    fn drop(&mut self) {
        self.go();
    }
}

/// One request to a connection.
fn serve(mut stream: TcpStream, shared: &Shared, stopped: &AtomicBool) -> std::io::Result<()> {
    stream.set_read_timeout(Some(Duration::from_secs(5)))?;
    let mut reader = BufReader::new(stream.try_clone()?);
    let mut line = String::new();
    reader.read_line(&mut line)?;
    let mut words = line.split_whitespace().map(str::to_owned);
    let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(()) };
    let (mut authorization, mut length) = (String::new(), 0);
    loop {
        let mut header = String::new();
        if reader.read_line(&mut header)? == 0 || header.trim().is_empty() {
            break;
        }
        let (name, value) = header.split_once(':').unwrap_or_default();
        match name.to_ascii_lowercase().as_str() {
            "authorization" => authorization = value.trim().to_owned(),
            "content-length" => length = value.trim().parse().unwrap_or(0),
            _ => {}
        }
    }
    reader.take(length).read_to_end(&mut vec![])?;
    let asked = Asked { method: method.clone(), path: path.clone(), authorization: authorization.clone() };
    shared.asked.lock().unwrap().push(asked);
    let canned = shared.canned.lock().unwrap().clone();
    match (method.as_str(), path.split('?').next().unwrap_or_default()) {
        ("GET", "/") => answer(&mut stream, 200, "text/html; charset=utf-8", &canned.page),
        ("GET", "/api/status") => answer(&mut stream, 200, "application/json", &canned.status.to_string()),
        ("GET", "/api/history") => answer(&mut stream, 200, "application/json", &canned.history.to_string()),
        ("GET", "/api/events") => follow(&mut stream, shared, stopped),
        ("POST", _) => {
            let (status, body) = match &canned.refusal {
                _ if authorization != format!("Bearer {}", canned.token) => {
                    (401, json!({ "error": "it is not the token" }))
                }
                Some((status, why)) => (*status, json!({ "error": why })),
                None => (200, json!({ "done": "done" })),
            };
            answer(&mut stream, status, "application/json", &body.to_string())
        }
        _ => answer(&mut stream, 404, "application/json", "{\"error\": \"no such page\"}"),
    }
}

fn answer(stream: &mut TcpStream, status: u16, kind: &str, body: &str) -> std::io::Result<()> {
    write!(
        stream,
        "HTTP/1.1 {status} X\r\nContent-Type: {kind}\r\nContent-Length: {}\r\nConnection: close\r\n\
         Content-Security-Policy: {POLICY}\r\nCache-Control: no-store\r\n\r\n{body}",
        body.len()
    )
}

/// Server-sent events until the reader leaves or the server stops.
fn follow(stream: &mut TcpStream, shared: &Shared, stopped: &AtomicBool) -> std::io::Result<()> {
    write!(stream, "HTTP/1.1 200 OK\r\nContent-Type: text/event-stream\r\nConnection: close\r\n\r\n")?;
    let mut told = 0;
    while !stopped.load(Ordering::Relaxed) {
        let (status, entries) = {
            let canned = shared.canned.lock().unwrap();
            (canned.status.to_string(), canned.entries.clone())
        };
        for entry in entries.iter().skip(told) {
            write!(stream, "event: entry\ndata: {entry}\n\n")?;
        }
        told = entries.len();
        write!(stream, "event: status\ndata: {status}\n\n")?;
        stream.flush()?;
        std::thread::sleep(TICK); // the pace of a server, not a wait for an event
    }
    Ok(())
}

//! The counts of a run for Prometheus, over HTTP, while it lasts.

use std::fmt::Write as _;
use std::io::{Read, Write};
use std::net::{SocketAddr, TcpListener, TcpStream};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use anyhow::{Context, Result};
use lbd::load::{Counts, LiveCounts};

/// Time that a reader has for its request and for the response.
const PATIENCE: Duration = Duration::from_secs(1);
/// Maximum bytes of a request that are read.
const REQUEST_MAX: usize = 4096;

/// What a reader gets.
#[derive(Clone, Default)]
pub struct Metrics(Arc<Mutex<LiveCounts>>);

impl Metrics {
    /// Serves at this address, one reader after the other, until the program ends.
    pub fn serve(addr: SocketAddr) -> Result<Metrics> {
        let listener =
            TcpListener::bind(addr).with_context(|| format!("--metrics: cannot listen at {addr}"))?;
        let metrics = Metrics::default();
        let shown = metrics.clone();
        std::thread::Builder::new().name("metrics".into()).spawn(move || {
            for stream in listener.incoming().flatten() {
                let _ = shown.answer(stream); // a reader that has gone, or is too slow, gets nothing
            }
        })?;
        Ok(metrics)
    }

    /// Sets the newest counts.
    pub fn set(&self, live: LiveCounts) {
        *self.0.lock().expect("no panic while it is held") = live;
    }

    fn answer(&self, mut stream: TcpStream) -> std::io::Result<()> {
        stream.set_read_timeout(Some(PATIENCE))?;
        stream.set_write_timeout(Some(PATIENCE))?;
        let (mut request, mut len) = ([0; REQUEST_MAX], 0);
        while len < REQUEST_MAX && !request[..len].windows(4).any(|end| end == b"\r\n\r\n") {
            match stream.read(&mut request[len..])? {
                0 => break,
                read => len += read,
            }
        }
        let live = *self.0.lock().expect("no panic while it is held");
        let (status, body) = match request.starts_with(b"GET /metrics ") {
            true => ("200 OK", text(&live)),
            false => ("404 Not Found", "the metrics are at /metrics\n".to_owned()),
        };
        let kind = "text/plain; version=0.0.4; charset=utf-8";
        let head = format!("Content-Type: {kind}\r\nContent-Length: {}\r\nConnection: close", body.len());
        write!(stream, "HTTP/1.1 {status}\r\n{head}\r\n\r\n{body}")
    }
}

/// The metrics in Prometheus's text format, version 0.0.4.
fn text(live: &LiveCounts) -> String {
    let Counts { sent, answered, lost, busy, refused, late_sends, .. } = live.counts;
    let mut out = String::new();
    for (name, kind, help, value) in [
        ("loadgen_requests_sent_total", "counter", "Requests sent, without the warm-up", sent),
        ("loadgen_requests_late_total", "counter", "Requests that left late", late_sends),
        ("loadgen_requests_in_flight", "gauge", "Requests without a response so far", live.in_flight),
    ] {
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} {kind}\n{name} {value}");
    }
    let name = "loadgen_requests_ended_total";
    let _ = writeln!(out, "# HELP {name} Requests that ended, by outcome\n# TYPE {name} counter");
    for (outcome, count) in [("answered", answered), ("busy", busy), ("refused", refused), ("lost", lost)] {
        let _ = writeln!(out, "{name}{{outcome=\"{outcome}\"}} {count}");
    }
    if let Some((p50, p99)) = live.last_second {
        let name = "loadgen_latency_seconds";
        let help = "Latency from the scheduled moment, of the last second whose requests have all ended";
        let _ = writeln!(out, "# HELP {name} {help}\n# TYPE {name} gauge");
        for (quantile, us) in [("0.5", p50), ("0.99", p99)] {
            let _ = writeln!(out, "{name}{{quantile=\"{quantile}\"}} {}", us as f64 / 1e6);
        }
    }
    out
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reader_gets_the_newest_counts() {
        let free = TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap();
        let metrics = Metrics::serve(free).unwrap();
        let counts = Counts { sent: 9, answered: 7, lost: 2, ..Counts::default() };
        metrics.set(LiveCounts { counts, last_second: Some((1_500, 20_000)), ..LiveCounts::default() });
        let get = |path: &str| {
            let mut stream = TcpStream::connect(free).unwrap();
            write!(stream, "GET {path} HTTP/1.1\r\nHost: x\r\n\r\n").unwrap();
            let mut answer = String::new();
            stream.read_to_string(&mut answer).unwrap();
            answer
        };
        let answer = get("/metrics");
        for line in [
            "HTTP/1.1 200 OK",
            "loadgen_requests_sent_total 9",
            "loadgen_requests_ended_total{outcome=\"lost\"} 2",
            "loadgen_latency_seconds{quantile=\"0.5\"} 0.0015",
        ] {
            assert!(answer.lines().any(|found| found == line), "{line} in {answer}");
        }
        assert!(get("/").starts_with("HTTP/1.1 404"));
        assert!(Metrics::serve(free).is_err_and(|error| error.to_string().contains("--metrics")));
    }
}

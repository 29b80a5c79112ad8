//! Figures for the tests of what is shown.

use lbd::admin::status::{
    DatagramCounters, DatagramServer, EventEntry, EventKind, NativeServer, Percentiles, PoolStatus,
    ServerStatus, Status,
};

/// When the events of [`status`] are looked at: milliseconds since 1970.
pub const NOW_MS: u64 = 1_700_000_100_000;

/// A native pool of three servers and a DNS pool of three.
pub fn status() -> Status {
    let recent = |p50, p99| Percentiles { p50, p99, ..Percentiles::default() };
    let server = |id: u32, state: &str, queue, rate| ServerStatus {
        id,
        state: state.to_owned(),
        queue,
        rate,
        ..ServerStatus::default()
    };
    let native = |id, state, queue, rate, p99| ServerStatus {
        latency_us_recent: recent(p99 / 4, p99),
        native: Some(NativeServer { lost: u64::from(id), ..NativeServer::default() }),
        ..server(id, state, queue, rate)
    };
    let dns = |id, state, queue, rate, p50, timed_out| ServerStatus {
        addr: format!("127.0.0.1:530{id}"),
        latency_us_recent: recent(p50, 7 * p50),
        datagram: Some(DatagramServer { timed_out, ..DatagramServer::default() }),
        ..server(id, state, queue, rate)
    };
    let of_native = PoolStatus {
        name: "native".to_owned(),
        protocol: "native".to_owned(),
        answered: 1_234_567,
        refused: [("servers_full".to_owned(), 2)].into(),
        dropped: [("magic".to_owned(), 3)].into(),
        rate: 900.0,
        latency_us_recent: recent(2_000, 9_000),
        servers: vec![
            native(0, "up", 4, 500.0, 9_000),
            native(1, "up", 7, 400.0, 12_000),
            native(2, "draining", 0, 0.0, 0),
        ],
        ..PoolStatus::default()
    };
    let of_dns = PoolStatus {
        name: "dns".to_owned(),
        protocol: "dns".to_owned(),
        answered: 99,
        refused: [("rate".to_owned(), 5)].into(),
        rate: 5_000.0,
        latency_us_recent: recent(300, 2_100),
        servers: vec![
            dns(0, "up", 40, 3_000.0, 280, 0),
            dns(1, "up", 12, 2_000.0, 310, 3),
            dns(2, "down", 1, 0.0, 0, 37),
        ],
        datagram: Some(DatagramCounters { timed_out: 40, ..DatagramCounters::default() }),
        ..PoolStatus::default()
    };
    Status {
        pools: vec![of_native, of_dns],
        events: vec![
            EventEntry {
                number: 1,
                unix_ms: NOW_MS - 75_000,
                kind: EventKind::Server,
                pool: "dns".to_owned(),
                server: Some(2),
                text: "suspect -> down: 3 checks unanswered".to_owned(),
            },
            EventEntry {
                number: 2,
                unix_ms: NOW_MS - 4_000,
                kind: EventKind::Scaling,
                pool: "native".to_owned(),
                server: None,
                text: "scale up 2 -> 3: load 9.1 a server for 3s".to_owned(),
            },
        ],
        ..Status::default()
    }
}

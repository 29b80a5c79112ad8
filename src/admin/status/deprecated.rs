//! The JSON of a status as version 0.1 had it: the values of the first native pool at the top level too,
//! under their old names. Deprecated since 0.2, for readers that go by these names; the next release drops
//! this file, and [`Status`] derives `Serialize`.

use std::collections::BTreeMap;

use serde::{Serialize, Serializer};

use super::{Decisions, EventEntry, Percentiles, PoolStatus, Scaling, ServerStatus, Service, Status};
use crate::base::drop_reason::DropReason;

impl Serialize for Status {
    fn serialize<S: Serializer>(&self, serializer: S) -> Result<S::Ok, S::Error> {
        let Status { version, config, pools, events, .. } = self;
        let Status { process_started_unix_ms, predecessors_cpu_s, .. } = *self;
        let Status { pid, started_unix_ms, uptime_s, ready, .. } = *self;
        let none = PoolStatus::default();
        let top = TopLevel::of(self.native().unwrap_or(&none));
        let json = Json {
            version,
            pid,
            started_unix_ms,
            uptime_s,
            process_started_unix_ms,
            predecessors_cpu_s,
            config,
            ready,
            top,
            pools,
            events,
        };
        json.serialize(serializer)
    }
}

#[derive(Serialize)]
struct Json<'a> {
    version: &'a str,
    pid: u32,
    started_unix_ms: u64,
    uptime_s: f64,
    process_started_unix_ms: u64,
    predecessors_cpu_s: f64,
    config: &'a str,
    ready: bool,
    #[serde(flatten)]
    top: TopLevel<'a>,
    pools: &'a [PoolStatus],
    events: &'a [EventEntry],
}

/// A native pool under its old names.
#[derive(Serialize)]
struct TopLevel<'a> {
    workers: &'a [u64],
    requests: u64,
    dispatched: u64,
    answered: u64,
    busy_no_server: u64,
    busy_shed: u64,
    refused_mode: u64,
    select_fallback: u64,
    kernel_drops: u64,
    send_drops: u64,
    gso_off: u64,
    out_of_slots: u64,
    completions_delayed: u64,
    drops: &'a BTreeMap<String, u64>,
    decisions: &'a Decisions,
    rate: f64,
    latency_us_p50: u64,
    latency_us_p99: u64,
    latency_us_recent: Percentiles,
    scaling: Option<&'a Scaling>,
    servers: Vec<DeprecatedServer<'a>>,
}

impl TopLevel<'_> {
    fn of(pool: &PoolStatus) -> TopLevel<'_> {
        let refused = |reason: DropReason| pool.refused.get(reason.name()).copied().unwrap_or(0);
        TopLevel {
            workers: &pool.workers,
            requests: pool.received,
            dispatched: pool.dispatched,
            answered: pool.answered,
            busy_no_server: refused(DropReason::NoServer),
            busy_shed: refused(DropReason::ServersFull),
            refused_mode: refused(DropReason::Mode),
            select_fallback: pool.select_fallback,
            kernel_drops: pool.kernel_drops + pool.kernel_drops_back,
            send_drops: pool.send_drops,
            gso_off: pool.gso_off,
            out_of_slots: pool.out_of_slots,
            completions_delayed: pool.completions_delayed,
            drops: &pool.dropped,
            decisions: &pool.decisions,
            rate: pool.rate,
            latency_us_p50: pool.latency_us_recent.p50,
            latency_us_p99: pool.latency_us_recent.p99,
            latency_us_recent: pool.latency_us_recent,
            scaling: pool.scaling.as_ref(),
            servers: pool.servers.iter().map(DeprecatedServer::of).collect(),
        }
    }
}

/// A native server under its old names.
#[derive(Serialize)]
struct DeprecatedServer<'a> {
    id: u32,
    addr: &'a str,
    state: &'a str,
    since_s: Option<f64>,
    weight: u64,
    queue: u64,
    estimate_error: u64,
    service: Option<Service>,
    report_age_ms: Option<u64>,
    dispatched: u64,
    answered: u64,
    lost: u64,
    rate: f64,
    latency_us_p50: u64,
    latency_us_p99: u64,
    latency_us_recent: Percentiles,
}

impl DeprecatedServer<'_> {
    fn of(server: &ServerStatus) -> DeprecatedServer<'_> {
        let native = server.native.unwrap_or_default();
        DeprecatedServer {
            id: server.id,
            addr: &server.addr,
            state: &server.state,
            since_s: server.since_s,
            weight: server.weight,
            queue: server.queue,
            estimate_error: native.estimate_error,
            service: server.service,
            report_age_ms: native.report_age_ms,
            dispatched: server.dispatched,
            answered: server.answered,
            lost: native.lost,
            rate: server.rate,
            latency_us_p50: server.latency_us_recent.p50,
            latency_us_p99: server.latency_us_recent.p99,
            latency_us_recent: server.latency_us_recent,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::NativeServer;
    use super::*;

    #[test]
    fn the_first_native_pool_is_at_the_top_level_under_the_old_names() {
        let server = ServerStatus {
            id: 3,
            native: Some(NativeServer { lost: 5, estimate_error: 1, report_age_ms: Some(7) }),
            latency_us_recent: Percentiles { p50: 10, p99: 90, ..Percentiles::default() },
            ..ServerStatus::default()
        };
        let native = PoolStatus {
            name: "first".into(),
            protocol: "native".into(),
            received: 9,
            workers: vec![4, 5],
            kernel_drops: 1,
            kernel_drops_back: 2,
            refused: [("no_server".into(), 3), ("servers_full".into(), 4), ("mode".into(), 5)].into(),
            dropped: [("magic".into(), 6)].into(),
            servers: vec![server],
            ..PoolStatus::default()
        };
        let dns = PoolStatus { name: "dns".into(), protocol: "dns".into(), ..PoolStatus::default() };
        let second = PoolStatus { name: "second".into(), received: 99, ..native.clone() };
        let status = Status { pid: 77, pools: vec![dns.clone(), native, second], ..Status::default() };
        let json = serde_json::to_value(&status).unwrap();
        for (key, value) in [
            ("requests", 9),
            ("kernel_drops", 3),
            ("busy_no_server", 3),
            ("busy_shed", 4),
            ("refused_mode", 5),
            ("pid", 77),
        ] {
            assert_eq!(json[key], value, "{key}");
        }
        assert_eq!((&json["workers"][1], &json["drops"]["magic"]), (&5.into(), &6.into()));
        let server = &json["servers"][0];
        for (key, value) in [("id", 3), ("lost", 5), ("report_age_ms", 7), ("latency_us_p99", 90)] {
            assert_eq!(server[key], value, "{key}");
        }
        assert_eq!(json["pools"].as_array().unwrap().len(), 3);
        assert_eq!(serde_json::from_value::<Status>(json).unwrap(), status);

        let without = Status { pools: vec![dns], ..Status::default() };
        let json = serde_json::to_value(&without).unwrap();
        assert_eq!((&json["requests"], &json["servers"]), (&0.into(), &serde_json::json!([])));
    }
}

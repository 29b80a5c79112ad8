//! One line a figure: its name, its help, and where it is in the status of the native pool and of a datagram pool.

use prometheus_client::registry::Unit;

use crate::admin::status::{PoolServerStatus, PoolStatus, Scaling, ServerStatus, Status};

/// Name, help, of the native pool, of a datagram pool.
type OfPool = (&'static str, &'static str, Option<fn(&Status) -> u64>, Option<fn(&PoolStatus) -> u64>);
/// The same of servers.
type OfServer =
    (&'static str, &'static str, Option<fn(&ServerStatus) -> u64>, Option<fn(&PoolServerStatus) -> u64>);
/// Name, help, of the scaler.
type OfScaling = (&'static str, &'static str, fn(&Scaling) -> f64);
/// Name, unit, help; what is not known at present is left out.
type GaugeOfServer = (
    &'static str,
    Option<Unit>,
    &'static str,
    Option<fn(&ServerStatus) -> Option<f64>>,
    Option<fn(&PoolServerStatus) -> Option<f64>>,
);

#[rustfmt::skip]
pub(super) const POOL_COUNTERS: &[OfPool] = &[
    ("answered", "Requests whose answer was delivered", Some(|s| s.answered), Some(|p| p.answered)),
    ("timed_out", "Requests without an answer in time", None, Some(|p| p.timed_out)),
    ("forwarded", "Datagrams to servers that no single answer is awaited for", None, Some(|p| p.forwarded)),
    ("delivered", "Datagrams of servers that reached clients", None, Some(|p| p.delivered)),
    ("late", "Answers delivered after the time-out", None, Some(|p| p.late)),
    ("servfail", "Queries answered with SERVFAIL", None, Some(|p| p.servfail)),
    ("dropped", "What lbd dropped in silence, for all reasons", Some(|s| s.drops.values().sum()), Some(|p| p.dropped.values().sum())),
    ("kernel_dropped", "Datagrams lost in a full receive buffer", Some(|s| s.kernel_drops), Some(|p| p.kernel_drops + p.kernel_drops_back)),
    ("send_dropped", "Datagrams that could not be sent", Some(|s| s.send_drops), Some(|p| p.send_drops)),
    ("select_fallback", "Selections that fell back to two random servers", Some(|s| s.select_fallback), Some(|p| p.select_fallback)),
    ("out_of_slots", "How often a socket waited for a free slot (io_uring)", Some(|s| s.out_of_slots), None),
    ("completions_delayed", "How often the completion queue was full (io_uring)", Some(|s| s.completions_delayed), None),
    ("count_corrections", "Requests that had counted as outstanding and were not", Some(|s| s.decisions.corrections), Some(|p| p.decisions.corrections)),
    ("waited", "Requests that waited in the balancer for a server with room", Some(|s| s.decisions.waited), Some(|p| p.decisions.waited)),
    ("flows_opened", "Flows opened", None, Some(|p| p.flows_opened)),
    ("tcp_opened", "TCP connections spliced", None, Some(|p| p.tcp_opened)),
    ("tcp_refused", "TCP connections refused", None, Some(|p| p.tcp_refused)),
];

#[rustfmt::skip]
pub(super) const POOL_GAUGES: &[OfPool] = &[
    ("waiting", "Requests that wait in the balancer for a server with room", Some(|s| s.decisions.waiting), Some(|p| p.decisions.waiting)),
    ("in_flight", "Requests that wait for their answer", None, Some(|p| p.in_flight)),
    ("flows", "Flows that live", None, Some(|p| p.flows)),
    ("tcp_connections", "TCP connections that live", None, Some(|p| p.tcp_open)),
    ("gso_off_workers", "Workers that the kernel refuses segmentation offload to", Some(|s| s.gso_off), Some(|p| p.gso_off)),
];

#[rustfmt::skip]
pub(super) const SCALING: [OfScaling; 4] = [
    ("scaling_load", "Requests per server, as the scaler sees it", |s| s.load),
    ("scaling_wanted_servers", "Servers there shall be", |s| f64::from(s.wanted)),
    ("scaling_min_servers", "Never fewer servers", |s| f64::from(s.min)),
    ("scaling_max_servers", "Never more servers", |s| f64::from(s.max)),
];

#[rustfmt::skip]
pub(super) const SERVER_COUNTERS: &[OfServer] = &[
    ("server_dispatched", "Requests or datagrams sent to a server", Some(|s| s.dispatched), Some(|s| s.dispatched)),
    ("server_answered", "Requests that a server answered", Some(|s| s.answered), Some(|s| s.answered)),
    ("server_lost", "Requests lost on the way to a server", Some(|s| s.lost), None),
    ("server_timed_out", "Requests that a server did not answer in time", None, Some(|s| s.timed_out)),
    ("server_forwarded", "Datagrams to a server that no single answer is awaited for", None, Some(|s| s.forwarded)),
    ("server_delivered", "Datagrams of a server that reached clients", None, Some(|s| s.delivered)),
    ("server_icmp_errors", "How often the network said that a server is not there", None, Some(|s| s.errors)),
];

#[rustfmt::skip]
pub(super) const SERVER_GAUGES: &[GaugeOfServer] = &[
    ("server_up", None, "1 if a server takes traffic", Some(|s| Some(is_up(&s.state))), Some(|s| Some(is_up(&s.state)))),
    ("server_queue", None, "Requests or flows at a server", Some(|s| Some(s.queue as f64)), Some(|s| Some(s.queue as f64))),
    ("server_weight", None, "A server's share relative to others", Some(|s| Some(s.weight as f64)), Some(|s| Some(s.weight as f64))),
    ("server_state_age", Some(Unit::Seconds), "How long a server has been in its state", Some(|s| s.since_s), Some(|s| s.since_s)),
    ("server_report_age", Some(Unit::Seconds), "Time since a server's last report", Some(|s| s.report_age_ms.map(|ms| ms as f64 / 1e3)), None),
    ("server_answer_age", Some(Unit::Seconds), "Time since anything valid came from a server", None, Some(|s| s.heard_ms.map(|ms| ms as f64 / 1e3))),
    ("server_service_time", Some(Unit::Seconds), "What a request takes at a server, as shortest_delay sees it", Some(|s| s.service.map(|of| of.time_us as f64 / 1e6)), Some(|s| s.service.map(|of| of.time_us as f64 / 1e6))),
    ("server_slowness", None, "How many times as long as at the fastest server a request takes", Some(|s| s.service.map(|of| of.slowness)), Some(|s| s.service.map(|of| of.slowness))),
    ("server_estimate_error", None, "By how many requests the estimated queue differed from the last report", Some(|s| Some(s.estimate_error as f64)), None),
];

fn is_up(state: &str) -> f64 {
    f64::from(u8::from(state == "up"))
}

//! One line per metric: its name, its HELP, and where its value is in the status. A pool or a server that
//! does not have the value has no row.

use prometheus_client::registry::Unit;

use crate::admin::status::{PoolStatus, Scaling, ServerStatus};

/// Name, HELP, value of a pool.
type OfPool = (&'static str, &'static str, fn(&PoolStatus) -> Option<u64>);
/// Name, HELP, value of a server.
type OfServer = (&'static str, &'static str, fn(&ServerStatus) -> Option<u64>);
/// Name, HELP, value of an autoscaler.
type OfScaling = (&'static str, &'static str, fn(&Scaling) -> f64);
/// Name, unit, HELP, present value of a server.
type GaugeOfServer = (&'static str, Option<Unit>, &'static str, fn(&ServerStatus) -> Option<f64>);

#[rustfmt::skip]
pub(super) const POOL_COUNTERS: &[OfPool] = &[
    ("answered", "Requests whose response was delivered", |p| Some(p.answered)),
    ("timed_out", "Requests without a response in time", |p| Some(p.datagram?.timed_out)),
    ("forwarded", "Datagrams to servers without a single expected response", |p| Some(p.datagram?.forwarded)),
    ("delivered", "Datagrams of servers delivered to clients", |p| Some(p.datagram?.delivered)),
    ("late", "Responses delivered after the timeout", |p| Some(p.datagram?.late)),
    ("servfail", "Queries answered with SERVFAIL", |p| Some(p.datagram?.servfail)),
    ("dropped", "Frames or datagrams dropped without an answer, all reasons together",
        |p| Some(p.dropped.values().sum())),
    ("kernel_dropped", "Datagrams dropped by the kernel at a full receive buffer",
        |p| Some(p.kernel_drops + p.kernel_drops_back)),
    ("send_dropped", "Datagrams not sent", |p| Some(p.send_drops)),
    ("select_fallback", "Selections between two random servers after too many lost races",
        |p| Some(p.select_fallback)),
    ("out_of_slots", "Waits of a socket for a free receive slot (io_uring)", |p| Some(p.out_of_slots)),
    ("completions_delayed", "Overflows of the completion queue (io_uring)", |p| Some(p.completions_delayed)),
    ("count_corrections", "Requests taken off the outstanding count as lost or timed out",
        |p| Some(p.decisions.corrections)),
    ("waited", "Requests sent to a server from the pending queue", |p| Some(p.decisions.waited)),
    ("flows_opened", "Flows opened", |p| Some(p.datagram?.flows_opened)),
    ("tcp_opened", "TCP connections accepted", |p| Some(p.datagram?.tcp_opened)),
    ("tcp_refused", "TCP connections refused", |p| Some(p.datagram?.tcp_refused)),
    ("tcp_queries", "Queries received over TCP", |p| Some(p.datagram?.tcp_queries)),
];

#[rustfmt::skip]
pub(super) const POOL_GAUGES: &[OfPool] = &[
    ("waiting", "Requests in the pending queue", |p| Some(p.decisions.waiting)),
    ("in_flight", "Requests in flight", |p| Some(p.datagram?.in_flight)),
    ("flows", "Open flows", |p| Some(p.datagram?.flows)),
    ("tcp_connections", "Open TCP connections", |p| Some(p.datagram?.tcp_open)),
    ("checks_ignored", "State of the health checks (1 = ignored, 0 = in use)",
        |p| Some(p.datagram?.checks_ignored.into())),
    ("gso_off_workers", "Workers without segmentation offload", |p| Some(p.gso_off)),
];

pub(super) const SCALING: [OfScaling; 4] = [
    ("scaling_load", "Requests per server, as the autoscaler measures them", |s| s.load),
    ("scaling_wanted_servers", "Desired number of servers", |s| f64::from(s.wanted)),
    ("scaling_min_servers", "Minimum number of servers", |s| f64::from(s.min)),
    ("scaling_max_servers", "Maximum number of servers", |s| f64::from(s.max)),
];

#[rustfmt::skip]
pub(super) const SERVER_COUNTERS: &[OfServer] = &[
    ("server_dispatched", "Requests or datagrams sent to a server", |s| Some(s.dispatched)),
    ("server_answered", "Requests answered by a server", |s| Some(s.answered)),
    ("server_failed_answers", "Requests answered by a server with a failure (SERVFAIL, REFUSED, ERROR)",
        |s| Some(s.failed_answers)),
    ("server_lost", "Requests lost in transit to a server", |s| Some(s.native?.lost)),
    ("server_timed_out", "Requests without a response of a server in time", |s| Some(s.datagram?.timed_out)),
    ("server_forwarded", "Datagrams to a server without a single expected response",
        |s| Some(s.datagram?.forwarded)),
    ("server_delivered", "Datagrams of a server delivered to clients", |s| Some(s.datagram?.delivered)),
    ("server_icmp_errors", "ICMP errors about a server", |s| Some(s.datagram?.errors)),
];

#[rustfmt::skip]
pub(super) const SERVER_GAUGES: &[GaugeOfServer] = &[
    ("server_up", None, "State of a server (1 = up, 0 = not up)",
        |s| Some(f64::from(u8::from(s.state == "up")))),
    ("server_queue", None, "Requests or flows at a server", |s| Some(s.queue as f64)),
    ("server_weight", None, "Share of a server relative to other servers", |s| Some(s.weight as f64)),
    ("server_state_age", Some(Unit::Seconds), "Time since a server came into its state, in seconds",
        |s| s.since_s),
    ("server_report_age", Some(Unit::Seconds), "Age of the last report, in seconds",
        |s| seconds(s.native?.report_age_ms)),
    ("server_answer_age", Some(Unit::Seconds), "Time since the last valid datagram of a server, in seconds",
        |s| seconds(s.heard_ms)),
    ("server_service_time", Some(Unit::Seconds),
        "Service time of a server as used by shortest_delay, in seconds",
        |s| Some(s.service?.time_us as f64 / 1e6)),
    ("server_slowness", None, "Service time relative to the pool's fastest server (1 = as fast)",
        |s| Some(s.service?.slowness)),
    ("server_estimate_error", None, "Absolute error of the queue estimate at the last report, in requests",
        |s| Some(s.native?.estimate_error as f64)),
];

fn seconds(millis: Option<u64>) -> Option<f64> {
    Some(millis? as f64 / 1e3)
}

//! Metrics as Prometheus reads them, made from one [`Status`] at each scrape: nothing is kept between
//! scrapes, and no worker is involved.
//!
//! Names begin with `lbd_` and end with their unit, counters with `_total`. A pool has no row of a metric
//! that its protocol does not have. `tables.rs` has one line per metric.

mod buckets;
pub(super) mod process;
mod tables;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::collections::BTreeMap;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use crate::admin::status::{Decisions, EventKind, EventLog, PoolStatus, ServerStatus, Status};
use crate::base::drop_reason::DropReason;
use crate::pool::health::State;
use buckets::Buckets;
use process::ProcessUsage;
use tables::{POOL_COUNTERS, POOL_GAUGES, SERVER_COUNTERS, SERVER_GAUGES};

/// The text formats of the metrics.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus's text format, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The format that a reader with this header `Accept` prefers.
    pub fn wanted(accept: &str) -> Format {
        if accept.contains("application/openmetrics-text") { Format::OpenMetrics } else { Format::Prometheus }
    }

    pub const fn content_type(self) -> &'static str {
        match self {
            Format::Prometheus => "text/plain; version=0.0.4; charset=utf-8",
            Format::OpenMetrics => "application/openmetrics-text; version=1.0.0; charset=utf-8",
        }
    }
}

/// All metrics as text.
pub(super) fn render(status: Arc<Status>, events: &EventLog, format: Format) -> String {
    let mut registry = Registry::with_prefix("lbd");
    let figures = MetricSource { status, events: events.counts(), process: ProcessUsage::now() };
    registry.register_collector(Box::new(figures));
    let mut text = String::new();
    match format {
        Format::Prometheus => prometheus_client::encoding::prometheus_text::encode(&mut text, &registry),
        Format::OpenMetrics => prometheus_client::encoding::text::encode(&mut text, &registry),
    }
    .expect("a string takes everything");
    text
}

/// The source of one scrape.
#[derive(Debug)]
struct MetricSource {
    status: Arc<Status>,
    events: Vec<(EventKind, u64)>,
    process: ProcessUsage,
}

type Labels<'a> = Vec<(&'static str, Cow<'a, str>)>;
type Rows<'a, T> = Vec<(Labels<'a>, T)>;

/// Writes one family per call; a family without rows is left out.
struct Sheet<'a>(DescriptorEncoder<'a>);

impl Sheet<'_> {
    fn counter(&mut self, name: &str, help: &str, rows: Rows<'_, u64>) -> fmt::Result {
        if rows.is_empty() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, None, MetricType::Counter)?;
        for (labels, value) in rows {
            family.encode_family(&labels)?.encode_counter(&value, None::<&Exemplar<NoLabels, u64>>)?;
        }
        Ok(())
    }

    fn gauge<T: EncodeGaugeValue>(
        &mut self,
        name: &str,
        unit: Option<&Unit>,
        help: &str,
        rows: Rows<'_, T>,
    ) -> fmt::Result {
        if rows.is_empty() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, unit, MetricType::Gauge)?;
        for (labels, value) in rows {
            if labels.is_empty() {
                family.encode_gauge(&value)?;
            } else {
                family.encode_family(&labels)?.encode_gauge(&value)?;
            }
        }
        Ok(())
    }

    fn latency(&mut self, name: &str, help: &str, rows: Rows<'_, Buckets>) -> fmt::Result {
        if rows.is_empty() {
            return Ok(());
        }
        let help = format!("{help}, in seconds; at most 12.5 % too high, with an estimated sum");
        self.histogram(name, &Unit::Seconds, &help, rows)
    }

    fn histogram(&mut self, name: &str, unit: &Unit, help: &str, rows: Rows<'_, Buckets>) -> fmt::Result {
        if rows.is_empty() {
            return Ok(());
        }
        let mut family = self.0.encode_descriptor(name, help, Some(unit), MetricType::Histogram)?;
        for (labels, Buckets { sum, count, counts }) in rows {
            family.encode_family(&labels)?.encode_histogram::<NoLabels>(sum, count, &counts, None)?;
        }
        Ok(())
    }
}

type NoLabels = [(&'static str, &'static str); 0];

fn of_pool(name: &str) -> Labels<'_> {
    vec![("pool", name.into())]
}

fn with<'a>(mut labels: Labels<'a>, name: &'static str, value: impl Into<Cow<'a, str>>) -> Labels<'a> {
    labels.push((name, value.into()));
    labels
}

fn of_server(pool: &str, id: u32) -> Labels<'_> {
    with(of_pool(pool), "server", id.to_string())
}

impl MetricSource {
    /// A row for each pool that has the value.
    fn pools<'a, T>(&'a self, value: impl Fn(&'a PoolStatus) -> Option<T>) -> Rows<'a, T> {
        let pools = self.status.pools.iter();
        pools.filter_map(|pool| Some((of_pool(&pool.name), value(pool)?))).collect()
    }

    /// A row for each server that has the value.
    fn servers<'a, T>(&'a self, value: impl Fn(&'a ServerStatus) -> Option<T>) -> Rows<'a, T> {
        let servers = self.all_servers();
        servers.filter_map(|(pool, server)| Some((of_server(pool, server.id), value(server)?))).collect()
    }

    /// Each server with the name of its pool.
    fn all_servers(&self) -> impl Iterator<Item = (&str, &ServerStatus)> {
        let pools = self.status.pools.iter();
        pools.flat_map(|pool| pool.servers.iter().map(|server| (pool.name.as_str(), server)))
    }

    /// Rows for each pool that have one more label.
    fn labelled<'a, K: Into<Cow<'a, str>>>(
        &'a self,
        label: &'static str,
        values: impl Fn(&'a PoolStatus) -> Vec<(K, u64)>,
    ) -> Rows<'a, u64> {
        let mut rows = vec![];
        for pool in &self.status.pools {
            let labels = |key| with(of_pool(&pool.name), label, key);
            rows.extend(values(pool).into_iter().map(|(key, value)| (labels(key), value)));
        }
        rows
    }

    fn process(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let one = |value: f64| vec![(vec![], value)];
        let version = vec![(vec![("version", Cow::from(&*self.status.version))], 1u64)];
        sheet.gauge("build_info", None, "Version of the program, as a label", version)?;
        let ready = vec![(vec![], u64::from(self.status.ready))];
        sheet.gauge("ready", None, "Readiness (1 = each pool has a server that is up)", ready)?;
        let seconds = Some(&Unit::Seconds);
        let started = one(self.status.started_unix_ms as f64 / 1e3);
        let help = "Start of the counters, in seconds since 1970; a takeover keeps it";
        sheet.gauge("start_time", seconds, help, started)?;
        let started = one(self.status.process_started_unix_ms as f64 / 1e3);
        sheet.gauge("process_start_time", seconds, "Start of the process, in seconds since 1970", started)?;
        let ProcessUsage { cpu_s, resident_bytes } = self.process;
        let cpu_s = cpu_s + self.status.predecessors_cpu_s;
        let help = "CPU time of all threads, in seconds; with that of the processes taken over from";
        let mut cpu = sheet.0.encode_descriptor("process_cpu", help, seconds, MetricType::Counter)?;
        cpu.encode_counter(&cpu_s, None::<&Exemplar<NoLabels, u64>>)?;
        if let Some(bytes) = resident_bytes {
            let help = "Resident memory, in bytes";
            sheet.gauge("process_resident_memory", Some(&Unit::Bytes), help, vec![(vec![], bytes)])?;
        }
        let events = self.events.iter();
        let events = events.map(|(kind, n)| (vec![("kind", Cow::from(kind.name()))], *n)).collect();
        sheet.counter("events", "Entries of the event log, by kind", events)
    }

    /// Pool by pool: workers, reasons, states, scaling, and the tables.
    fn of_pools(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let workers = self.labelled("worker", |pool| {
            pool.workers.iter().enumerate().map(|(worker, &n)| (worker.to_string(), n)).collect()
        });
        sheet.counter("requests", "Requests or datagrams of clients that were read", workers)?;
        for &(name, help, value) in POOL_COUNTERS {
            sheet.counter(name, help, self.pools(value))?;
        }
        for &(name, help, value) in POOL_GAUGES {
            sheet.gauge(name, None, help, self.pools(value))?;
        }
        let refused = self.labelled("reason", |pool| by_reason(&pool.refused));
        sheet.counter("refused", "Received requests sent to no server, by reason", refused)?;
        let dropped = self.labelled("reason", |pool| by_reason(&pool.dropped));
        let help = "Frames or datagrams dropped without an answer, by reason";
        sheet.counter("dropped_by_reason", help, dropped)?;
        let states = self.labelled("state", |pool| {
            let count =
                |state: &State| pool.servers.iter().filter(|server| server.state == state.name()).count();
            State::ALL.iter().map(|state| (state.name(), count(state) as u64)).collect()
        });
        sheet.gauge("servers", None, "Servers by state", states)?;
        for (name, help, value) in tables::SCALING {
            sheet.gauge(name, None, help, self.pools(|pool| pool.scaling.as_ref().map(value)))?;
        }
        let latency = self.pools(|pool| Some(Buckets::of(&pool.latency_us.histogram)));
        sheet.latency("latency", "Time from a request to its response, measured by the balancer", latency)
    }

    /// Quality of the selections, and the pending queue.
    fn of_decisions(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let rows = |of: &dyn Fn(&Decisions) -> Option<Buckets>| self.pools(|pool| of(&pool.decisions));
        let requests = Unit::Other("requests".to_owned());
        let regret = rows(&|decisions| Some(Buckets::of_numbers(&decisions.regret)));
        let help = "Excess of the selected queue over the shortest, in requests, of one selection in 64";
        sheet.histogram("regret", &requests, help, regret)?;
        let error = rows(&|decisions| decisions.estimate_error.as_ref().map(Buckets::of_numbers));
        let help = "Absolute error of the queue estimate at a report, in requests";
        sheet.histogram("estimate_error", &requests, help, error)?;
        let age = rows(&|decisions| Some(Buckets::of(&decisions.age_us.histogram)));
        sheet.latency("decision_age", "Age of the newest information about a selected server", age)?;
        let delay = rows(&|decisions| Some(Buckets::of(&decisions.waiting_delay_us.histogram)));
        sheet.latency("waiting_delay", "Time of a request in the pending queue", delay)
    }

    fn of_servers(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        for &(name, help, value) in SERVER_COUNTERS {
            sheet.counter(name, help, self.servers(value))?;
        }
        for (name, unit, help, value) in SERVER_GAUGES {
            sheet.gauge(name, unit.as_ref(), help, self.servers(value))?;
        }
        let info = |(pool, server): (_, &'_ ServerStatus)| {
            let labels = with(of_server(pool, server.id), "state", server.state.clone());
            (with(labels, "addr", server.addr.clone()), 1u64)
        };
        let info = self.all_servers().map(info).collect();
        sheet.gauge("server_info", None, "Present state and address of a server, as labels", info)?;
        let latency = self.servers(|server| Some(Buckets::of(&server.latency_us.histogram)));
        sheet.latency("server_latency", "Time from a request to a server to its response", latency)
    }
}

/// A row for each reason, with 0 before its first frame: so a rate is known from the first one on.
fn by_reason(reasons: &BTreeMap<String, u64>) -> Vec<(&'static str, u64)> {
    let count = |reason: &DropReason| reasons.get(reason.name()).copied().unwrap_or(0);
    DropReason::ALL.iter().map(|reason| (reason.name(), count(reason))).collect()
}

impl Collector for MetricSource {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sheet = Sheet(encoder);
        self.process(&mut sheet)?;
        self.of_pools(&mut sheet)?;
        self.of_decisions(&mut sheet)?;
        self.of_servers(&mut sheet)
    }
}

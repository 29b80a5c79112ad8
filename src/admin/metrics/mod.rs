//! Figures as Prometheus reads them, made from one [`Status`] at each scrape: nothing is kept, and no worker is asked.
//!
//! Names begin with `lbd_` and end with their unit, counters with `_total`. What a kind of pool does not have is left out
//! for it. `tables.rs` has one line a figure.

mod buckets;
mod process;
mod tables;
#[cfg(test)]
mod tests;

use std::borrow::Cow;
use std::fmt;
use std::sync::Arc;

use prometheus_client::collector::Collector;
use prometheus_client::encoding::{DescriptorEncoder, EncodeGaugeValue};
use prometheus_client::metrics::MetricType;
use prometheus_client::metrics::exemplar::Exemplar;
use prometheus_client::registry::{Registry, Unit};

use crate::admin::status::{
    Decisions, EventLog, Kind, NATIVE, PoolServerStatus, PoolStatus, ServerStatus, Status,
};
use crate::pool::health::State;
use buckets::Buckets;
use process::Process;
use tables::{POOL_COUNTERS, POOL_GAUGES, SERVER_COUNTERS, SERVER_GAUGES};

/// The two ways of writing the same figures.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Format {
    /// Prometheus's own, version 0.0.4.
    Prometheus,
    /// OpenMetrics 1.0.
    OpenMetrics,
}

impl Format {
    /// The one that a reader with this header `Accept` wants.
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

/// All figures.
pub(super) fn render(status: Arc<Status>, events: &EventLog, format: Format) -> String {
    let mut registry = Registry::with_prefix("lbd");
    let figures = Figures { status, events: events.counts(), process: Process::now() };
    registry.register_collector(Box::new(figures));
    let mut text = String::new();
    match format {
        Format::Prometheus => prometheus_client::encoding::prometheus_text::encode(&mut text, &registry),
        Format::OpenMetrics => prometheus_client::encoding::text::encode(&mut text, &registry),
    }
    .expect("a string takes everything");
    text
}

/// What is written at one scrape.
#[derive(Debug)]
struct Figures {
    status: Arc<Status>,
    events: Vec<(Kind, u64)>,
    process: Process,
}

type Labels<'a> = Vec<(&'static str, Cow<'a, str>)>;
type Rows<'a, T> = Vec<(Labels<'a>, T)>;

/// Writes a family a call; one without rows is left out.
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
        let help = format!("{help}; each is at most 12.5 % too high, the sum is estimated");
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

impl Figures {
    /// The native pool, if it runs.
    fn native(&self) -> Option<&Status> {
        Some(&*self.status).filter(|status| !status.workers.is_empty())
    }

    fn pools<'a, T>(
        &'a self,
        native: impl Fn(&'a Status) -> Option<T>,
        datagram: impl Fn(&'a PoolStatus) -> Option<T>,
    ) -> Rows<'a, T> {
        let native = self.native().and_then(|status| Some((of_pool(NATIVE), native(status)?)));
        let pools = self.status.pools.iter();
        native
            .into_iter()
            .chain(pools.filter_map(|pool| Some((of_pool(&pool.name), datagram(pool)?))))
            .collect()
    }

    fn servers<'a, T>(
        &'a self,
        native: impl Fn(&'a ServerStatus) -> Option<T>,
        datagram: impl Fn(&'a PoolServerStatus) -> Option<T>,
    ) -> Rows<'a, T> {
        let of_native = self.native().into_iter().flat_map(|status| &status.servers);
        let rows = of_native.filter_map(|server| Some((of_server(NATIVE, server.id), native(server)?)));
        let pools = self.status.pools.iter().flat_map(|pool| pool.servers.iter().map(move |s| (pool, s)));
        rows.chain(
            pools.filter_map(|(pool, server)| Some((of_server(&pool.name, server.id), datagram(server)?))),
        )
        .collect()
    }

    fn process(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let one = |value: f64| vec![(vec![], value)];
        let version = vec![(vec![("version", Cow::from(&*self.status.version))], 1u64)];
        sheet.gauge("build_info", None, "The program's version, as a label", version)?;
        let ready = vec![(vec![], u64::from(self.status.ready))];
        sheet.gauge("ready", None, "1 if each pool has a server that is up", ready)?;
        let seconds = Some(&Unit::Seconds);
        let started = one(self.status.started_unix_ms as f64 / 1e3);
        sheet.gauge("process_start_time", seconds, "When the process started, since 1970", started)?;
        let Process { cpu_s, resident_bytes } = self.process;
        let mut cpu = sheet.0.encode_descriptor(
            "process_cpu",
            "CPU time of all threads",
            seconds,
            MetricType::Counter,
        )?;
        cpu.encode_counter(&cpu_s, None::<&Exemplar<NoLabels, u64>>)?;
        if let Some(bytes) = resident_bytes {
            let help = "Memory that is in use";
            sheet.gauge("process_resident_memory", Some(&Unit::Bytes), help, vec![(vec![], bytes)])?;
        }
        let events = self.events.iter();
        let events = events.map(|(kind, n)| (vec![("kind", Cow::from(kind.name()))], *n)).collect();
        sheet.counter("events", "Events by kind; those of scaling are its decisions", events)
    }

    /// Pool by pool: workers, reasons, states, scaling, and what the tables have.
    fn of_pools(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let native = self.native();
        let pools = || self.status.pools.iter();
        let by_worker = |pool: &str, workers: &[u64]| -> Rows<'static, u64> {
            let labels =
                |worker: usize| vec![("pool", pool.to_owned().into()), ("worker", worker.to_string().into())];
            workers.iter().enumerate().map(|(worker, &n)| (labels(worker), n)).collect()
        };
        let of_native = native.map(|status| by_worker(NATIVE, &status.workers)).unwrap_or_default();
        let requests =
            of_native.into_iter().chain(pools().flat_map(|pool| by_worker(&pool.name, &pool.workers)));
        sheet.counter("requests", "Requests or datagrams of clients that were read", requests.collect())?;
        for &(name, help, native, datagram) in POOL_COUNTERS {
            let rows = self.pools(|status| native.map(|of| of(status)), |pool| datagram.map(|of| of(pool)));
            sheet.counter(name, help, rows)?;
        }
        for &(name, help, native, datagram) in POOL_GAUGES {
            let rows = self.pools(|status| native.map(|of| of(status)), |pool| datagram.map(|of| of(pool)));
            sheet.gauge(name, None, help, rows)?;
        }

        let mut refused: Rows<'_, u64> = vec![];
        if let Some(status) = native {
            let of = |reason: &'static str, n| (with(of_pool(NATIVE), "reason", reason), n);
            refused.extend([
                of("no_server", status.busy_no_server),
                of("servers_full", status.busy_shed),
                of("mode", status.refused_mode),
            ]);
        }
        let reason = |pool: &'_ str, reason: &'_ str| -> Labels<'static> {
            vec![("pool", pool.to_owned().into()), ("reason", reason.to_owned().into())]
        };
        refused.extend(
            pools().flat_map(|pool| pool.refused.iter().map(|(why, &n)| (reason(&pool.name, why), n))),
        );
        sheet.counter("refused", "Requests that were sent to no server, by reason", refused)?;
        let mut dropped: Rows<'_, u64> = vec![];
        dropped.extend(
            native.into_iter().flat_map(|s| s.drops.iter().map(|(why, &n)| (reason(NATIVE, why), n))),
        );
        dropped.extend(
            pools().flat_map(|pool| pool.dropped.iter().map(|(why, &n)| (reason(&pool.name, why), n))),
        );
        sheet.counter(
            "dropped_by_reason",
            "What lbd dropped in silence, by reason, if it ever happened",
            dropped,
        )?;

        let mut states: Rows<'_, u64> = vec![];
        for pool in self.status.all_pools() {
            for state in State::ALL {
                let count = pool.servers.iter().filter(|server| server.state == state.name()).count();
                let labels = vec![("pool", pool.name.to_owned().into()), ("state", state.name().into())];
                states.push((labels, count as u64));
            }
        }
        sheet.gauge("servers", None, "Servers by state", states)?;
        for (name, help, of) in tables::SCALING {
            let rows =
                self.pools(|status| status.scaling.as_ref().map(of), |pool| pool.scaling.as_ref().map(of));
            sheet.gauge(name, None, help, rows)?;
        }
        let latency = self.pools(
            |status| Some(Buckets::of(&status.histogram)),
            |pool| Some(Buckets::of(&pool.latency_us.histogram)),
        );
        sheet.latency("latency", "Time from a request to its answer, as the balancer sees it", latency)
    }

    /// How good the choices of servers are, and who waits for one.
    fn of_decisions(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        let rows = |of: &dyn Fn(&Decisions) -> Option<Buckets>| {
            self.pools(|status| of(&status.decisions), |pool| of(&pool.decisions))
        };
        let requests = Unit::Other("requests".to_owned());
        let regret = rows(&|decisions| Some(Buckets::of_numbers(&decisions.regret)));
        let help = "By how many requests the chosen queue was longer than the shortest, of one choice in 64";
        sheet.histogram("regret", &requests, help, regret)?;
        let error = rows(&|decisions| decisions.estimate_error.as_ref().map(Buckets::of_numbers));
        let help = "By how many requests the estimated queue differed from a report";
        sheet.histogram("estimate_error", &requests, help, error)?;
        let age = rows(&|decisions| Some(Buckets::of(&decisions.age_us.histogram)));
        sheet.latency("decision_age", "How long before a choice its server was last heard of", age)?;
        let delay = rows(&|decisions| Some(Buckets::of(&decisions.waiting_delay_us.histogram)));
        sheet.latency("waiting_delay", "How long requests waited in the balancer", delay)
    }

    fn of_servers(&self, sheet: &mut Sheet<'_>) -> fmt::Result {
        for &(name, help, native, datagram) in SERVER_COUNTERS {
            let rows = self.servers(|s| native.map(|of| of(s)), |s| datagram.map(|of| of(s)));
            sheet.counter(name, help, rows)?;
        }
        for (name, unit, help, native, datagram) in SERVER_GAUGES {
            let rows = self.servers(|s| native.and_then(|of| of(s)), |s| datagram.and_then(|of| of(s)));
            sheet.gauge(name, unit.as_ref(), help, rows)?;
        }
        let all = self.status.all_pools();
        let mut states: Rows<'_, u64> = vec![];
        for pool in &all {
            for server in &pool.servers {
                let labels = with(of_server(pool.name, server.id), "state", server.state);
                states.push((with(labels, "addr", server.addr), 1));
            }
        }
        sheet.gauge("server_info", None, "A server's present state and address, as labels", states)?;
        let latency = self.servers(
            |server| Some(Buckets::of(&server.histogram)),
            |server| Some(Buckets::of(&server.latency_us.histogram)),
        );
        sheet.latency("server_latency", "Time from a request to a server to its answer", latency)
    }
}

impl Collector for Figures {
    fn encode(&self, encoder: DescriptorEncoder<'_>) -> fmt::Result {
        let mut sheet = Sheet(encoder);
        self.process(&mut sheet)?;
        self.of_pools(&mut sheet)?;
        self.of_decisions(&mut sheet)?;
        self.of_servers(&mut sheet)
    }
}

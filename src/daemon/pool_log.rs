//! Writes the events of a pool's worker to the process's log and to the event log, for both kinds of pools.
//! Every line has the field `pool`.

use std::sync::Arc;

use tracing::{info, warn};

use crate::admin::status::{EventKind, EventLog};
use crate::base::duration::rounded;
use crate::io::TooLarge;
use crate::pool::event::Event;
use crate::pool::health::State;
use crate::pool::stats::{DatagramStats, WorkerStats};

/// The logs of one worker.
#[derive(Debug)]
pub struct PoolLog {
    pool: String,
    worker: usize,
    events: Arc<EventLog>,
}

impl PoolLog {
    /// The logs of worker `worker` (0 is the primary) of the pool of this name.
    pub fn new(pool: &str, worker: usize, events: Arc<EventLog>) -> PoolLog {
        PoolLog { pool: pool.to_owned(), worker, events }
    }

    /// Writes an event of the pool to both logs.
    pub fn event(&self, event: &Event) {
        let pool = &*self.pool;
        let note = |kind, server, text: String| self.events.note(kind, pool, server, text);
        match event {
            Event::Joined { id, addr } => {
                info!(pool, server = id, %addr, "server joined");
                note(EventKind::Server, Some(*id), format!("server {id} at {addr} joined"));
            }
            Event::State { id, addr, state, reason } => {
                let (name, reason) = (state.name(), &**reason);
                match state {
                    State::Down | State::Held | State::Looping => {
                        warn!(pool, server = id, %addr, state = name, reason, "server state changed");
                    }
                    State::Joining | State::Up | State::Suspect | State::Draining | State::Disabled => {
                        info!(pool, server = id, %addr, state = name, reason, "server state changed");
                    }
                }
                note(EventKind::Server, Some(*id), format!("server {id} at {addr} is {name}: {reason}"));
            }
            Event::Left { id, addr, reason } => {
                info!(pool, server = id, %addr, reason, "server left");
                note(EventKind::Server, Some(*id), format!("server {id} at {addr} left: {reason}"));
            }
            Event::FailOpen(true) => {
                warn!(pool, reason = "down_max exceeded", "fail-open mode entered");
                note(
                    EventKind::Notice,
                    None,
                    "fail-open mode entered: too many servers are down or held down, so all are used"
                        .to_owned(),
                );
            }
            Event::FailOpen(false) => {
                info!(pool, reason = "enough servers are up", "fail-open mode left");
                note(EventKind::Notice, None, "fail-open mode left: enough servers are up".to_owned());
            }
            Event::ChecksIgnored(true) => {
                let reason = "no server passes them, though servers answer; see health.query, health.rcodes";
                warn!(pool, reason, "health checks ignored");
                note(EventKind::Notice, None, format!("health checks ignored: {reason}"));
            }
            Event::ChecksIgnored(false) => {
                let reason = "a server passes them";
                info!(pool, reason, "health checks count again");
                note(EventKind::Notice, None, format!("health checks count again: {reason}"));
            }
            Event::Stalled(gap) => {
                let effect = "silence during the gap ignored";
                let gap = rounded(*gap);
                warn!(pool, %gap, effect, "event loop stalled");
                note(EventKind::Notice, None, format!("event loop stalled for {gap}: {effect}"));
            }
            Event::Scale { what, load, up } => {
                info!(pool, load, up, reason = &**what, "scaling requested");
                note(EventKind::Scaling, None, what.clone());
            }
            Event::Controller(error) => {
                warn!(pool, error = &**error, "scaling request failed");
                note(EventKind::Notice, None, error.clone());
            }
            Event::NoRoom { addr } => {
                let reason = "servers_max reached; raise it";
                warn!(pool, %addr, reason, "server not admitted");
                note(EventKind::Notice, None, format!("server at {addr} not admitted: {reason}"));
            }
            Event::NoPort { addr } => {
                let reason = "this machine has no address of its family";
                warn!(pool, %addr, reason, "server not admitted");
                note(EventKind::Notice, None, format!("server at {addr} not admitted: {reason}"));
            }
        }
    }

    /// The kernel refuses segmentation offload (UDP_SEGMENT) to this worker.
    pub fn segmentation_refused(&self) {
        let PoolLog { pool, worker, .. } = self;
        warn!(pool, worker, effect = "datagrams leave one by one", "segmentation offload refused");
    }

    /// A datagram to this destination exceeds the MTU of the interface. Logged once per destination.
    pub fn too_large(&self, datagram: &TooLarge) {
        let PoolLog { pool, worker, .. } = self;
        let TooLarge { to, len } = datagram;
        let effect = "dropped; further ones are counted as too_large";
        warn!(pool, worker, %to, len, effect, "datagram exceeds the mtu");
        let text = format!("a datagram of {len} bytes to {to} exceeds the MTU of the interface: {effect}");
        self.events.note(EventKind::Notice, pool, None, text);
    }

    /// The worker could not be pinned to a CPU.
    pub fn not_pinned(&self, cpu: usize, error: &std::io::Error) {
        let PoolLog { pool, worker, .. } = self;
        warn!(pool, worker, cpu, error = error.to_string(), "worker not pinned");
    }

    /// The worker has ended, with these totals.
    pub fn stopped(&self, common: &WorkerStats, datagram: Option<&DatagramStats>) {
        let PoolLog { pool, worker, .. } = self;
        info!(
            pool,
            worker,
            received = common.received.get(),
            answered = common.answered.get(),
            refused = common.refused.total(),
            timed_out = datagram.map(|stats| stats.timed_out.get()),
            forwarded = datagram.map(|stats| stats.forwarded.get()),
            in_flight = datagram.map(|stats| stats.in_flight.get()),
            dropped = common.dropped.total(),
            kernel_drops = common.kernel_drops.get() + common.kernel_drops_back.get(),
            "worker stopped"
        );
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write;
    use std::sync::Mutex;
    use std::time::Duration;

    use super::*;

    /// Collects what is logged.
    #[derive(Clone, Default)]
    struct LogCapture(Arc<Mutex<Vec<u8>>>);

    impl Write for LogCapture {
        fn write(&mut self, bytes: &[u8]) -> std::io::Result<usize> {
            self.0.lock().unwrap().extend_from_slice(bytes);
            Ok(bytes.len())
        }

        fn flush(&mut self) -> std::io::Result<()> {
            Ok(())
        }
    }

    /// The fields of each line that `act` logs.
    fn logged(act: impl FnOnce()) -> Vec<serde_json::Value> {
        let lines = LogCapture::default();
        let writer = lines.clone();
        let subscriber =
            tracing_subscriber::fmt().json().with_writer(move || writer.clone()).without_time().finish();
        tracing::subscriber::with_default(subscriber, act);
        let text = String::from_utf8(lines.0.lock().unwrap().clone()).unwrap();
        text.lines()
            .map(|line| serde_json::from_str::<serde_json::Value>(line).unwrap()["fields"].take())
            .collect()
    }

    fn events() -> Vec<Event> {
        let addr = "192.0.2.1:53".parse().unwrap();
        let state = |state| Event::State { id: 3, addr, state, reason: "no response".into() };
        let mut all: Vec<Event> = State::ALL.into_iter().map(state).collect();
        all.extend([
            Event::Joined { id: 3, addr },
            Event::Left { id: 3, addr, reason: "silent for too long" },
            Event::FailOpen(true),
            Event::FailOpen(false),
            Event::ChecksIgnored(true),
            Event::ChecksIgnored(false),
            Event::Stalled(Duration::from_millis(812)),
            Event::Scale { what: "grow to 6".to_owned(), load: 5.123, up: 3 },
            Event::Controller("no answer".to_owned()),
            Event::NoRoom { addr },
            Event::NoPort { addr },
        ]);
        all
    }

    #[test]
    fn every_line_names_its_pool_and_begins_with_constant_text() {
        let log = PoolLog::new("dns", 1, Arc::default());
        let lines = logged(|| {
            events().iter().for_each(|event| log.event(event));
            log.segmentation_refused();
            log.too_large(&TooLarge { to: [192, 0, 2, 1].into(), len: 1_200 });
            log.not_pinned(7, &std::io::Error::other("no such CPU"));
            log.stopped(&WorkerStats::default(), None);
        });
        assert_eq!(lines.len(), events().len() + 4);
        for line in &lines {
            assert_eq!(line["pool"], "dns", "{line}");
            let message = line["message"].as_str().unwrap();
            let words = message.split(' ').count();
            let is_plain = message.chars().all(|c| c.is_ascii_lowercase() || c == ' ' || c == '-');
            assert!((2..=5).contains(&words) && is_plain, "{message}");
        }
        let line = |message: &str| lines.iter().find(|line| line["message"] == message).unwrap();
        assert_eq!(line("server left")["reason"], "silent for too long");
        assert_eq!(line("server left")["addr"], "192.0.2.1:53");
        assert_eq!(line("server state changed")["reason"], "no response");
        assert_eq!(line("event loop stalled")["gap"], "812ms");
        assert_eq!(line("datagram exceeds the mtu")["to"], "192.0.2.1");
        assert_eq!(line("worker not pinned")["error"], "no such CPU");
        assert_eq!(
            (&line("worker stopped")["worker"], line("worker stopped").get("in_flight")),
            (&1.into(), None)
        );
    }

    #[test]
    fn the_event_log_has_every_event_of_the_pool() {
        let log = PoolLog::new("dns", 0, Arc::default());
        events().iter().for_each(|event| log.event(event));
        let noted = log.events.after(0);
        assert_eq!(noted.len(), events().len());
        assert!(noted.iter().all(|entry| entry.pool == "dns"), "{noted:?}");
        let texts: Vec<&str> = noted.iter().map(|entry| entry.text.as_str()).collect();
        for text in [
            "server 3 at 192.0.2.1:53 joined",
            "server 3 at 192.0.2.1:53 is down: no response",
            "server 3 at 192.0.2.1:53 left: silent for too long",
            "grow to 6",
        ] {
            assert!(texts.contains(&text), "{text}: {texts:?}");
        }
    }

    #[test]
    fn a_datagram_worker_stops_with_its_own_totals_too() {
        let stats = DatagramStats::new(1);
        stats.timed_out.add(4);
        let log = PoolLog::new("dns", 0, Arc::default());
        let lines = logged(|| log.stopped(&stats.common, Some(&stats)));
        assert_eq!((&lines[0]["timed_out"], &lines[0]["in_flight"]), (&4.into(), &0.into()));
    }
}

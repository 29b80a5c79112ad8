//! One snapshot for all readers, so that all of them see the same recent values, at any number of readers.

use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use arc_swap::ArcSwap;

use super::{EventLog, Sampler, Status};

/// Events that a status carries.
const EVENTS_SHOWN: u64 = 50;

/// What stays the same while a process runs.
#[derive(Clone, Debug)]
pub struct About {
    /// The file of its configuration; empty without one.
    pub config: String,
    /// The event log.
    pub events: Arc<EventLog>,
    /// Start of this process.
    process_started: SystemTime,
    /// Start of the first process.
    started: SystemTime,
    /// CPU seconds of the processes before, as bits.
    predecessors_cpu: Arc<AtomicU64>,
}

impl About {
    /// Of a process that starts now.
    pub fn new(config: String, events: Arc<EventLog>) -> About {
        let started = SystemTime::now();
        About { config, events, process_started: started, started, predecessors_cpu: Arc::default() }
    }

    /// Continues the life of a predecessor that started then.
    pub fn continue_from(&mut self, started_unix_ms: u64) {
        self.started = UNIX_EPOCH + Duration::from_millis(started_unix_ms);
    }

    /// Start of the first process, in milliseconds since 1970.
    pub fn started_unix_ms(&self) -> u64 {
        unix_ms(self.started)
    }

    /// CPU seconds of the processes before.
    pub fn predecessors_cpu_s(&self) -> f64 {
        f64::from_bits(self.predecessors_cpu.load(Ordering::Relaxed))
    }

    /// Sets the CPU seconds of the processes before; they never fall.
    pub fn set_predecessors_cpu_s(&self, seconds: f64) {
        let seconds = seconds.max(self.predecessors_cpu_s());
        self.predecessors_cpu.store(seconds.to_bits(), Ordering::Relaxed);
    }
}

/// The newest snapshot, for any number of readers, without waiting.
pub struct Board {
    about: About,
    sampler: Mutex<Sampler>,
    newest: ArcSwap<Status>,
}

impl Board {
    /// Interval of [`Board::tick`].
    pub const TICK: Duration = Duration::from_millis(250);
    /// The span of a board's [`Sampler`], in ticks: recent values are those of the last second.
    pub const SPAN: usize = 4;

    /// A board with a first snapshot.
    pub fn new(about: About, sampler: Sampler) -> Board {
        let board = Board { about, sampler: Mutex::new(sampler), newest: ArcSwap::default() };
        board.tick();
        board
    }

    /// The newest snapshot.
    pub fn latest(&self) -> Arc<Status> {
        self.newest.load_full()
    }

    /// Takes a snapshot and shows it.
    pub fn tick(&self) {
        let mut status = self.sampler.lock().expect("no panic while it is held").sample();
        let About { config, events, started, process_started, .. } = &self.about;
        status.version = env!("CARGO_PKG_VERSION").to_owned();
        status.pid = std::process::id();
        status.started_unix_ms = unix_ms(*started);
        status.process_started_unix_ms = unix_ms(*process_started);
        status.predecessors_cpu_s = self.about.predecessors_cpu_s();
        status.uptime_s = started.elapsed().unwrap_or_default().as_millis() as f64 / 1e3;
        status.config.clone_from(config);
        let newest = *events.newest().borrow();
        status.events = events.after(newest.saturating_sub(EVENTS_SHOWN));
        self.newest.store(Arc::new(status));
    }

    /// What stays the same while the process runs.
    pub fn about(&self) -> &About {
        &self.about
    }

    /// Shows the pools of this sampler from now on.
    pub fn follow(&self, sampler: Sampler) {
        *self.sampler.lock().expect("no panic while it is held") = sampler;
        self.tick();
    }
}

fn unix_ms(time: SystemTime) -> u64 {
    time.duration_since(UNIX_EPOCH).unwrap_or_default().as_millis() as u64
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::admin::status::EventKind;
    use crate::admin::status::PoolSource;
    use crate::base::time::Clock;
    use crate::pool::stats::NativeStats;

    #[test]
    fn readers_see_one_snapshot_until_the_next_tick() {
        let events = Arc::new(EventLog::default());
        (0..60).for_each(|n| events.note(EventKind::Notice, "", None, format!("{n}")));
        let stats = Arc::new(NativeStats::new(1));
        let sampler = |workers| {
            let pool = PoolSource::Native { name: "native".to_owned(), workers };
            Sampler::new(vec![pool], Clock::start(), Board::SPAN)
        };
        let received = |status: &Status| status.pools[0].received;
        let board = Board::new(
            About::new("config.json".into(), Arc::clone(&events)),
            sampler(vec![Arc::clone(&stats)]),
        );
        let first = board.latest();
        assert_eq!(
            (received(&first), first.config.as_str(), first.pid),
            (0, "config.json", std::process::id())
        );
        assert!(first.started_unix_ms > 1_600_000_000_000 && !first.version.is_empty());
        assert_eq!((first.events.len(), first.events[49].text.as_str()), (50, "59"));
        stats.common.received.add(5);
        assert!(Arc::ptr_eq(&first, &board.latest()));
        board.tick();
        assert_eq!((received(&board.latest()), received(&first)), (5, 0));
        assert_eq!(board.latest().started_unix_ms, first.started_unix_ms);
        board.follow(sampler(vec![Arc::new(NativeStats::new(1))]));
        assert_eq!(received(&board.latest()), 0);
    }
}

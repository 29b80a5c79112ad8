//! What has happened lately: for the dashboard, `lbd top`, and whoever follows `/api/events`.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// One thing that happened.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    /// Its number, from 1; each is the one before plus one.
    pub number: u64,
    /// When: milliseconds since 1970.
    pub unix_ms: u64,
    /// What kind it is: see [`Kind`].
    pub kind: Kind,
    /// The pool that it is about; empty for the whole process.
    pub pool: String,
    /// The server that it is about.
    pub server: Option<u32>,
    /// In words.
    pub text: String,
}

/// What kind of thing happened.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Kind {
    /// A server came, left, or changed its state.
    Server,
    /// The number of servers was, or was to be, changed; the text has the reason.
    Scaling,
    /// An operator asked for something.
    Operator,
    /// The configuration was reloaded, or was refused.
    Reload,
    /// Anything else.
    #[default]
    Notice,
}

impl Kind {
    /// All kinds.
    pub const ALL: [Kind; 5] = [Kind::Server, Kind::Scaling, Kind::Operator, Kind::Reload, Kind::Notice];

    /// Its name in JSON and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            Kind::Server => "server",
            Kind::Scaling => "scaling",
            Kind::Operator => "operator",
            Kind::Reload => "reload",
            Kind::Notice => "notice",
        }
    }
}

/// Entries that are kept; the oldest go first.
pub const KEPT_MAX: usize = 256;

/// The newest entries. Written by any thread, a few times a second at most.
#[derive(Debug)]
pub struct EventLog {
    kept: Mutex<VecDeque<Entry>>,
    /// Entries so far, by kind. Written with `kept` held.
    counts: [AtomicU64; Kind::ALL.len()],
    newest: watch::Sender<u64>,
}

impl Default for EventLog {
    fn default() -> Self {
        EventLog { kept: Mutex::default(), counts: Default::default(), newest: watch::Sender::new(0) }
    }
}

impl EventLog {
    /// Notes that something happened, now.
    pub fn note(&self, kind: Kind, pool: &str, server: Option<u32>, text: impl Into<String>) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut kept = self.kept.lock().expect("no panic while it is held");
        let number = kept.back().map_or(1, |last| last.number + 1);
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(Entry {
            number,
            unix_ms: since_1970.as_millis() as u64,
            kind,
            pool: pool.to_owned(),
            server,
            text: text.into(),
        });
        self.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
        // Not while the entries are locked: whoever looks at the number may want them next, and would wait
        // for us.
        drop(kept);
        self.newest.send_if_modified(|newest| {
            let is_newer = number > *newest;
            *newest = number.max(*newest);
            is_newer
        });
    }

    /// The entries after this number that are still kept, oldest first; all with 0.
    pub fn after(&self, number: u64) -> Vec<Entry> {
        let kept = self.kept.lock().expect("no panic while it is held");
        kept.iter().filter(|entry| entry.number > number).cloned().collect()
    }

    /// How many there were so far, by kind.
    pub fn counts(&self) -> Vec<(Kind, u64)> {
        Kind::ALL.iter().map(|&kind| (kind, self.counts[kind as usize].load(Ordering::Relaxed))).collect()
    }

    /// The number of the newest entry, to be waited on.
    pub fn newest(&self) -> watch::Receiver<u64> {
        self.newest.subscribe()
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;

    /// A reload that took a snapshot while two servers changed their states stopped the whole balancer.
    #[test]
    fn who_looks_at_the_newest_number_can_read_the_entries_while_others_note() {
        let log = Arc::new(EventLog::default());
        let newest = log.newest();
        let looking = newest.borrow();
        let noting: Vec<_> = (0..2)
            .map(|_| {
                let log = Arc::clone(&log);
                std::thread::spawn(move || log.note(Kind::Notice, "", None, "x"))
            })
            .collect();
        let (tell, told) = std::sync::mpsc::sync_channel(1);
        std::thread::spawn({
            let log = Arc::clone(&log);
            move || {
                while log.after(0).len() < 2 {
                    std::thread::yield_now();
                }
                let _ = tell.send(());
            }
        });
        assert!(told.recv_timeout(Duration::from_secs(10)).is_ok(), "the entries are locked");
        drop(looking);
        noting.into_iter().for_each(|thread| thread.join().unwrap());
        assert_eq!(*newest.borrow(), 2);
    }

    #[test]
    fn the_newest_are_kept_and_read_from_any_number_on() {
        let log = EventLog::default();
        let mut newest = log.newest();
        for n in 0..KEPT_MAX as u32 + 10 {
            log.note(Kind::Server, "dns", Some(n), format!("event {n}"));
        }
        let all = log.after(0);
        assert_eq!((all.len(), all[0].number), (KEPT_MAX, 11));
        assert_eq!(*newest.borrow_and_update(), KEPT_MAX as u64 + 10);
        let last = log.after(KEPT_MAX as u64 + 9);
        assert_eq!((last.len(), last[0].text.as_str()), (1, "event 265"));
        assert!(last[0].unix_ms > 1_600_000_000_000);
        let json = serde_json::to_value(&last[0]).unwrap();
        assert_eq!(log.counts()[0], (Kind::Server, KEPT_MAX as u64 + 10), "those that have gone count");
        for (place, kind) in Kind::ALL.into_iter().enumerate() {
            assert_eq!((kind as usize, serde_json::to_value(kind).unwrap()), (place, kind.name().into()));
        }
        assert_eq!((json["kind"].as_str(), json["server"].as_u64()), (Some("server"), Some(265)));
    }
}

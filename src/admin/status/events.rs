//! The event log, for the dashboard, `lbd top`, and readers of `/api/events`.

use std::collections::VecDeque;
use std::sync::Mutex;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{SystemTime, UNIX_EPOCH};

use serde::{Deserialize, Serialize};
use tokio::sync::watch;

/// One event.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct EventEntry {
    /// The entry's number: 1 for the first, then one more each.
    pub number: u64,
    /// Time of the event, in milliseconds since 1970.
    pub unix_ms: u64,
    /// The kind of the event.
    pub kind: EventKind,
    /// The pool of the event; empty for an event of the process.
    pub pool: String,
    /// The server of the event; `None` for an event of the pool or the process.
    pub server: Option<u32>,
    /// The event as text.
    pub text: String,
}

/// The kind of an event.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum EventKind {
    /// A server joined, left, or changed its state.
    Server,
    /// A scaling decision; the text has the reason.
    Scaling,
    /// An operator's order.
    Operator,
    /// A reload, or a configuration that was rejected.
    Reload,
    /// Any other event.
    #[default]
    Notice,
}

impl EventKind {
    /// All kinds.
    pub const ALL: [EventKind; 5] =
        [EventKind::Server, EventKind::Scaling, EventKind::Operator, EventKind::Reload, EventKind::Notice];

    /// The kind's name in JSON and in metrics.
    pub const fn name(self) -> &'static str {
        match self {
            EventKind::Server => "server",
            EventKind::Scaling => "scaling",
            EventKind::Operator => "operator",
            EventKind::Reload => "reload",
            EventKind::Notice => "notice",
        }
    }
}

/// Maximum number of entries; the oldest are removed first.
pub const KEPT_MAX: usize = 256;

/// The newest entries. Any thread writes, a few times a second at most.
#[derive(Debug)]
pub struct EventLog {
    kept: Mutex<VecDeque<EventEntry>>,
    /// Entries since the start, by kind. Written with `kept` locked.
    counts: [AtomicU64; EventKind::ALL.len()],
    newest: watch::Sender<u64>,
}

impl Default for EventLog {
    fn default() -> Self {
        EventLog { kept: Mutex::default(), counts: Default::default(), newest: watch::Sender::new(0) }
    }
}

impl EventLog {
    /// Adds an event that happens now.
    pub fn note(&self, kind: EventKind, pool: &str, server: Option<u32>, text: impl Into<String>) {
        let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
        let mut kept = self.kept.lock().expect("no panic while it is held");
        let number = kept.back().map_or(1, |last| last.number + 1);
        if kept.len() == KEPT_MAX {
            kept.pop_front();
        }
        kept.push_back(EventEntry {
            number,
            unix_ms: since_1970.as_millis() as u64,
            kind,
            pool: pool.to_owned(),
            server,
            text: text.into(),
        });
        self.counts[kind as usize].fetch_add(1, Ordering::Relaxed);
        // After the entries are unlocked: a reader that holds the number may lock the entries next, and would
        // wait for this thread.
        drop(kept);
        self.newest.send_if_modified(|newest| {
            let is_newer = number > *newest;
            *newest = number.max(*newest);
            is_newer
        });
    }

    /// Continues the log of a predecessor: its entries come before those that are here already.
    pub fn continue_from(&self, entries: Vec<EventEntry>, counts: &[u64]) {
        let mut kept = self.kept.lock().expect("no panic while it is held");
        let mut number = entries.last().map_or(0, |last| last.number);
        let own = kept.drain(..).map(|entry| {
            number += 1;
            EventEntry { number, ..entry }
        });
        let mut all: VecDeque<EventEntry> = entries.into();
        all.extend(own);
        all.drain(..all.len().saturating_sub(KEPT_MAX));
        *kept = all;
        for (count, before) in self.counts.iter().zip(counts) {
            count.fetch_add(*before, Ordering::Relaxed);
        }
        drop(kept);
        self.newest.send_modify(|newest| *newest = number.max(*newest));
    }

    /// The entries after this number that are still in the log, oldest first; all with 0.
    pub fn after(&self, number: u64) -> Vec<EventEntry> {
        let kept = self.kept.lock().expect("no panic while it is held");
        kept.iter().filter(|entry| entry.number > number).cloned().collect()
    }

    /// Entries since the start, by kind.
    pub fn counts(&self) -> Vec<(EventKind, u64)> {
        EventKind::ALL
            .iter()
            .map(|&kind| (kind, self.counts[kind as usize].load(Ordering::Relaxed)))
            .collect()
    }

    /// The number of the newest entry, which a reader can wait for.
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
                std::thread::spawn(move || log.note(EventKind::Notice, "", None, "x"))
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
    fn a_successor_continues_the_numbers_and_the_counts() {
        let (old, new) = (EventLog::default(), EventLog::default());
        (0..KEPT_MAX + 3).for_each(|n| old.note(EventKind::Server, "dns", None, format!("old {n}")));
        new.note(EventKind::Notice, "", None, "new");
        let counts: Vec<u64> = old.counts().into_iter().map(|(_, count)| count).collect();
        new.continue_from(old.after(0), &counts);
        let newest = KEPT_MAX as u64 + 4;
        assert_eq!(*new.newest().borrow(), newest);
        let entries = new.after(newest - 2);
        let texts: Vec<_> = entries.iter().map(|entry| (entry.number, entry.text.as_str())).collect();
        assert_eq!(texts, [(newest - 1, "old 258"), (newest, "new")]);
        assert_eq!(new.after(0).len(), KEPT_MAX);
        assert_eq!((new.counts()[0].1, new.counts()[4].1), (KEPT_MAX as u64 + 3, 1));
    }

    #[test]
    fn the_newest_are_kept_and_read_from_any_number_on() {
        let log = EventLog::default();
        let mut newest = log.newest();
        for n in 0..KEPT_MAX as u32 + 10 {
            log.note(EventKind::Server, "dns", Some(n), format!("event {n}"));
        }
        let all = log.after(0);
        assert_eq!((all.len(), all[0].number), (KEPT_MAX, 11));
        assert_eq!(*newest.borrow_and_update(), KEPT_MAX as u64 + 10);
        let last = log.after(KEPT_MAX as u64 + 9);
        assert_eq!((last.len(), last[0].text.as_str()), (1, "event 265"));
        assert!(last[0].unix_ms > 1_600_000_000_000);
        let json = serde_json::to_value(&last[0]).unwrap();
        assert_eq!(log.counts()[0], (EventKind::Server, KEPT_MAX as u64 + 10), "those that have gone count");
        for (place, kind) in EventKind::ALL.into_iter().enumerate() {
            assert_eq!((kind as usize, serde_json::to_value(kind).unwrap()), (place, kind.name().into()));
        }
        assert_eq!((json["kind"].as_str(), json["server"].as_u64()), (Some("server"), Some(265)));
    }
}

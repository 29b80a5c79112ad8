//! Server-sent events, and the history that a new reader begins with.
//!
//! No reader has a queue. Each fetches the next piece when it has taken the last one: the entries of the
//! event log after its number, or the newest status. So a reader that stalls skips entries and holds one
//! piece.

use std::convert::Infallible;
use std::fmt::Write;
use std::sync::{Arc, Mutex};
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use axum::body::{Body, Bytes};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, watch};
use tokio::time::MissedTickBehavior;

use super::Control;
use crate::admin::status::{History, Status};

/// Maximum number of concurrent readers of events.
pub(super) const READERS_MAX: usize = 64;
/// Maximum number of entries in a piece.
const PIECE_MAX: usize = 16;
/// Interval at which readers get the status.
const TICK: Duration = Duration::from_secs(1);

/// State that all readers share.
pub(super) struct Live {
    control: Arc<dyn Control>,
    /// The newest status as a server-sent event, encoded once for all readers.
    newest: watch::Sender<Bytes>,
    history: Arc<Mutex<History>>,
    readers: Arc<Semaphore>,
    stop: watch::Receiver<bool>,
}

impl Live {
    pub fn new(control: Arc<dyn Control>, history: Arc<Mutex<History>>, stop: watch::Receiver<bool>) -> Self {
        let readers = Arc::new(Semaphore::new(READERS_MAX));
        Live { control, newest: watch::Sender::default(), history, readers, stop }
    }

    /// Does the work of each second; never ends.
    pub async fn tick(&self) {
        let mut ticks = tokio::time::interval(TICK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Skip);
        loop {
            ticks.tick().await;
            let status = self.control.status();
            let since_1970 = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
            self.history
                .lock()
                .expect("no panic while it is held")
                .add(since_1970.as_millis() as u64, &status);
            if self.newest.receiver_count() > 0 {
                self.newest.send_replace(status_event(&status));
            }
        }
    }

    /// The last ten minutes as JSON.
    pub fn history(&self) -> String {
        let history = self.history.lock().expect("no panic while it is held").clone();
        serde_json::to_string(&history).expect("plain fields become JSON")
    }

    /// The events of a new reader: first the entries in the log, all of them or those after `last`, then new
    /// ones. `None` if there are too many readers.
    pub fn follow(self: &Arc<Self>, last: &str) -> Option<Body> {
        let reader = EventReader {
            _seat: Arc::clone(&self.readers).try_acquire_owned().ok()?,
            life: self.control.status().started_unix_ms,
            last: self.number(last),
            noted: self.control.events().newest(),
            status: self.newest.subscribe(),
            stop: self.stop.clone(),
            live: Arc::clone(self),
        };
        let events = futures_util::stream::unfold(reader, |mut reader| async {
            let piece = reader.next().await?;
            Some((Ok::<_, Infallible>(piece), reader))
        });
        Some(Body::from_stream(events))
    }

    /// The number in `LIFE-NUMBER` or `NUMBER`; 0 if it belongs to another life of the balancer.
    fn number(&self, last: &str) -> u64 {
        let (life, number) = last.split_once('-').map_or((None, last), |(life, number)| (Some(life), number));
        let is_ours = life.is_none_or(|life| life.parse() == Ok(self.control.status().started_unix_ms));
        let number = number.parse().unwrap_or(0);
        if is_ours && number <= *self.control.events().newest().borrow() { number } else { 0 }
    }
}

/// One reader.
struct EventReader {
    _seat: OwnedSemaphorePermit,
    /// The life of the balancer that the numbers belong to.
    life: u64,
    /// The number of the reader's last entry.
    last: u64,
    noted: watch::Receiver<u64>,
    status: watch::Receiver<Bytes>,
    stop: watch::Receiver<bool>,
    live: Arc<Live>,
}

impl EventReader {
    /// The next piece; `None` at the end.
    async fn next(&mut self) -> Option<Bytes> {
        loop {
            let mut entries = self.live.control.events().after(self.last);
            entries.truncate(PIECE_MAX);
            if let Some(newest) = entries.last() {
                self.last = newest.number;
                let mut piece = String::new();
                for entry in &entries {
                    let json = serde_json::to_string(entry).expect("plain fields become JSON");
                    let (life, number) = (self.life, entry.number);
                    write!(piece, "id: {life}-{number}\nevent: entry\ndata: {json}\n\n")
                        .expect("a string takes everything");
                }
                return Some(piece.into());
            }
            tokio::select! {
                _ = self.stop.wait_for(|stop| *stop) => return None,
                noted = self.noted.changed() => noted.ok()?,
                status = self.status.changed() => {
                    status.ok()?;
                    return Some(self.status.borrow_and_update().clone());
                }
            }
        }
    }
}

fn status_event(status: &Status) -> Bytes {
    let json = serde_json::to_string(status).expect("plain fields become JSON");
    format!("event: status\ndata: {json}\n\n").into()
}

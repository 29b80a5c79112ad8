//! Workers that wait between two turns during a takeover.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// A word to a worker that waits between two turns.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// All others have stopped too: it says what it knows.
    Tell,
    /// A successor has everything.
    End,
}

/// Workers that wait between two turns until this says what becomes of them; dropped, they read on.
#[derive(Default)]
pub struct PausedWorkers(Vec<SyncSender<Verdict>>);

impl PausedWorkers {
    /// The end on which one more worker waits.
    pub fn hold(&mut self) -> Receiver<Verdict> {
        let (verdict, wait) = sync_channel(2); // each verdict once
        self.0.push(verdict);
        wait
    }

    /// All have stopped.
    pub fn all_tell(&self) {
        self.say(Verdict::Tell);
    }

    /// A successor has everything: the workers end.
    pub fn end(self) {
        self.say(Verdict::End);
    }

    fn say(&self, verdict: Verdict) {
        for worker in &self.0 {
            let _ = worker.send(verdict); // one that has ended needs no word
        }
    }
}

//! Workers that are paused between two turns during a takeover.

use std::sync::mpsc::{Receiver, SyncSender, sync_channel};

/// The next step of a paused worker.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum PauseVerdict {
    /// Export the state: all workers of the pool are paused.
    Export,
    /// End: a successor has taken over.
    End,
}

/// The paused workers of any number of pools. When this is dropped, the workers resume.
#[derive(Default)]
pub struct PausedWorkers(Vec<SyncSender<PauseVerdict>>);

impl PausedWorkers {
    /// Adds a worker, which waits for its verdicts on the receiver.
    pub fn add(&mut self) -> Receiver<PauseVerdict> {
        let (verdict, wait) = sync_channel(2); // each verdict once
        self.0.push(verdict);
        wait
    }

    /// Adds the paused workers of another pool.
    pub fn append(&mut self, mut other: PausedWorkers) {
        self.0.append(&mut other.0);
    }

    /// Makes every worker export its state.
    pub fn export(&self) {
        self.send(PauseVerdict::Export);
    }

    /// Ends every worker: a successor has taken over.
    pub fn end(self) {
        self.send(PauseVerdict::End);
    }

    fn send(&self, verdict: PauseVerdict) {
        for worker in &self.0 {
            let _ = worker.send(verdict); // a worker that has ended needs none
        }
    }
}

//! Starts the loop of a worker, of either kind of pool.

use std::io;
use std::sync::Arc;

use super::Process;
use crate::daemon::inbox::{WorkerHandle, inbox};
use crate::daemon::worker::{Balancing, Worker};
use crate::io::BackEnd;

/// Starts a worker's loop.
pub fn start<R>(
    worker: Worker<R, BackEnd>,
    name: String,
    process: &Process,
) -> io::Result<WorkerHandle<Worker<R, BackEnd>>>
where
    R: Balancing + Send + 'static,
{
    let waker = worker.io.waker();
    let (inbox, post) = inbox(waker.clone());
    let (events, clock, stop) = (Arc::clone(&process.events), process.clock, process.stop.clone());
    process.threads.spawn(name, move || {
        let _woken = stop.wake_also(waker);
        worker.run(&inbox, &events, clock, &stop)
    })?;
    Ok(post)
}

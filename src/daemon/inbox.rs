//! Tasks from other threads for a loop, executed between two of its turns.
//!
//! A loop checks with one relaxed load per turn. The sender of a task wakes the loop.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::mpsc::{RecvTimeoutError, sync_channel};
use std::sync::{Arc, Mutex};
use std::time::Duration;

use crate::base::time::Instant;
use crate::io::Waker;

/// Maximum time until the loop executes a task: far longer than any turn.
const PATIENCE: Duration = Duration::from_secs(5);

type Task<W> = Box<dyn FnOnce(&mut W, Instant) + Send>;

struct TaskQueue<W> {
    is_waiting: AtomicBool,
    /// `None` when the loop has ended.
    tasks: Mutex<Option<VecDeque<Task<W>>>>,
}

/// The loop's end of the inbox.
pub struct Inbox<W>(Arc<TaskQueue<W>>);

/// The senders' end of the inbox.
pub struct WorkerHandle<W> {
    shared: Arc<TaskQueue<W>>,
    waker: Waker,
}

impl<W> Clone for WorkerHandle<W> {
    fn clone(&self) -> Self {
        WorkerHandle { shared: Arc::clone(&self.shared), waker: self.waker.clone() }
    }
}

/// The loop has ended, or does not execute the task in time.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("the worker has ended or does not respond")]
pub struct Gone;

/// Creates both ends; `waker` wakes the loop.
pub fn inbox<W>(waker: Waker) -> (Inbox<W>, WorkerHandle<W>) {
    let shared =
        Arc::new(TaskQueue { is_waiting: AtomicBool::new(false), tasks: Mutex::new(Some(VecDeque::new())) });
    (Inbox(Arc::clone(&shared)), WorkerHandle { shared, waker })
}

impl<W> Inbox<W> {
    /// Executes the waiting tasks. The loop calls it between two turns.
    pub fn serve(&self, worker: &mut W, now: Instant) {
        if !self.0.is_waiting.load(Ordering::Relaxed) || !self.0.is_waiting.swap(false, Ordering::Acquire) {
            return;
        }
        while let Some(task) = self.next() {
            task(worker, now);
        }
    }

    fn next(&self) -> Option<Task<W>> {
        self.0.tasks.lock().expect("no panic while it is held").as_mut()?.pop_front()
    }
}

impl<W> Drop for Inbox<W> {
    /// Senders that wait for a result learn that none will come.
    fn drop(&mut self) {
        let left = self.0.tasks.lock().expect("no panic while it is held").take();
        drop(left);
    }
}

impl<W: 'static> WorkerHandle<W> {
    /// Wakes the loop.
    pub fn waker(&self) -> Waker {
        self.waker.clone()
    }

    /// Sends a task to the loop without waiting.
    pub fn send(&self, task: impl FnOnce(&mut W, Instant) + Send + 'static) -> Result<(), Gone> {
        self.shared
            .tasks
            .lock()
            .expect("no panic while it is held")
            .as_mut()
            .ok_or(Gone)?
            .push_back(Box::new(task));
        self.shared.is_waiting.store(true, Ordering::Release);
        self.waker.wake();
        Ok(())
    }

    /// Sends a task to the loop, and waits for its result.
    pub fn call<T: Send + 'static>(
        &self,
        task: impl FnOnce(&mut W, Instant) -> T + Send + 'static,
    ) -> Result<T, Gone> {
        let (answer, answered) = sync_channel(1);
        self.send(move |worker, now| {
            let _ = answer.send(task(worker, now)); // the sender may have stopped waiting
        })?;
        answered.recv_timeout(PATIENCE).map_err(|_: RecvTimeoutError| Gone)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_posted_is_done_in_order_between_turns_and_answered() {
        let (inbox, post) = inbox::<Vec<u32>>(Waker::default());
        let mut worker = vec![];
        inbox.serve(&mut worker, Instant::ZERO);
        let caller = std::thread::spawn(move || {
            post.send(|worker, _| worker.push(1)).unwrap();
            post.call(|worker, _| {
                worker.push(2);
                worker.len()
            })
        });
        while !caller.is_finished() {
            inbox.serve(&mut worker, Instant::ZERO);
            std::thread::yield_now();
        }
        assert_eq!((caller.join().unwrap(), worker), (Ok(2), vec![1, 2]));
    }

    #[test]
    fn a_loop_that_has_ended_answers_nobody() {
        let (inbox, post) = inbox::<()>(Waker::default());
        let early = post.clone();
        let caller = std::thread::spawn(move || early.call(|(), _| ()));
        while inbox.0.tasks.lock().unwrap().as_ref().unwrap().is_empty() {
            std::thread::yield_now();
        }
        drop(inbox);
        assert_eq!(caller.join().unwrap(), Err(Gone), "the caller was waiting");
        assert_eq!(post.call(|(), _| ()), Err(Gone));
    }
}

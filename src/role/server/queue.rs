//! The bounded FIFO: request frames in fixed memory, from arrival to the reply.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use super::header_mut;
use crate::base::time::Instant;
use crate::wire::Status;
use crate::wire::header::HEADER_LEN;

/// Identifies a request in the queue.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct JobId(u32);

/// Data of a queued request besides its frame.
#[derive(Clone, Copy, Debug)]
pub(super) struct Job {
    pub arrived: Instant,
    /// Destination of the reply: the worker that sent the request, or the client.
    pub reply_to: SocketAddr,
    pub worker: u8,
    /// The registration that counts the request; `None` for an older registration.
    pub epoch: Option<u32>,
}

#[derive(Clone, Copy, Debug)]
struct Entry {
    job: Job,
    /// Time left at the client when the request was sent; zero: no deadline.
    deadline: Duration,
    status: Status,
}

impl Entry {
    fn is_expired(&self, now: Instant) -> bool {
        !self.deadline.is_zero() && now.since(self.job.arrived) > self.deadline
    }
}

/// Read access to a job.
pub(super) struct JobView<'a>(&'a Entry);

impl std::ops::Deref for JobView<'_> {
    type Target = Job;
    fn deref(&self) -> &Job {
        &self.0.job
    }
}

impl JobView<'_> {
    /// Whether the client has given up.
    pub fn is_expired(&self, now: Instant) -> bool {
        self.0.is_expired(now)
    }
}

/// Queued, in service, or finished: each request has exactly one of these states.
pub(super) struct Queue {
    frames: Box<[u8]>,
    frame_size: usize,
    entries: Box<[Option<Entry>]>,
    free: Vec<u32>,
    waiting: VecDeque<u32>,
    finished: VecDeque<u32>,
    len: usize,
    /// The newest registration that has sent a request, and its share of `len`.
    counted: (u32, usize),
}

impl Queue {
    pub fn new(capacity: usize, frame_size: usize) -> Self {
        Queue {
            frames: vec![0; capacity * frame_size].into_boxed_slice(),
            frame_size,
            entries: vec![None; capacity].into_boxed_slice(),
            free: (0..capacity as u32).rev().collect(),
            waiting: VecDeque::with_capacity(capacity),
            finished: VecDeque::with_capacity(capacity),
            len: 0,
            counted: (0, 0),
        }
    }

    /// Requests queued or in service.
    pub fn len(&self) -> usize {
        self.len
    }

    /// Whether no request is queued or in service, and every reply has been sent.
    pub fn is_empty(&self) -> bool {
        self.len == 0 && self.finished.is_empty()
    }

    /// Requests queued.
    pub fn waiting(&self) -> usize {
        self.waiting.len()
    }

    /// Requests queued or in service that this registration does not count.
    pub fn count_other_than(&self, epoch: u32) -> u32 {
        let (counted_epoch, counted) = self.counted;
        (if counted_epoch == epoch { self.len - counted } else { self.len }) as u32
    }

    /// Adds a request; false if the queue is full.
    pub fn push(&mut self, job: Job, frame: &mut [u8]) -> bool {
        let Some(at) = self.free.pop() else { return false };
        let deadline = Duration::from_micros(u64::from(header_mut(frame).deadline_us.get()));
        self.entries[at as usize] = Some(Entry { job, deadline, status: Status::Ok });
        self.frame_mut(at).copy_from_slice(frame);
        self.waiting.push_back(at);
        self.len += 1;
        if let Some(epoch) = job.epoch {
            if epoch != self.counted.0 {
                self.counted = (epoch, 0);
            }
            self.counted.1 += 1;
        }
        true
    }

    /// Takes the oldest queued request into service.
    pub fn start(&mut self) -> Option<JobId> {
        self.waiting.pop_front().map(JobId)
    }

    pub fn job(&self, id: JobId) -> JobView<'_> {
        JobView(self.entries[id.0 as usize].as_ref().expect("a job is in the queue until released"))
    }

    pub fn payload(&mut self, id: JobId) -> &[u8] {
        let frame = self.frame_mut(id.0);
        let len = usize::from(header_mut(frame).payload_len.get());
        &frame[HEADER_LEN..HEADER_LEN + len]
    }

    /// Ends a job in service; a payload of `None` echoes the request's.
    pub fn finish(&mut self, id: JobId, status: Status, payload: Option<&[u8]>) {
        let entry = self.entries[id.0 as usize].as_mut().expect("in service");
        entry.status = status;
        if entry.job.epoch == Some(self.counted.0) {
            self.counted.1 -= 1;
        }
        if let Some(payload) = payload {
            let frame = self.frame_mut(id.0);
            header_mut(frame).payload_len.set(payload.len() as u16);
            frame[HEADER_LEN..HEADER_LEN + payload.len()].copy_from_slice(payload);
            frame[HEADER_LEN + payload.len()..].fill(0);
        }
        self.finished.push_back(id.0);
        self.len -= 1;
    }

    /// The job that finished first.
    pub fn first_finished(&self) -> Option<JobId> {
        self.finished.front().copied().map(JobId)
    }

    /// Copies the frame of the first finished job, and removes the job.
    pub fn release(&mut self, id: JobId, into: &mut [u8]) -> Status {
        let first = self.finished.pop_front();
        debug_assert_eq!(first, Some(id.0));
        into.copy_from_slice(self.frame_mut(id.0));
        self.free.push(id.0);
        self.entries[id.0 as usize].take().expect("finished").status
    }

    fn frame_mut(&mut self, at: u32) -> &mut [u8] {
        let from = at as usize * self.frame_size;
        &mut self.frames[from..from + self.frame_size]
    }
}

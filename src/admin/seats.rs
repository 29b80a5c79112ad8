//! The connections of a listener, at most a fixed number of them. A new connection always gets a seat: at the
//! limit, the connection that has waited longest without a request ends. Only if each one has a request in
//! progress, the one with the oldest request ends. So connections of strangers keep no other connection out.

use std::collections::BTreeMap;
use std::pin::Pin;
use std::sync::{Arc, Mutex, MutexGuard};
use std::task::{Context, Poll};

use axum::Extension;
use axum::body::{Body, Bytes};
use axum::extract::Request;
use axum::middleware::Next;
use axum::response::Response;
use hyper::body::{Frame, SizeHint};
use tokio::sync::Notify;

/// All seats of a listener.
pub(super) struct Seats {
    seats_max: usize,
    taken: Mutex<Taken>,
}

#[derive(Default)]
struct Taken {
    /// Numbers connections, and beginnings and ends of requests, in their order.
    newest: u64,
    seats: BTreeMap<u64, Occupant>,
}

struct Occupant {
    /// Whether a request is in progress, until the last byte of its answer is passed on.
    has_request: bool,
    /// When that began, by number.
    since: u64,
    end: Arc<Notify>,
}

impl Taken {
    fn next(&mut self) -> u64 {
        self.newest += 1;
        self.newest
    }
}

impl Seats {
    pub fn new(seats_max: usize) -> Arc<Seats> {
        Arc::new(Seats { seats_max, taken: Mutex::default() })
    }

    /// A seat for a new connection. At the limit another connection ends.
    pub fn take(self: &Arc<Self>) -> Arc<Seat> {
        let mut taken = self.lock();
        while taken.seats.len() >= self.seats_max {
            let by_wait = |(_, occupant): &(&u64, &Occupant)| (occupant.has_request, occupant.since);
            let Some((&longest, _)) = taken.seats.iter().min_by_key(by_wait) else { break };
            if let Some(occupant) = taken.seats.remove(&longest) {
                occupant.end.notify_one();
            }
        }
        let (number, end) = (taken.next(), Arc::new(Notify::new()));
        let occupant = Occupant { has_request: false, since: number, end: Arc::clone(&end) };
        taken.seats.insert(number, occupant);
        Arc::new(Seat { seats: Arc::clone(self), number, end })
    }

    fn note(&self, number: u64, has_request: bool) {
        let mut taken = self.lock();
        let since = taken.next();
        if let Some(occupant) = taken.seats.get_mut(&number) {
            (occupant.has_request, occupant.since) = (has_request, since);
        }
    }

    fn lock(&self) -> MutexGuard<'_, Taken> {
        self.taken.lock().expect("no panic while it is held")
    }
}

/// The seat of one connection. It is free when this value is dropped.
pub(super) struct Seat {
    seats: Arc<Seats>,
    number: u64,
    end: Arc<Notify>,
}

impl Seat {
    /// Returns when another connection needs the seat.
    pub async fn is_needed(&self) {
        self.end.notified().await;
    }

    /// Notes that a request is in progress while the result lives.
    fn begin_request(self: &Arc<Self>) -> InProgress {
        self.seats.note(self.number, true);
        InProgress(Arc::clone(self))
    }
}

impl Drop for Seat {
    fn drop(&mut self) {
        self.seats.lock().seats.remove(&self.number);
    }
}

struct InProgress(Arc<Seat>);

impl Drop for InProgress {
    fn drop(&mut self) {
        self.0.seats.note(self.0.number, false);
    }
}

/// Notes that the connection has a request, until the whole answer is passed on.
pub(super) async fn note_request(
    Extension(seat): Extension<Arc<Seat>>,
    request: Request,
    next: Next,
) -> Response {
    let request_in_progress = seat.begin_request();
    let response = next.run(request).await;
    response.map(|body| Body::new(NotedBody { body, _request: request_in_progress }))
}

/// The body of an answer. The request ends with it.
struct NotedBody {
    body: Body,
    _request: InProgress,
}

impl hyper::body::Body for NotedBody {
    type Data = Bytes;
    type Error = axum::Error;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, axum::Error>>> {
        Pin::new(&mut self.body).poll_frame(context)
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The seats whose connection must end, by index.
    fn needed(seats: &[Arc<Seat>]) -> Vec<usize> {
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let is_needed = |seat: &Arc<Seat>| {
            runtime.block_on(async {
                tokio::select! {
                    biased;
                    () = seat.is_needed() => true,
                    () = std::future::ready(()) => false,
                }
            })
        };
        (0..seats.len()).filter(|&index| is_needed(&seats[index])).collect()
    }

    #[test]
    fn the_longest_wait_without_a_request_ends() {
        let all = Seats::new(3);
        let mut seats: Vec<_> = (0..3).map(|_| all.take()).collect();
        assert!(needed(&seats).is_empty());
        drop(seats[0].begin_request()); // it waits since now
        let reading = seats[1].begin_request();
        seats.push(all.take());
        assert_eq!(needed(&seats), [2], "1 has a request");
        seats.push(all.take());
        assert_eq!(needed(&seats), [0]);
        drop(reading);
        seats.push(all.take());
        assert_eq!(needed(&seats), [3], "the request of 1 has just ended");
    }

    #[test]
    fn if_all_have_requests_the_oldest_request_ends() {
        let all = Seats::new(2);
        let seats: Vec<_> = (0..2).map(|_| all.take()).collect();
        let requests = [seats[1].begin_request(), seats[0].begin_request()];
        let newest = all.take();
        assert_eq!(needed(&seats), [1]);
        drop((requests, newest));
        drop(seats);
        assert!(all.lock().seats.is_empty());
    }
}

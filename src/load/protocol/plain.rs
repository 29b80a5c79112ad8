//! Any request and response: a client has one request in flight, and any datagram that it receives is
//! the response.
//!
//! After a loss, a client pauses for another timeout, so that a late response does not count for the
//! next request. A response that arrives even later still would.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::time::Duration;

use memchr::memmem::Finder;

use super::echo::ending;
use super::{LoadProtocol, NextRequest};
use crate::base::batch::{Received, SocketId};
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::load::ledger::RequestLedger;

/// State of a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum ClientState {
    Free,
    /// Waits for the response to this request.
    Waits(u64),
    Rests,
}

/// Identical requests, one in flight per client.
pub struct Plain {
    target: SocketAddr,
    clients: Box<[ClientState]>,
    /// Free clients, in the order in which they became free.
    free: VecDeque<SocketId>,
    /// Pausing clients with the end of their pause.
    resting: VecDeque<(Instant, SocketId)>,
    /// Requests with their clients, in the order of sending. The first one is open; others may have ended.
    sent: VecDeque<(u64, SocketId)>,
    rest: Duration,
    /// Payloads that are sent in turn, with the size of a request in bytes, unless a trace sets it.
    payloads: Box<[(Box<[u8]>, usize)]>,
    expect: Option<Finder<'static>>,
}

impl Plain {
    /// A protocol with this many clients. A request has as many bytes of its payload as stand beside it, or
    /// the size that a trace sets. A client pauses for `rest` after a loss.
    pub fn new(target: SocketAddr, clients: u16, payloads: Vec<(Vec<u8>, usize)>, rest: Duration) -> Self {
        Plain {
            target,
            clients: vec![ClientState::Free; clients.into()].into(),
            free: (0..clients).map(SocketId).collect(),
            resting: VecDeque::with_capacity(clients.into()),
            sent: VecDeque::with_capacity(4 * usize::from(clients)),
            rest,
            payloads: payloads.into_iter().map(|(bytes, len)| (bytes.into(), len)).collect(),
            expect: None,
        }
    }

    /// Counts answers without this pattern as refused.
    #[must_use]
    pub fn expecting(self, pattern: Option<&[u8]>) -> Self {
        Plain { expect: pattern.map(|pattern| Finder::new(pattern).into_owned()), ..self }
    }

    fn payload(&self, number: u64) -> &(Box<[u8]>, usize) {
        &self.payloads[(number % self.payloads.len() as u64) as usize]
    }

    fn client(&mut self, id: SocketId) -> &mut ClientState {
        &mut self.clients[usize::from(id.0)]
    }

    /// Removes ended requests from the front.
    fn prune(&mut self) {
        while let Some(&(number, client)) = self.sent.front()
            && *self.client(client) != ClientState::Waits(number)
        {
            self.sent.pop_front();
        }
    }
}

impl LoadProtocol for Plain {
    fn len_max(&self) -> usize {
        self.payloads.iter().map(|(bytes, _)| bytes.len()).max().unwrap_or(0)
    }

    fn free_at(&self) -> Option<Instant> {
        let rested = self.resting.front().map(|(at, _)| *at);
        if self.free.is_empty() { rested } else { Some(Instant::ZERO) }
    }

    fn plan(&self, request: &NextRequest) -> (SocketId, usize) {
        let len = request.payload.map_or(self.payload(request.number).1, |len| len as usize);
        (*self.free.front().expect("a client is free"), len)
    }

    fn write(&mut self, request: &NextRequest, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.payload(request.number).0[..bytes.len()]);
        let client = self.free.pop_front().expect("a client is free");
        *self.client(client) = ClientState::Waits(request.number);
        self.prune();
        self.sent.push_back((request.number, client));
    }

    fn read(&mut self, now: Instant, from: &Received, datagram: &mut [u8], ledger: &mut RequestLedger) {
        if from.peer != self.target {
            return ledger.drop(DropReason::WrongSource, now);
        }
        match *self.client(from.socket) {
            ClientState::Waits(number) => {
                *self.client(from.socket) = ClientState::Free;
                self.free.push_back(from.socket);
                let ended = ledger.end(number, now, ending(self.expect.as_ref(), datagram));
                debug_assert!(ended, "a client waits for an open request");
            }
            ClientState::Rests => ledger.drop(DropReason::Late, now),
            ClientState::Free => ledger.drop(DropReason::NotOpen, now),
        }
    }

    fn lost(&mut self, number: u64, now: Instant) {
        self.prune();
        let (oldest, client) = self.sent.pop_front().expect("a request was open");
        debug_assert_eq!(oldest, number, "the oldest one is lost first");
        *self.client(client) = ClientState::Rests;
        self.resting.push_back((now + self.rest, client));
    }

    fn tick(&mut self, now: Instant) {
        while let Some(&(at, client)) = self.resting.front()
            && at <= now
        {
            self.resting.pop_front();
            *self.client(client) = ClientState::Free;
            self.free.push_back(client);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_remembered_does_not_grow_with_what_was_answered() {
        let target = "127.0.0.1:9".parse().unwrap();
        let from =
            |socket| Received { socket, peer: target, local_ip: None, slot: 0, start: 0, len: 1, stride: 1 };
        let mut plain = Plain::new(target, 2, vec![(vec![0], 1)], Duration::ZERO);
        let mut ledger = RequestLedger::new(1, Duration::from_secs(1));
        let now = Instant::from_nanos(1);
        for number in 1..=10_000 {
            let request = NextRequest { number, incomplete: 0, payload: None };
            let (client, _) = plain.plan(&request);
            plain.write(&request, &mut [0]);
            ledger.open(now, now);
            plain.read(now, &from(client), &mut [0], &mut ledger);
            assert!(plain.sent.len() <= 2, "{number}: {}", plain.sent.len());
        }
        assert_eq!((ledger.counts().answered, ledger.in_flight()), (10_000, 0));
    }
}

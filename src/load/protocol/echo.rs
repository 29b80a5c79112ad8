//! Any protocol whose responses repeat a part of the request: a marker in the payload identifies the request.

use std::net::SocketAddr;

use super::marker::{self, MARK, Marker};
use super::{LoadProtocol, NextRequest, in_turn};
use crate::base::batch::{Received, SocketId};
use crate::base::drop_reason::DropReason;
use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::load::counts::RequestEnd;
use crate::load::ledger::RequestLedger;

/// Requests with a marker; any number may be in flight.
pub struct Echo {
    target: SocketAddr,
    clients: u64,
    marker: Marker,
    template: Box<[u8]>,
    /// Offsets of the markers.
    marks: Box<[usize]>,
}

impl Echo {
    /// A protocol with this many clients in turn. Each `{id}` in the payload is a marker; at least one
    /// is required.
    pub fn new(target: SocketAddr, clients: u16, payload: &[u8], rng: &mut Rng) -> Self {
        let mut template = vec![];
        let mut marks = vec![];
        let mut rest = payload;
        while let Some(at) = memchr::memmem::find(rest, MARK.as_bytes()) {
            template.extend_from_slice(&rest[..at]);
            marks.push(template.len());
            template.extend_from_slice(&[0; marker::LEN]);
            rest = &rest[at + MARK.len()..];
        }
        template.extend_from_slice(rest);
        assert!(!marks.is_empty(), "the payload has a marker");
        let (template, marker) = (template.into(), Marker::new(rng));
        Echo { target, clients: clients.into(), marker, template, marks: marks.into() }
    }
}

impl LoadProtocol for Echo {
    fn len_max(&self) -> usize {
        self.template.len()
    }

    fn plan(&self, request: &NextRequest) -> (SocketId, usize) {
        (in_turn(request.number, self.clients), self.template.len())
    }

    fn write(&mut self, request: &NextRequest, bytes: &mut [u8]) {
        bytes.copy_from_slice(&self.template);
        for at in &self.marks {
            self.marker.write(request.number, &mut bytes[*at..*at + marker::LEN]);
        }
    }

    fn read(&mut self, now: Instant, from: &Received, datagram: &mut [u8], ledger: &mut RequestLedger) {
        if from.peer != self.target {
            return ledger.drop(DropReason::WrongSource, now);
        }
        match self.marker.find(datagram) {
            None => ledger.drop(DropReason::Malformed, now),
            Some(number) if in_turn(number, self.clients) != from.socket => ledger.drop(DropReason::NotOpen, now),
            Some(number) if !ledger.end(number, now, RequestEnd::Answered) => {
                ledger.drop(DropReason::NotOpen, now)
            }
            Some(_) => {}
        }
    }
}

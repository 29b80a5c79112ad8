//! Any protocol whose responses repeat a part of the request: a marker in the payload identifies the request.

use std::net::SocketAddr;

use memchr::memmem::Finder;

use super::marker::{self, MarkKind, Marker};
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
    /// Requests that are sent in turn.
    templates: Box<[Template]>,
    expect: Option<Finder<'static>>,
}

/// A request without its number.
struct Template {
    bytes: Box<[u8]>,
    /// Offsets of the markers, at least one.
    marks: Box<[(usize, MarkKind)]>,
}

impl Template {
    fn of(payload: &[u8]) -> Template {
        let (mut bytes, mut marks, mut end) = (vec![], vec![], 0);
        for (at, kind) in marker::placeholders(payload) {
            bytes.extend_from_slice(&payload[end..at.start]);
            marks.push((bytes.len(), kind));
            bytes.resize(bytes.len() + kind.len(), 0);
            end = at.end;
        }
        bytes.extend_from_slice(&payload[end..]);
        assert!(!marks.is_empty(), "the payload has a marker");
        Template { bytes: bytes.into(), marks: marks.into() }
    }
}

impl Echo {
    /// A protocol with this many clients in turn, and payloads in turn. Each `{id}` in a payload is a
    /// marker; each payload must have one.
    pub fn new(target: SocketAddr, clients: u16, payloads: &[Vec<u8>], rng: &mut Rng) -> Self {
        let templates = payloads.iter().map(|payload| Template::of(payload)).collect();
        Echo { target, clients: clients.into(), marker: Marker::new(rng), templates, expect: None }
    }

    /// Counts answers without this pattern as refused.
    #[must_use]
    pub fn expecting(self, pattern: Option<&[u8]>) -> Self {
        Echo { expect: pattern.map(|pattern| Finder::new(pattern).into_owned()), ..self }
    }

    fn template(&self, number: u64) -> &Template {
        &self.templates[(number % self.templates.len() as u64) as usize]
    }

    /// The number of the request that a datagram answers.
    fn number(&self, datagram: &[u8], ledger: &RequestLedger) -> Option<u64> {
        // With several payloads, each kind of marker is looked for.
        self.templates.iter().find_map(|template| match template.marks[0] {
            (_, MarkKind::Digits) => self.marker.find(datagram),
            (offset, MarkKind::Bytes(len)) => self.marker.find_bytes(datagram, len, offset, &ledger.span()),
        })
    }
}

impl LoadProtocol for Echo {
    fn len_max(&self) -> usize {
        self.templates.iter().map(|template| template.bytes.len()).max().unwrap_or(0)
    }

    fn plan(&self, request: &NextRequest) -> (SocketId, usize) {
        (in_turn(request.number, self.clients), self.template(request.number).bytes.len())
    }

    fn write(&mut self, request: &NextRequest, bytes: &mut [u8]) {
        let template = self.template(request.number);
        bytes.copy_from_slice(&template.bytes);
        for (at, kind) in &template.marks {
            let into = &mut bytes[*at..at + kind.len()];
            match kind {
                MarkKind::Digits => self.marker.write(request.number, into),
                MarkKind::Bytes(_) => self.marker.write_bytes(request.number, into),
            }
        }
    }

    fn read(&mut self, now: Instant, from: &Received, datagram: &mut [u8], ledger: &mut RequestLedger) {
        if from.peer != self.target {
            return ledger.drop(DropReason::WrongSource, now);
        }
        let Some(number) = self.number(datagram, ledger) else {
            return ledger.drop(DropReason::Malformed, now);
        };
        let ending = ending(self.expect.as_ref(), datagram);
        if in_turn(number, self.clients) != from.socket || !ledger.end(number, now, ending) {
            ledger.drop(DropReason::NotOpen, now);
        }
    }
}

/// The end of a request by its answer.
pub(super) fn ending(expect: Option<&Finder<'static>>, answer: &[u8]) -> RequestEnd {
    match expect {
        Some(pattern) if pattern.find(answer).is_none() => RequestEnd::Refused,
        _ => RequestEnd::Answered,
    }
}

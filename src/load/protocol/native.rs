//! lbd's frames: several share a datagram.

use super::{LoadProtocol, NextRequest, in_turn};
use crate::base::batch::{Received, SocketId};
use crate::base::drop_reason::DropReason;
use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::load::counts::RequestEnd;
use crate::load::ledger::RequestLedger;
use crate::wire::{Frame, FrameFormat, Header, Kind, Mode, Status};

/// Settings of [`Native`].
pub struct NativeSettings {
    /// Frame format of the deployment.
    pub format: FrameFormat,
    /// Clients that send in turn.
    pub clients: u16,
    /// Time that servers have for a request, in microseconds.
    pub deadline_us: u32,
}

/// Requests in frames; a reply carries its request's number.
pub struct Native {
    format: FrameFormat,
    clients: u64,
    client_id: u64,
    /// Requests without their number, in turn; each request is a numbered copy.
    templates: Box<[Box<[u8]>]>,
}

impl Native {
    /// Requests with these payloads in turn, which must fit into a frame. A request has as many bytes of its
    /// payload as stand beside it, unless a trace sets its size.
    pub fn new(settings: NativeSettings, payloads: &[(Vec<u8>, usize)], rng: &mut Rng) -> Self {
        let NativeSettings { format, clients, deadline_us } = settings;
        let client_id = rng.next_u64() | 1;
        let mut header = Header::new(Kind::ClientRequest, format.size);
        header.mode = Mode::Idempotent as u8;
        header.attempt = 1;
        header.client_id.set(client_id);
        header.deadline_us.set(deadline_us.max(1));
        let template = |(payload, len): &(Vec<u8>, usize)| {
            let mut template = vec![0; format.size].into_boxed_slice();
            Frame::write(&mut template, &header, payload);
            let mut frame = Frame::check(&mut template, &format).expect("the template is a frame");
            frame.header.payload_len.set(*len as u16);
            template
        };
        let templates = payloads.iter().map(template).collect();
        Native { format, clients: clients.into(), client_id, templates }
    }

    fn read_frame(
        &self,
        now: Instant,
        bytes: &mut [u8],
        ledger: &mut RequestLedger,
    ) -> Result<(), DropReason> {
        let frame = Frame::check(bytes, &self.format)?;
        if frame.kind() != Kind::ClientResponse {
            return Err(DropReason::Unexpected);
        }
        let ending = match Status::from_wire(frame.header.status).ok_or(DropReason::Kind)? {
            Status::Ok => RequestEnd::Answered,
            Status::Busy => RequestEnd::Busy,
            Status::Expired | Status::Unknown | Status::Error => RequestEnd::Refused,
        };
        let is_ours = frame.header.client_id.get() == self.client_id;
        let ended = is_ours && ledger.end(frame.header.sequence.get(), now, ending);
        if ended { Ok(()) } else { Err(DropReason::NotOpen) }
    }
}

impl LoadProtocol for Native {
    fn len_max(&self) -> usize {
        self.format.size
    }

    fn plan(&self, request: &NextRequest) -> (SocketId, usize) {
        (in_turn(request.number, self.clients), self.format.size)
    }

    fn write(&mut self, request: &NextRequest, bytes: &mut [u8]) {
        let template = match &self.templates[..] {
            [only] => only,
            several => &several[(request.number % several.len() as u64) as usize],
        };
        bytes.copy_from_slice(template);
        let mut frame = Frame::check(bytes, &self.format).expect("the template is a frame");
        let header = &mut frame.header;
        header.sequence.set(request.number);
        header.incomplete.set(request.incomplete.min(u64::from(u16::MAX)) as u16);
        if let Some(len) = request.payload {
            header.payload_len.set(len as u16);
        }
    }

    fn read(&mut self, now: Instant, _from: &Received, datagram: &mut [u8], ledger: &mut RequestLedger) {
        if !self.format.divides(datagram.len()) {
            return ledger.drop(DropReason::Length, now);
        }
        for frame in datagram.chunks_exact_mut(self.format.size) {
            if let Err(reason) = self.read_frame(now, frame, ledger) {
                ledger.drop(reason, now);
            }
        }
    }
}

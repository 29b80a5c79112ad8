//! Requests of clients, and their refusals.

use std::net::{IpAddr, Ipv4Addr, SocketAddr};
use std::time::Duration;

use super::FRONT;
use crate::base::batch::{DestinationId, FrameRef, Tx};
use crate::base::drop_reason::DropReason;
use crate::pool::local_addresses::LocalAddresses;
use crate::wire::frame::pack_addr;
use crate::wire::{Frame, FrameFormat, Kind, Status};

/// A client, as all workers know it: the destination of its replies, and their local address.
#[derive(Clone, Copy, Debug)]
pub(super) struct Client {
    pub addr: SocketAddr,
    /// The number of the local address at which the request arrived.
    pub local: u8,
}

impl Client {
    /// Fills an empty entry of the pending queue.
    pub const NONE: Client = Client {
        addr: SocketAddr::new(IpAddr::V4(Ipv4Addr::UNSPECIFIED), 0),
        local: LocalAddresses::UNSPECIFIED,
    };
}

/// The client of all requests in a receive slot, in the encoding of frames.
pub(super) struct Origin {
    pub client: Client,
    pub ip: [u8; 16],
    pub port: u16,
    local_ip: Option<IpAddr>,
    /// Looked up when the first refusal needs it.
    destination: Option<DestinationId>,
}

impl Origin {
    pub fn new(client: Client, local_ip: Option<IpAddr>) -> Self {
        let (ip, port) = pack_addr(client.addr);
        Origin { client, ip, port, local_ip, destination: None }
    }

    /// The client as a destination of this turn.
    fn destination(&mut self, tx: &mut Tx) -> Option<DestinationId> {
        if self.destination.is_none() {
            self.destination = tx.destination(FRONT, self.client.addr, self.local_ip);
        }
        self.destination
    }
}

/// A checked request of a client.
pub(super) struct ClientRequest<'a> {
    pub frame: Frame<'a>,
    /// The frame's position in the turn's memory.
    pub at: FrameRef,
}

impl<'a> ClientRequest<'a> {
    /// Checks a frame that came from a client.
    pub fn check(at: FrameRef, bytes: &'a mut [u8], format: &FrameFormat) -> Result<Self, DropReason> {
        let frame = Frame::check(bytes, format)?;
        if frame.kind() != Kind::ClientRequest {
            return Err(DropReason::Unexpected);
        }
        Ok(ClientRequest { frame, at })
    }

    /// Turns the request into its refusal, in place, and sends it: a refusal is no longer than its request.
    pub fn refuse(
        self,
        origin: &mut Origin,
        status: Status,
        retry_after: Duration,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let destination = origin.destination(tx).ok_or(DropReason::TurnFull)?;
        refusal(self.frame, status, retry_after);
        if tx.push(destination, self.at) { Ok(()) } else { Err(DropReason::TurnFull) }
    }
}

/// Turns a request into its refusal.
pub(super) fn refusal(mut frame: Frame<'_>, status: Status, retry_after: Duration) {
    frame.set_payload(&[]);
    let header = &mut frame.header;
    header.kind = Kind::ClientResponse as u8;
    header.status = status as u8;
    header.op = 0;
    header.deadline_us.set(retry_after.as_micros() as u32);
    header.clear_internal();
}

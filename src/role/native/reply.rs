//! Who asked, and refusals to them.

use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use super::FRONT;
use crate::base::batch::{DestinationId, FrameRef, Tx};
use crate::base::drop_reason::DropReason;
use crate::wire::frame::pack_addr;
use crate::wire::{Frame, Kind, Status};

/// What all requests of one receive slot have in common.
pub(super) struct Asker {
    pub peer: SocketAddr,
    pub local_ip: Option<IpAddr>,
    pub ip: [u8; 16],
    pub port: u16,
    /// The number of the local address.
    pub listener: u8,
    /// Looked up when the first refusal needs it.
    destination: Option<DestinationId>,
}

impl Asker {
    pub fn new(peer: SocketAddr, local_ip: Option<IpAddr>, listener: u8) -> Self {
        let (ip, port) = pack_addr(peer);
        Asker { peer, local_ip, ip, port, listener, destination: None }
    }
}

/// Turns a request into its refusal, in place: no more bytes out than came in.
pub(super) fn refuse(
    asker: &mut Asker,
    frame: Frame<'_>,
    frame_ref: FrameRef,
    status: Status,
    retry_after: Duration,
    tx: &mut Tx,
) -> Result<(), DropReason> {
    if asker.destination.is_none() {
        asker.destination = tx.destination(FRONT, asker.peer, asker.local_ip);
    }
    refusal(frame, status, retry_after);
    let pushed = asker.destination.is_some_and(|d| tx.push(d, frame_ref));
    if pushed { Ok(()) } else { Err(DropReason::TurnFull) }
}

/// Makes a request its refusal.
pub(super) fn refusal(mut frame: Frame<'_>, status: Status, retry_after: Duration) {
    frame.set_payload(&[]);
    let header = &mut *frame.header;
    header.kind = Kind::ClientResponse as u8;
    header.status = status as u8;
    header.op = 0;
    header.deadline_us.set(retry_after.as_micros() as u32);
    header.clear_internal();
}

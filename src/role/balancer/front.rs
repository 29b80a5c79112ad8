//! Requests of clients.

use super::*;
use crate::wire::frame::pack_addr;
use crate::wire::{Frame, Header, Kind, Mode, Status};

/// What all requests of one receive slot have in common.
struct Asker {
    peer: SocketAddr,
    local_ip: Option<IpAddr>,
    socket: SocketId,
    ip: [u8; 16],
    port: u16,
    listener: u8,
    /// Looked up when the first refusal needs it.
    destination: Option<DestinationId>,
}

impl Balancer {
    /// Takes what one client sent.
    pub(super) fn on_front(&mut self, now: Instant, received: &Received, bytes: &mut [u8], tx: &mut Tx) {
        let format = self.settings.format;
        if let Some(reason) = self.not_a_client(received.peer) {
            self.stats.drops.add(reason, bytes.len().div_ceil(received.stride as usize) as u64);
            return;
        }
        let (ip, port) = pack_addr(received.peer);
        let mut asker = Asker {
            peer: received.peer,
            local_ip: received.local_ip,
            socket: received.socket,
            ip,
            port,
            listener: self.listeners.number(received.local_ip),
            destination: None,
        };
        for frame in frames(received, bytes, format) {
            let outcome = frame.and_then(|(at, bytes)| self.on_request(now, &mut asker, at, bytes, tx));
            if let Err(reason) = outcome {
                self.stats.drops.add(reason, 1);
            }
        }
    }

    /// Nobody could be answered at port 0, and an answer to ourselves or to a server would be a loop.
    fn not_a_client(&self, peer: SocketAddr) -> Option<DropReason> {
        if peer.port() == 0 {
            return Some(DropReason::SourcePort);
        }
        let ours = self.settings.own.contains(&peer) || self.fleet.has_addr(peer);
        ours.then_some(DropReason::NotAClient)
    }

    fn on_request(
        &mut self,
        now: Instant,
        asker: &mut Asker,
        frame_ref: FrameRef,
        bytes: &mut [u8],
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let frame = Frame::check(bytes, &self.settings.format)?;
        if frame.kind() != Kind::ClientRequest {
            return Err(DropReason::Unexpected);
        }
        let mode = Mode::from_wire(frame.header.mode).ok_or(DropReason::Kind)?;
        self.stats.requests.add(1);
        if mode == Mode::AtMostOnce {
            self.stats.refused_mode.add(1);
            return refuse(asker, frame, frame_ref, Status::Error, Duration::ZERO, tx);
        }
        match self.chooser.reserve(&self.tree) {
            Ok(reserved) => {
                self.stats.select_fallback.add(u64::from(reserved.fallback));
                self.forward(now, asker, reserved.slot, frame_ref, bytes, tx)
            }
            Err(_) => {
                let counter =
                    if self.usable == 0 { &self.stats.busy_no_server } else { &self.stats.busy_shed };
                counter.add(1);
                refuse(asker, frame, frame_ref, Status::Busy, RETRY_AFTER, tx)
            }
        }
    }

    /// Sends a request to the server of a slot that was reserved for it.
    fn forward(
        &mut self,
        now: Instant,
        asker: &Asker,
        slot: Slot,
        frame_ref: FrameRef,
        bytes: &mut [u8],
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let server = self.fleet.get(slot).expect("only registered servers are eligible");
        let (to, server_epoch) = (server.addr, server.epoch);
        let pushed = self.server_destination(slot, to, tx).is_some_and(|d| tx.push(d, frame_ref));
        if !pushed {
            self.tree.adjust(slot, -1);
            return Err(DropReason::TurnFull);
        }
        let lane = &mut self.lanes[slot.index()];
        let dispatch_seq = lane.window.dispatch();
        lane.estimate.on_dispatch(dispatch_seq);
        lane.last_sent = now;
        let (header, _) = zerocopy::FromBytes::mut_from_prefix(bytes).expect("checked before");
        let header: &mut Header = header;
        header.client_ip = asker.ip;
        header.client_port.set(asker.port);
        header.listener = asker.listener;
        header.worker = self.worker;
        header.balancer_epoch.set(self.epoch);
        header.server_epoch.set(server_epoch);
        header.slot.set(slot.index() as u16);
        header.dispatch_seq.set(dispatch_seq);
        header.dispatch_us.set(now.wrapping_micros());
        header.cookie.set(self.cookies.cookie(header));
        self.seal(bytes);
        self.stats.dispatched.add(1);
        self.stats.servers[slot.index()].dispatched.add(1);
        Ok(())
    }
}

/// Turns a request into its refusal, in place: no more bytes out than came in.
fn refuse(
    asker: &mut Asker,
    mut frame: Frame<'_>,
    frame_ref: FrameRef,
    status: Status,
    retry_after: Duration,
    tx: &mut Tx,
) -> Result<(), DropReason> {
    if asker.destination.is_none() {
        asker.destination = tx.destination(asker.socket, asker.peer, asker.local_ip);
    }
    frame.set_payload(&[]);
    let header = &mut *frame.header;
    header.kind = Kind::ClientResponse as u8;
    header.status = status as u8;
    header.op = 0;
    header.deadline_us.set(retry_after.as_micros() as u32);
    header.clear_internal();
    let pushed = asker.destination.is_some_and(|d| tx.push(d, frame_ref));
    if pushed { Ok(()) } else { Err(DropReason::TurnFull) }
}

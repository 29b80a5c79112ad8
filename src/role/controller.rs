//! The controller: executes the balancer's scaling requests on its [`Replicas`]. Starts nothing itself.
//!
//! Scaling requests are idempotent and acknowledged: grow names the desired number of servers, shrink
//! names the server. A repeated request gets the same answer and has no second effect. A request without
//! the nonce of this process for the balancer's address is answered only with that nonce.

use std::net::SocketAddr;

use crate::base::batch::{FrameRef, Rx, SocketId, Tx};
use crate::base::drop_reason::{DropCounters, DropReason};
use crate::base::rng::Rng;
use crate::base::time::Instant;
use crate::role::{Role, send_from_slot};
use crate::supervise::servers::{Replicas, ScalingResult};
use crate::wire::{CookieKey, Frame, FrameFormat, Header, Kind, Opener, RequestOp, Sealer, Status};

/// The socket of a controller that has only one.
pub const SOCKET: SocketId = SocketId(0);

/// Settings of a controller.
#[derive(Clone, Debug)]
pub struct ControllerSettings {
    /// Size and trailer of the frames.
    pub format: FrameFormat,
    /// Key that all components share, if frames are authenticated.
    pub key: Option<[u8; 16]>,
    /// The balancer's server-side address; frames from other addresses are dropped.
    pub balancer: SocketAddr,
    /// Seed of all random numbers: nonces.
    pub seed: u64,
}

/// A controller's state machine.
pub struct ControllerRole {
    settings: ControllerSettings,
    /// The socket on which this pool's balancer sends its scaling requests.
    socket: SocketId,
    replicas: Replicas,
    nonces: CookieKey,
    sealer: Option<Sealer>,
    opener: Option<Opener>,
    /// The last executed request: balancer, number and result.
    last_request: Option<(u64, u64, Status)>,
    drops: DropCounters,
}

impl ControllerRole {
    /// A controller of these replicas.
    pub fn new(settings: ControllerSettings, replicas: Replicas) -> Self {
        let mut rng = Rng::new(settings.seed);
        let mut key = [0; 16];
        key[..8].copy_from_slice(&rng.next_u64().to_le_bytes());
        key[8..].copy_from_slice(&rng.next_u64().to_le_bytes());
        ControllerRole {
            socket: SOCKET,
            replicas,
            nonces: CookieKey::new(key),
            sealer: settings.key.as_ref().map(|key| Sealer::new(key, rng.next_u64())),
            opener: settings.key.as_ref().map(Opener::new),
            last_request: None,
            drops: DropCounters::default(),
            settings,
        }
    }

    /// The same controller on another socket of the back end. The controllers of several pools share one back
    /// end.
    pub fn on_socket(self, socket: SocketId) -> Self {
        ControllerRole { socket, ..self }
    }

    /// The replicas.
    pub fn replicas(&self) -> &Replicas {
        &self.replicas
    }

    /// The replicas, for the events of their processes.
    pub fn replicas_mut(&mut self) -> &mut Replicas {
        &mut self.replicas
    }

    /// Frames dropped, by reason.
    pub fn drops(&self) -> &DropCounters {
        &self.drops
    }

    fn on_frame(&mut self, now: Instant, peer: SocketAddr, bytes: &mut [u8]) -> Result<(), DropReason> {
        if let Some(opener) = &self.opener {
            if bytes.len() != self.settings.format.size {
                return Err(DropReason::Length);
            }
            // The nonce below proves the freshness of a request.
            opener.open(bytes)?;
        }
        let mut frame = Frame::check(bytes, &self.settings.format)?;
        if peer != self.settings.balancer {
            return Err(DropReason::WrongSource);
        }
        if frame.kind() != Kind::ControllerRequest {
            return Err(DropReason::Unexpected);
        }
        let op = RequestOp::from_wire(frame.header.op).ok_or(DropReason::Kind)?;
        if !matches!(op, RequestOp::Grow | RequestOp::Shrink) {
            return Err(DropReason::Unexpected);
        }
        frame.set_payload(&[]);
        let header = &mut frame.header;
        let instance = header.client_id.get();
        if !self.nonces.nonce_is_valid(now, peer, instance, header.cookie.get()) {
            header.op = RequestOp::Challenge as u8;
            header.cookie.set(self.nonces.nonce(now, peer, instance));
        } else {
            let status = self.carry_out(now, op, header);
            header.op = RequestOp::Ack as u8;
            header.status = status as u8;
        }
        if let Some(sealer) = &mut self.sealer {
            sealer.seal(bytes);
        }
        Ok(())
    }

    /// Executes a request once.
    fn carry_out(&mut self, now: Instant, op: RequestOp, header: &Header) -> Status {
        let (instance, number) = (header.client_id.get(), header.sequence.get());
        if let Some((last_instance, last_number, status)) = self.last_request
            && instance == last_instance
            && number <= last_number
        {
            return if number == last_number { status } else { Status::Expired };
        }
        let target = header.report.get();
        let why = format!("load {:.2}", f64::from(header.seq.get()) / 1000.0);
        let outcome = match op {
            RequestOp::Grow => self.replicas.grow(target, &why),
            _ => self.replicas.shrink(now, target, &why),
        };
        let status = match outcome {
            ScalingResult::Done => Status::Ok,
            ScalingResult::AtBound => Status::Busy,
            ScalingResult::Unknown => Status::Unknown,
            ScalingResult::NoPort => Status::Error,
        };
        self.last_request = Some((instance, number, status));
        status
    }
}

impl Role for ControllerRole {
    fn on_batch(&mut self, now: Instant, rx: &mut Rx, tx: &mut Tx) {
        let size = self.settings.format.size;
        for index in 0..rx.len() {
            let (received, bytes) = rx.get_mut(index);
            if received.socket != self.socket {
                continue;
            }
            let mut offset = received.start;
            for datagram in bytes.chunks_mut(received.stride as usize) {
                let len = datagram.len();
                // One request per datagram; scaling needs no batches.
                let outcome = self.on_frame(now, received.peer, datagram).and_then(|()| {
                    let at = FrameRef { slot: received.slot, len: size as u16, offset };
                    send_from_slot(tx, received.socket, received.peer, at)
                });
                if let Err(reason) = outcome {
                    self.drops.add(reason, 1);
                }
                offset += len as u32;
            }
        }
    }

    fn on_timeout(&mut self, now: Instant, _tx: &mut Tx) {
        self.replicas.on_timeout(now);
    }

    fn next_deadline(&self) -> Option<Instant> {
        self.replicas.next_deadline()
    }
}

#[cfg(test)]
mod tests;

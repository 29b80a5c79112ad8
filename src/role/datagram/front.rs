//! Admission of clients' datagrams, before their bytes are read.

use super::DatagramRole;
use super::forward::Forwarder;
use super::request::{DatagramClient, DatagramRequest, datagrams};
use super::settings::Check;
use crate::base::batch::{Received, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::wire::dns;

impl DatagramRole {
    /// Handles the datagrams of one receive slot, all of one client.
    pub(super) fn on_requests(&mut self, now: Instant, received: &Received, bytes: &mut [u8], tx: &mut Tx) {
        let count = bytes.len().div_ceil(received.stride as usize) as u64;
        let DatagramRole { core, matching, .. } = self;
        core.stats.common.received.add(count);
        let admitted = match core.admit(now, received, count) {
            Ok(admitted) => admitted,
            Err(reason) => return core.stats.common.refused.add(reason, count),
        };
        if admitted < count {
            core.stats.common.refused.add(DropReason::Rate, count - admitted);
        }
        let local = core.shared.pool.locals.number(received.local_ip);
        let client = DatagramClient { addr: received.peer, front: received.socket, local };
        let handled = if matching.answers_above_rate(core) { count } else { admitted };
        for ((at, bytes), number) in datagrams(received, bytes).take(handled as usize).zip(0..) {
            if core.is_own_check(now, bytes) {
                core.stats.common.refused.add(DropReason::Loop, u64::from(number < admitted));
                continue;
            }
            let request = DatagramRequest { client, bytes, at: Some(at), now };
            if number >= admitted {
                matching.on_above_rate(core, request, tx);
            } else if let Err(reason) = matching.on_client(core, request, tx) {
                core.stats.common.refused.add(reason, 1);
            }
        }
    }
}

impl Forwarder {
    /// The number of the sender's datagrams that are admitted. No response can reach port 0, and a response
    /// to the pool itself or to a server would be a loop.
    fn admit(&self, now: Instant, received: &Received, count: u64) -> Result<u64, DropReason> {
        let (peer, gate) = (received.peer, &self.gate);
        if peer.port() == 0 {
            return Err(DropReason::SourcePort);
        }
        if self.view.is_inside(peer, received.local_ip) {
            return Err(DropReason::NotAClient);
        }
        if !gate.access.admits(peer.ip()) {
            return Err(DropReason::Denied);
        }
        Ok(match &gate.sketch {
            None => count,
            Some(sketch) => u64::from(sketch.allow_many(peer.ip(), count as u32, now)),
        })
    }

    /// Whether a client's datagram is a check of this pool that has come back. Notes its server. A payload
    /// that equals that of the checks is only noted: it may be a client's own.
    pub fn is_own_check(&self, now: Instant, datagram: &[u8]) -> bool {
        match &self.settings.health.check {
            Check::None => false,
            Check::Dns { .. } => {
                let Some(mark) = dns::mark(datagram) else { return false };
                let epoch = |slot| self.view.get(slot).map(|member| member.epoch);
                let Some(slot) = self.shared.loops.slot(mark, epoch) else { return false };
                self.shared.signals[slot.index()].note_loop();
                true
            }
            Check::Payload { send, .. } => {
                if datagram == send.as_slice() {
                    self.shared.note_echo(now);
                }
                false
            }
        }
    }
}

//! Datagrams of clients: who may send, before anything of what is sent is looked at.

use super::forward::datagrams;
use super::request::Client;
use super::*;

impl DatagramRole {
    /// Takes what one client sent.
    pub(super) fn on_front(&mut self, now: Instant, received: &Received, bytes: &mut [u8], tx: &mut Tx) {
        let count = bytes.len().div_ceil(received.stride as usize) as u64;
        let core = &mut self.core;
        core.stats.common.received.add(count);
        let admitted = match self.admit(now, received, count) {
            Ok(admitted) => admitted,
            Err(reason) => return self.core.stats.common.refused.add(reason, count),
        };
        let core = &mut self.core;
        if admitted < count {
            core.stats.common.refused.add(DropReason::Rate, count - admitted);
        }
        let local = core.shared.pool.locals.number(received.local_ip);
        let client = Client { addr: received.peer, front: received.socket, local };
        let mut last = None;
        for (at, bytes) in datagrams(received, bytes).take(admitted as usize) {
            let datagram = Datagram { at, now };
            let outcome = match &mut self.matching {
                Matching::Dns(dns) => dns.on_client(core, &client, datagram, bytes, &mut last, tx),
                Matching::ByPort(leased) => leased.on_client(core, &client, datagram, bytes, tx),
            };
            if let Err(reason) = outcome {
                core.stats.common.refused.add(reason, 1);
            }
        }
    }

    /// How many of the sender's datagrams are let in. Nobody could be answered at port 0, and an answer to
    /// ourselves or to a server would be a loop.
    fn admit(&self, now: Instant, received: &Received, count: u64) -> Result<u64, DropReason> {
        let (peer, gate) = (received.peer, &self.core.gate);
        if peer.port() == 0 {
            return Err(DropReason::SourcePort);
        }
        if self.core.view.is_inside(peer, received.local_ip) {
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
}

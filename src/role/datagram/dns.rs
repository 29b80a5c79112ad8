//! DNS: many queries under way by each port, told apart by an id that is drawn for each.
//!
//! An answer counts only if it comes by the port and from the server that the query went by, with the query's
//! id and its question. One that does not is counted, and the wait goes on.

use std::net::SocketAddr;

use super::forward::{Datagram, Forwarder, LastClient, Way};
use super::queries::{Place, Queries};
use super::request::Client;
use super::shared::Member;
use crate::base::batch::{FrameRef, Received, SocketId, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::select::Slot;
use crate::wire::dns::{self, Malformed, QuestionKey};

/// Queries under way at one worker.
const QUERIES_MAX: usize = 65_536;
/// OPCODE of an ordinary query: what may be asked of two servers (RFC 1035).
const OPCODE_QUERY: u8 = 0;

/// What is remembered of a query.
struct Query {
    /// Who asked; nobody, if a copy was sent to see whether the server lives.
    client: Option<Client>,
    client_id: u16,
    slot: Slot,
    /// The server's registration.
    epoch: u32,
    question: u64,
    sent: Instant,
}

/// The queries of one worker.
pub(super) struct Dns {
    queries: Queries<Query>,
    key: QuestionKey,
    /// This turn's port, by its number, for each family of servers. Another one each turn: a stranger does
    /// not know which, and yet what a turn has for a server leaves as one message.
    port: u16,
}

impl Dns {
    pub fn new(core: &Forwarder, secret: [u8; 16]) -> Self {
        let ports = core.sockets.v4.len() + core.sockets.v6.len();
        Dns { queries: Queries::new(QUERIES_MAX, ports), key: QuestionKey::new(secret), port: 0 }
    }

    /// A turn begins.
    pub fn begin(&mut self, core: &mut Forwarder) {
        let ports = core.sockets.v4.len().max(core.sockets.v6.len());
        self.port = core.rng.below(ports as u64) as u16;
    }

    /// A client's datagram.
    pub fn on_client(
        &mut self,
        core: &mut Forwarder,
        client: &Client,
        datagram: Datagram,
        bytes: &mut [u8],
        last: &mut LastClient,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let question = dns::query(bytes).map_err(|malformed| match malformed {
            Malformed::Response => DropReason::AnAnswer,
            _ => DropReason::Malformed,
        })?;
        let question = question.hash(&self.key);
        let client_id = dns::id(bytes);
        let (slot, member) = match core.reserve_in_turn() {
            Ok(reserved) => reserved,
            Err(reason) => {
                let full = reason == DropReason::ServersFull;
                let waits = full && core.queue(datagram.now, client, bytes).is_ok();
                self.try_out(core, client, question, datagram.now, bytes, tx);
                if waits {
                    return Ok(());
                }
                servfail(core, client, datagram.at, bytes, last, tx);
                return Err(reason);
            }
        };
        let Member { addr, epoch, .. } = member;
        let query = Query { client: Some(*client), client_id, slot, epoch, question, sent: datagram.now };
        if let Err(reason) = self.send(core, query, addr, client, Some(datagram.at), bytes, tx) {
            core.release(slot);
            if reason == DropReason::TableFull {
                servfail(core, client, datagram.at, bytes, last, tx);
            }
            return Err(reason);
        }
        core.await_answer(datagram.now, slot);
        self.try_out(core, client, question, datagram.now, bytes, tx);
        Ok(())
    }

    /// A client's datagram that has waited for the server that is there now.
    pub fn send_waiting(
        &mut self,
        core: &mut Forwarder,
        client: &Client,
        (slot, Member { addr, epoch, .. }): (Slot, Member),
        now: Instant,
        bytes: &mut [u8],
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let client_id = dns::id(bytes);
        let question = dns::query(bytes).expect("checked before it waited").hash(&self.key);
        let query = Query { client: Some(*client), client_id, slot, epoch, question, sent: now };
        if let Err(reason) = self.send(core, query, addr, client, None, bytes, tx) {
            core.release(slot);
            dns::set_id(bytes, client_id);
            refuse(core, client, bytes, tx);
            return Err(reason);
        }
        core.await_answer(now, slot);
        Ok(())
    }

    /// Sends a copy of a query to the server that is to prove itself, if there is one: so nobody waits for
    /// what may never come. The query itself stays as it is.
    fn try_out(
        &mut self,
        core: &mut Forwarder,
        client: &Client,
        question: u64,
        now: Instant,
        bytes: &mut [u8],
        tx: &mut Tx,
    ) {
        if dns::opcode(bytes) != OPCODE_QUERY {
            return; // an update, say, is not to be made twice
        }
        let Some((slot, Member { addr, epoch, .. })) = core.reserve_for_trial() else { return };
        let id = dns::id(bytes);
        let copy = Query { client: None, client_id: id, slot, epoch, question, sent: now };
        match self.send(core, copy, addr, client, None, bytes, tx) {
            Ok(()) => core.owe(now, slot),
            Err(_) => core.release(slot), // another query will do
        }
        dns::set_id(bytes, id);
    }

    /// Sends a query under an id of its own, which is in its bytes afterwards.
    #[allow(clippy::too_many_arguments)] // one query, its way and its turn; a struct would only rename them
    fn send(
        &mut self,
        core: &mut Forwarder,
        query: Query,
        server: SocketAddr,
        client: &Client,
        at: Option<FrameRef>,
        bytes: &mut [u8],
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        let Query { slot, sent, .. } = query;
        let ports = core.ports_to(server);
        let from = SocketId(ports.start + self.port % (ports.len() as u16).max(1));
        let number = from.0 - core.sockets.v4.start;
        let place = self.queries.insert(sent, number, &mut core.rng, query).ok_or(DropReason::TableFull)?;
        dns::set_id(bytes, place.id);
        let pushed = core.send_to_server(&Way { slot, server, from }, client, at, bytes, true, tx);
        if let Err(reason) = pushed {
            self.queries.remove(place);
            return Err(reason);
        }
        Ok(())
    }

    /// A datagram that came by a port.
    pub fn on_server(
        &mut self,
        core: &mut Forwarder,
        received: &Received,
        datagram: Datagram,
        bytes: &mut [u8],
        last: &mut LastClient,
        tx: &mut Tx,
    ) -> Result<(), DropReason> {
        if bytes.len() < dns::HEADER_LEN {
            return Err(DropReason::Malformed);
        }
        let peer = received.peer;
        let place = Place { port: received.socket.0 - core.sockets.v4.start, id: dns::id(bytes) };
        let Some(query) = self.queries.get(place) else {
            let Some(slot) = core.view.slot_of(peer) else { return Err(DropReason::WrongSource) };
            core.hear(datagram.now, slot); // too late for its query, but it lives
            return Err(DropReason::NotOpen);
        };
        let member = core.view.get(query.slot).filter(|member| member.epoch == query.epoch);
        if !member.is_some_and(|member| member.is_at(peer)) {
            return Err(DropReason::WrongSource);
        }
        let question = dns::response(bytes).map_err(|_| DropReason::Malformed)?;
        if question.hash(&self.key) != query.question {
            return Err(DropReason::WrongQuestion);
        }
        let (slot, sent, client) = (query.slot, query.sent, query.client);
        if let Some(client) = client {
            dns::set_id(bytes, query.client_id);
            core.send_to_client(slot, &client, datagram.at, last, tx)?;
            core.take_answer(datagram.now, slot, sent);
        } else {
            core.settle(slot);
            core.hear(datagram.now, slot);
        }
        self.queries.remove(place);
        Ok(())
    }

    /// Gives up what has waited for too long.
    pub fn expire(&mut self, core: &mut Forwarder, now: Instant) {
        while let Some((place, sent)) = self.queries.oldest()
            && sent + core.settings.timeout <= now
        {
            match self.queries.remove(place) {
                Some(Query { client: Some(_), slot, .. }) => core.give_up(slot),
                Some(Query { client: None, slot, .. }) => {
                    core.settle(slot);
                    core.lose(slot);
                }
                None => return,
            }
        }
    }

    /// When something has waited for too long.
    pub fn next_deadline(&self, core: &Forwarder) -> Option<Instant> {
        self.queries.oldest().map(|(_, sent)| sent + core.settings.timeout)
    }
}

/// Answers "it does not work now", at once: so the client asks elsewhere instead of waiting.
fn servfail(
    core: &mut Forwarder,
    client: &Client,
    at: FrameRef,
    bytes: &mut [u8],
    last: &mut LastClient,
    tx: &mut Tx,
) {
    let len = dns::truncate_to_servfail(bytes);
    let at = FrameRef { len: len as u16, ..at };
    if core.send_back(client, at, last, tx) {
        core.stats.servfail.add(1);
    }
}

/// The same to a query that has waited, whose bytes are no turn's.
pub(super) fn refuse(core: &mut Forwarder, client: &Client, bytes: &mut [u8], tx: &mut Tx) {
    let len = dns::truncate_to_servfail(bytes);
    let local_ip = core.shared.pool.locals.get(client.local);
    let destination = tx.destination(client.front, client.addr, local_ip);
    if let Some(staged) = destination.and_then(|destination| tx.stage(destination, len)) {
        staged.copy_from_slice(&bytes[..len]);
        core.stats.servfail.add(1);
    }
}

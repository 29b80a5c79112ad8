//! Matching of DNS: each port has many queries in flight, each under an id drawn at random.
//!
//! A response counts only if its port, server, id and question are those of the query. Any other datagram is
//! counted as dropped, and the query stays open. An error may leave the question out ([`Asked`]). A query
//! whose response could not be matched gets a format error.

use super::forward::{DatagramPurpose, Forwarder, Way};
use super::in_flight::InFlight;
use super::late::LateQueries;
use super::own_answers::{FormatErrors, answer};
use super::queries::{Place, QueryTable};
use super::request::{DatagramClient, DatagramRequest, Handled, Response};
use super::settings::UNANSWERED_REST;
use super::shared::DatagramMember;
use crate::base::batch::{SocketId, Tx};
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::select::Slot;
use crate::wire::dns::{self, Asked, Malformed, OwnAnswer, QuestionKey};

/// Maximum number of queries in flight at one worker.
const QUERIES_MAX: usize = 65_536;
/// OPCODE of an ordinary query (RFC 1035), the only kind that may be sent to two servers without being asked.
const OPCODE_QUERY: u8 = 0;
/// OPCODE of a NOTIFY (RFC 1996).
const OPCODE_NOTIFY: u8 = 4;

/// A query in flight.
struct OpenQuery {
    /// The client; `None` of a shadow query.
    client: Option<DatagramClient>,
    client_id: u16,
    slot: Slot,
    /// The epoch of the server, which tells it from earlier servers of the slot.
    epoch: u32,
    asked: Asked,
    sent: Instant,
}

/// A query to send.
struct OutgoingQuery {
    /// What its response must match.
    asked: Asked,
    /// The server that was reserved for it.
    server: (Slot, DatagramMember),
    /// [`DatagramPurpose::Request`], or [`DatagramPurpose::Shadow`] of a copy that only shows whether the
    /// server lives.
    purpose: DatagramPurpose,
}

/// The queries of one worker.
pub(super) struct DnsMatching {
    queries: QueryTable<OpenQuery>,
    late: LateQueries<OpenQuery>,
    key: QuestionKey,
    /// The index of this turn's port, in each address family. It is drawn in each turn, so an attacker does
    /// not know it, and all queries of a turn to one server still leave as one message.
    port: u16,
    format_errors: FormatErrors,
    /// Queries above the rate of their source, since one of them was answered.
    above_rate: u32,
}

impl DnsMatching {
    pub fn new(core: &Forwarder, secret: [u8; 16]) -> Self {
        let ports = core.sockets.v4.len() + core.sockets.v6.len();
        DnsMatching {
            queries: QueryTable::new(QUERIES_MAX, ports),
            late: LateQueries::new(),
            key: QuestionKey::new(secret),
            port: 0,
            format_errors: FormatErrors::new(),
            above_rate: 0,
        }
    }

    /// Touches the memory of the table, which is empty yet.
    pub fn fault_in(&mut self) {
        self.queries.fault_in();
    }

    /// Begins a turn: draws its port.
    pub fn begin(&mut self, core: &mut Forwarder) {
        let ports = core.sockets.v4.len().max(core.sockets.v6.len());
        self.port = core.secret_rng.below(ports as u16);
    }

    /// Sends or queues a client's query, or refuses it.
    pub fn on_client(
        &mut self,
        core: &mut Forwarder,
        mut request: DatagramRequest<'_>,
        tx: &mut Tx,
    ) -> Handled {
        let asked = match Asked::of(request.bytes, &self.key) {
            Ok(asked) => asked,
            Err(Malformed::Response) => return Err(DropReason::AnAnswer),
            Err(malformed) => {
                if malformed == Malformed::Question
                    && self.format_errors.allows(request.client.addr, request.now)
                {
                    answer(core, &mut request, OwnAnswer::NotOneQuestion, tx);
                }
                return Err(DropReason::Malformed);
            }
        };
        let server = match core.reserve_in_turn() {
            Ok(server) => server,
            Err(reason) => {
                self.notify_others(core, &mut request, asked, None, tx);
                let is_queued = reason == DropReason::ServersFull && core.queue(&request).is_ok();
                self.try_out(core, &mut request, asked, tx);
                if is_queued {
                    return Ok(());
                }
                refuse(core, &mut request, reason, tx);
                return Err(reason);
            }
        };
        let query = OutgoingQuery { asked, server, purpose: DatagramPurpose::Request };
        if let Err(reason) = self.send(core, &mut request, query, tx) {
            core.release(server.0);
            refuse(core, &mut request, reason, tx);
            return Err(reason);
        }
        self.notify_others(core, &mut request, asked, Some(server.0), tx);
        self.try_out(core, &mut request, asked, tx);
        Ok(())
    }

    /// Answers every n-th query above the rate of its source with TC. An honest client repeats it over TCP; a
    /// forged source gains nothing, since the answer is not longer than the query.
    pub fn on_above_rate(&mut self, core: &mut Forwarder, mut request: DatagramRequest<'_>, tx: &mut Tx) {
        let is_query = dns::query(request.bytes).is_ok() && dns::opcode(request.bytes) == OPCODE_QUERY;
        if !is_query {
            return;
        }
        self.above_rate += 1;
        if self.above_rate >= core.settings.rate_limit_truncate {
            self.above_rate = 0;
            answer(core, &mut request, OwnAnswer::Truncated, tx);
        }
    }

    /// Sends copies of a NOTIFY to the other servers, if all of them must hear it. Their responses reach no
    /// client.
    fn notify_others(
        &mut self,
        core: &mut Forwarder,
        request: &mut DatagramRequest<'_>,
        asked: Asked,
        except: Option<Slot>,
        tx: &mut Tx,
    ) {
        if !core.settings.notify_all || dns::opcode(request.bytes) != OPCODE_NOTIFY {
            return;
        }
        let (id, at) = (dns::id(request.bytes), request.at.take());
        for slot in (0..core.view.slot_count()).map(Slot::new).filter(|slot| Some(*slot) != except) {
            let Some(member) = core.reserve_member(slot) else { continue };
            let query = OutgoingQuery { asked, server: (slot, member), purpose: DatagramPurpose::Shadow };
            if self.send(core, request, query, tx).is_err() {
                core.release(slot);
                break; // the turn or the table is full
            }
        }
        request.at = at;
        dns::set_id(request.bytes, id);
    }

    /// Sends a queued query to the server that was reserved for it.
    pub fn send_pending(
        &mut self,
        core: &mut Forwarder,
        mut request: DatagramRequest<'_>,
        server: (Slot, DatagramMember),
        tx: &mut Tx,
    ) -> Handled {
        let asked = Asked::of(request.bytes, &self.key).map_err(|_| DropReason::Malformed);
        let sent = asked.and_then(|asked| {
            let query = OutgoingQuery { asked, server, purpose: DatagramPurpose::Request };
            self.send(core, &mut request, query, tx)
        });
        if let Err(reason) = sent {
            core.release(server.0);
            refuse(core, &mut request, reason, tx);
            return Err(reason);
        }
        Ok(())
    }

    /// Sends a shadow query to the server that needs a trial request, if there is one: no client waits for a
    /// response that may never arrive. The query itself is unmodified.
    fn try_out(
        &mut self,
        core: &mut Forwarder,
        request: &mut DatagramRequest<'_>,
        asked: Asked,
        tx: &mut Tx,
    ) {
        if dns::opcode(request.bytes) != OPCODE_QUERY {
            return; // an update, for example, must not be applied twice
        }
        let Some(server) = core.reserve_for_trial() else { return };
        let id = dns::id(request.bytes);
        let at = request.at.take();
        let query = OutgoingQuery { asked, server, purpose: DatagramPurpose::Shadow };
        if self.send(core, request, query, tx).is_err() {
            core.release(server.0); // the next query can be the trial
        }
        request.at = at;
        dns::set_id(request.bytes, id);
    }

    /// Sends a query under a new id, which is in its bytes afterwards. A query that cannot be sent keeps its
    /// id.
    fn send(
        &mut self,
        core: &mut Forwarder,
        request: &mut DatagramRequest<'_>,
        query: OutgoingQuery,
        tx: &mut Tx,
    ) -> Handled {
        let OutgoingQuery { asked, server: (slot, DatagramMember { addr: server, epoch, .. }), purpose } =
            query;
        let ports = core.ports_to(server);
        let from = SocketId(ports.start + self.port % (ports.len() as u16).max(1));
        let number = from.0 - core.sockets.v4.start;
        let (client_id, sent) = (dns::id(request.bytes), request.now);
        let client = (purpose == DatagramPurpose::Request).then_some(request.client);
        let query = OpenQuery { client, client_id, slot, epoch, asked, sent };
        let place =
            self.queries.insert(sent, number, &mut core.secret_rng, query).ok_or(DropReason::TableFull)?;
        dns::set_id(request.bytes, place.id);
        let forwarded = core.forward(request, &Way { slot, server, from, purpose }, tx);
        if forwarded.is_err() {
            self.queries.remove(place);
            dns::set_id(request.bytes, client_id);
        }
        forwarded
    }

    /// Handles a datagram that arrived at a server-side port.
    pub fn on_server(&mut self, core: &mut Forwarder, response: Response<'_>, tx: &mut Tx) -> Handled {
        let Response { peer, socket, bytes, at, now } = response;
        if bytes.len() < dns::HEADER_LEN {
            return Err(DropReason::Malformed);
        }
        let place = Place { port: socket.0 - core.sockets.v4.start, id: dns::id(bytes) };
        let is_of = |query: &OpenQuery, core: &Forwarder| {
            core.view.get(query.slot).is_some_and(|member| member.epoch == query.epoch && member.is_at(peer))
        };
        let Some(query) = self.queries.get(place) else {
            let is_answer =
                |query: &OpenQuery| is_of(query, core) && query.asked.check(bytes, &self.key).is_ok();
            if let Some(query) = self.late.take(now, place, is_answer) {
                core.hear(query.slot); // too late for its query, but a liveness signal
            }
            return Err(core.view.slot_of(peer).map_or(DropReason::WrongSource, |_| DropReason::NotOpen));
        };
        if !is_of(query, core) {
            return Err(DropReason::WrongSource);
        }
        query.asked.check(bytes, &self.key)?;
        let (slot, sent, client) = (query.slot, query.sent, query.client);
        if let Some(client) = client {
            dns::set_id(bytes, query.client_id);
            let is_failure = dns::is_failure(bytes);
            core.send_to_client(slot, &client, at, tx)?;
            match is_failure {
                true => core.take_failure(now, slot, sent),
                false => core.take_answer(now, slot, sent),
            }
        } else {
            core.settle(slot);
            core.count_answer(slot);
            core.hear(slot);
        }
        self.queries.remove(place);
        Ok(())
    }

    /// Ends the queries whose timeout is over.
    pub fn expire(&mut self, core: &mut Forwarder, now: Instant) {
        while let Some((place, sent)) = self.queries.oldest()
            && sent + core.settings.timeout <= now
        {
            let Some(query) = self.queries.remove(place) else { return };
            match query.client {
                Some(_) => core.give_up(query.slot, true),
                None => {
                    core.settle(query.slot);
                    core.lose(query.slot);
                }
            }
            self.late.keep(now + core.settings.timeout * UNANSWERED_REST, place, query);
        }
    }

    /// Panics, with the numbers, if what must hold between two turns does not. Counts the queries in flight,
    /// for a pool with `slots` slots.
    pub fn check_invariants(&self, slots: usize) -> InFlight {
        self.queries.check_invariants();
        let mut in_flight = InFlight::none(slots);
        for query in self.queries.iter() {
            in_flight.owed[query.slot.index()] += 1;
            in_flight.held[query.slot.index()] += 1;
            in_flight.requests += u64::from(query.client.is_some());
        }
        in_flight
    }

    #[cfg(test)]
    pub fn check_index(&self) {
        self.queries.check_index();
    }

    /// The time at which the oldest query times out; `None` without queries.
    pub fn next_deadline(&self, core: &Forwarder) -> Option<Instant> {
        self.queries.oldest().map(|(_, sent)| sent + core.settings.timeout)
    }
}

/// Tells the client at once that its query is not served, so that it tries another server instead of waiting.
fn refuse(core: &mut Forwarder, request: &mut DatagramRequest<'_>, reason: DropReason, tx: &mut Tx) {
    let own = match reason {
        DropReason::NoServer => OwnAnswer::NoServer,
        DropReason::ServersFull => OwnAnswer::ServersFull,
        DropReason::TableFull => OwnAnswer::TableFull,
        _ => return, // the turn is full
    };
    answer(core, request, own, tx);
}

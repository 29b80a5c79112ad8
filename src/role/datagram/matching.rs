//! Matching of responses with requests: the two kinds behind one interface.

use super::by_port::ByPort;
use super::dns::DnsMatching;
use super::forward::Forwarder;
use super::handover::{Flow, RestingPair};
use super::in_flight::InFlight;
use super::own_answers;
use super::request::{DatagramRequest, Handled, Response};
use super::settings::Protocol;
use super::shared::DatagramMember;
use crate::base::batch::Tx;
use crate::base::time::Instant;
use crate::pool::select::Slot;
use crate::wire::dns::OwnAnswer;

/// One worker's table of requests or flows in flight.
pub(super) enum Matching {
    /// By id, server and question.
    Dns(Box<DnsMatching>),
    /// By port and server.
    ByPort(Box<ByPort>),
}

impl Matching {
    /// An empty table. Each protocol has its own key.
    pub fn new(core: &Forwarder, dns_key: [u8; 16], by_port_key: [u8; 16]) -> Self {
        match core.settings.protocol {
            Protocol::Dns => Matching::Dns(Box::new(DnsMatching::new(core, dns_key))),
            Protocol::Datagram => Matching::ByPort(Box::new(ByPort::new(core, by_port_key))),
        }
    }

    /// Adopts new settings of the pool.
    pub fn adopt(&mut self, core: &Forwarder) {
        if let Matching::ByPort(by_port) = self {
            by_port.adopt(core);
        }
    }

    /// Touches the memory of the tables, which are empty yet.
    pub fn fault_in(&mut self) {
        match self {
            Matching::Dns(dns) => dns.fault_in(),
            Matching::ByPort(by_port) => by_port.fault_in(),
        }
    }

    /// Begins a turn.
    pub fn begin(&mut self, core: &mut Forwarder) {
        match self {
            Matching::Dns(dns) => dns.begin(core),
            Matching::ByPort(by_port) => by_port.begin(),
        }
    }

    /// Sends or queues a client's datagram, or refuses it.
    pub fn on_client(&mut self, core: &mut Forwarder, request: DatagramRequest<'_>, tx: &mut Tx) -> Handled {
        match self {
            Matching::Dns(dns) => dns.on_client(core, request, tx),
            Matching::ByPort(by_port) => by_port.on_client(core, request, tx),
        }
    }

    /// Whether some of the requests above the rate of their source are answered.
    pub fn answers_above_rate(&self, core: &Forwarder) -> bool {
        matches!(self, Matching::Dns(_)) && core.settings.rate_limit_truncate > 0
    }

    /// Answers a request above the rate of its source now and then.
    pub fn on_above_rate(&mut self, core: &mut Forwarder, request: DatagramRequest<'_>, tx: &mut Tx) {
        if let Matching::Dns(dns) = self {
            dns.on_above_rate(core, request, tx);
        }
    }

    /// Sends a queued request to the server that was reserved for it.
    pub fn send_pending(
        &mut self,
        core: &mut Forwarder,
        request: DatagramRequest<'_>,
        server: (Slot, DatagramMember),
        tx: &mut Tx,
    ) -> Handled {
        match self {
            Matching::Dns(dns) => dns.send_pending(core, request, server, tx),
            Matching::ByPort(by_port) => by_port.send_request(core, request, server, tx),
        }
    }

    /// Refuses a queued request, if the protocol has a refusal.
    pub fn refuse_pending(
        &mut self,
        core: &mut Forwarder,
        mut request: DatagramRequest<'_>,
        answer: OwnAnswer,
        tx: &mut Tx,
    ) {
        if let Matching::Dns(_) = self {
            own_answers::answer(core, &mut request, answer, tx);
        }
    }

    /// Handles a datagram that arrived at a server-side socket.
    pub fn on_server(&mut self, core: &mut Forwarder, response: Response<'_>, tx: &mut Tx) -> Handled {
        match self {
            Matching::Dns(dns) => dns.on_server(core, response, tx),
            Matching::ByPort(by_port) => by_port.on_server(core, response, tx),
        }
    }

    /// Ends requests whose timeout is over, and idle flows.
    pub fn expire(&mut self, core: &mut Forwarder, now: Instant) {
        match self {
            Matching::Dns(dns) => dns.expire(core, now),
            Matching::ByPort(by_port) => by_port.expire(core, now),
        }
    }

    /// The time at which [`Matching::expire`] has something to do.
    pub fn next_deadline(&self, core: &Forwarder) -> Option<Instant> {
        match self {
            Matching::Dns(dns) => dns.next_deadline(core),
            Matching::ByPort(by_port) => by_port.next_deadline(core),
        }
    }

    /// Measures the quarantine of answered pairs. Once a second.
    pub fn measure(&mut self, core: &Forwarder) {
        if let Matching::ByPort(by_port) = self {
            by_port.measure_hold(core);
        }
    }

    /// The time of the last datagram of a flow; `None` without flows.
    pub fn last_flow(&self) -> Option<Instant> {
        match self {
            Matching::Dns(_) => None,
            Matching::ByPort(by_port) => by_port.last_flow(),
        }
    }

    /// Panics, with the numbers, if what must hold between two turns does not. Counts what is in flight, for
    /// a pool with `slots` slots.
    pub fn check_invariants(&self, slots: usize) -> InFlight {
        match self {
            Matching::Dns(dns) => dns.check_invariants(slots),
            Matching::ByPort(by_port) => by_port.check_invariants(slots),
        }
    }

    /// The flows, for a successor.
    pub fn export(&self, core: &Forwarder, now: Instant) -> Vec<Flow> {
        match self {
            Matching::Dns(_) => vec![],
            Matching::ByPort(by_port) => by_port.export(core, now),
        }
    }

    /// The pairs of flows that rest, for a successor that reads the same ports.
    pub fn export_resting(&self, core: &Forwarder, now: Instant) -> Vec<RestingPair> {
        match self {
            Matching::Dns(_) => vec![],
            Matching::ByPort(by_port) => by_port.export_resting(core, now),
        }
    }

    /// The table of flows; `None` for another matching.
    pub fn by_port(&mut self) -> Option<&mut ByPort> {
        match self {
            Matching::Dns(_) => None,
            Matching::ByPort(by_port) => Some(by_port),
        }
    }
}

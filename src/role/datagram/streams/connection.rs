//! Connections and queries, as the TCP side remembers them.

use std::net::SocketAddr;
use std::time::Duration;

use super::ids::Ids;
use super::{PIPELINE_MAX, UNSENT_MAX};
use crate::base::lru_slab::Key;
use crate::base::time::Instant;
use crate::pool::select::Slot;
use crate::wire::dns::Asked;
use crate::wire::dns::records::TransferProgress;
use crate::wire::dns::stream::{ByteQueue, first_message};

/// Identifies a connection. Unique: the generation tells it from earlier connections with its key.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ConnectionId {
    /// A client's connection.
    Client {
        /// Its place in the table of clients.
        key: Key,
        /// Its number.
        generation: u32,
    },
    /// A connection to a server.
    Server {
        /// Its place in the table of connections to servers.
        key: Key,
        /// Its number.
        generation: u32,
    },
}

/// What a driver must do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Action {
    /// Connect to a server.
    Connect(ConnectionId, SocketAddr),
    /// Send the unsent bytes of a connection.
    Send(ConnectionId),
    /// Read the connection again.
    Resume(ConnectionId),
    /// Close the connection.
    Close(ConnectionId),
}

/// A client's connection.
#[derive(Debug)]
pub(super) struct Client {
    pub generation: u32,
    pub peer: SocketAddr,
    /// The address to which it is connected.
    pub local: SocketAddr,
    /// Received bytes of queries that were not taken.
    pub held: ByteQueue,
    /// Unsent bytes.
    pub out: ByteQueue,
    /// Queries without their last answer.
    pub open: u32,
    /// Their bytes.
    pub asked: usize,
    /// Connections to servers that serve only this client.
    pub owned: Vec<Key>,
    /// Bytes of its buffers that are in the sum.
    pub buffered: usize,
    /// The client sends nothing more.
    pub is_ended: bool,
    /// No more queries are taken.
    pub is_cut: bool,
    pub is_paused: bool,
    pub is_busy: bool,
    pub is_changed: bool,
    /// Whether [`Action::Send`] is among the actions.
    pub has_send: bool,
}

impl Client {
    pub fn new(generation: u32, peer: SocketAddr, local: SocketAddr) -> Client {
        Client {
            generation,
            peer,
            local,
            held: ByteQueue::default(),
            out: ByteQueue::default(),
            open: 0,
            asked: 0,
            owned: vec![],
            buffered: 0,
            is_ended: false,
            is_cut: false,
            is_paused: false,
            is_busy: false,
            is_changed: false,
            has_send: false,
        }
    }

    /// Whether its next query is taken.
    pub fn may_ask(&self) -> bool {
        !self.is_cut && self.open < PIPELINE_MAX && self.out.len() < UNSENT_MAX
    }

    /// Whether more bytes are of use: not while a whole query waits to be taken.
    pub fn wants_bytes(&self) -> bool {
        self.may_ask() && !self.is_ended && first_message(self.held.bytes()).is_none()
    }

    /// Takes no more queries.
    pub fn cut(&mut self) {
        self.is_ended = true;
        self.is_cut = true;
    }

    /// Whether all is done that the client asked for.
    pub fn is_over(&self) -> bool {
        self.is_ended && self.open == 0 && self.out.is_empty() && {
            self.is_cut || first_message(self.held.bytes()).is_none()
        }
    }
}

/// A connection to a server.
#[derive(Debug)]
pub(super) struct Upstream {
    pub generation: u32,
    pub slot: Slot,
    /// The server's registration.
    pub epoch: u32,
    /// The only client that it serves; `None`: any client.
    pub owner: Option<ConnectionId>,
    /// Whether it carries one zone transfer.
    pub is_transfer: bool,
    pub is_connected: bool,
    /// Whether the server has sent an answer.
    pub has_answered: bool,
    /// A query on it was not answered in time: it takes no more.
    pub is_condemned: bool,
    pub is_paused: bool,
    /// Whether [`Action::Send`] is among the actions.
    pub has_send: bool,
    pub held: ByteQueue,
    pub out: ByteQueue,
    pub ids: Ids,
    /// When the server last sent bytes.
    pub heard_at: Instant,
}

/// The connections to one server.
#[derive(Debug, Default)]
pub(super) struct ServerConnections {
    /// Those that serve any client.
    pub shared: Vec<Key>,
    /// Until then it is avoided: it did not accept connections, or closed them without an answer.
    pub avoided_until: Instant,
    pub pause: Duration,
}

/// Where a query is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// Nowhere yet.
    New,
    /// In the queue, with its turn: see [`crate::role::datagram::StreamLink`].
    Queued { turn: u64 },
    /// On a connection to a server.
    Sent { slot: Slot, upstream: Key, id: u16, at: Instant },
}

/// A query of a client.
#[derive(Debug)]
pub(super) struct StreamQuery {
    pub client: ConnectionId,
    pub client_id: u16,
    /// What its answers must match.
    pub asked: Asked,
    /// Of a zone transfer: how far it is.
    pub transfer: Option<TransferProgress>,
    pub bytes: Vec<u8>,
    pub place: Place,
    pub arrived: Instant,
    /// Whether a server may get it after another one got it.
    pub is_repeatable: bool,
    /// Whether its first answer has arrived.
    pub is_answered: bool,
    /// Servers to which it was sent without an answer.
    pub tries: u8,
}

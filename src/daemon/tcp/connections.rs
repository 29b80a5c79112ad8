//! The open connections of a pool's TCP side, with their tasks.

use std::cell::Cell;
use std::rc::Rc;

use tokio::net::TcpStream;
use tokio::sync::Notify;
use tokio::task::AbortHandle;

use crate::base::lru_slab::Key;
use crate::role::datagram::streams::ConnectionId;

/// A connected socket.
pub(super) struct Connection {
    pub stream: TcpStream,
    /// Wakes its reader, which waits while nothing more may be read.
    pub resume: Notify,
    /// Whether a task waits until it can be written to.
    pub is_blocked: Cell<bool>,
}

impl Connection {
    pub fn new(stream: TcpStream) -> Connection {
        Connection { stream, resume: Notify::new(), is_blocked: Cell::new(false) }
    }
}

struct Entry {
    generation: u32,
    /// `None` until it is connected.
    connection: Option<Rc<Connection>>,
    reader: AbortHandle,
    sender: Option<AbortHandle>,
}

/// All of them, by key.
#[derive(Default)]
pub(super) struct Connections {
    clients: Vec<Option<Entry>>,
    servers: Vec<Option<Entry>>,
}

impl Connections {
    pub fn insert(&mut self, id: ConnectionId, connection: Option<Rc<Connection>>, reader: AbortHandle) {
        let (entries, key, generation) = self.place(id);
        if entries.len() <= key.index() {
            entries.resize_with(key.index() + 1, || None);
        }
        entries[key.index()] = Some(Entry { generation, connection, reader, sender: None });
    }

    pub fn connected(&mut self, id: ConnectionId, connection: Rc<Connection>) {
        if let Some(entry) = self.entry(id) {
            entry.connection = Some(connection);
        }
    }

    /// Sets the task that sends what the socket did not take.
    pub fn set_sender(&mut self, id: ConnectionId, sender: AbortHandle) {
        if let Some(entry) = self.entry(id) {
            entry.sender = Some(sender);
        }
    }

    pub fn get(&self, id: ConnectionId) -> Option<Rc<Connection>> {
        let (entries, key, generation) = match id {
            ConnectionId::Client { key, generation } => (&self.clients, key, generation),
            ConnectionId::Server { key, generation } => (&self.servers, key, generation),
        };
        let entry = entries.get(key.index())?.as_ref()?;
        entry.connection.clone().filter(|_| entry.generation == generation)
    }

    /// Removes a connection and ends its tasks.
    pub fn remove(&mut self, id: ConnectionId) -> Option<Rc<Connection>> {
        self.entry(id)?;
        let (entries, key, _) = self.place(id);
        let entry = entries[key.index()].take()?;
        entry.reader.abort();
        if let Some(sender) = entry.sender {
            sender.abort();
        }
        entry.connection
    }

    fn entry(&mut self, id: ConnectionId) -> Option<&mut Entry> {
        let (entries, key, generation) = self.place(id);
        entries.get_mut(key.index())?.as_mut().filter(|entry| entry.generation == generation)
    }

    fn place(&mut self, id: ConnectionId) -> (&mut Vec<Option<Entry>>, Key, u32) {
        match id {
            ConnectionId::Client { key, generation } => (&mut self.clients, key, generation),
            ConnectionId::Server { key, generation } => (&mut self.servers, key, generation),
        }
    }
}

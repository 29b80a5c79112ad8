//! The servers that a datagram pool should have, from its two sources.

use std::sync::{Arc, Mutex};

use crate::pool::desired::DesiredServer;
use crate::role::datagram::DatagramShared;

/// The desired servers of a datagram pool: those of the configuration, and those that a controller runs.
pub struct DesiredServers {
    pool: Arc<DatagramShared>,
    wanted: Mutex<[Vec<DesiredServer>; 2]>,
}

impl DesiredServers {
    /// No servers yet.
    pub fn new(pool: Arc<DatagramShared>) -> Self {
        DesiredServers { pool, wanted: Mutex::default() }
    }

    /// Replaces the servers of the configuration.
    pub fn set_named(&self, servers: Vec<DesiredServer>) {
        self.set(0, servers);
    }

    /// Replaces the servers that a controller runs.
    pub fn set_run(&self, servers: Vec<DesiredServer>) {
        self.set(1, servers);
    }

    /// The servers that a controller runs.
    pub fn run(&self) -> Vec<DesiredServer> {
        self.wanted.lock().expect("no panic while it is held")[1].clone()
    }

    /// The ids of the configuration's servers.
    pub fn named_ids(&self) -> Vec<u32> {
        let wanted = self.wanted.lock().expect("no panic while it is held");
        wanted[0].iter().map(|server| server.id).collect()
    }

    /// Publishes the desired servers with these ones at the end.
    pub fn publish(&self, also: Vec<DesiredServer>) {
        let wanted = self.wanted.lock().expect("no panic while it is held");
        self.pool.want([wanted.concat(), also].concat());
    }

    fn set(&self, source: usize, servers: Vec<DesiredServer>) {
        let mut wanted = self.wanted.lock().expect("no panic while it is held");
        wanted[source] = servers;
        // While the lock is held: the newest list is published last.
        self.pool.want(wanted.concat());
    }
}

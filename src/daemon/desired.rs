//! The servers that a pool should have, by who names them.

use std::sync::{Arc, Mutex};

use crate::pool::desired::DesiredServer;
use crate::role::datagram::Shared;

/// The servers that a pool shall have, by who wants them.
pub struct DesiredServers {
    pool: Arc<Shared>,
    wanted: Mutex<[Vec<DesiredServer>; 2]>,
}

impl DesiredServers {
    /// None yet.
    pub fn new(pool: Arc<Shared>) -> Self {
        DesiredServers { pool, wanted: Mutex::default() }
    }

    /// Those of the configuration, from now on.
    pub fn want_named(&self, servers: Vec<DesiredServer>) {
        self.want(0, servers);
    }

    /// Those that a controller runs, from now on.
    pub fn want_run(&self, servers: Vec<DesiredServer>) {
        self.want(1, servers);
    }

    /// Those that a controller runs.
    pub fn run(&self) -> Vec<DesiredServer> {
        self.wanted.lock().expect("no panic while it is held")[1].clone()
    }

    /// Ids of the configuration's servers.
    pub fn named_ids(&self) -> Vec<u32> {
        let wanted = self.wanted.lock().expect("no panic while it is held");
        wanted[0].iter().map(|server| server.id).collect()
    }

    fn want(&self, whose: usize, servers: Vec<DesiredServer>) {
        let mut wanted = self.wanted.lock().expect("no panic while it is held");
        wanted[whose] = servers;
        // With the lock held, so that the last wish is the last one heard.
        self.pool.want(wanted.concat());
    }
}

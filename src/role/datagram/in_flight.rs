//! What tables have in flight, counted for checks. Pure.

/// The requests and flows in one worker's table, to compare with the counts that are kept elsewhere.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct InFlight {
    /// By slot: the responses that the server owes.
    pub owed: Vec<u32>,
    /// By slot: the requests or flows in the server's queue.
    pub held: Vec<u32>,
    /// Requests of clients.
    pub requests: u64,
    pub flows: u64,
}

impl InFlight {
    pub fn none(slots: usize) -> Self {
        InFlight { owed: vec![0; slots], held: vec![0; slots], requests: 0, flows: 0 }
    }
}

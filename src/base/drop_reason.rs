//! Why a frame was not served. One name per reason, the same in code, logs and metrics.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! reasons {
    ($($(#[$doc:meta])* $variant:ident => $name:literal,)*) => {
        /// Why a frame was dropped in silence. Each drop is counted under its reason, never logged singly.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason { $($(#[$doc])* $variant,)* }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// The name in logs, metrics and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }
        }
    };
}

reasons! {
    /// The datagram is not a whole number of frames, or is empty.
    Length => "length",
    /// The frame does not start with the magic number.
    Magic => "magic",
    /// The frame's version is neither ours nor the one before.
    Version => "version",
    /// The frame's kind, mode, operation or state is not a known one.
    Kind => "kind",
    /// The frame says another frame size than this deployment's.
    FrameSize => "frame_size",
    /// The payload length does not fit the frame.
    PayloadLength => "payload_length",
    /// A valid frame of a kind or operation that this socket does not take: an answer, say, where requests arrive.
    Unexpected => "unexpected",
    /// The source port is 0, so nobody could be answered.
    SourcePort => "source_port",
    /// The sender is the balancer itself or one of its servers, where clients are expected.
    NotAClient => "not_a_client",
    /// The frame names a server slot that is not taken, or comes from another address than the slot's.
    WrongSource => "wrong_source",
    /// The cookie does not match: the balancer did not send this request there.
    Cookie => "cookie",
    /// A reply to this attempt was delivered already, or its place in the window is gone.
    Duplicate => "duplicate",
    /// The frame's tag is missing or wrong.
    Tag => "tag",
    /// The frame's counter was seen already, is too old, or belongs to another epoch.
    Replay => "replay",
    /// The nonce was not made here, or is too old.
    Nonce => "nonce",
    /// Counters of another epoch or registration, or an older report.
    Stale => "stale",
    /// A registration for a server id that a live server holds.
    IdTaken => "id_taken",
    /// A registration when all server slots are taken.
    SlotsFull => "slots_full",
    /// The request's deadline passed before it could be served.
    Expired => "expired",
    /// The repetition of a request that still waits in the balancer: one answer is for both.
    StillWaits => "still_waits",
    /// An answer to a request that is not open: it was answered, has expired, or was never sent.
    NotOpen => "not_open",
    /// The turn had no room for another frame.
    TurnFull => "turn_full",
    /// The sender is on the list of those who may not, or not on the list of those who may.
    Denied => "denied",
    /// The sender has sent more than one source may.
    Rate => "rate",
    /// Not a message of the pool's protocol.
    Malformed => "malformed",
    /// An answer where requests arrive.
    AnAnswer => "an_answer",
    /// An answer to another question than the one that was asked.
    WrongQuestion => "wrong_question",
    /// No server may be chosen.
    NoServer => "no_server",
    /// All servers have as many requests as they may.
    ServersFull => "servers_full",
    /// There is no room to remember another request.
    TableFull => "table_full",
    /// No port towards the server is free, or has rested for long enough.
    NoPort => "no_port",
    /// Flows that no server has answered have their share of the table.
    FlowsFull => "flows_full",
    /// A datagram of a server that nobody waits for.
    Unasked => "unasked",
    /// A datagram of a server after its port was given back.
    Late => "late",
    /// The request's mode is not served.
    Mode => "mode",
}

/// One counter per [`DropReason`]: a single writer adds, anybody reads.
#[derive(Debug)]
pub struct DropCounters([AtomicU64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        DropCounters(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl DropCounters {
    /// Counts `n` frames. One thread only: a plain load and store, no locked instruction.
    pub fn add(&self, reason: DropReason, n: u64) {
        let counter = &self.0[reason as usize];
        counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// How many frames were dropped for this reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// How many frames were dropped in all.
    pub fn total(&self) -> u64 {
        DropReason::ALL.iter().map(|&r| self.get(r)).sum()
    }

    /// The reasons that occurred, with their counts.
    pub fn nonzero(&self) -> impl Iterator<Item = (DropReason, u64)> + '_ {
        DropReason::ALL.iter().map(|&r| (r, self.get(r))).filter(|&(_, n)| n > 0)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_reason_has_its_own_counter_and_name() {
        let counters = DropCounters::default();
        for (i, &reason) in DropReason::ALL.iter().enumerate() {
            assert_eq!(reason as usize, i);
            counters.add(reason, i as u64);
        }
        let names: std::collections::HashSet<_> = DropReason::ALL.iter().map(|r| r.name()).collect();
        assert_eq!(names.len(), DropReason::ALL.len());
        assert_eq!(counters.nonzero().count(), DropReason::ALL.len() - 1);
        assert_eq!(counters.total(), (0..DropReason::ALL.len() as u64).sum::<u64>());
    }
}

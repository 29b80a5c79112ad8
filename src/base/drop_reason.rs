//! Reasons why a frame was not served. Code, logs and metrics use the same name for a reason.

use std::sync::atomic::{AtomicU64, Ordering};

macro_rules! reasons {
    ($($(#[doc = $doc:literal])* $variant:ident => $name:literal,)*) => {
        /// Why a frame was dropped without an answer. Drops are counted by reason and never logged one
        /// by one.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
        pub enum DropReason { $($(#[doc = $doc])* $variant,)* }

        impl DropReason {
            /// Every reason, in the order of the counters.
            pub const ALL: &'static [DropReason] = &[$(DropReason::$variant,)*];

            /// The name in logs, metrics and JSON.
            pub const fn name(self) -> &'static str {
                match self { $(DropReason::$variant => $name,)* }
            }

            /// The meaning as a sentence, for the log.
            pub fn meaning(self) -> &'static str {
                match self { $(DropReason::$variant => concat!($($doc),*).trim_start(),)* }
            }
        }
    };
}

reasons! {
    /// The datagram is not a whole number of frames, or is empty.
    Length => "length",
    /// The frame does not start with the magic number.
    Magic => "magic",
    /// The frame's version is neither the current nor the previous one.
    Version => "version",
    /// The frame's kind, mode, operation or state is unknown.
    Kind => "kind",
    /// The frame's size field differs from this deployment's frame size.
    FrameSize => "frame_size",
    /// The payload length exceeds the frame.
    PayloadLength => "payload_length",
    /// A valid frame of a kind or operation that this socket does not accept, such as a reply where
    /// requests arrive.
    Unexpected => "unexpected",
    /// The source port is 0, so no reply is possible.
    SourcePort => "source_port",
    /// The sender is the balancer itself or one of its servers, where clients are expected.
    NotAClient => "not_a_client",
    /// The frame names a free server slot, or comes from another address than the slot's.
    WrongSource => "wrong_source",
    /// The cookie does not match: the balancer did not send this request to that server.
    Cookie => "cookie",
    /// A reply to this attempt was already delivered, or its window entry was reused.
    Duplicate => "duplicate",
    /// The frame's tag is missing or wrong.
    Tag => "tag",
    /// The frame's counter was already seen, is too old, or belongs to another epoch.
    Replay => "replay",
    /// The nonce is not from this process, or is too old.
    Nonce => "nonce",
    /// Counters of another epoch or registration, or an older report.
    Stale => "stale",
    /// A registration for a server id that a live server has.
    IdTaken => "id_taken",
    /// A registration while all server slots are in use.
    SlotsFull => "slots_full",
    /// The request's deadline passed before it could be served.
    Expired => "expired",
    /// A retry of a request that is still queued in the balancer; one reply answers both.
    StillWaits => "still_waits",
    /// A response to a request that is not open: it was answered, has expired, or was never sent.
    NotOpen => "not_open",
    /// The turn had no room for another frame.
    TurnFull => "turn_full",
    /// The datagram exceeds the MTU of the interface towards its destination, although it holds one frame.
    TooLarge => "too_large",
    /// The access list denies the sender.
    Denied => "denied",
    /// The sender exceeds the per-source rate limit.
    Rate => "rate",
    /// A health check of this pool that has come back to it: a server leads back to the pool.
    Loop => "loop",
    /// Not a message of the pool's protocol.
    Malformed => "malformed",
    /// A response where requests arrive.
    AnAnswer => "an_answer",
    /// A response to another question than the one asked.
    WrongQuestion => "wrong_question",
    /// No server is eligible.
    NoServer => "no_server",
    /// All servers are at their concurrency limit.
    ServersFull => "servers_full",
    /// The table of open requests is full.
    TableFull => "table_full",
    /// No port towards the server is free, or out of quarantine.
    NoPort => "no_port",
    /// The table has no room for another flow of this source: it is nearly full, or flows without a response
    /// use their share, and no other source holds more.
    FlowsFull => "flows_full",
    /// The source has as many flows as one source may have.
    FlowsPerSource => "flows_per_source",
    /// A server's datagram that belongs to no open request.
    Unasked => "unasked",
    /// A server's datagram for a port that was already released.
    Late => "late",
    /// A later datagram of a flow begins with a PROXY header, which only the balancer's first datagram may.
    ProxyHeader => "proxy_header",
    /// The request's mode is not served.
    Mode => "mode",
}

/// One counter per [`DropReason`]: a single thread writes, any thread reads.
#[derive(Debug)]
pub struct DropCounters([AtomicU64; DropReason::ALL.len()]);

impl Default for DropCounters {
    fn default() -> Self {
        DropCounters(std::array::from_fn(|_| AtomicU64::new(0)))
    }
}

impl DropCounters {
    /// Counts `n` frames. Only one thread may call it: it uses a plain load and store, no locked instruction.
    pub fn add(&self, reason: DropReason, n: u64) {
        let counter = &self.0[reason as usize];
        counter.store(counter.load(Ordering::Relaxed) + n, Ordering::Relaxed);
    }

    /// Number of frames dropped for this reason.
    pub fn get(&self, reason: DropReason) -> u64 {
        self.0[reason as usize].load(Ordering::Relaxed)
    }

    /// Number of frames dropped in total.
    pub fn total(&self) -> u64 {
        DropReason::ALL.iter().map(|&r| self.get(r)).sum()
    }

    /// Reasons with at least one drop, with their counts.
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
        assert_eq!(DropReason::Cookie.meaning().lines().count(), 1);
        for reason in DropReason::ALL {
            let meaning = reason.meaning();
            assert!(meaning.ends_with('.') && !meaning.contains("  "), "{meaning}");
        }
        assert_eq!(counters.nonzero().count(), DropReason::ALL.len() - 1);
        assert_eq!(counters.total(), (0..DropReason::ALL.len() as u64).sum::<u64>());
    }
}

//! Mistakes of an operator that a pool notices.

use serde::{Deserialize, Serialize};

use super::PoolSource;
use crate::base::drop_reason::DropReason;
use crate::base::time::Instant;
use crate::pool::stats::Reject;

/// A mistake that an operator can fix, seen in the last minute.
#[derive(Clone, Debug, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default)]
pub struct Problem {
    /// The kind: [`Problem::NAME`], or the drop reason `frame_size`, `version`, `tag`, `id_taken` or
    /// `slots_full`.
    pub kind: String,
    /// The problem and its remedy.
    pub text: String,
}

impl Problem {
    /// The kind of a host name without an address.
    pub const NAME: &str = "name";

    /// The mistake of a client or a server whose frames are dropped.
    fn of_peer(who: &str, reject: Reject) -> Problem {
        let Reject { reason, peer, their_size, our_size } = reject;
        let text = match reason {
            DropReason::FrameSize => format!(
                "{who} {peer} uses frame_size {their_size}, this pool {our_size}; set the same frame_size on \
                 both sides"
            ),
            DropReason::Version => format!("{who} {peer} uses another version of the frames; update it"),
            DropReason::Tag => {
                format!(
                    "frames of {who} {peer} have a wrong tag; use the same key_file and frame_size on both \
                     sides"
                )
            }
            DropReason::IdTaken => {
                format!("{who} {peer} registers with the id of a live server; give it another id")
            }
            DropReason::SlotsFull => format!("{who} {peer} finds no free slot; raise servers_max"),
            _ => format!("frames of {who} {peer} are dropped: {}", reason.meaning()),
        };
        Problem { kind: reason.name().to_owned(), text }
    }
}

impl PoolSource {
    /// The problems of the pool now; at most one of each kind for clients and for servers.
    pub(super) fn problems(&self, now: Instant) -> Vec<Problem> {
        match self {
            PoolSource::Native { workers, .. } => {
                let client = workers.iter().find_map(|stats| stats.rejected_clients.lasting(now));
                let server = workers.iter().find_map(|stats| stats.rejected_servers.lasting(now));
                let client = client.map(|reject| Problem::of_peer("client", reject));
                client.into_iter().chain(server.map(|reject| Problem::of_peer("server", reject))).collect()
            }
            PoolSource::Datagram(pool) => {
                let unresolved = pool.unresolved();
                let problem = |text| Problem { kind: Problem::NAME.to_owned(), text };
                unresolved.map(problem).into_iter().collect()
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;
    use std::time::Duration;

    use super::*;
    use crate::pool::stats::NativeStats;

    #[test]
    fn a_rejected_peer_is_named_with_the_remedy() {
        let stats = Arc::new(NativeStats::new(1));
        let source = PoolSource::Native { name: "native".into(), workers: vec![Arc::clone(&stats)] };
        let start = Instant::from_nanos(1);
        assert_eq!(source.problems(start), []);
        let reject = Reject {
            reason: DropReason::FrameSize,
            peer: ([127, 0, 0, 1], 5).into(),
            their_size: 512,
            our_size: 256,
        };
        for seconds in [0, 2] {
            stats.rejected_servers.note(start + Duration::from_secs(seconds), reject);
        }
        let [problem] = &source.problems(start + Duration::from_secs(2))[..] else { panic!("one problem") };
        assert_eq!(problem.kind, "frame_size");
        let words = ["server 127.0.0.1:5 uses frame_size 512, this pool 256", "set the same frame_size"];
        assert!(words.iter().all(|words| problem.text.contains(words)), "{problem:?}");
    }
}

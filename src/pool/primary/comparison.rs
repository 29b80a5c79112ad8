//! The comparison of a pool's servers by the share of their requests that fail, and what follows from it.

use super::{Pool, Primary, Server};
use crate::base::time::Instant;
use crate::pool::health::State;
use crate::pool::outlier::{Observed, Outcomes, Verdict};
use crate::pool::select::Slot;

impl<P: Pool> Primary<P> {
    /// Compares the servers, if it is time. `outcomes` gives those of a server's requests, `None` if they are
    /// not seen. `failures` names in a log line what counts as failed, such as "no reply".
    pub fn compare(
        &mut self,
        now: Instant,
        failures: &str,
        mut outcomes: impl FnMut(Slot, &Server<P::Extra>) -> Option<Outcomes>,
    ) {
        if !self.outliers.is_due(now) {
            return;
        }
        let Primary { registry, outliers, verdicts, .. } = self;
        let observe = |slot: Slot| {
            let server = registry.get(slot)?;
            let state = server.health.state();
            if !matches!(state, State::Up | State::Suspect) {
                return None;
            }
            let identity = P::epoch(&server.extra).into();
            Some(Observed { identity, outcomes: outcomes(slot, server)?, is_peer: state == State::Up })
        };
        outliers.sample(now, observe, |slot, verdict| verdicts.push((slot, verdict)));
        let mut verdicts = std::mem::take(&mut self.verdicts);
        for (slot, verdict) in verdicts.drain(..) {
            self.on_verdict(now, slot, verdict, failures);
        }
        self.verdicts = verdicts;
    }

    fn on_verdict(&mut self, now: Instant, slot: Slot, verdict: Verdict, failures: &str) {
        self.avoided[slot.index()] = verdict == Verdict::Avoided;
        match verdict {
            Verdict::Avoided | Verdict::Tried => {}
            Verdict::Doubted { share, of } => {
                let reason = format!("{:.0} % of its last {of} requests failed ({failures})", share * 100.0);
                self.doubt(now, slot, true, reason);
            }
            Verdict::OnTrial => self.doubt(now, slot, false, "on trial after failed requests".to_owned()),
            Verdict::Forgotten => self.doubt(now, slot, false, "no longer compared with others".to_owned()),
        }
        self.publish(now, slot);
    }
}

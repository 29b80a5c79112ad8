//! Log lines about mistakes of an operator, and about the first drop of each reason. The thread that takes
//! the snapshots writes them, so the data path logs nothing.

use std::collections::{BTreeMap, BTreeSet};

use tracing::{info, warn};

use crate::admin::status::{EventKind, EventLog, PoolStatus, Problem, Status};
use crate::base::drop_reason::DropReason;
use crate::base::seldom::Seldom;
use crate::base::time::Instant;

/// What was logged so far.
#[derive(Default)]
pub struct Mistakes {
    /// Pools and reasons of drops, and of refusals.
    drops: BTreeSet<(String, String)>,
    refusals: BTreeSet<(String, String)>,
    /// When a problem of a pool was logged, by kind, while it lasts.
    problems: BTreeMap<(String, String), Seldom>,
}

impl Mistakes {
    /// Logs what is new in a status: each reason once, each problem at once and then every minute.
    pub fn note(&mut self, status: &Status, now: Instant, events: &EventLog) {
        for pool in &status.pools {
            self.note_reasons(pool);
            for problem in &pool.problems {
                self.note_problem(&pool.name, problem, now, events);
            }
        }
        self.problems.retain(|(name, kind), _| {
            let pool = status.pool(name);
            pool.is_some_and(|pool| pool.problems.iter().any(|problem| problem.kind == *kind))
        });
    }

    fn note_reasons(&mut self, pool: &PoolStatus) {
        let meaning = |name: &str| {
            let reason = DropReason::ALL.iter().find(|reason| reason.name() == name);
            reason.map_or("", |reason| reason.meaning())
        };
        let name = &pool.name;
        for (reason, &count) in pool.dropped.iter().filter(|(_, count)| **count > 0) {
            if self.drops.insert((name.clone(), reason.clone())) {
                info!(pool = name, reason, count, meaning = meaning(reason), "first drop of reason");
            }
        }
        for (reason, &count) in pool.refused.iter().filter(|(_, count)| **count > 0) {
            if self.refusals.insert((name.clone(), reason.clone())) {
                info!(pool = name, reason, count, meaning = meaning(reason), "first refusal of reason");
            }
        }
    }

    fn note_problem(&mut self, pool: &str, problem: &Problem, now: Instant, events: &EventLog) {
        let Problem { kind, text } = problem;
        let key = (pool.to_owned(), kind.clone());
        let is_new = !self.problems.contains_key(&key);
        // A failed look-up is logged by the task that repeats it.
        if self.problems.entry(key).or_default().is_due(now) && kind != Problem::NAME {
            warn!(pool, problem = kind, reason = text, "peer rejected repeatedly");
        }
        if is_new {
            events.note(EventKind::Notice, pool, None, text.as_str());
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    fn status(problems: &[&str], dropped: &[(&str, u64)]) -> Status {
        let problem = |kind: &&str| Problem { kind: (*kind).into(), text: format!("about {kind}") };
        let pool = PoolStatus {
            name: "native".into(),
            problems: problems.iter().map(problem).collect(),
            dropped: dropped.iter().map(|&(reason, count)| (reason.to_owned(), count)).collect(),
            ..PoolStatus::default()
        };
        Status { pools: vec![pool], ..Status::default() }
    }

    #[test]
    fn each_reason_and_each_problem_is_noted_once_while_it_lasts() {
        let (mut mistakes, events) = (Mistakes::default(), EventLog::default());
        let at = |seconds| Instant::from_nanos(1) + Duration::from_secs(seconds);
        let wrong = status(&["frame_size"], &[("length", 1), ("tag", 0)]);
        (0..200).for_each(|seconds| mistakes.note(&wrong, at(seconds), &events));
        let texts = || events.after(0).into_iter().map(|entry| entry.text).collect::<Vec<_>>();
        assert_eq!(texts(), ["about frame_size"], "one event, however long it lasts");
        let length = ("native".to_owned(), "length".to_owned());
        assert_eq!(mistakes.drops.iter().collect::<Vec<_>>(), [&length], "0 is no drop");
        mistakes.note(&status(&[], &[("length", 9)]), at(200), &events);
        assert!(mistakes.problems.is_empty());
        mistakes.note(&wrong, at(201), &events);
        assert_eq!(texts().len(), 2, "it came again");
    }
}

//! Tests without scaling requests: adoption, and servers that are withdrawn before they stop.
//! (`role/controller/tests.rs` tests restarts, ports and bounds with scaling requests.)

use super::*;
use proptest::prelude::*;

const NOW: Instant = Instant::from_nanos(5_000_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn bounds() -> Bounds {
    Bounds { count: 2, min: 1, max: 4, start_id: 1, ports: 50_000..50_006, leave: None }
}

fn place(id: u32, port: u16) -> Replica {
    Replica { id, port, ends: false }
}

fn actions(replicas: &mut Replicas) -> Vec<ReplicaAction> {
    std::iter::from_fn(|| replicas.poll_action()).collect()
}

fn deeds(replicas: &mut Replicas) -> Vec<ReplicaAction> {
    let mut actions = actions(replicas);
    actions.retain(|action| !matches!(action, ReplicaAction::Tell(_) | ReplicaAction::ReportEnd { .. }));
    actions
}

/// Executes the starts.
fn start_all(replicas: &mut Replicas, now: Instant) -> Vec<(u32, u16)> {
    let starts = actions(replicas).into_iter().filter_map(|action| match action {
        ReplicaAction::Start { id, port } => Some((id, port)),
        _ => None,
    });
    let starts: Vec<_> = starts.collect();
    starts.iter().for_each(|&(id, _)| replicas.on_started(now, id));
    starts
}

#[test]
fn what_runs_already_is_not_started_again_and_not_added_to() {
    let mut replicas = Replicas::new(bounds());
    assert!(replicas.adopt(NOW, place(3, 50_004)));
    replicas.begin(NOW);
    assert_eq!(actions(&mut replicas), [], "one is not fewer than the least");
    assert_eq!((replicas.wanted(), replicas.next_deadline()), (1, None));
    assert_eq!(replicas.grow(2, "load 9"), ScalingResult::Done);
    assert_eq!(deeds(&mut replicas), [ReplicaAction::Start { id: 1, port: 50_000 }], "the lowest free id");
    replicas.on_exited(NOW, 3, "a crash");
    replicas.on_timeout(NOW + SECOND);
    assert_eq!(
        deeds(&mut replicas),
        [ReplicaAction::Start { id: 3, port: 50_004 }],
        "under its id, where it was"
    );
}

#[test]
fn a_second_server_with_the_same_id_or_port_is_not_adopted() {
    let mut replicas = Replicas::new(bounds());
    assert!(replicas.adopt(NOW, place(3, 50_004)));
    assert!(!replicas.adopt(NOW, place(3, 50_005)));
    assert!(!replicas.adopt(NOW, place(4, 50_004)));
    assert_eq!(replicas.wanted(), 1);
}

#[test]
fn too_few_adopted_are_made_up_to_the_least_and_too_many_are_stopped() {
    let mut replicas = Replicas::new(Bounds { min: 3, count: 3, ..bounds() });
    replicas.adopt(NOW, place(2, 50_001));
    replicas.begin(NOW);
    let start = |id, port| ReplicaAction::Start { id, port };
    assert_eq!(actions(&mut replicas), [start(1, 50_000), start(3, 50_002)]);

    let mut replicas = Replicas::new(bounds());
    for id in 1..=6 {
        assert!(replicas.adopt(NOW, place(id, 50_000 + id as u16)));
    }
    replicas.begin(NOW);
    assert_eq!(actions(&mut replicas), [6, 5].map(|id| ReplicaAction::Stop { id }));
}

#[test]
fn one_that_was_told_to_stop_is_not_told_again_and_killed_in_the_end() {
    let mut replicas = Replicas::new(Bounds { min: 0, ..bounds() });
    replicas.adopt(NOW, Replica { ends: true, ..place(1, 50_000) });
    replicas.begin(NOW);
    replicas.shut_down(NOW);
    assert_eq!(actions(&mut replicas), []);
    replicas.on_timeout(NOW + STOP_PATIENCE);
    assert_eq!(actions(&mut replicas), [ReplicaAction::Kill { id: 1 }]);
    replicas.on_exited(NOW, 1, "signal 9");
    assert!(replicas.is_empty());
}

#[test]
fn a_server_is_left_out_before_it_is_stopped_where_that_is_asked_for() {
    let mut replicas = Replicas::new(Bounds { leave: Some(5 * SECOND), ..bounds() });
    replicas.begin(NOW);
    assert_eq!(start_all(&mut replicas, NOW), [(1, 50_000), (2, 50_001)]);
    let running = |replicas: &Replicas| replicas.running().map(|(place, _)| place.id).collect::<Vec<_>>();
    assert_eq!(running(&replicas), [1, 2]);
    assert_eq!(replicas.shrink(NOW, 2, "idle"), ScalingResult::Done);
    assert_eq!(deeds(&mut replicas), [], "it has something to do yet");
    assert_eq!(
        (running(&replicas), replicas.leaving().collect::<Vec<_>>(), replicas.wanted()),
        (vec![1], vec![2], 1)
    );
    replicas.on_left(NOW, 1);
    assert_eq!(deeds(&mut replicas), [], "the server continues");
    replicas.on_left(NOW, 2);
    replicas.on_left(NOW, 2);
    assert_eq!(deeds(&mut replicas), [ReplicaAction::Stop { id: 2 }], "once");
    replicas.on_exited(NOW, 2, "exit code 0");
    assert_eq!(actions(&mut replicas), [ReplicaAction::Tell("server 2 has stopped".to_owned())]);

    replicas.shut_down(NOW);
    assert_eq!(deeds(&mut replicas), []);
    assert_eq!(replicas.next_deadline(), Some(NOW + 5 * SECOND));
    replicas.on_timeout(NOW + 5 * SECOND);
    assert_eq!(deeds(&mut replicas), [ReplicaAction::Stop { id: 1 }], "patience is over");
    replicas.on_timeout(NOW + 5 * SECOND + STOP_PATIENCE);
    assert_eq!(deeds(&mut replicas), [ReplicaAction::Kill { id: 1 }]);
}

#[test]
fn a_server_with_flows_has_less_time_to_leave_when_all_servers_stop() {
    let mut replicas = Replicas::new(Bounds { leave: Some(300 * SECOND), ..bounds() });
    replicas.begin(NOW);
    start_all(&mut replicas, NOW);
    replicas.shrink(NOW, 2, "idle");
    assert_eq!(replicas.next_deadline(), Some(NOW + 300 * SECOND));
    replicas.shut_down(NOW);
    assert_eq!(replicas.next_deadline(), Some(NOW + LEAVE_AT_END));
    replicas.on_timeout(NOW + LEAVE_AT_END);
    assert_eq!(deeds(&mut replicas), [1, 2].map(|id| ReplicaAction::Stop { id }));
}

#[test]
fn one_that_ends_while_it_is_left_out_has_stopped() {
    let mut replicas = Replicas::new(Bounds { leave: Some(SECOND), ..bounds() });
    replicas.begin(NOW);
    start_all(&mut replicas, NOW);
    replicas.shrink(NOW, 2, "idle");
    replicas.on_exited(NOW, 2, "signal 11");
    assert_eq!((deeds(&mut replicas), replicas.next_deadline(), replicas.wanted()), (vec![], None, 1));
}

proptest! {
    /// A controller may be killed at any moment. Its successor adopts the running servers, uses no id or
    /// port twice, and runs no more servers than the first.
    #[test]
    fn a_successor_continues_where_the_first_was(
        steps in prop::collection::vec((0u8..4, 0u32..8), 0..40),
        leave in any::<bool>(),
    ) {
        let bounds = Bounds { leave: leave.then_some(SECOND), ..bounds() };
        let mut replicas = Replicas::new(bounds.clone());
        replicas.begin(NOW);
        let mut now = NOW;
        for (what, id) in steps {
            now += SECOND;
            match what {
                0 => drop(replicas.grow(id, "")),
                1 => drop(replicas.shrink(now, id, "")),
                2 => replicas.on_exited(now, id, "a crash"),
                _ => replicas.on_timeout(now),
            }
            start_all(&mut replicas, now);
        }
        let mut next = Replicas::new(bounds);
        for place in replicas.places() {
            prop_assert!(next.adopt(now, place));
        }
        next.begin(now);
        prop_assert_eq!(next.wanted(), replicas.wanted().max(1));
        let before: Vec<Replica> = replicas.places().collect();
        for place in next.places() {
            prop_assert!(before.iter().all(|other| other.id == place.id || other.port != place.port));
        }
        for action in deeds(&mut next) {
            let is_unknown = |id| before.iter().all(|p| p.id != id);
            let is_new = matches!(action, ReplicaAction::Start { id, .. } if is_unknown(id));
            prop_assert!(is_new, "{:?}", action);
        }
    }
}

//! What is of no concern to orders: adoption, and servers that are left out before they stop. (Restarts, ports and bounds
//! are tested with the orders that lead to them, in `role/controller/tests.rs`.)

use super::*;
use proptest::prelude::*;

const NOW: Instant = Instant::from_nanos(5_000_000_000);
const SECOND: Duration = Duration::from_secs(1);

fn bounds() -> Bounds {
    Bounds { count: 2, min: 1, max: 4, start_id: 1, ports: 50_000..50_006, leave: None }
}

fn place(id: u32, port: u16) -> Place {
    Place { id, port, ends: false }
}

fn actions(crew: &mut Crew) -> Vec<Action> {
    std::iter::from_fn(|| crew.poll_action()).collect()
}

fn deeds(crew: &mut Crew) -> Vec<Action> {
    let mut actions = actions(crew);
    actions.retain(|action| !matches!(action, Action::Tell(_)));
    actions
}

/// Carries the starts out.
fn start_all(crew: &mut Crew, now: Instant) -> Vec<(u32, u16)> {
    let starts = actions(crew).into_iter().filter_map(|action| match action {
        Action::Start { id, port } => Some((id, port)),
        _ => None,
    });
    let starts: Vec<_> = starts.collect();
    starts.iter().for_each(|&(id, _)| crew.on_started(now, id));
    starts
}

#[test]
fn what_runs_already_is_not_started_again_and_not_added_to() {
    let mut crew = Crew::new(bounds());
    assert!(crew.adopt(NOW, place(3, 50_004)));
    crew.begin(NOW);
    assert_eq!(actions(&mut crew), [], "one is not fewer than the least");
    assert_eq!((crew.wanted(), crew.next_deadline()), (1, None));
    assert_eq!(crew.grow(2, "load 9"), Outcome::Done);
    assert_eq!(deeds(&mut crew), [Action::Start { id: 1, port: 50_000 }], "the lowest free id");
    crew.on_exited(NOW, 3, "a crash");
    crew.on_timeout(NOW + SECOND);
    assert_eq!(deeds(&mut crew), [Action::Start { id: 3, port: 50_004 }], "under its id, where it was");
}

#[test]
fn a_second_server_with_the_same_id_or_port_is_not_adopted() {
    let mut crew = Crew::new(bounds());
    assert!(crew.adopt(NOW, place(3, 50_004)));
    assert!(!crew.adopt(NOW, place(3, 50_005)));
    assert!(!crew.adopt(NOW, place(4, 50_004)));
    assert_eq!(crew.wanted(), 1);
}

#[test]
fn too_few_adopted_are_made_up_to_the_least_and_too_many_are_stopped() {
    let mut crew = Crew::new(Bounds { min: 3, count: 3, ..bounds() });
    crew.adopt(NOW, place(2, 50_001));
    crew.begin(NOW);
    let start = |id, port| Action::Start { id, port };
    assert_eq!(actions(&mut crew), [start(1, 50_000), start(3, 50_002)]);

    let mut crew = Crew::new(bounds());
    for id in 1..=6 {
        assert!(crew.adopt(NOW, place(id, 50_000 + id as u16)));
    }
    crew.begin(NOW);
    assert_eq!(actions(&mut crew), [6, 5].map(|id| Action::Stop { id }));
}

#[test]
fn one_that_was_told_to_stop_is_not_told_again_and_killed_in_the_end() {
    let mut crew = Crew::new(Bounds { min: 0, ..bounds() });
    crew.adopt(NOW, Place { ends: true, ..place(1, 50_000) });
    crew.begin(NOW);
    crew.shut_down(NOW);
    assert_eq!(actions(&mut crew), []);
    crew.on_timeout(NOW + STOP_PATIENCE);
    assert_eq!(actions(&mut crew), [Action::Kill { id: 1 }]);
    crew.on_exited(NOW, 1, "signal 9");
    assert!(crew.is_empty());
}

#[test]
fn a_server_is_left_out_before_it_is_stopped_where_that_is_asked_for() {
    let mut crew = Crew::new(Bounds { leave: Some(5 * SECOND), ..bounds() });
    crew.begin(NOW);
    assert_eq!(start_all(&mut crew, NOW), [(1, 50_000), (2, 50_001)]);
    let running = |crew: &Crew| crew.running().map(|(place, _)| place.id).collect::<Vec<_>>();
    assert_eq!(running(&crew), [1, 2]);
    assert_eq!(crew.shrink(NOW, 2, "idle"), Outcome::Done);
    assert_eq!(deeds(&mut crew), [], "it has something to do yet");
    assert_eq!((running(&crew), crew.leaving().collect::<Vec<_>>(), crew.wanted()), (vec![1], vec![2], 1));
    crew.on_left(NOW, 1);
    assert_eq!(deeds(&mut crew), [], "that one goes on");
    crew.on_left(NOW, 2);
    crew.on_left(NOW, 2);
    assert_eq!(deeds(&mut crew), [Action::Stop { id: 2 }], "once");
    crew.on_exited(NOW, 2, "exit code 0");
    assert_eq!(actions(&mut crew), [Action::Tell("server 2 has stopped".to_owned())]);

    crew.shut_down(NOW);
    assert_eq!(deeds(&mut crew), []);
    assert_eq!(crew.next_deadline(), Some(NOW + 5 * SECOND));
    crew.on_timeout(NOW + 5 * SECOND);
    assert_eq!(deeds(&mut crew), [Action::Stop { id: 1 }], "patience is over");
    crew.on_timeout(NOW + 5 * SECOND + STOP_PATIENCE);
    assert_eq!(deeds(&mut crew), [Action::Kill { id: 1 }]);
}

#[test]
fn one_that_ends_while_it_is_left_out_has_stopped() {
    let mut crew = Crew::new(Bounds { leave: Some(SECOND), ..bounds() });
    crew.begin(NOW);
    start_all(&mut crew, NOW);
    crew.shrink(NOW, 2, "idle");
    crew.on_exited(NOW, 2, "signal 11");
    assert_eq!((deeds(&mut crew), crew.next_deadline(), crew.wanted()), (vec![], None, 1));
}

proptest! {
    /// A controller may be killed at any moment: the next one, which adopts what runs, has neither an id nor a port twice,
    /// and no more servers than the first.
    #[test]
    fn a_successor_continues_where_the_first_was(
        steps in prop::collection::vec((0u8..4, 0u32..8), 0..40),
        leave in any::<bool>(),
    ) {
        let bounds = Bounds { leave: leave.then_some(SECOND), ..bounds() };
        let mut crew = Crew::new(bounds.clone());
        crew.begin(NOW);
        let mut now = NOW;
        for (what, id) in steps {
            now += SECOND;
            match what {
                0 => drop(crew.grow(id, "")),
                1 => drop(crew.shrink(now, id, "")),
                2 => crew.on_exited(now, id, "a crash"),
                _ => crew.on_timeout(now),
            }
            start_all(&mut crew, now);
        }
        let mut next = Crew::new(bounds);
        for place in crew.places() {
            prop_assert!(next.adopt(now, place));
        }
        next.begin(now);
        prop_assert_eq!(next.wanted(), crew.wanted().max(1));
        let before: Vec<Place> = crew.places().collect();
        for place in next.places() {
            prop_assert!(before.iter().all(|other| other.id == place.id || other.port != place.port));
        }
        for action in deeds(&mut next) {
            let is_new = matches!(action, Action::Start { id, .. } if before.iter().all(|p| p.id != id));
            prop_assert!(is_new, "{:?}", action);
        }
    }
}

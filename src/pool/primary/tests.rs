use std::net::SocketAddr;

use super::*;
use crate::pool::departed::PastRecord;
use crate::pool::order::AdminMode;
use crate::pool::waiting::PendingQueue;

const SLOTS: usize = 4;
const T0: Instant = Instant::from_nanos(1_000_000_000);

struct TestPool {
    shared: PoolShared<(), (), TestSettings>,
    stats: [ServerStats; SLOTS],
}

struct TestSettings;

impl PoolSettings for TestSettings {
    fn servers_max(&self) -> usize {
        SLOTS
    }

    fn workers(&self) -> usize {
        1
    }

    fn max_outstanding(&self) -> Option<Limit> {
        None
    }
}

impl Pool for TestPool {
    type Extra = u32;
    type Member = ();
    type Client = ();
    type Settings = TestSettings;

    fn shared(&self) -> &PoolShared<(), (), TestSettings> {
        &self.shared
    }

    fn stats(&self, _: usize, slot: Slot) -> &ServerStats {
        &self.stats[slot.index()]
    }

    fn epoch(extra: &u32) -> u32 {
        *extra
    }

    fn member(_: &Server<u32>, _: LeafState) {}
}

impl TestPool {
    fn usable(&self) -> u32 {
        self.shared.usable.load(Ordering::Relaxed)
    }

    fn leaf(&self, slot: usize) -> (LeafState, u16) {
        self.shared.tree.state_and_cost(Slot::new(slot))
    }
}

/// Checks the invariants as a worker does that has just copied the members.
fn check(primary: &Primary<TestPool>) {
    let mut view = View::new(SLOTS, &[]);
    view.refresh(&primary.pool.shared.members, |_, _| {});
    primary.check_invariants(&view);
}

fn rules() -> Rules {
    Rules { rise: 1, fall: 1, down_max: 0.5, slow_start: Duration::from_secs(10), ..Rules::default() }
}

fn settings() -> PrimarySettings {
    PrimarySettings {
        rules: rules(),
        policy: PolicyKind::ShortestQueue,
        max_outstanding: None,
        first_state: State::Up,
        cannot_refuse: false,
    }
}

fn primary(settings: PrimarySettings) -> Primary<TestPool> {
    let shared = PoolShared::new(TestSettings, PendingQueue::new(1, 1, ()));
    Primary::new(Arc::new(TestPool { shared, stats: Default::default() }), settings, Identity::Id, T0)
}

fn join(primary: &mut Primary<TestPool>, now: Instant, slot: usize) {
    let id = slot as u32;
    let addr = SocketAddr::from(([10, 0, 0, 1], slot as u16));
    let past = primary.registry_mut().departed.take(id, addr);
    let server = Server {
        id,
        addr,
        weight: past.admin.weight(1),
        limits: Limits::for_interval(Duration::from_millis(10), &primary.settings().rules),
        health: past.health(primary.settings().first_state, now),
        admin: past.admin,
        is_leaving: false,
        is_doubted: false,
        slow_since: None,
        extra: 7,
    };
    primary.join(now, Slot::new(slot), server);
    check(primary);
}

fn with_servers(settings: PrimarySettings, count: usize) -> Primary<TestPool> {
    let mut primary = primary(settings);
    (0..count).for_each(|slot| join(&mut primary, T0, slot));
    while primary.poll_event().is_some() {}
    primary
}

fn apply(primary: &mut Primary<TestPool>, slot: usize, event: health::HealthEvent) {
    primary.apply(T0, Slot::new(slot), event, "for this test");
    check(primary);
}

fn order(primary: &mut Primary<TestPool>, id: u32, order: Order) -> Result<(), Refused> {
    let result = primary.order(T0, id, order);
    check(primary);
    result
}

fn leaves(primary: &Primary<TestPool>) -> Vec<LeafState> {
    (0..SLOTS).map(|slot| primary.pool.leaf(slot).0).collect()
}

fn fail(primary: &mut Primary<TestPool>, slot: usize) {
    apply(primary, slot, health::HealthEvent::Silent);
    apply(primary, slot, health::HealthEvent::ProbeLost);
}

#[test]
fn too_many_failed_servers_open_the_pool_and_enough_close_it() {
    use LeafState::*;
    let mut primary = with_servers(settings(), 3);
    fail(&mut primary, 0);
    assert_eq!((leaves(&primary), primary.pool.usable()), (vec![Barred, Eligible, Eligible, Absent], 2));
    fail(&mut primary, 1);
    assert_eq!((leaves(&primary), primary.pool.usable()), (vec![Eligible, Eligible, Eligible, Absent], 3));
    apply(&mut primary, 0, health::HealthEvent::Alive);
    assert_eq!((leaves(&primary), primary.pool.usable()), (vec![Eligible, Barred, Eligible, Absent], 2));
    let opens: Vec<bool> = std::iter::from_fn(|| primary.poll_event())
        .filter_map(|event| if let Event::FailOpen(opens) = event { Some(opens) } else { None })
        .collect();
    assert_eq!(opens, [true, false]);
}

#[test]
fn servers_that_are_down_are_the_last_resort_of_a_pool_that_cannot_refuse() {
    for (cannot_refuse, leaf) in [(false, LeafState::Barred), (true, LeafState::LastResort)] {
        let mut primary = with_servers(PrimarySettings { cannot_refuse, ..settings() }, 1);
        fail(&mut primary, 0);
        assert_eq!(leaves(&primary)[0], leaf);
        assert_eq!(primary.pool.usable(), u32::from(cannot_refuse));
        join(&mut primary, T0, 1);
        assert_eq!((leaves(&primary)[0], primary.pool.usable()), (LeafState::Barred, 1), "another is up");
    }
}

#[test]
fn an_order_is_kept_for_a_server_that_has_left_and_refused_for_an_unknown_one() {
    let mut primary = with_servers(settings(), 2);
    primary.remove(T0, Slot::new(0), "for this test");
    assert_eq!(order(&mut primary, 0, Order::Disable), Ok(()));
    assert_eq!(order(&mut primary, 0, Order::Weight(9)), Ok(()));
    assert_eq!(order(&mut primary, 0, Order::Weight(0)), Err(Refused::Weight));
    assert_eq!(order(&mut primary, 3, Order::Disable), Err(Refused::UnknownServer));
    join(&mut primary, T0, 0);
    let server = primary.registry.get(Slot::new(0)).unwrap();
    assert_eq!((server.health.state(), server.weight), (State::Disabled, 9));
}

#[test]
fn an_order_for_a_server_that_is_leaving_holds_when_it_returns() {
    let mut primary = with_servers(settings(), 2);
    primary.leave(T0, Slot::new(0), "for this test");
    assert_eq!(order(&mut primary, 0, Order::Enable), Ok(()));
    assert_eq!(primary.state(Slot::new(0)), Some(State::Draining), "it leaves all the same");
    assert_eq!(order(&mut primary, 0, Order::Disable), Ok(()));
    assert_eq!(primary.state(Slot::new(0)), Some(State::Disabled));
    primary.remove(T0, Slot::new(0), "for this test");
    join(&mut primary, T0, 0);
    assert_eq!(primary.state(Slot::new(0)), Some(State::Disabled));
    primary.leave(T0, Slot::new(1), "for this test");
    primary.stay(T0, Slot::new(1), "for this test");
    check(&primary);
    assert_eq!(primary.state(Slot::new(1)), Some(State::Up));
}

#[test]
fn an_enabled_server_begins_as_a_new_one() {
    let mut primary = with_servers(PrimarySettings { first_state: State::Suspect, ..settings() }, 1);
    order(&mut primary, 0, Order::Disable).unwrap();
    assert_eq!(primary.registry.get(Slot::new(0)).unwrap().admin.mode, AdminMode::Off);
    order(&mut primary, 0, Order::Enable).unwrap();
    assert_eq!(primary.state(Slot::new(0)), Some(State::Suspect));
    let states: Vec<_> = std::iter::from_fn(|| primary.poll_event()).collect();
    assert!(matches!(states[1], Event::State { state: State::Suspect, .. }), "{states:?}");
}

/// The changes of state that are reported, with the number of the server.
fn reported(primary: &mut Primary<TestPool>) -> Vec<(u32, State)> {
    let state = |event| if let Event::State { id, state, .. } = event { Some((id, state)) } else { None };
    std::iter::from_fn(|| primary.poll_event()).filter_map(state).collect()
}

/// At this time after the start, in milliseconds.
fn apply_at(primary: &mut Primary<TestPool>, ms: u64, event: health::HealthEvent) {
    let now = T0 + Duration::from_millis(ms);
    primary.apply(now, Slot::new(0), event, "for this test");
    primary.on_tick(now);
}

#[test]
fn a_suspicion_that_comes_and_goes_is_reported_once_in_ten_seconds() {
    use health::HealthEvent::*;
    let mut primary = with_servers(settings(), 2);
    for ms in (0..9_950).step_by(50) {
        apply_at(&mut primary, ms, if ms / 50 % 2 == 0 { Silent } else { Alive });
    }
    assert_eq!(reported(&mut primary), [(0, State::Suspect), (0, State::Up)]);
    // The next one lasts, so it is reported when the time is over.
    apply_at(&mut primary, 9_960, Silent);
    assert_eq!((reported(&mut primary), primary.state(Slot::new(0))), (vec![], Some(State::Suspect)));
    primary.on_tick(T0 + Duration::from_millis(9_999));
    assert_eq!(reported(&mut primary), []);
    primary.on_tick(T0 + Duration::from_millis(10_000));
    primary.on_tick(T0 + Duration::from_millis(10_010));
    assert_eq!(reported(&mut primary), [(0, State::Suspect)]);
}

#[test]
fn other_states_are_reported_at_once() {
    use health::HealthEvent::*;
    let rules = Rules { hold_down_max: Duration::ZERO, ..rules() };
    let mut primary = with_servers(PrimarySettings { rules, ..settings() }, 2);
    for ms in [0, 200] {
        for event in [Silent, ProbeLost, Alive] {
            apply_at(&mut primary, ms, event);
        }
    }
    let [suspect, down, up] = [State::Suspect, State::Down, State::Up].map(|state| (0, state));
    assert_eq!(reported(&mut primary), [suspect, down, up, down, up]);
    apply_at(&mut primary, 300, Silent);
    apply_at(&mut primary, 310, Drain);
    assert_eq!(reported(&mut primary), [(0, State::Draining)]);
    join(&mut primary, T0 + Duration::from_millis(320), 0);
    apply_at(&mut primary, 330, Silent);
    assert_eq!(reported(&mut primary), [suspect], "of another server in the slot");
}

#[test]
fn a_server_that_comes_up_later_costs_more_at_first() {
    let mut primary = with_servers(settings(), 1);
    let at = |secs| T0 + Duration::from_secs(secs);
    join(&mut primary, at(20), 1);
    let cost = |primary: &Primary<TestPool>| primary.pool.leaf(1).1;
    let costs = [20, 25, 29, 30].map(|secs| {
        primary.on_tick(at(secs));
        check(&primary);
        cost(&primary)
    });
    assert!(costs.is_sorted_by(|before, after| before > after), "{costs:?}");
    assert_eq!(costs[3], primary.pool.leaf(0).1);
    assert_eq!(primary.registry.get(Slot::new(1)).unwrap().slow_since, None);
}

#[test]
fn a_server_that_replaces_another_in_its_slot_is_counted_once() {
    let mut primary = with_servers(settings(), 2);
    fail(&mut primary, 1);
    join(&mut primary, T0, 1);
    assert_eq!(primary.census, Census { up: 2, ..Census::default() });
    assert_eq!(
        primary.registry_mut().departed.take(1, SocketAddr::from(([10, 0, 0, 1], 1))),
        PastRecord::default()
    );
}

#[test]
#[should_panic(expected = "slot 0: server 0, Up")]
fn a_leaf_that_does_not_fit_the_state_is_found() {
    let primary = with_servers(settings(), 1);
    primary.pool.shared.tree.set(Slot::new(0), LeafState::Eligible, 1);
    check(&primary);
}

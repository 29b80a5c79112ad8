use super::*;

const SLOT: Slot = Slot::new(1);

fn addr(text: &str) -> SocketAddr {
    text.parse().unwrap()
}

fn member(text: &str, epoch: u32) -> Member<bool> {
    Member { addr: addr(text), epoch, extra: false }
}

#[test]
fn a_view_follows_the_members_and_reports_new_registrations() {
    let (members, mut view) = (Members::new(4, 2), View::new(4, &[]));
    let (one, two, three) = (member("10.0.0.1:53", 1), member("10.0.0.2:53", 2), member("10.0.0.2:53", 3));
    for (member, expected) in [
        (None, vec![]),
        (Some(one), vec![(SLOT, Some(1))]),
        (Some(one), vec![]),
        (Some(Member { extra: true, ..one }), vec![]), // the same registration
        (Some(two), vec![(SLOT, Some(2))]),
        (Some(three), vec![(SLOT, Some(3))]),
        (None, vec![(SLOT, None)]),
    ] {
        members.publish(SLOT, member);
        let mut reported = vec![];
        view.refresh(&members, |slot, member| reported.push((slot, member.map(|m| m.epoch))));
        assert_eq!(reported, expected, "{member:?}");
        assert_eq!((view.get(SLOT).copied(), members.get(SLOT)), (member, member));
        assert_eq!(member.and_then(|member| view.slot_of(member.addr)), member.map(|_| SLOT));
        assert_eq!(member.is_some(), view.is_inside(three.addr, None) || view.is_inside(one.addr, None));
    }
    assert_eq!(view.last_addr(SLOT), Some(three.addr), "its last replies may still arrive");
    view.recall(SLOT, one.addr);
    assert_eq!(view.last_addr(SLOT), Some(three.addr));
    view.recall(Slot::new(2), one.addr);
    assert_eq!(view.last_addr(Slot::new(2)), Some(one.addr));
}

#[test]
fn an_unchanged_member_is_no_change_to_copy() {
    let members = Members::new(4, 1);
    members.publish(SLOT, Some(member("10.0.0.1:53", 1)));
    let version = members.version.load(Ordering::Relaxed);
    members.publish(SLOT, Some(member("10.0.0.1:53", 1)));
    assert_eq!(members.version.load(Ordering::Relaxed), version);
}

/// 4,096 servers on one port of many hosts, the normal case: the scan of all members is 4,096 comparisons.
#[test]
fn is_inside_is_one_look_up_however_many_servers_share_the_port() {
    let (members, mut view) = (Members::new(4096, 1), View::new(4096, &[]));
    let server = |n: u32| SocketAddr::from((std::net::Ipv4Addr::from(0x0a00_0000 + n), 50_000));
    for n in 0..4096 {
        members.publish(Slot::new(n as usize), Some(Member { addr: server(n), epoch: n, extra: () }));
    }
    view.refresh(&members, |_, _| {});
    for n in 0..4096 {
        assert!(view.is_inside(server(n), None));
        assert_eq!(view.slot_of(server(n)), Some(Slot::new(n as usize)));
    }
    assert!(!view.is_inside(server(4096), None), "the port alone is not the address");
    // Without its hash entry a server is not found: nothing but the hash is read.
    view.by_addr.remove(&server(77));
    assert!(!view.is_inside(server(77), None) && view.is_inside(server(78), None));
}

#[test]
fn an_address_in_two_slots_stays_inside_until_both_are_free() {
    let (members, mut view) = (Members::new(4, 1), View::new(4, &[]));
    let [first, second] = [Slot::new(0), Slot::new(3)];
    for (slot, member, inside) in [
        (first, Some(member("10.0.0.1:53", 1)), true),
        (second, Some(member("10.0.0.1:53", 2)), true),
        (second, None, true),
        (second, Some(member("10.0.0.1:53", 3)), true),
        (first, Some(member("10.0.0.2:54", 4)), true),
        (second, None, false),
    ] {
        members.publish(slot, member);
        view.refresh(&members, |_, _| {});
        assert_eq!(view.is_inside(addr("10.0.0.1:53"), None), inside, "{slot:?} {member:?}");
    }
}

#[test]
fn own_addresses_and_servers_are_inside() {
    let members = Members::new(2, 1);
    let mut view = View::new(2, &[addr("10.0.0.1:53"), addr("0.0.0.0:4000"), addr("[::]:4001")]);
    members.publish(SLOT, Some(member("10.0.0.9:5301", 1)));
    view.refresh(&members, |_, _| ());
    for (peer, local_ip, expected) in [
        ("10.0.0.1:53", "10.0.0.1", true),
        ("10.0.0.2:53", "10.0.0.1", false),
        ("10.0.0.9:5301", "10.0.0.1", true),
        ("10.0.0.9:5302", "10.0.0.1", false),
        ("127.0.0.1:4000", "10.0.0.1", true),
        ("10.0.0.1:4000", "10.0.0.1", true),
        ("10.0.0.77:4000", "10.0.0.1", false),
        ("[2001:db8::1]:4001", "2001:db8::1", true),
        ("[2001:db8::2]:4001", "2001:db8::1", false),
        // The kernel may give a client the number of a port that the pool has in the other family.
        ("127.0.0.1:4001", "127.0.0.1", false),
        ("10.0.0.1:4001", "10.0.0.1", false),
        ("[::1]:4000", "::1", false),
        ("[2001:db8::1]:4000", "2001:db8::1", false),
    ] {
        assert_eq!(view.is_inside(addr(peer), local_ip.parse().ok()), expected, "{peer}");
    }
    let one = addr("10.0.0.9:5301");
    assert!(!view.is_own(one, None) && view.is_own(addr("10.0.0.1:53"), None));
}

#[test]
fn a_link_local_address_is_another_server_on_each_interface() {
    let members = Members::new(4, 1);
    let mut view = View::new(4, &[]);
    members.publish(Slot::new(1), Some(member("[fe80::1%2]:53", 1)));
    members.publish(Slot::new(2), Some(member("[fe80::1%3]:53", 2)));
    members.publish(Slot::new(3), Some(member("[2001:db8::1]:53", 3)));
    view.refresh(&members, |_, _| ());
    let slot = |text: &str| view.slot_of(addr(text)).map(Slot::index);
    assert_eq!(
        (slot("[fe80::1%2]:53"), slot("[fe80::1%3]:53"), slot("[fe80::1%4]:53")),
        (Some(1), Some(2), None)
    );
    assert_eq!(slot("[2001:db8::1%9]:53"), Some(3), "a scope of a global address means nothing");
    let one = member("[fe80::1%2]:53", 1);
    assert!(one.is_at(addr("[fe80::1%2]:53")) && !one.is_at(addr("[fe80::1%3]:53")));
    assert!(member("[2001:db8::1]:53", 3).is_at(addr("[2001:db8::1%9]:53")));
}

#[test]
fn a_server_is_confirmed_when_every_worker_has_heard_it() {
    let members = Members::new(4, 3);
    members.publish(SLOT, Some(member("10.0.0.1:53", 7)));
    for worker in [2, 0] {
        members.confirm(SLOT, 7, worker);
        assert!(!members.is_confirmed(SLOT, 7));
    }
    members.publish(SLOT, Some(Member { extra: true, ..member("10.0.0.1:53", 7) }));
    members.confirm(SLOT, 7, 1);
    assert!(members.is_confirmed(SLOT, 7));
    members.publish(SLOT, Some(member("10.0.0.1:53", 8)));
    assert!(!members.is_confirmed(SLOT, 7) && !members.is_confirmed(SLOT, 8), "another registration");
    members.confirm(SLOT, 7, 1);
    (0..2).for_each(|worker| members.confirm(SLOT, 8, worker));
    assert!(!members.is_confirmed(SLOT, 8), "what was heard of the old one does not count");
    members.confirm(SLOT, 8, 2);
    assert!(members.is_confirmed(SLOT, 8));
}

//! What comes late, twice or never in that order on one CPU.

use super::*;
use crate::event::Mode;

/// A step of a child, whose connection is that of [`Tester::child`].
fn step(ts: u64, sock: u64, old: State, new: State) -> Event {
    server(event(ts, sock, state(old, new)))
}

/// With a pool that the port is of which connections have here.
fn with_pool() -> Tester {
    let mut tester = Tester::default();
    let settings = Settings {
        range: (4000, 4015),
        ..Settings::default()
    };
    tester.ledger.set_settings(NETNS, &settings);
    tester
}

#[test]
fn an_end_that_is_told_late_leaves_the_next_connection_alone() {
    let mut tester = Tester::established(1);
    // The kernel gives the port back before it tells the end: another CPU may be faster.
    tester.put(searching(30, 2));
    tester.put(event(31, 2, state(State::SynSent, State::Established)));
    assert_eq!(tester.keys(), [2]);
    tester.told();
    tester.put(event(32, 1, state(State::LastAck, State::Close)));
    assert_eq!(tester.keys(), [2]);
    assert_eq!(tester.told()[0], "LAST_ACK>CLOSE");
    // It is still found by its 4-tuple.
    assert_eq!(told_of_taking(tester)[0], "ESTABLISHED>CLOSE!");
}

#[test]
fn of_two_children_of_one_request_the_one_that_is_established_stays() {
    let mut tester = Tester::default();
    tester.put(step(1, 1, State::Listen, State::SynRecv));
    tester.put(step(2, 1, State::SynRecv, State::Established));
    tester.put(step(3, 2, State::Listen, State::SynRecv));
    assert_eq!(tester.keys(), [1, 2]);
    tester.told();
    tester.put(step(4, 2, State::SynRecv, State::Close));
    assert_eq!(tester.keys(), [1]);
    assert_eq!(
        tester.told(),
        ["SYN_RECV>CLOSE", "Rst by None held None"],
        "only the other one ends"
    );
}

#[test]
fn who_accepts_a_child_before_it_is_established_keeps_it() {
    let mut tester = Tester::default();
    tester.put(accepted(1, State::SynRecv, Some(80)));
    // As one step: where transitions are not told one by one.
    tester.put(step(2, 2, State::Listen, State::Established));
    assert_eq!(tester.owner(2), (Owner::Accept, Some(9)));
    assert_eq!(tester.told().len(), 1);
    let mut other = step(3, 2, State::Listen, State::Established);
    other.tuple.peer.port = Some(4001);
    tester.put(other);
    assert_eq!(tester.owner(2), (Owner::None, None), "another child there");
}

#[test]
fn a_row_of_a_socket_that_looks_for_a_port_says_nothing_of_how_it_gets_one() {
    let mut tester = with_pool();
    tester.ledger.begin_resync(5);
    tester.put(searching(10, 1));
    let mut row = row(1, State::SynSent);
    row.tuple.local.port = None;
    row.connect_bind = Some(false);
    tester.row(&held_by(row, 1));
    tester.put(event(20, 1, state(State::SynSent, State::Established)));
    tester.end_resync(30);
    assert_eq!(tester.ledger.bound_ports(NETNS), 0);
}

#[test]
fn a_row_of_a_socket_that_is_gone_binds_no_port() {
    let mut tester = with_pool();
    tester.ledger.begin_resync(5);
    let bound = |kind| Event {
        held: Some(4000),
        ..event(10, 1, kind)
    };
    tester.put(bound(Kind::Bound));
    tester.put(bound(Kind::Released));
    tester.put(searching(20, 2));
    tester.put(event(21, 2, state(State::SynSent, State::Established)));
    let mut late = row(1, State::Close);
    (late.held, late.mode) = (Some(4000), Some(Mode::Bind));
    tester.row(&late);
    tester.end_resync(30);
    assert_eq!(tester.keys(), [2]);
    assert_eq!(tester.ledger.bound_ports(NETNS), 0);
}

/// The dump reads a timewait socket, which nobody may have told of. Before its row comes, a connection takes the 4-tuple and
/// is over.
#[test]
fn a_row_of_a_timewait_socket_whose_tuple_was_taken_adds_nothing() {
    let known = Tester::in_time_wait(1, 2);
    for (mut tester, held) in [
        (Tester::default(), None),
        (known, None),
        (Tester::default(), Some(4000)),
    ] {
        tester.ledger.begin_resync(40);
        tester.put(searching(50, 3));
        tester.put(event(51, 3, state(State::SynSent, State::Established)));
        let ends = event(52, 3, state(State::LastAck, State::Close));
        tester.put(Event { held, ..ends });
        tester.row(&Row {
            due: Some(1000),
            ..row(2, State::TimeWait)
        });
        assert_eq!(tester.end_resync(60), Resynced::default());
        assert_eq!(tester.keys().len(), usize::from(held.is_some()));
    }
}

/// A server still has the descriptor of a connection that was reset. It is closed, and another server's child gets the address,
/// before the row comes.
#[test]
fn who_holds_a_socket_that_is_over_does_not_hold_the_next_one_at_its_address() {
    let mut tester = Tester::default();
    tester.listener(1, "10.0.0.1", 1);
    tester.ledger.begin_resync(3);
    assert_eq!(tester.child(2), (Owner::Inherited, Some(1)));
    let mut over = row(2, State::Close);
    over.tuple.local.port = None;
    tester.row(&held_by(over, 5));
    assert_eq!(tester.owner(2), (Owner::Inherited, Some(1)));
}

#[test]
fn a_listener_that_becomes_a_timewait_socket_is_no_listener() {
    let mut tester = Tester::default();
    let nobodys = |event: Event| Event {
        role: None,
        ..server(event)
    };
    let other = nobodys(event(5, 3, state(State::Established, State::CloseWait)));
    tester.put(other);
    let listens = timewait(State::Established, State::Listen, 2);
    tester.put(nobodys(event(10, 1, listens)));
    let waits = event(20, 2, state(State::FinWait2, State::TimeWait));
    tester.put(nobodys(waits));
    tester.put(nobodys(event(30, 2, state(State::TimeWait, State::Close))));
    tester.ledger.usage(50);
}

#[test]
fn who_listens_at_another_address_serves_no_connection() {
    let mut tester = with_pool();
    for (sock, ip) in [(1, "10.0.0.9"), (2, "10.0.0.1")] {
        let listens = Event {
            tuple: Tuple {
                local: endpoint(ip, 4000),
                peer: endpoint("0.0.0.0", 0),
                ..tuple(4000)
            },
            role: Some(Role::Listener),
            owner: Owner::Bind,
            ..event(10 * sock + 1, sock, state(State::Close, State::Listen))
        };
        tester.ledger.begin_resync(10 * sock);
        tester.put(listens);
        tester.row(&row(9, State::Established));
        tester.end_resync(10 * sock + 2);
        let found = tester.ledger.sockets().find(|socket| socket.key == 9);
        let expected = (sock == 2).then_some(Role::Server);
        assert_eq!(found.unwrap().role, expected, "{ip}");
    }
}

#[test]
fn a_timewait_socket_gives_way_after_the_delay() {
    let mut tester = Tester::in_time_wait(1, 2);
    tester.ledger.set_rules(Rules {
        delays: true,
        ..Rules::default()
    });
    let settings = Settings {
        range: (4000, 4000),
        tw_reuse: 1,
        tw_reuse_delay: Some(30_000),
        ..Settings::default()
    };
    let query = query(&settings, 10_000_000_030);
    let releases = tester.ledger.explain(&query).releases;
    assert_eq!(releases.iter().position(|count| *count > 0), Some(20));
}

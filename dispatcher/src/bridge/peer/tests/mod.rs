//! Each transition of a peer, one by one. Whole histories are in `dispatcher/tests/bridge_sim/`.

mod hostile;
mod pair;

use std::time::Duration;

use nodeset_bus::protocol::PublicationId;

use super::*;
use crate::bridge::codec::Quality;
use pair::{DEADLINE, End, LOG, OTHER, Pair, Told, publication, want};

const MILLI: Duration = Duration::from_millis(1);

#[test]
fn what_is_wanted_arrives_in_order() {
    let mut pair = Pair::subscribed(Quality::Reliable, |_| ());
    assert_eq!(pair.a.count(|action| matches!(action, Action::Link { .. })), 1);
    let opened = Action::OpenMirror { publication: publication(LOG, "t"), first: 0, quality: Quality::Reliable };
    assert!(pair.b.actions.contains(&opened));
    pair.more(LOG, 100);
    pair.exchange();
    pair.has(LOG, 0..100);
    pair.a.store.skipped = (100..103).collect();
    pair.more(LOG, 4);
    pair.exchange();
    assert_eq!(pair.told(LOG)[100..103], [100, 101, 102].map(|sequence| Told::Skip(sequence, 1)));
    pair.wait(10 * MILLI);
    let retained = pair.a.actions.iter().rev().find(|action| matches!(action, Action::Retain { .. }));
    assert_eq!(retained, Some(&Action::Retain { log: LOG, from: 104 }));
    assert_eq!((pair.a.peer.status().sent, pair.b.peer.status().received), (101, 101));
    assert_eq!((pair.a.peer.status().sent_bytes, pair.b.peer.status().received_bytes), (101 * 48, 101 * 48));
}

#[test]
fn the_order_of_appearing_wanting_and_connecting_does_not_matter() {
    for order in [[0, 1, 2], [0, 2, 1], [1, 0, 2], [1, 2, 0], [2, 0, 1], [2, 1, 0]] {
        let mut pair = Pair::new();
        for step in order {
            match step {
                0 => pair.publish(LOG, "t", 20, 3),
                1 => {
                    let want = want("n@a/t", Quality::Reliable);
                    pair.b.tell(pair.now, Input::Wanted { interest: InterestId(5), want });
                }
                _ => pair.connect(),
            }
            if pair.a.peer.is_connected() {
                pair.exchange();
            }
        }
        pair.has(LOG, 0..3);
    }
}

#[test]
fn what_nobody_wants_over_there_stays_here() {
    let mut pair = Pair::new();
    for (interest, selector) in ["u/**", "m@*/t", "*@local/t", "*@c/t"].into_iter().enumerate() {
        let (interest, want) = (InterestId(interest as u32), want(selector, Quality::Reliable));
        pair.b.tell(pair.now, Input::Wanted { interest, want });
    }
    pair.publish(LOG, "t", 20, 3);
    pair.connect();
    assert_eq!(pair.a.count(|action| matches!(action, Action::Link { .. })), 0);
    pair.b.tell(pair.now, Input::Wanted { interest: InterestId(9), want: want("n-2@a/t", Quality::Lossy) });
    pair.exchange();
    pair.has(LOG, 0..3);
}

#[test]
fn what_is_no_longer_wanted_ends_on_both_sides() {
    let mut pair = Pair::subscribed(Quality::Reliable, |_| ());
    pair.b.tell(pair.now, Input::Wanted { interest: InterestId(2), want: want("t", Quality::Lossy) });
    pair.b.tell(pair.now, Input::Unwanted { interest: InterestId(1) });
    pair.exchange();
    let changed = Action::Link { log: LOG, quality: Quality::Lossy, history: 0, resume: true };
    assert_eq!(pair.a.actions.last(), Some(&changed), "only the quality changed");
    pair.b.tell(pair.now, Input::Unwanted { interest: InterestId(2) });
    pair.exchange();
    let ended = Action::EndMirror { log: LOG, end: MirrorEnd::Unwanted };
    assert_eq!((pair.b.actions.last(), pair.a.actions.last()), (Some(&ended), Some(&Action::Unlink { log: LOG })));
    // And once more, from here on.
    pair.b.tell(pair.now, Input::Wanted { interest: InterestId(3), want: want("t", Quality::Reliable) });
    pair.exchange();
    pair.more(LOG, 5);
    pair.exchange();
    pair.has(LOG, 0..5);
}

#[test]
fn a_publication_that_ends_is_drained_and_finished() {
    let mut pair = Pair::subscribed(Quality::Reliable, |_| ());
    pair.more(LOG, 1000);
    pair.a.tell(pair.now, Input::Went { log: LOG, next: 1000 });
    pair.exchange();
    pair.has(LOG, 0..1000);
    let ended = Action::EndMirror { log: LOG, end: MirrorEnd::Finished };
    assert_eq!((pair.b.actions.last(), pair.a.actions.last()), (Some(&ended), Some(&Action::Unlink { log: LOG })));
}

#[test]
fn an_end_that_was_not_heard_is_told_again() {
    let mut pair = Pair::subscribed(Quality::Reliable, |_| ());
    pair.cut();
    pair.more(LOG, 10);
    pair.a.tell(pair.now, Input::Went { log: LOG, next: 10 });
    pair.connect();
    pair.has(LOG, 0..10);
    assert_eq!(pair.b.count(|action| matches!(action, Action::EndMirror { end: MirrorEnd::Finished, .. })), 1);
    assert_eq!(pair.a.actions.last(), Some(&Action::Unlink { log: LOG }));
}

#[test]
fn only_so_many_ends_are_remembered() {
    let mut pair = Pair::subscribed(Quality::Reliable, |settings| settings.max_ended = 3);
    for id in 10..20 {
        pair.publish(LogKey { publication: PublicationId(id), epoch: 1 }, "t", 20, 0);
    }
    pair.exchange();
    pair.cut();
    for id in 10..20 {
        pair.a.tell(pair.now, Input::Went { log: LogKey { publication: PublicationId(id), epoch: 1 }, next: 0 });
    }
    assert_eq!(pair.a.count(|action| matches!(action, Action::Unlink { .. })), 7);
}

#[test]
fn a_long_message_lets_short_ones_pass() {
    let mut pair = Pair::subscribed(Quality::Reliable, |settings| settings.turn = 1000);
    pair.publish(OTHER, "long", 100_000, 0);
    pair.exchange();
    pair.more(OTHER, 1);
    let mut bytes = Vec::new();
    for _ in 0..3 {
        assert!(pair.a.write_one(pair.now, &mut bytes));
    }
    pair.more(LOG, 1);
    for _ in 0..2 {
        assert!(pair.a.write_one(pair.now, &mut bytes));
    }
    pair.b.read(pair.now, &bytes);
    pair.has(LOG, 0..1);
    assert!(pair.told(OTHER).is_empty(), "the long one is still on its way");
    pair.exchange();
    pair.has(OTHER, 0..1);
}

#[test]
fn bytes_may_arrive_one_by_one() {
    let mut pair = Pair::new();
    pair.chunk = 1;
    pair.b.tell(pair.now, Input::Wanted { interest: InterestId(1), want: want("**", Quality::Reliable) });
    pair.publish(LOG, "t", 20, 0);
    pair.publish(OTHER, "long", 10_000, 0);
    pair.connect();
    pair.more(LOG, 10);
    pair.more(OTHER, 2);
    pair.exchange();
    pair.has(LOG, 0..10);
    pair.has(OTHER, 0..2);
}

#[test]
fn a_payload_may_be_read_straight_into_its_loan() {
    let mut pair = Pair::subscribed(Quality::Reliable, |_| ());
    pair.publish(OTHER, "long", 10_000, 0);
    pair.exchange();
    pair.more(OTHER, 1);
    let bytes = pair.a.write(pair.now);
    pair.b.read(pair.now, &bytes[..40]);
    let Expects::Payload { log: OTHER, offset: 8, len: 9992 } = pair.b.peer.expects() else {
        panic!("{:?}", pair.b.peer.expects());
    };
    pair.b.store.fill(OTHER, 8, &bytes[40..]);
    pair.b.peer.filled(pair.now, 9992, &mut pair.b.store);
    assert_eq!(pair.b.peer.expects(), Expects::Records);
    pair.has(OTHER, 0..1);
}

#[test]
fn after_a_break_everything_is_there_once() {
    let mut pair = Pair::subscribed(Quality::Reliable, |settings| settings.turn = 1000);
    pair.publish(OTHER, "long", 20_000, 0);
    pair.exchange();
    for round in 0..50 {
        pair.more(LOG, 40);
        pair.more(OTHER, 1);
        let mut bytes = Vec::new();
        for _ in 0..7 {
            pair.a.write_one(pair.now, &mut bytes);
        }
        // It breaks somewhere in the midst.
        let cut = bytes.len() * (round % 7) / 7;
        pair.b.read(pair.now, &bytes[..cut]);
        pair.cut();
        pair.connect();
    }
    pair.has(LOG, 0..2000);
    pair.has(OTHER, 0..50);
    assert!(pair.b.count(|action| matches!(action, Action::AbandonLoan { .. })) > 0, "no frame was ever half there");
    assert!(pair.a.peer.status().resent > 0, "nothing was ever on its way");
}

#[test]
fn a_slow_reader_parks_its_own_publication_only() {
    let mut pair = Pair::subscribed(Quality::Reliable, |_| ());
    pair.b.room = (480, 100);
    pair.publish(OTHER, "slow", 20, 0);
    pair.exchange();
    pair.more(OTHER, 100);
    pair.more(LOG, 100);
    pair.exchange();
    pair.has(OTHER, 0..10);
    pair.has(LOG, 0..100);
    pair.b.tell(pair.now, Input::Room { log: OTHER, freed: 96 });
    pair.exchange();
    pair.has(OTHER, 0..12);
    // Room that is not worth a record of its own is told a little later.
    pair.b.tell(pair.now, Input::Room { log: OTHER, freed: 47 });
    pair.wait(10 * MILLI);
    pair.has(OTHER, 0..12);
    pair.b.tell(pair.now, Input::Room { log: OTHER, freed: 1 });
    pair.wait(10 * MILLI);
    pair.has(OTHER, 0..13);
}

#[test]
fn a_message_that_is_too_long_over_there_is_told_as_lost() {
    let mut pair = Pair::subscribed(Quality::AcrossHosts, |_| ());
    pair.b.room = (1 << 20, 9_000);
    pair.publish(OTHER, "long", 9_001, 0);
    pair.exchange();
    pair.more(OTHER, 2);
    pair.exchange();
    assert_eq!(pair.told(OTHER), [Told::Gap(0, 1), Told::Gap(1, 1)]);
    assert_eq!((pair.a.peer.status().lost, pair.b.peer.status().missed), (2, 2));
}

#[test]
fn a_peer_that_is_away_costs_no_more_than_the_retention() {
    for by_time in [false, true] {
        let change = |settings: &mut Settings| {
            if by_time { settings.retention_time = 50 * MILLI } else { settings.retention_bytes = 4800 }
        };
        let mut pair = Pair::subscribed(Quality::Reliable, change);
        pair.cut();
        pair.more(LOG, 99);
        let demoted = |pair: &Pair| pair.a.count(|action| matches!(action, Action::Demote { .. }));
        assert_eq!(demoted(&pair), 0);
        if by_time {
            pair.wait(60 * MILLI);
        } else {
            pair.more(LOG, 5);
        }
        assert_eq!(demoted(&pair), 1);
        let end = pair.a.store.logs[&LOG].1;
        pair.a.store.logs.get_mut(&LOG).unwrap().0 = 60;
        pair.connect();
        assert_eq!(pair.told(LOG)[0], Told::Gap(0, 60));
        assert_eq!(pair.told(LOG).len() as u64, 1 + end - 60);
        pair.wait(10 * MILLI);
        assert_eq!(pair.a.actions.last(), Some(&Action::Restore { log: LOG, from: end }));
    }
}

#[test]
fn who_asks_for_it_gets_everything_and_nothing_is_demoted() {
    let change = |settings: &mut Settings| (settings.retention_bytes, settings.retention_time) = (4800, 50 * MILLI);
    let mut pair = Pair::subscribed(Quality::AcrossHosts, change);
    pair.cut();
    pair.more(LOG, 1000);
    pair.wait(Duration::from_secs(60));
    pair.more(LOG, 1);
    assert_eq!(pair.a.count(|action| matches!(action, Action::Demote { .. })), 0);
    pair.connect();
    pair.has(LOG, 0..1001);
}

#[test]
fn a_side_that_takes_nothing_holds_the_publisher_up_until_the_deadline() {
    let demoted = |pair: &Pair| pair.a.count(|action| matches!(action, Action::Demote { .. }));
    let mut pair = Pair::subscribed(Quality::AcrossHosts, |_| ());
    pair.cut();
    pair.more(LOG, 100);
    // As long as the publisher can go on, nothing is given up.
    pair.wait(10 * DEADLINE);
    pair.a.tell(pair.now, Input::Stalled { log: LOG });
    pair.wait(DEADLINE - MILLI);
    assert_eq!(demoted(&pair), 0);
    pair.wait(MILLI);
    assert_eq!(demoted(&pair), 1);
    // What is gone is told by number, and then everything is kept again.
    pair.more(LOG, 100);
    pair.a.store.logs.get_mut(&LOG).unwrap().0 = 150;
    pair.connect();
    assert_eq!(pair.told(LOG)[0], Told::Gap(0, 150));
    assert_eq!(pair.told(LOG).len(), 1 + 50);
    pair.wait(10 * MILLI);
    assert_eq!(pair.a.count(|action| matches!(action, Action::Restore { .. })), 1);
    assert_eq!(pair.a.actions.last(), Some(&Action::Retain { log: LOG, from: 200 }));
    pair.cut();
    pair.a.tell(pair.now, Input::Stalled { log: LOG });
    pair.wait(DEADLINE);
    assert_eq!(demoted(&pair), 2);
}

#[test]
fn a_side_that_takes_something_is_waited_for() {
    let mut pair = Pair::subscribed(Quality::AcrossHosts, |_| ());
    pair.cut();
    pair.more(LOG, 1);
    pair.a.tell(pair.now, Input::Stalled { log: LOG });
    // It goes on just before the deadline, and nothing new comes meanwhile.
    pair.wait(DEADLINE - 20 * MILLI);
    pair.connect();
    pair.wait(10 * MILLI);
    pair.cut();
    pair.wait(DEADLINE - 20 * MILLI);
    let demoted = |pair: &Pair| pair.a.count(|action| matches!(action, Action::Demote { .. }));
    assert_eq!(demoted(&pair), 0);
    pair.has(LOG, 0..1);
    pair.wait(20 * MILLI);
    assert_eq!(demoted(&pair), 1);
}

#[test]
fn the_longest_deadline_counts_and_a_shorter_one_counts_at_once() {
    let long = |pair: &mut Pair, interest| {
        let want = Want { deadline: 10 * DEADLINE, ..want("t", Quality::AcrossHosts) };
        pair.b.tell(pair.now, Input::Wanted { interest: InterestId(interest), want });
        pair.exchange();
    };
    let demoted = |pair: &Pair| pair.a.count(|action| matches!(action, Action::Demote { .. }));
    let mut pair = Pair::subscribed(Quality::AcrossHosts, |_| ());
    long(&mut pair, 7);
    pair.a.tell(pair.now, Input::Stalled { log: LOG });
    pair.wait(5 * DEADLINE);
    assert_eq!(demoted(&pair), 0);
    pair.b.tell(pair.now, Input::Unwanted { interest: InterestId(7) });
    pair.exchange();
    pair.wait(MILLI);
    assert_eq!(demoted(&pair), 1, "the shorter one was over already");
}

#[test]
fn a_lossy_link_goes_on_with_the_newest() {
    let mut pair = Pair::subscribed(Quality::Lossy, |_| ());
    pair.more(LOG, 3);
    pair.wait(50 * MILLI);
    pair.exchange();
    pair.cut();
    pair.more(LOG, 10);
    pair.wait(50 * MILLI);
    pair.connect();
    pair.has(LOG, 0..13);
    pair.cut();
    pair.more(LOG, 10);
    pair.wait(150 * MILLI);
    pair.connect();
    assert_eq!(pair.told(LOG)[13], Told::Gap(13, 9));
    assert_eq!(pair.told(LOG).len(), 15, "the newest came");
}

#[test]
fn a_restarted_receiver_goes_on_where_its_mirror_ends() {
    let mut pair = Pair::subscribed(Quality::Reliable, |_| ());
    pair.more(LOG, 10);
    pair.exchange();
    pair.cut();
    pair.more(LOG, 10);
    let told = std::mem::take(&mut pair.b.store.told);
    pair.b = End::new(Settings::new("b", "a", 33));
    pair.b.store.told = told;
    pair.b.held.insert(LOG, 10);
    pair.b.tell(pair.now, Input::Wanted { interest: InterestId(1), want: want("**", Quality::Reliable) });
    pair.connect();
    pair.has(LOG, 0..20);
    assert!(pair.a.actions.contains(&Action::Established { connection: ConnectionId(2), restarted: true }));
}

/// It was looked at again and again without a pause, once the time was over after which it is told again.
#[test]
fn what_was_refused_and_is_no_longer_wanted_is_not_looked_at_again() {
    let mut pair = Pair::subscribed(Quality::Reliable, |_| ());
    pair.b.tell(pair.now, Input::MirrorFailed { log: LOG, text: "no room".to_owned() });
    pair.exchange();
    pair.b.tell(pair.now, Input::Unwanted { interest: InterestId(1) });
    pair.exchange();
    let later = pair.now + 2 * Settings::new("a", "b", 1).refused_again;
    pair.a.peer.handle_timeout(later);
    assert!(pair.a.peer.poll_timeout().is_none_or(|at| at > later));
}

#[test]
fn the_nodes_of_a_restarted_receiver_may_come_back_late() {
    for comes_back in [true, false] {
        let mut pair = Pair::subscribed(Quality::AcrossHosts, |_| ());
        pair.more(LOG, 10);
        pair.exchange();
        let told = std::mem::take(&mut pair.b.store.told);
        for instance in [33, 34] {
            pair.cut();
            pair.more(LOG, 10);
            pair.b = End::new(Settings::new("b", "a", instance));
            pair.connect();
            // Another break, of the connection only, does not end the time that they have.
            pair.wait(DEADLINE);
            pair.cut();
            pair.connect();
            pair.wait(DEADLINE);
        }
        pair.b.store.told = told;
        pair.b.held.insert(LOG, 10);
        let unlinked = |pair: &Pair| pair.a.count(|action| matches!(action, Action::Unlink { .. }));
        assert_eq!(unlinked(&pair), 0);
        if comes_back {
            let want = want("t", Quality::AcrossHosts);
            pair.b.tell(pair.now, Input::Wanted { interest: InterestId(1), want });
            pair.exchange();
            pair.has(LOG, 0..30);
        }
        pair.wait(Settings::new("a", "b", 1).return_grace);
        assert_eq!(unlinked(&pair), usize::from(!comes_back));
    }
}

#[test]
fn what_was_held_before_a_sender_was_restarted_is_for_mirrors_from_before_only() {
    for next in [None, Some(17)] {
        let mut pair = Pair::new();
        pair.a.start = Some(20);
        pair.b.held.extend(next.map(|next| (LOG, next)));
        pair.b.tell(pair.now, Input::Wanted { interest: InterestId(1), want: want("t", Quality::Reliable) });
        pair.publish(LOG, "t", 20, 20);
        pair.connect();
        pair.more(LOG, 5);
        pair.exchange();
        let begin = next.unwrap_or(20);
        let sequences: Vec<_> = pair.told(LOG).iter().map(|told| told.sequence()).collect();
        assert_eq!(sequences, (begin..25).collect::<Vec<_>>());
        // What nobody needs is not kept.
        assert!(pair.a.actions.contains(&Action::Retain { log: LOG, from: begin }));
        let linked =
            |resumed| pair.a.count(|action| matches!(action, Action::Link { resume, .. } if *resume == resumed));
        assert_eq!((linked(true), linked(false)), (1, 0));
    }
    // Once all mirrors from before have ended, a link begins where it is asked to.
    let mut pair = Pair::new();
    pair.connect();
    pair.wait(2 * Settings::new("a", "b", 1).mirror_grace);
    pair.publish(LOG, "t", 20, 20);
    pair.b.tell(pair.now, Input::Wanted { interest: InterestId(1), want: want("t", Quality::Reliable) });
    pair.exchange();
    assert!(pair.a.actions.iter().any(|action| matches!(action, Action::Link { resume: false, .. })));
}

#[test]
fn a_restarted_sender_goes_on_with_what_is_still_held() {
    let mut pair = Pair::subscribed(Quality::Reliable, |_| ());
    pair.more(LOG, 10);
    pair.exchange();
    pair.cut();
    let mut logs = std::mem::take(&mut pair.a.store.logs);
    logs.insert(LOG, (15, 20, 20));
    pair.a = End::new(Settings::new("a", "b", 33));
    pair.a.store.logs = logs;
    pair.connect();
    pair.a.tell(pair.now, Input::Appeared(publication(LOG, "t")));
    pair.exchange();
    assert_eq!(pair.told(LOG)[10], Told::Gap(10, 5));
    assert_eq!(pair.told(LOG).len(), 16);
}

#[test]
fn a_mirror_that_is_not_announced_again_ends_in_time() {
    let mut pair = Pair::subscribed(Quality::Reliable, |_| ());
    pair.cut();
    pair.a = End::new(Settings::new("a", "b", 33));
    pair.wait(Duration::from_secs(100));
    pair.connect();
    assert_eq!(pair.b.count(|action| matches!(action, Action::EndMirror { .. })), 0, "it may come back");
    pair.wait(Duration::from_secs(11));
    assert_eq!(pair.b.actions.last(), Some(&Action::EndMirror { log: LOG, end: MirrorEnd::Vanished }));
}

#[test]
fn a_mirror_that_fails_is_tried_again() {
    let mut pair = Pair::new();
    pair.b.tell(pair.now, Input::Wanted { interest: InterestId(1), want: want("**", Quality::Reliable) });
    pair.b.answers = false;
    pair.publish(LOG, "t", 20, 3);
    pair.connect();
    pair.b.tell(pair.now, Input::MirrorFailed { log: LOG, text: "no memory".to_owned() });
    pair.exchange();
    pair.b.answers = true;
    pair.wait(Duration::from_secs(4));
    assert!(pair.told(LOG).is_empty());
    pair.wait(Duration::from_secs(2));
    pair.has(LOG, 0..3);
}

#[test]
fn a_link_that_cannot_be_is_tried_when_it_is_wanted_anew() {
    let mut pair = Pair::new();
    pair.b.tell(pair.now, Input::Wanted { interest: InterestId(1), want: want("**", Quality::Reliable) });
    pair.a.answers = false;
    pair.publish(LOG, "t", 20, 3);
    pair.connect();
    pair.a.tell(pair.now, Input::NotLinked { log: LOG });
    pair.a.answers = true;
    pair.b.tell(pair.now, Input::Wanted { interest: InterestId(2), want: want("t", Quality::Reliable) });
    pair.exchange();
    pair.has(LOG, 0..3);
}

#[test]
fn publications_wait_for_a_channel() {
    let mut pair = Pair::with(|settings| settings.max_channels = 2);
    pair.b.tell(pair.now, Input::Wanted { interest: InterestId(1), want: want("**", Quality::Reliable) });
    let logs: Vec<_> = (1..=5).map(|id| LogKey { publication: PublicationId(id), epoch: 1 }).collect();
    logs.iter().for_each(|&log| pair.publish(log, "t", 20, 2));
    pair.connect();
    let there = |pair: &Pair| logs.iter().filter(|&&log| !pair.told(log).is_empty()).count();
    assert_eq!(there(&pair), 2);
    for done in 1..=5 {
        let log = logs.iter().find(|&&log| !pair.told(log).is_empty() && pair.a.store.logs.contains_key(&log)).copied();
        let log = log.expect("one is there");
        pair.a.tell(pair.now, Input::Went { log, next: 2 });
        pair.exchange();
        pair.a.store.logs.remove(&log);
        assert_eq!(there(&pair), (done + 2).min(5));
    }
    assert_eq!(pair.b.closed(), None);
}

#[test]
fn interests_wait_for_room_over_there() {
    let mut pair = Pair::with(|settings| settings.max_interests = 2);
    for interest in 0..5 {
        let want = want(&format!("t{interest}"), Quality::Reliable);
        pair.b.tell(pair.now, Input::Wanted { interest: InterestId(interest), want });
    }
    pair.publish(LOG, "t4", 20, 3);
    pair.connect();
    assert_eq!(pair.b.peer.status().untold, 3);
    for interest in 0..3 {
        assert!(pair.told(LOG).is_empty());
        pair.b.tell(pair.now, Input::Unwanted { interest: InterestId(interest) });
        pair.exchange();
    }
    pair.has(LOG, 0..3);
    assert_eq!((pair.b.peer.status().untold, pair.a.closed()), (0, None));
}

// Connections.

/// Both dial at once; each learns of the two connections in the order that is given: true is the own one first.
fn cross(a_own_first: bool, b_own_first: bool) -> (Pair, [ConnectionId; 2]) {
    let mut pair = Pair::new();
    let (a_hello, b_hello) = (pair.a.peer.dial(), pair.b.peer.dial());
    let (a_wire, b_wire) = (pair.next_connection(), pair.next_connection());
    let (a_answer, b_answer) = (pair.a.peer.hello(1), pair.b.peer.hello(1));
    let now = pair.now;
    let dialled = |end: &mut End, connection, hello| {
        end.tell(now, Input::Connected { connection, role: Role::Dialled, hello });
    };
    let accepted = |end: &mut End, connection, hello| {
        end.tell(now, Input::Connected { connection, role: Role::Accepted, hello });
    };
    if a_own_first {
        dialled(&mut pair.a, a_wire, b_answer.clone());
        accepted(&mut pair.a, b_wire, b_hello.clone());
    } else {
        accepted(&mut pair.a, b_wire, b_hello.clone());
        dialled(&mut pair.a, a_wire, b_answer.clone());
    }
    if b_own_first {
        dialled(&mut pair.b, b_wire, a_answer);
        accepted(&mut pair.b, a_wire, a_hello);
    } else {
        accepted(&mut pair.b, a_wire, a_hello);
        dialled(&mut pair.b, b_wire, a_answer);
    }
    (pair, [a_wire, b_wire])
}

#[test]
fn of_two_connections_both_keep_the_same() {
    for order in 0..4 {
        let (pair, [a_wire, b_wire]) = cross(order & 1 == 0, order & 2 == 0);
        for end in [&pair.a, &pair.b] {
            let closed: Vec<_> = end
                .actions
                .iter()
                .filter_map(|action| match action {
                    Action::Close { connection, reason, .. } => Some((*connection, reason.clone())),
                    _ => None,
                })
                .collect();
            assert_eq!(closed, [(b_wire, Reason::Duplicate)], "a is smaller than b, so its own stays");
            let used = end.actions.iter().rev().find(|action| matches!(action, Action::Established { .. }));
            assert!(matches!(used, Some(Action::Established { connection, .. }) if *connection == a_wire));
        }
    }
}

#[test]
fn one_that_lost_a_connection_is_believed() {
    let mut pair = Pair::new();
    pair.connect();
    // Only `b` sees that it broke; what `a` dialled would stay otherwise.
    pair.b.tell(pair.now, Input::Disconnected { connection: ConnectionId(1) });
    let hello = pair.b.peer.dial();
    pair.a.tell(pair.now, Input::Connected { connection: ConnectionId(2), role: Role::Accepted, hello });
    let established = Action::Established { connection: ConnectionId(2), restarted: false };
    assert_eq!(pair.a.actions.last(), Some(&established));
}

#[test]
fn of_one_dialler_the_later_connection_stays() {
    let mut pair = Pair::new();
    pair.connect();
    pair.a.tell(pair.now, Input::Disconnected { connection: ConnectionId(1) });
    pair.connect();
    assert!(pair.b.actions.contains(&Action::Established { connection: ConnectionId(2), restarted: false }));
    // An old greeting that was late.
    let mut late = pair.a.peer.hello(1);
    late.over = 0;
    pair.b.tell(pair.now, Input::Connected { connection: ConnectionId(3), role: Role::Accepted, hello: late });
    let Some(Action::Close { connection: ConnectionId(3), reason: Reason::Duplicate, .. }) = pair.b.actions.last()
    else {
        panic!("{:?}", pair.b.actions.last());
    };
}

#[test]
fn one_that_was_restarted_is_believed() {
    let mut pair = Pair::new();
    pair.connect();
    pair.b = End::new(Settings::new("b", "a", 33));
    let hello = pair.b.peer.dial();
    pair.a.tell(pair.now, Input::Connected { connection: ConnectionId(2), role: Role::Accepted, hello });
    let established = Action::Established { connection: ConnectionId(2), restarted: true };
    assert_eq!(pair.a.actions.last(), Some(&established));
}

#[test]
fn who_is_somebody_else_is_turned_away() {
    let mut pair = Pair::new();
    for (host, to) in [("c", "b"), ("a", "c"), ("b", "a")] {
        let mut hello = pair.a.peer.hello(1);
        (hello.host, hello.to) = (host.to_owned(), to.to_owned());
        pair.b.tell(pair.now, Input::Connected { connection: ConnectionId(9), role: Role::Accepted, hello });
        assert!(matches!(pair.b.closed(), Some(Reason::WrongHost { .. })));
        assert!(!pair.b.peer.is_connected());
    }
}

#[test]
fn one_that_says_nothing_is_given_up_and_one_that_lives_is_not() {
    let mut pair = Pair::new();
    pair.connect();
    pair.wait(Duration::from_secs(60));
    assert!(pair.a.peer.is_connected() && pair.b.peer.is_connected());
    assert_eq!(pair.a.peer.status().round_trip, Some(Duration::ZERO));
    // Nothing reaches the other side any more.
    for _ in 0..100 {
        pair.now += 100 * MILLI;
        pair.a.peer.handle_timeout(pair.now);
        pair.a.act(pair.now);
    }
    assert_eq!(pair.a.closed(), Some(&Reason::Silent));
    assert_eq!(pair.a.peer.status().last_end, Some(Reason::Silent));
}

#[test]
fn the_round_trip_is_measured() {
    let mut pair = Pair::new();
    pair.connect();
    pair.now += Duration::from_secs(1);
    pair.a.peer.handle_timeout(pair.now);
    let ping = pair.a.write(pair.now);
    pair.now += 30 * MILLI;
    pair.b.read(pair.now, &ping);
    let pong = pair.b.write(pair.now);
    pair.now += 12 * MILLI;
    pair.a.read(pair.now, &pong);
    assert_eq!(pair.a.peer.status().round_trip, Some(42 * MILLI));
}

#[test]
fn a_goodbye_is_heard() {
    let mut pair = Pair::new();
    pair.connect();
    pair.a.tell(pair.now, Input::Leave { reason: Reason::Stopping });
    let Some(Action::Close { goodbye, .. }) = pair.a.actions.last() else { panic!("it closes") };
    pair.b.read(pair.now, &goodbye.clone());
    assert_eq!(pair.b.closed(), Some(&Reason::Theirs { code: 7, text: "it stops".to_owned() }));
    assert!(!pair.b.peer.is_connected());
}

#![expect(
    clippy::unnecessary_wraps,
    reason = "heads are given as they are taken"
)]

use super::*;
use crate::{
    gateway::{
        liveness::Reach,
        parse::{Subject, Told},
    },
    record::State,
};

const LIMITS: Limits = Limits {
    nodes: 2,
    containers_per_node: 100,
};

fn greeting(node: &str, stream: &str, process: &str) -> Greeting {
    Greeting {
        node: node.into(),
        stream: stream.into(),
        process: process.to_owned(),
        boot_id: String::new(),
        host_id: String::new(),
        version: String::new(),
    }
}

fn head(seq: u64, container: u8, state: State) -> Option<Head> {
    Some(Head {
        seq,
        kind: Told::Other,
        subject: Some(Subject {
            key: u128::from(container),
            version: seq,
            hash: u64::from(container) << 32 | seq,
            state,
        }),
    })
}

fn synced(seq: u64) -> Option<Head> {
    Some(Head {
        seq,
        kind: Told::Synced,
        subject: None,
    })
}

struct World {
    fleet: Fleet,
    node: NodeId,
}

impl World {
    fn new() -> Self {
        let mut fleet = Fleet::new(LIMITS);
        let mut out = Out::default();
        let (node, old) = fleet
            .hello(0, greeting("a", "s1", "p"), 1, &mut out)
            .expect("let in");
        assert_eq!(old, None);
        Self { fleet, node }
    }

    fn records(&mut self, first: u64, heads: &[Option<Head>]) -> (Taken, Out) {
        let mut out = Out::default();
        let sent = Sent {
            after: 0,
            first,
            heads,
        };
        let taken = self.fleet.records(0, self.node, &sent, &mut out);
        (taken.expect("in order"), out)
    }

    fn beat(&mut self, now: u64, seq: u64, containers: u64, hash: u64) -> Out {
        let mut out = Out::default();
        let beat = Beat {
            seq,
            containers,
            hash,
            clock: None,
            losses: LossReport::default(),
            clock_ahead_ms: None,
        };
        self.fleet.heartbeat(now, self.node, beat, &mut out);
        out
    }

    fn snapshot(&mut self, seq: u64, heads: &[Option<Head>]) -> Out {
        let mut out = Out::default();
        let part = Part {
            seq,
            heads,
            last: true,
        };
        self.fleet.snapshot(0, self.node, &part, &mut out);
        out
    }

    fn state(&self, container: u8) -> Option<(State, u64)> {
        let node = self.fleet.node(self.node).expect("known");
        let entry = node.table().get(u128::from(container))?;
        Some((entry.state, entry.version))
    }
}

#[test]
fn duplicates_change_nothing() {
    let mut world = World::new();
    let heads = [head(1, 1, State::Created), head(2, 1, State::Running)];
    assert_eq!(world.records(1, &heads).0.duplicates, 0);
    let (taken, out) = world.records(1, &heads);
    assert_eq!(taken.duplicates, 2);
    assert!(out.rows.is_empty() && out.own.is_empty());
    let (taken, _) = world.records(2, &[heads[1].clone(), head(3, 1, State::Exited)]);
    assert_eq!(taken.duplicates, 1);
    assert_eq!(world.state(1), Some((State::Exited, 3)));
}

#[test]
fn a_hole_is_told_once_and_as_one() {
    let mut world = World::new();
    world.records(1, &[head(1, 1, State::Created)]);
    let (_, out) = world.records(10, &[head(10, 1, State::Running), None, None]);
    let holes: Vec<_> = out
        .own
        .iter()
        .map(|own| match own {
            Own::Hole { from, to, .. } => (*from, *to),
            other => panic!("{other:?}"),
        })
        .collect();
    assert_eq!(holes, [(2, 9), (11, 12)]);
    let node = world.fleet.node(world.node).expect("known");
    let position = node.position().expect("a stream");
    assert_eq!((position.committed, position.missing), (12, 10));
    assert!(world.records(10, &[None]).1.own.is_empty());
}

#[test]
fn records_that_overtook_others_are_no_hole() {
    let mut world = World::new();
    world.records(1, &[head(1, 1, State::Created)]);
    let mut out = Out::default();
    let heads = [head(4, 1, State::Exited)];
    let sent = |after| Sent {
        after,
        first: 4,
        heads: &heads,
    };
    let fleet = &mut world.fleet;
    let taken = fleet.records(0, world.node, &sent(3), &mut out);
    assert_eq!(taken, Err(Overtaken));
    assert!(out.own.is_empty() && out.rows.is_empty());
    // The same, where the node says that it has 2 and 3 no more.
    let taken = fleet.records(0, world.node, &sent(1), &mut out);
    assert_eq!(taken, Ok(Taken::default()));
    assert!(matches!(out.own[..], [Own::Hole { from: 2, to: 3, .. }]));
}

#[test]
fn a_name_belongs_to_one_process() {
    let mut world = World::new();
    let mut out = Out::default();
    let fleet = &mut world.fleet;
    let other = fleet.hello(1, greeting("a", "s9", "q"), 2, &mut out);
    assert_eq!(other, Err(Denied::NameTaken));
    let again = fleet.hello(1, greeting("a", "s1", "p"), 3, &mut out);
    assert_eq!(again, Ok((world.node, Some(1))));
    assert!(!fleet.holds(world.node, 1) && fleet.holds(world.node, 3));
    fleet.closed(world.node, 1);
    assert!(fleet.holds(world.node, 3));
    fleet.closed(world.node, 3);
    assert!(
        fleet
            .hello(2, greeting("a", "s9", "q"), 4, &mut out)
            .is_ok()
    );
    assert!(fleet.hello(2, greeting("b", "s", "r"), 5, &mut out).is_ok());
    let full = fleet.hello(2, greeting("c", "s", "r"), 6, &mut out);
    assert_eq!(full, Err(Denied::Full));
}

#[test]
fn a_different_hash_asks_for_a_snapshot_once_the_table_is_there() {
    let mut world = World::new();
    // The heartbeat is ahead of the records: it is compared when they come.
    assert!(!world.beat(0, 2, 1, 99).snapshot);
    assert!(!world.records(1, &[head(1, 1, State::Created)]).1.snapshot);
    assert!(world.records(2, &[head(2, 1, State::Running)]).1.snapshot);
    // Not again at once.
    assert!(!world.beat(5_000, 2, 1, 99).snapshot);
    assert!(world.beat(31_000, 2, 1, 99).snapshot);
    let hash = 1 << 32 | 2;
    assert!(!world.beat(90_000, 2, 1, hash).snapshot);
    assert!(world.beat(90_000, 2, 2, hash).snapshot);
}

#[test]
fn a_snapshot_is_the_truth_as_of_its_number() {
    let mut world = World::new();
    world.records(1, &[head(1, 1, State::Created), head(2, 2, State::Created)]);
    let out = world.snapshot(9, &[head(8, 2, State::Paused), head(9, 3, State::Running)]);
    assert_eq!(world.state(1), None);
    assert_eq!(world.state(2), Some((State::Paused, 8)));
    assert_eq!(world.state(3), Some((State::Running, 9)));
    let told = Own::Repaired {
        changed: 2,
        removed: 1,
    };
    assert_eq!(out.own, [told]);
    // Records up to there are late: they bring nothing back.
    let late: Vec<_> = (3..=9).map(|seq| head(seq, 1, State::Running)).collect();
    world.records(3, &late);
    assert_eq!(world.state(1), None);
    world.records(10, &[head(10, 1, State::Running)]);
    assert_eq!(world.state(1), Some((State::Running, 10)));
}

#[test]
fn what_a_new_stream_does_not_find_is_gone() {
    let mut world = World::new();
    world.records(1, &[head(1, 1, State::Running), head(2, 2, State::Running)]);
    let mut out = Out::default();
    world.fleet.closed(world.node, 1);
    world
        .fleet
        .hello(0, greeting("a", "s2", "p2"), 2, &mut out)
        .expect("let in");
    // Its numbers begin anew and are smaller: the epoch counts.
    world.records(1, &[head(1, 2, State::Paused)]);
    assert_eq!(world.state(1), Some((State::Running, 1)));
    assert_eq!(world.state(2), Some((State::Paused, 1)));
    let (_, out) = world.records(2, &[synced(2)]);
    assert_eq!(out.rows.len(), 1);
    assert_eq!(world.state(1), None);
}

#[test]
fn silence_is_told_once_and_ends_the_session() {
    let mut world = World::new();
    assert!(world.fleet.tick(14_999).is_empty());
    let silent = world.fleet.tick(15_000);
    let (node, own, session) = silent.first().expect("told");
    assert_eq!((*node, *session), (world.node, Some(1)));
    assert!(matches!(own, Own::Reach { change, .. } if change.is == Reach::Unreachable));
    assert!(world.fleet.tick(1_000_000).is_empty());
    assert!(!world.fleet.holds(world.node, 1));
}

/// Shuffled, repeated and cut deliveries of the same stream end in the same table.
#[test]
fn any_delivery_ends_in_the_same_table() {
    let mut seed = 7_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    let states = [
        State::Created,
        State::Running,
        State::Exited,
        State::Removed,
    ];
    for _ in 0..200 {
        let all: Vec<_> = (1..=60)
            .map(|seq| {
                let state = states[usize::try_from(random(4)).expect("small")];
                head(seq, u8::try_from(random(8)).expect("small"), state)
            })
            .collect();
        let mut whole = World::new();
        whole.records(1, &all);
        let mut pieces = World::new();
        let mut sent = 0;
        while sent < all.len() {
            let back = usize::try_from(random(6)).expect("small").min(sent);
            let end = (sent + 1 + usize::try_from(random(9)).expect("small")).min(all.len());
            let first = sent - back;
            pieces.records(first as u64 + 1, &all[first..end]);
            sent = end;
        }
        let hash = |world: &World| world.fleet.node(world.node).map(|node| node.table().hash());
        assert_eq!(hash(&whole), hash(&pieces));
        assert!((0..8).all(|key| whole.state(key) == pieces.state(key)));
    }
}

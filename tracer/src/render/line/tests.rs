//! Events of every type, with whatever texts, written both ways.

use std::{collections::BTreeMap, sync::Arc};

use tracer_common::CgroupKey;

use super::*;
use crate::{
    lifecycle::{Identity, Kept, OomFacts},
    record::{K8s, Kind, Labels, Named, Node, Pod},
    render::Written,
    time::WallOffset,
};

/// A seeded source of choices (`SplitMix64`).
struct Dice(u64);

impl Dice {
    fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }

    fn below(&mut self, bound: u64) -> u64 {
        self.roll() % bound
    }

    fn coin(&mut self) -> bool {
        self.roll() & 1 == 0
    }

    /// Numbers of every size, 0 often.
    fn number(&mut self) -> u64 {
        let shift = self.below(80);
        self.roll()
            .checked_shr(u32::try_from(shift).expect("small"))
            .unwrap_or(0)
    }

    fn small(&mut self) -> u32 {
        u32::try_from(self.number() & 0xffff_ffff).expect("masked")
    }

    fn maybe<T>(&mut self, make: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.coin().then(|| make(self))
    }

    /// Mostly what an ordinary name looks like, at times anything at all.
    fn bytes(&mut self) -> Vec<u8> {
        let len = if self.below(50) == 0 { 5_000 } else { 40 };
        let len = self.below(len);
        let kind = self.below(4);
        (0..len)
            .map(|_| match kind {
                0 | 1 => b'a' + u8::try_from(self.below(26)).expect("a letter"),
                2 => u8::try_from(self.below(128)).expect("ASCII"),
                _ => u8::try_from(self.below(256)).expect("a byte"),
            })
            .collect()
    }

    fn text(&mut self) -> String {
        String::from_utf8_lossy(&self.bytes()).into_owned()
    }

    fn list<T>(&mut self, mut make: impl FnMut(&mut Self) -> T) -> Vec<T> {
        (0..self.below(4)).map(|_| make(self)).collect()
    }

    fn runtime(&mut self) -> Runtime {
        Runtime {
            name: self.text().into(),
        }
    }

    fn k8s(&mut self) -> K8s {
        let named = |dice: &mut Self| Named { name: dice.text() };
        K8s {
            pod: self.maybe(|dice| Pod {
                name: dice.maybe(Self::text),
                uid: dice.maybe(Self::text),
                label: Labels::from_iter([("app", dice.text())]),
            }),
            namespace: self.maybe(named),
            container: self.maybe(named),
        }
    }

    fn identity(&mut self) -> Identity {
        let label = |dice: &mut Self| (dice.text(), dice.text());
        Identity {
            id: self.text().into(),
            boot_id: self.text().into(),
            runtime: self.maybe(Self::runtime),
            parents: self
                .list(|dice| Parent {
                    id: dice.text().into(),
                    runtime: dice.maybe(Self::runtime),
                })
                .into(),
            cgroup: CgroupKey::new(self.small(), self.number()),
            hierarchy: self.text().into(),
            path: self.bytes().into(),
            name: self.maybe(|dice| dice.text().into()),
            image: self.maybe(|dice| {
                Arc::new(Image {
                    name: dice.maybe(Self::text),
                    tags: dice.list(Self::text),
                    id: dice.maybe(Self::text),
                    repo_digests: dice.list(Self::text),
                })
            }),
            label: self.maybe(|dice| Arc::new(dice.list(label).into_iter().collect())),
            k8s: self.maybe(|dice| Arc::new(dice.k8s())),
            created: self.maybe(|dice| Timestamp(dice.number() >> 1)),
            restart_count: self.maybe(Self::number),
            sandbox: self.coin(),
        }
    }

    fn subject(&mut self) -> Subject<'static> {
        let states = [
            State::Created,
            State::Running,
            State::Paused,
            State::Exited,
            State::Removed,
        ];
        let levels = [Enrichment::None, Enrichment::Partial, Enrichment::Full];
        Subject {
            identity: Box::leak(Box::new(self.identity())),
            kept: Box::leak(Box::<Kept>::default()),
            state: self.of(&states),
            version: self.number(),
            enrichment: self.of(&levels),
        }
    }

    fn of<T: Copy>(&mut self, choices: &[T]) -> T {
        choices[usize::try_from(self.below(choices.len() as u64)).expect("small")]
    }

    fn actor(&mut self) -> Actor<'static> {
        let args = self.list(Self::bytes).join(&0);
        Actor {
            pid: self.small(),
            vpid: self.small(),
            parent_pid: self.small(),
            comm: self.bytes().leak(),
            path: self.bytes().leak(),
            args: args.leak(),
            status: self.maybe(|dice| dice.small() & 0xffff),
        }
    }

    fn event(&mut self, kind: Kind) -> Event<'static> {
        Event {
            seq: self.number(),
            time: BootNs(self.number() >> 2),
            kind,
            origin: self.of(&[Origin::Kernel, Origin::Snapshot, Origin::Reconcile]),
            container: self.maybe(Self::subject),
            process: self.maybe(Self::actor),
            session: self.maybe(|dice| (dice.small(), dice.number())),
            oom: self.maybe(|dice| OomFacts {
                init: dice.coin(),
                limit: dice.maybe(|dice| CgroupKey::new(dice.small() & 1, dice.number())),
                own: dice.coin(),
                limit_bytes: dice.number(),
            }),
            oom_killed: self.maybe(Self::coin),
            duration_ns: self.maybe(Self::number),
            node: self.maybe(|dice| {
                Box::new(Node {
                    version: dice.maybe(Self::text),
                    lost: BTreeMap::from_iter(dice.list(|dice| (dice.text(), dice.number()))),
                    since: dice.maybe(|dice| Timestamp(dice.number() >> 1)),
                    ..Node::default()
                })
            }),
        }
    }
}

#[test]
fn every_event_is_written_as_serde_writes_its_record() {
    let mut dice = Dice(2026);
    for round in 0..400 {
        let renderer = Renderer {
            stream: dice.text().into(),
            host: Arc::new(Host {
                name: dice.text(),
                id: dice.maybe(Dice::text),
                boot_id: dice.text(),
            }),
            offset: WallOffset(dice.number() >> 2),
            hierarchies: BTreeMap::from([(0, "unified".into())]),
            written: Written::default(),
        };
        for kind in Kind::ALL {
            let event = dice.event(*kind);
            let now = BootNs(event.time.0 + dice.below(3));
            let mut line = Vec::new();
            renderer.line(&event, now, &mut line);
            // Once more, from what was kept of the first time.
            let mut again = Vec::new();
            renderer.line(&event, now, &mut again);
            assert_eq!(line, again, "round {round}, {kind:?}");
            let record = renderer.record(&event, now);
            let mut expected = serde_json::to_vec(&record).expect("a record");
            expected.push(b'\n');
            assert!(
                line == expected,
                "round {round}, {kind:?}\n   line {}\n serde {}",
                String::from_utf8_lossy(&line),
                String::from_utf8_lossy(&expected)
            );
        }
    }
}

/// The bounds that a word's width makes interesting, each byte in each place.
#[test]
fn plain_is_what_needs_no_escape() {
    for byte in 0..=u8::MAX {
        let plain = (0x20..0x80).contains(&byte) && byte != b'"' && byte != b'\\';
        for len in [1, WORD - 1, WORD, WORD + 1, 2 * WORD, 3 * WORD + 5] {
            for place in 0..len {
                let mut text = vec![b'x'; len];
                text[place] = byte;
                assert_eq!(is_plain(&text), plain, "{byte:#x} at {place} of {len}");
            }
        }
    }
    assert!(is_plain(b""));
}

//! What the gateway promises, one by one, asked over the wire of the gateway as it is shipped.

use std::{collections::BTreeMap, path::Path, time::Duration};

use tokio::runtime::Runtime;
use tracer::uplink::{
    Goodbye, Heartbeat, Snapshot, from_gateway::Kind as Heard, from_node::Kind as Said, state_hash,
};
use tracer_tests::{
    Context, Result, ensure,
    tracer::binary,
    upstream::{
        gateway::Gateway,
        verdict::Held,
        wire::{self, Wire, line},
    },
    wait::{DEADLINE, wait_until},
};

/// A gateway on the loopback, and how to talk to it.
struct Stage {
    gateway: Gateway,
    runtime: Runtime,
    _directory: tempfile::TempDir,
}

const NODE: &str = "n";
const STREAM: &str = "s";

impl Stage {
    fn new(arguments: &[&str]) -> Result<Self> {
        let directory = tempfile::tempdir()?;
        let store = directory.path().join("store");
        let mut gateway = Gateway::new(binary(), store, None)?.with(arguments);
        gateway.start()?;
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()?;
        Ok(Self {
            gateway,
            runtime,
            _directory: directory,
        })
    }

    /// A session, and what the gateway holds by its own word.
    fn greet(&self, stream: &str) -> Result<(Wire, u64)> {
        self.runtime.block_on(async {
            let channel = wire::plain(self.gateway.address()).await?;
            let (wire, welcome) = Wire::greet(channel, None, NODE, stream).await?;
            Ok((wire, welcome.resume_after))
        })
    }

    /// Records from `first` on, until they are durable.
    fn deliver(&self, wire: &mut Wire, first: u64, states: &[(&str, &str)]) -> Result<()> {
        self.runtime.block_on(async {
            let lines = (first..).zip(states);
            let lines: Vec<_> = lines
                .map(|(seq, (container, state))| line(STREAM, seq, container, state))
                .collect();
            let last = first + u64::try_from(lines.len())? - 1;
            wire.records(first, lines).await?;
            wire.acked(last).await
        })
    }

    fn say(&self, wire: &Wire, kind: Said) -> Result<()> {
        self.runtime.block_on(wire.say(kind))
    }

    fn hear(&self, wire: &mut Wire) -> Result<Heard> {
        self.runtime.block_on(wire.hear())
    }

    /// Instance to version and state.
    fn table(&self) -> Result<BTreeMap<String, (u64, String)>> {
        Ok(self.gateway.held(NODE)?.table)
    }

    fn seqs(&self) -> Result<Vec<u64>> {
        let held = self.gateway.log()?;
        ensure!(held.twice.is_empty(), "twice: {:?}", held.twice);
        let of_stream = held.records.get(STREAM);
        Ok(of_stream.map_or_else(Vec::new, |records| records.keys().copied().collect()))
    }

    /// Waits until so many changes of where the node is were told.
    fn reach(&self, told: &[&str]) -> Result<()> {
        wait_until(DEADLINE, &format!("{told:?}"), || {
            Ok((self.told()?.len() >= told.len()).then_some(()))
        })?;
        self.reach_is(told)
    }

    fn reach_is(&self, expected: &[&str]) -> Result<()> {
        let told = self.told()?;
        ensure!(told == expected, "{told:?} instead of {expected:?}");
        Ok(())
    }

    fn told(&self) -> Result<Vec<String>> {
        let Held { reach, .. } = self.gateway.log()?;
        let name = |kind: &String| kind.trim_start_matches("node.").to_owned();
        Ok(reach.iter().map(name).collect())
    }
}

fn row(version: u64, state: &str) -> (u64, String) {
    (version, state.to_owned())
}

fn beat(seq: u64, table: &[(&str, u64)]) -> Said {
    let hash = |hash: u64, (container, version): &(&str, u64)| {
        hash.wrapping_add(state_hash(&format!("b:1:{container}"), *version))
    };
    Said::Heartbeat(Heartbeat {
        seq,
        containers: table.len() as u64,
        state_hash: table.iter().fold(0, hash),
        ..Heartbeat::default()
    })
}

#[test]
fn what_is_acked_is_there_after_a_kill() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let mut seq = 0;
    for round in 1..=10 {
        let (mut wire, held) = stage.greet(STREAM)?;
        ensure!(
            held == seq,
            "{seq} were acked, after a kill there are {held}"
        );
        let states = vec![("c", "running"); round * 7];
        stage.deliver(&mut wire, seq + 1, &states)?;
        // At once: whatever the gateway put off is lost.
        stage.gateway.kill()?;
        seq += u64::try_from(states.len())?;
        stage.gateway.start()?;
        ensure!(stage.seqs()?.len() as u64 == seq);
        ensure!(stage.table()?.get("b:1:c") == Some(&row(seq, "running")));
    }
    Ok(())
}

#[test]
fn a_duplicate_changes_nothing_and_is_acked() -> Result<()> {
    let stage = Stage::new(&[])?;
    let (mut wire, _) = stage.greet(STREAM)?;
    let states = [("a", "created"), ("a", "running"), ("a", "exited")];
    stage.deliver(&mut wire, 1, &states)?;
    let table = stage.table()?;
    // All of them, some of them, and in a session of their own.
    stage.deliver(&mut wire, 1, &states)?;
    stage.deliver(&mut wire, 2, &states[1..])?;
    let (mut wire, held) = stage.greet(STREAM)?;
    ensure!(held == 3);
    stage.deliver(&mut wire, 1, &states[..1])?;
    ensure!(stage.seqs()? == [1, 2, 3]);
    ensure!(stage.table()? == table && table.get("b:1:a") == Some(&row(3, "exited")));
    // One that is new among old ones counts.
    stage.deliver(
        &mut wire,
        2,
        &[("a", "running"), ("a", "exited"), ("b", "created")],
    )?;
    ensure!(stage.seqs()? == [1, 2, 3, 4]);
    ensure!(stage.table()?.get("b:1:b") == Some(&row(4, "created")));
    Ok(())
}

#[test]
fn a_version_never_goes_back() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let (mut wire, _) = stage.greet(STREAM)?;
    stage.deliver(
        &mut wire,
        1,
        &[("a", "created"), ("a", "running"), ("a", "paused")],
    )?;
    // A snapshot as of an earlier record.
    let old = Snapshot {
        seq: 2,
        containers: vec![line(STREAM, 2, "a", "running")],
        last: true,
    };
    stage.say(&wire, Said::Snapshot(old))?;
    stage.deliver(&mut wire, 4, &[("b", "created")])?;
    ensure!(stage.table()?.get("b:1:a") == Some(&row(3, "paused")));
    // A record that carries a container as it was earlier, as process.exec does.
    stage.runtime.block_on(async {
        let text = String::from_utf8(line(STREAM, 5, "a", "running").to_vec())?;
        let earlier = text.replace("\"version\":5", "\"version\":2");
        ensure!(earlier != text);
        wire.records(5, vec![earlier.into_bytes().into()]).await?;
        wire.acked(5).await
    })?;
    ensure!(stage.table()?.get("b:1:a") == Some(&row(3, "paused")));
    // Nor does a start from the store bring it back.
    stage.gateway.kill()?;
    stage.gateway.start()?;
    ensure!(stage.table()?.get("b:1:a") == Some(&row(3, "paused")));
    Ok(())
}

#[test]
fn another_hash_asks_for_a_snapshot_and_that_replaces_the_table() -> Result<()> {
    let stage = Stage::new(&[])?;
    let (mut wire, _) = stage.greet(STREAM)?;
    stage.deliver(&mut wire, 1, &[("a", "created"), ("b", "created")])?;
    // The same: nothing is asked.
    stage.say(&wire, beat(2, &[("a", 1), ("b", 2)]))?;
    stage.deliver(&mut wire, 3, &[("b", "running")])?;
    // The node has c and not a.
    stage.say(&wire, beat(3, &[("b", 3), ("c", 2)]))?;
    let heard = stage.hear(&mut wire)?;
    ensure!(matches!(heard, Heard::SnapshotWanted(_)), "{heard:?}");
    let snapshot = |container: &str, seq, last| {
        let containers = vec![line(STREAM, seq, container, "running")];
        Said::Snapshot(Snapshot {
            seq: 3,
            containers,
            last,
        })
    };
    stage.say(&wire, snapshot("b", 3, false))?;
    stage.say(&wire, snapshot("c", 2, true))?;
    stage.deliver(&mut wire, 4, &[("d", "created")])?;
    let table = stage.table()?;
    let names: Vec<&str> = table.keys().map(String::as_str).collect();
    ensure!(names == ["b:1:b", "b:1:c", "b:1:d"], "{table:?}");
    stage.say(&wire, beat(4, &[("b", 3), ("c", 2), ("d", 4)]))?;
    stage.deliver(&mut wire, 5, &[("d", "running")])?;
    Ok(())
}

#[test]
fn silence_is_told_once_and_so_is_the_return() -> Result<()> {
    let stage = Stage::new(&[])?;
    let (mut wire, _) = stage.greet(STREAM)?;
    stage.deliver(&mut wire, 1, &[("a", "created")])?;
    stage.reach_is(&["online"])?;
    // The session stays open, nothing is said: three heartbeats are missed.
    stage.reach(&["online", "unreachable"])?;
    let (mut wire, held) = stage.greet(STREAM)?;
    ensure!(held == 1);
    stage.deliver(&mut wire, 2, &[("a", "running")])?;
    stage.reach(&["online", "unreachable", "online"])?;
    // It comes and goes: neither is told.
    for seq in 3..6 {
        drop(wire);
        (wire, _) = stage.greet(STREAM)?;
        stage.deliver(&mut wire, seq, &[("a", "running")])?;
    }
    stage.reach_is(&["online", "unreachable", "online"])
}

#[test]
fn an_orderly_end_is_told_once_and_is_no_silence() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let (mut wire, _) = stage.greet(STREAM)?;
    stage.deliver(&mut wire, 1, &[("a", "created")])?;
    stage.say(&wire, Said::Goodbye(Goodbye::default()))?;
    stage.reach(&["online", "offline"])?;
    drop(wire);
    // Longer than three heartbeats: another node's record shows that time went by at the gateway.
    let begun = std::time::Instant::now();
    wait_until(DEADLINE, "three heartbeats", || {
        Ok((begun.elapsed() > Duration::from_secs(16)).then_some(()))
    })?;
    stage.reach_is(&["online", "offline"])?;
    // Neither does the gateway's own start tell anything of it.
    stage.gateway.stop()?;
    stage.gateway.start()?;
    let (mut wire, _) = stage.greet(STREAM)?;
    stage.deliver(&mut wire, 2, &[("a", "running")])?;
    stage.reach(&["online", "offline", "online"])
}

#[test]
fn a_start_of_the_gateway_tells_nothing_of_nodes() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let (mut wire, _) = stage.greet(STREAM)?;
    stage.deliver(&mut wire, 1, &[("a", "created")])?;
    for seq in [2, 3] {
        // Killed, then ended in order; the node is away longer than three heartbeats would take.
        if seq == 2 {
            stage.gateway.kill()?;
        } else {
            stage.gateway.stop()?;
        }
        stage.gateway.start()?;
        let begun = std::time::Instant::now();
        wait_until(DEADLINE, "three heartbeats", || {
            let long = seq == 3 || begun.elapsed() > Duration::from_secs(16);
            Ok(long.then_some(()))
        })?;
        stage.reach_is(&["online"])?;
        (wire, _) = stage.greet(STREAM)?;
        stage.deliver(&mut wire, seq, &[("a", "running")])?;
    }
    stage.reach_is(&["online"])
}

#[test]
fn history_is_kept_within_its_age() -> Result<()> {
    let stage = Stage::new(&["--keep", "3s"])?;
    let (mut wire, _) = stage.greet(STREAM)?;
    stage.deliver(
        &mut wire,
        1,
        &[("a", "created"), ("b", "created"), ("b", "removed")],
    )?;
    ensure!(stage.seqs()? == [1, 2, 3]);
    wait_until(DEADLINE, "the end of old records", || {
        stage.say(&wire, beat(3, &[("a", 1)]))?;
        Ok(stage.seqs()?.is_empty().then_some(()))
    })?;
    // Numbers go on, and what lives is still there.
    stage.deliver(&mut wire, 4, &[("c", "created")])?;
    ensure!(stage.seqs()? == [4]);
    ensure!(stage.table()?.get("b:1:a") == Some(&row(1, "created")));
    Ok(())
}

/// Otherwise those that are gone for ever would take the places of those that come.
#[test]
fn a_node_is_forgotten_with_its_last_record() -> Result<()> {
    let stage = Stage::new(&["--keep", "2s", "--max-nodes", "1"])?;
    let (mut wire, _) = stage.greet(STREAM)?;
    stage.deliver(&mut wire, 1, &[("a", "running")])?;
    let greet_other = || {
        stage.runtime.block_on(async {
            let channel = wire::plain(stage.gateway.address()).await?;
            let mut other = Wire::open(channel, None).await?;
            other.say(wire::hello("other", "t", "p")).await?;
            other.hear().await
        })
    };
    ensure!(matches!(greet_other()?, Heard::Refused(_)), "no room");
    stage.say(&wire, Said::Goodbye(Goodbye::default()))?;
    let heard = wait_until(DEADLINE, "room for another", || {
        let heard = greet_other()?;
        Ok(matches!(heard, Heard::Welcome(_)).then_some(heard))
    })?;
    ensure!(matches!(heard, Heard::Welcome(_)));
    let nodes = stage.gateway.nodes()?;
    ensure!(nodes == ["other"], "{nodes:?}");
    ensure!(stage.table()?.is_empty(), "its containers stay");
    Ok(())
}

#[test]
fn history_is_kept_within_its_size() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let (mut wire, _) = stage.greet(STREAM)?;
    for first in (1..1_000).step_by(10) {
        stage.deliver(&mut wire, first, &[("a", "running"); 10])?;
    }
    ensure!(stage.seqs()?.len() == 1_000);
    let half = stage.gateway.log_bytes()? / 2;
    stage.gateway.stop()?;
    stage.gateway = stage.gateway.with(&["--keep-bytes", &half.to_string()]);
    stage.gateway.start()?;
    let kept = wait_until(DEADLINE, "the end of what is too much", || {
        let kept = stage.seqs()?;
        Ok((kept.len() < 1_000).then_some(kept))
    })?;
    // The newest, without a hole.
    ensure!(kept.last() == Some(&1_000) && kept.len() > 100, "{kept:?}");
    ensure!(
        kept.windows(2).all(|pair| pair[0] + 1 == pair[1]),
        "{kept:?}"
    );
    // What the gateway tells of itself since then is small.
    let bytes = stage.gateway.log_bytes()?;
    ensure!(
        bytes < half + half / 10,
        "{bytes} bytes are kept, {half} may be"
    );
    Ok(())
}

/// A copy of the store from before is no end: what the node still has comes again.
#[test]
fn a_store_of_yesterday_says_what_it_has() -> Result<()> {
    let mut stage = Stage::new(&[])?;
    let (mut wire, _) = stage.greet(STREAM)?;
    stage.deliver(&mut wire, 1, &[("a", "created"), ("a", "running")])?;
    stage.gateway.kill()?;
    let saved = tempfile::tempdir()?;
    let copy: &Path = &saved.path().join("saved");
    stage.gateway.save(copy)?;
    stage.gateway.start()?;
    let (mut wire, _) = stage.greet(STREAM)?;
    stage.deliver(&mut wire, 3, &[("a", "exited")])?;
    stage.gateway.kill()?;
    stage.gateway.restore(copy)?;
    stage.gateway.start()?;
    let (mut wire, held) = stage.greet(STREAM)?;
    ensure!(held == 2, "{held}");
    // The node has 3 no more.
    stage.runtime.block_on(async {
        let records = tracer::uplink::Records {
            first_seq: 4,
            records: vec![line(STREAM, 4, "a", "removed")],
            after_seq: 2,
        };
        wire.say(Said::Records(records)).await?;
        wire.acked(4).await
    })?;
    let held = stage.gateway.log()?;
    let told = held.told.get(STREAM).context("a hole")?;
    ensure!(told.iter().eq([&3]) && stage.seqs()? == [1, 2, 4]);
    Ok(())
}

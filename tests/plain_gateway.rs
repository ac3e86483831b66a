//! Hostile peers: whatever one does, another's records are acked in time, readers are answered, and
//! the gateway's memory stays bounded.

use std::{
    future::Future,
    io::{ErrorKind, Read as _, Write as _},
    net::TcpStream,
    process::Command,
    time::{Duration, Instant},
};

use bytes::Bytes;
use rustix::process::Signal;
use tokio::sync::mpsc;
use tonic::Status;
use tracer::uplink::{Snapshot, from_node::Kind as Said, refused::Why};
use tracer_tests::{
    Context, Result,
    command::run,
    ensure,
    tracer::binary,
    upstream::{
        chance::Chance,
        http,
        trust::Trust,
        wire::{self, Wire},
        witness::Stage,
    },
    wait::{DEADLINE, wait_until},
};

fn on<T>(what: impl Future<Output = Result<T>>) -> Result<T> {
    tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?
        .block_on(what)
}

/// Status of a session that is not let in.
fn turned_away(opened: std::result::Result<Wire, Status>) -> Result<()> {
    match opened {
        Ok(_) => anyhow::bail!("a session was opened"),
        Err(status) => wire::is_unauthenticated(&status),
    }
}

const PREFACE: &[u8] = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n";

/// What is neither HTTP nor a frame of it.
fn garbage(chance: &mut Chance) -> Vec<u8> {
    let mut random = |bytes: u64| -> Vec<u8> {
        let byte = |value: u64| u8::try_from(value).unwrap_or(0);
        (0..bytes).map(|_| byte(chance.below(256))).collect()
    };
    let noise = random(4_000);
    match random(1).first().map_or(0, |byte| byte % 6) {
        0 => noise,
        // A greeting of TLS, and nonsense after it.
        1 => [&[0x16, 3, 1, 2, 0], &noise[..]].concat(),
        2 => [PREFACE, &noise].concat(),
        // A frame of 16 MiB; a HEADERS frame of nonsense; one that never ends its headers.
        3 => [PREFACE, &[0xff, 0xff, 0xff, 0, 0, 0, 0, 0, 1], &noise].concat(),
        4 => [PREFACE, &[0, 15, 160, 1, 5, 0, 0, 0, 1], &noise].concat(),
        _ => [b"GET /v1/nodes HTTP/1.1\r\nX: ", &noise[..]].concat(),
    }
}

#[test]
fn garbage_in_the_place_of_a_protocol() -> Result<()> {
    let stage = Stage::new(&[])?;
    stage.unharmed("garbage", |stage| {
        let mut chance = Chance::new(6);
        for _ in 0..400 {
            let mut peer = TcpStream::connect(stage.address())?;
            // It may have hung up by then.
            drop(peer.write_all(&garbage(&mut chance)));
        }
        Ok(())
    })
}

#[test]
fn messages_that_are_none() -> Result<()> {
    let stage = Stage::new(&[])?;
    let evil = stage.trust.node("evil")?;
    let hello = wire::framed(wire::hello("evil", "s", "p"))?;
    let after_hello: Vec<(&str, Vec<u8>)> = vec![
        ("no protobuf", [&[0, 0, 0, 0, 9][..], &[0xff; 9]].concat()),
        ("compressed", vec![1, 0, 0, 0, 1, 0]),
        ("4 GiB announced", vec![0, 0xff, 0xff, 0xff, 0xff, 1, 2, 3]),
        ("an empty message", vec![0, 0, 0, 0, 0]),
        ("cut in the middle", vec![0, 0, 0, 1, 0, 10]),
        ("Hello again", hello.to_vec()),
    ];
    stage.unharmed("messages that are none", |stage| {
        for (what, bytes) in &after_hello {
            on(async {
                let (to, body) = mpsc::channel(4);
                to.send(hello.clone()).await?;
                to.send(Bytes::from(bytes.clone())).await?;
                drop(to);
                let answer = wire::raw(wire::plain(stage.address()).await?, &evil, body).await?;
                // Until the gateway has ended the call.
                let mut body = answer.into_body();
                let end = async {
                    use http_body_util::BodyExt as _;
                    while let Some(Ok(_)) = body.frame().await {}
                };
                tokio::time::timeout(DEADLINE, end)
                    .await
                    .with_context(|| (*what).to_owned())
            })?;
        }
        Ok(())
    })
}

#[test]
fn messages_and_records_that_are_too_large_or_too_many() -> Result<()> {
    let stage = Stage::new(&[])?;
    let evil = stage.trust.node("evil")?;
    let text = |bytes: usize| Bytes::from(vec![b'x'; bytes]);
    stage.unharmed("oversized", |stage| {
        let refused = |records: Vec<Bytes>| {
            on(async {
                let channel = wire::plain(stage.address()).await?;
                let (mut wire, welcome) = Wire::greet(channel, Some(&evil), "evil", "s").await?;
                wire.records(welcome.resume_after + 1, records).await?;
                wire.refused().await
            })
        };
        let (why, detail) = refused(vec![text(2 << 20)])?;
        ensure!(
            why == Why::Protocol && detail.contains("larger"),
            "{detail}"
        );
        // 200,000 records of no byte: 400 KB on the way, far more in memory.
        let (why, detail) = refused(vec![Bytes::new(); 200_000])?;
        ensure!(
            why == Why::Protocol && detail.contains("more records"),
            "{detail}"
        );
        // One that is too long is left out, and told; the session goes on.
        on(async {
            let channel = wire::plain(stage.address()).await?;
            let (mut wire, welcome) = Wire::greet(channel, Some(&evil), "evil", "s").await?;
            ensure!(welcome.resume_after == 0, "what was refused was taken");
            wire.records(1, vec![text(300 << 10)]).await?;
            wire.acked(1).await?;
            wire.deliver(2, wire::line("s", 2, "c", "running")).await?;
            Ok(())
        })
    })?;
    let held = stage.gateway.log()?;
    let told: Vec<u64> = held.told.values().flatten().copied().collect();
    ensure!(told == [1], "{told:?}");
    Ok(())
}

#[test]
fn peers_that_drip_or_only_stand_there() -> Result<()> {
    let stage = Stage::new(&[])?;
    let evil = stage.trust.node("evil")?;
    stage.unharmed("slow drip", |stage| {
        // More than may be unknown at a time.
        let mut peers = Vec::new();
        let heads: [&[u8]; 3] = [b"GET /v1/nodes HTTP/1.1\r\nX: ", PREFACE, b""];
        for number in 0..600 {
            let mut peer = TcpStream::connect(stage.address())?;
            peer.set_nonblocking(true)?;
            drop(peer.write_all(heads.get(number % 3).copied().unwrap_or_default()));
            peers.push(peer);
        }
        // One that is known, and sends the beginning of a message byte for byte.
        let known = on_thread(stage, &evil)?;
        let begun = Instant::now();
        wait_until(DEADLINE, "the drippers' end", || {
            for peer in &mut peers {
                drop(peer.write_all(b"x"));
            }
            peers.retain_mut(|peer| !has_ended(peer));
            std::thread::park_timeout(Duration::from_millis(300));
            Ok(peers.is_empty().then_some(()))
        })?;
        println!("all gone after {:.1?}", begun.elapsed());
        drop(known);
        Ok(())
    })
}

fn has_ended(peer: &mut TcpStream) -> bool {
    let mut said = [0; 256];
    loop {
        match peer.read(&mut said) {
            Ok(0) => return true,
            Ok(_) => {}
            Err(error) => return error.kind() != ErrorKind::WouldBlock,
        }
    }
}

/// A call with a token whose message never comes whole; it goes on until this is dropped.
fn on_thread(stage: &Stage, token: &str) -> Result<mpsc::Sender<()>> {
    let (alive, mut gone) = mpsc::channel::<()>(1);
    let (address, token) = (stage.address(), token.to_owned());
    let hello = wire::framed(wire::hello("evil", "s", "p"))?;
    std::thread::spawn(move || {
        on(async {
            let (to, body) = mpsc::channel(4);
            let answer = wire::raw(wire::plain(address).await?, &token, body);
            let drip = async {
                to.send(hello).await?;
                to.send(Bytes::from_static(&[0, 0, 1, 0, 0])).await?;
                loop {
                    let rest = tokio::time::timeout(Duration::from_millis(200), gone.recv());
                    if rest.await.is_ok() {
                        return Ok(());
                    }
                    to.send(Bytes::from_static(b"x")).await?;
                }
            };
            let (_answer, dripped) = tokio::join!(answer, drip);
            dripped
        })
    });
    Ok(alive)
}

const SUBSCRIBERS: &str = "tracer_gateway_subscribers ";

#[test]
fn readers_that_never_read() -> Result<()> {
    let stage = Stage::new(&[])?;
    let (evil, reader) = (stage.trust.node("evil")?, stage.trust.reader("evil")?);
    let good = stage.trust.reader("good")?;
    stage.unharmed("never read", |stage| {
        let mut readers = Vec::new();
        for _ in 0..64 {
            let mut peer = http::connect(stage.address())?;
            http::request(&mut peer, "/v1/events", Some(&reader))?;
            readers.push(peer);
        }
        wait_until(DEADLINE, "64 readers", || {
            Ok((stage.count(SUBSCRIBERS)? == 64).then_some(()))
        })?;
        // One more of the same reader is too many; another reader's is not.
        let mut more = http::connect(stage.address())?;
        http::request(&mut more, "/v1/events", Some(&reader))?;
        let head = head(&mut more)?;
        ensure!(head.contains(" 429 ") || head.contains(" 503 "), "{head}");
        let mut other = http::connect(stage.address())?;
        http::request(&mut other, "/v1/events", Some(&good))?;
        // A node that reads no acks either, and gives them all something to read.
        on(async {
            let (to, body) = mpsc::channel(1);
            let channel = wire::plain(stage.address()).await?;
            to.send(wire::framed(wire::hello("evil", "s", "p"))?)
                .await?;
            let _answer = wire::raw(channel, &evil, body).await?;
            for first in (1..=3_000).step_by(100) {
                let lines = (first..first + 100)
                    .map(|seq| padded(seq, 8 << 10))
                    .collect();
                let records = Said::Records(tracer::uplink::Records {
                    first_seq: first,
                    records: lines,
                    after_seq: first - 1,
                });
                to.send(wire::framed(records)?).await?;
            }
            wait_until(DEADLINE, "the records", || {
                let stored = stage.count("tracer_gateway_records_stored_total ")?;
                Ok((stored > 3_000).then_some(()))
            })
        })?;
        let begun = Instant::now();
        // It goes by the reader that is left: the one that is read from below.
        let mut said = vec![0; 64 << 10];
        wait_until(DEADLINE * 2, "the end of those that do not read", || {
            ensure!(
                other.read(&mut said)? > 0,
                "the reader that reads was ended"
            );
            Ok((stage.count(SUBSCRIBERS)? == 1).then_some(()))
        })?;
        println!("ended {:.1?} after the last record", begun.elapsed());
        drop(readers);
        Ok(())
    })
}

/// A record of so many bytes.
fn padded(seq: u64, bytes: usize) -> Bytes {
    let line = wire::line("s", seq, "c", "running");
    let text = String::from_utf8_lossy(&line);
    let pad = "x".repeat(bytes);
    text.replacen("\"h\"", &format!("\"{pad}\""), 1)
        .into_bytes()
        .into()
}

fn head(peer: &mut TcpStream) -> Result<String> {
    let mut said = vec![0; 512];
    let read = peer.read(&mut said)?;
    Ok(String::from_utf8_lossy(said.get(..read).unwrap_or_default()).into_owned())
}

#[test]
fn who_may_not_may_not() -> Result<()> {
    let stage = Stage::new(&[])?;
    let trust = &stage.trust;
    let (node, reader) = (trust.node("evil")?, trust.reader("evil")?);
    let read = |path: &str, token: Option<&str>| -> Result<u16> {
        Ok(http::ask(http::connect(stage.address())?, path, token)?.0)
    };
    stage.unharmed("without a right", |stage| {
        for path in ["/v1/nodes", "/v1/containers", "/v1/events", "/metrics"] {
            for token in [None, Some("wrong"), Some(node.as_str())] {
                ensure!(read(path, token)? == 401, "{path} with {token:?}");
            }
        }
        ensure!(read("/healthz", None)? == 200 && read("/v1/nodes", Some(&reader))? == 200);
        on(async {
            for token in [None, Some("wrong"), Some(reader.as_str())] {
                let channel = wire::plain(stage.address()).await?;
                turned_away(Wire::open(channel, token).await)?;
            }
            // A token is that of one node.
            let channel = wire::plain(stage.address()).await?;
            let mut wire = Wire::open(channel, Some(&node)).await?;
            wire.say(wire::hello("good", "s", "p")).await?;
            let (why, detail) = wire.refused().await?;
            ensure!(
                why == Why::NameTaken && detail.contains("not that of"),
                "{detail}"
            );
            // Nor may it take part before it has said who it is.
            let mut wire = Wire::open(wire::plain(stage.address()).await?, Some(&node)).await?;
            wire.records(1, vec![wire::line("s", 1, "c", "running")])
                .await?;
            let (why, _) = wire.refused().await?;
            ensure!(why == Why::Protocol);
            Ok(())
        })
    })
}

#[test]
fn too_many_connections() -> Result<()> {
    let stage = Stage::new(&["--max-connections", "200"])?;
    let evil = stage.trust.reader("evil")?;
    stage.unharmed("a crowd", |stage| {
        // Strangers: more than there are places. Whoever is known gets one all the same.
        let mut crowd = Vec::new();
        for _ in 0..400 {
            crowd.push(TcpStream::connect(stage.address())?);
        }
        // One that is known and comes again and again.
        let mut same = Vec::new();
        let mut refused = 0;
        for _ in 0..80 {
            let mut peer = http::connect(stage.address())?;
            let request = format!(
                "GET /v1/nodes HTTP/1.1\r\nHost: localhost\r\nAuthorization: Bearer {evil}\r\n\r\n"
            );
            peer.write_all(request.as_bytes())?;
            refused += usize::from(head(&mut peer)?.contains(" 429 "));
            same.push(peer);
        }
        ensure!(refused == 16, "{refused} of 80 connections were refused");
        Ok(())
    })
}

#[test]
fn too_many_nodes_and_records() -> Result<()> {
    let stage = Stage::new(&["--max-nodes", "2", "--max-rate", "1000"])?;
    let (evil, other) = (stage.trust.node("evil")?, stage.trust.node("other")?);
    stage.unharmed("too fast", |stage| {
        on(async {
            let channel = wire::plain(stage.address()).await?;
            let (mut wire, _) = Wire::greet(channel, Some(&evil), "evil", "s").await?;
            let channel = wire::plain(stage.address()).await?;
            let mut third = Wire::open(channel, Some(&other)).await?;
            third.say(wire::hello("other", "s", "p")).await?;
            let (why, detail) = third.refused().await?;
            ensure!(
                why == Why::Busy && detail.contains("as many nodes"),
                "{detail}"
            );
            // A second's worth at once, the rest as fast as it may.
            let begun = Instant::now();
            for first in (1..4_000).step_by(500) {
                let lines = first..first + 500;
                let lines = lines.map(|seq| wire::line("s", seq, "c", "running"));
                wire.records(first, lines.collect()).await?;
            }
            wire.acked(4_000).await?;
            let took = begun.elapsed();
            ensure!(
                took > Duration::from_millis(2_500),
                "4,000 records in {took:?}"
            );
            // Snapshots have their price, too: they would keep the writer busy.
            let lines: Vec<Bytes> = (0..3_000)
                .map(|number| wire::line("s", 1, &format!("x{number}"), "running"))
                .collect();
            let begun = Instant::now();
            let snapshot = Snapshot {
                seq: 4_000,
                containers: lines,
                last: true,
            };
            wire.say(Said::Snapshot(snapshot)).await?;
            wire.deliver(4_001, wire::line("s", 4_001, "c", "running"))
                .await?;
            let took = begun.elapsed();
            ensure!(
                took > Duration::from_millis(2_500),
                "a snapshot in {took:?}"
            );
            Ok(())
        })
    })
}

#[test]
fn plain_text_stays_on_the_host() -> Result<()> {
    let directory = tempfile::tempdir()?;
    let mut command = Command::new(binary());
    command
        .args(["gateway", "--listen", "0.0.0.0:0", "--store"])
        .arg(directory.path().join("store"));
    let done = run(&mut command)?.ended(1)?;
    ensure!(done.stderr.contains("--insecure"), "{}", done.stderr);
    // Tokens alone do not change that.
    let trust = Trust::tokens(&directory.path().join("trust"), &["n"], &[])?;
    command.args(["--trust", &trust.directory()]);
    let done = run(&mut command)?.ended(1)?;
    ensure!(done.stderr.contains("--insecure"), "{}", done.stderr);
    Ok(())
}

#[test]
fn a_node_is_known_by_its_certificate_alone_or_by_its_token() -> Result<()> {
    let stage = Stage::tls(&[])?;
    let trust = &stage.trust;
    let ca = trust.path("ca.crt");
    let stranger = Trust::init(&stage.path("stranger"), &["good"], &[])?;
    let address = stage.address();
    on(async {
        let with = |name: &str| trust.path(&format!("nodes/{name}"));
        let channel = wire::tls(address, &ca, Some(&with("good"))).await?;
        let (mut wire, _) = Wire::greet(channel, None, "good", "s").await?;
        wire.deliver(1, wire::line("s", 1, "c", "running")).await?;
        // Its certificate is that of one node.
        let channel = wire::tls(address, &ca, Some(&with("evil"))).await?;
        let mut evil = Wire::open(channel, None).await?;
        evil.say(wire::hello("good", "s", "p")).await?;
        let (why, detail) = evil.refused().await?;
        ensure!(
            why == Why::NameTaken && detail.contains("not that of"),
            "{detail}"
        );
        // One that another authority signed, and none at all.
        let foreign = stranger.path("nodes/good");
        if let Ok(channel) = wire::tls(address, &ca, Some(&foreign)).await {
            ensure!(
                Wire::open(channel, None).await.is_err(),
                "a foreign certificate"
            );
        }
        turned_away(Wire::open(wire::tls(address, &ca, None).await?, None).await)?;
        let token = trust.node("other")?;
        let channel = wire::tls(address, &ca, None).await?;
        Wire::greet(channel, Some(&token), "other", "s").await?;
        // Plain text gets nowhere.
        let channel = wire::plain(address).await;
        if let Ok(channel) = channel {
            ensure!(
                Wire::open(channel, Some(&token)).await.is_err(),
                "plain text"
            );
        }
        wire.deliver(2, wire::line("s", 2, "c", "running")).await?;
        Ok(())
    })?;
    // A certificate gives no right to read; a reader's token does.
    let reader = trust.reader("good")?;
    let read = |token| http::ask(trust.connect(address)?, "/v1/nodes", token);
    ensure!(read(None)?.0 == 401 && read(Some(&reader))?.0 == 200);
    Ok(())
}

#[test]
fn certificates_and_tokens_change_while_it_runs() -> Result<()> {
    let stage = Stage::tls(&[])?;
    let trust = &stage.trust;
    let ca = trust.path("ca.crt");
    let address = stage.address();
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let first = trust.shown(address)?;
    let token = trust.node("good")?;
    let (mut wire, _) = runtime.block_on(async {
        let channel = wire::tls(address, &ca, None).await?;
        Wire::greet(channel, Some(&token), "good", "s").await
    })?;
    let mut seq = 0;
    let mut goes_on = |wire: &mut Wire| {
        seq += 1;
        let line = wire::line("s", seq, "c", "running");
        runtime.block_on(wire.deliver(seq, line)).map(drop)
    };
    goes_on(&mut wire)?;
    // What is wrong is not taken over.
    let certificate = std::fs::read(trust.path("server.crt"))?;
    std::fs::write(trust.path("server.crt"), "nonsense")?;
    stage.gateway.signal(Signal::HUP)?;
    wait_until(DEADLINE, "a word about it", || {
        let said = stage.gateway.said();
        Ok(said.contains("stay as they were").then_some(()))
    })?;
    ensure!(trust.shown(address)? == first, "nonsense was taken over");
    std::fs::write(trust.path("server.crt"), &certificate)?;
    // A new certificate of the same authority, and a node more.
    for file in ["server.crt", "server.key"] {
        std::fs::remove_file(trust.path(file))?;
    }
    Trust::init(&stage.path("trust"), &["late"], &[])?;
    stage.gateway.signal(Signal::HUP)?;
    wait_until(DEADLINE, "the new certificate", || {
        Ok((trust.shown(address)? != first).then_some(()))
    })?;
    let late = trust.node("late")?;
    runtime.block_on(async {
        let channel = wire::tls(address, &ca, None).await?;
        Wire::greet(channel, Some(&late), "late", "s").await
    })?;
    // Those that are there did not notice.
    goes_on(&mut wire)
}

/// The call or the connection is over, whatever the last word was.
async fn has_ended_call(wire: &mut Wire) -> Result<()> {
    let end = async { while wire.hear().await.is_ok() {} };
    let ended = tokio::time::timeout(DEADLINE, end).await;
    ended.context("the session goes on")
}

/// Leaves lines of `tokens` out.
fn revoke(trust: &Trust, words: &str) -> Result<()> {
    let tokens = std::fs::read_to_string(trust.path("tokens"))?;
    let kept: Vec<&str> = tokens
        .lines()
        .filter(|line| !line.contains(words))
        .collect();
    ensure!(kept.len() + 1 == tokens.lines().count(), "{words}");
    std::fs::write(trust.path("tokens"), kept.join("\n"))?;
    Ok(())
}

#[test]
fn what_counts_no_more_ends_the_sessions_that_it_opened() -> Result<()> {
    let stage = Stage::tls(&[])?;
    let trust = &stage.trust;
    let (address, ca) = (stage.address(), trust.path("ca.crt"));
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(1)
        .enable_all()
        .build()?;
    let greet = |name: &'static str, token: Option<String>| {
        let certificate = trust.path("nodes").join(name);
        let certificate = token.is_none().then_some(certificate);
        runtime.block_on(async {
            let channel = wire::tls(address, &ca, certificate.as_deref()).await?;
            let (wire, _) = Wire::greet(channel, token.as_deref(), name, "s").await?;
            anyhow::Ok(wire)
        })
    };
    let mut evil = greet("evil", Some(trust.node("evil")?))?;
    let mut good = greet("good", Some(trust.node("good")?))?;
    let mut other = greet("other", None)?;
    let reader = trust.reader("evil")?;
    let mut events = trust.connect(address)?;
    let request =
        format!("GET /v1/events HTTP/1.1\r\nhost: x\r\nauthorization: Bearer {reader}\r\n\r\n");
    events.write_all(request.as_bytes())?;
    revoke(trust, "node evil ")?;
    revoke(trust, "reader evil ")?;
    stage.gateway.signal(Signal::HUP)?;
    runtime.block_on(has_ended_call(&mut evil))?;
    let mut rest = Vec::new();
    // Cut off, or told the end: it does end.
    drop(events.read_to_end(&mut rest));
    let again = runtime.block_on(async {
        let channel = wire::tls(address, &ca, None).await?;
        anyhow::Ok(Wire::open(channel, Some(&trust.node("evil")?)).await)
    })?;
    turned_away(again)?;
    // Those whose word counts still did not notice.
    let line = |seq| wire::line("s", seq, "c", "running");
    runtime.block_on(async {
        good.deliver(1, line(1)).await?;
        other.deliver(1, line(1)).await
    })?;
    // Another authority: certificates of the old one count no more, tokens do.
    let elsewhere = Trust::init(&stage.path("elsewhere"), &["x"], &[])?;
    for file in ["ca.crt", "server.crt", "server.key"] {
        std::fs::copy(elsewhere.path(file), trust.path(file))?;
    }
    stage.gateway.signal(Signal::HUP)?;
    runtime.block_on(has_ended_call(&mut other))?;
    runtime.block_on(good.deliver(2, line(2))).map(drop)
}

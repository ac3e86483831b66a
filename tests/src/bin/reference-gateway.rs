//! The simplest gateway that keeps the protocol's promises: what the agent's half is judged by, apart
//! from the gateway that is shipped.
//!
//! ```text
//! reference-gateway gateway --listen ADDRESS --store DIR
//! ```
//!
//! Every message is a transaction: lines into the log, what they change into the table, then the
//! ack. Holes are told in the log. A heartbeat whose hash differs asks for a snapshot.

#![forbid(unsafe_code)]

use std::{
    net::SocketAddr,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::{Context as _, Result};
use rusqlite::{Connection, OptionalExtension as _, params};
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming, transport::Server};
use tracer::{
    record::{Record, State},
    uplink::{
        Ack, FromGateway, FromNode, Heartbeat, Hello, Records, Refused, Snapshot, SnapshotWanted,
        Welcome,
        from_gateway::Kind as Said,
        from_node::Kind as Heard,
        refused::Why,
        state_hash,
        uplink_server::{Uplink, UplinkServer},
    },
};

const SCHEMA: &str = "
CREATE TABLE IF NOT EXISTS log (first INTEGER PRIMARY KEY, lines BLOB NOT NULL,
    plain INTEGER NOT NULL DEFAULT 0);
CREATE TABLE IF NOT EXISTS stream (uuid TEXT PRIMARY KEY, committed INTEGER NOT NULL);
CREATE TABLE IF NOT EXISTS reference_table (
    instance TEXT PRIMARY KEY, version INTEGER NOT NULL, state TEXT NOT NULL);
CREATE TABLE IF NOT EXISTS speaks (stream TEXT NOT NULL);
";

#[derive(Debug, Clone)]
struct Gateway(Arc<Mutex<Inner>>);

#[derive(Debug)]
struct Inner {
    db: Connection,
    /// Session and process that speak for the one node there is.
    speaker: Option<(u64, String)>,
    sessions: u64,
    incoming: Vec<(String, u64, String)>,
}

#[tokio::main(flavor = "current_thread")]
async fn main() -> Result<()> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let [_, _, listen, _, store] = arguments.as_slice() else {
        anyhow::bail!("usage: reference-gateway gateway --listen ADDRESS --store DIR");
    };
    let db = Connection::open(PathBuf::from(store).join("reference.db"))?;
    db.pragma_update(None, "journal_mode", "WAL")?;
    db.pragma_update(None, "synchronous", "FULL")?;
    db.execute_batch(SCHEMA)?;
    let address: SocketAddr = listen.parse()?;
    let inner = Inner {
        db,
        speaker: None,
        sessions: 0,
        incoming: Vec::new(),
    };
    let gateway = Gateway(Arc::new(Mutex::new(inner)));
    Server::builder()
        .http2_keepalive_interval(Some(std::time::Duration::from_secs(5)))
        .add_service(UplinkServer::new(gateway))
        .serve(address)
        .await
        .context("serve")
}

type Answer = Result<FromGateway, Status>;

#[tonic::async_trait]
impl Uplink for Gateway {
    type SessionStream = ReceiverStream<Answer>;

    async fn session(
        &self,
        request: Request<Streaming<FromNode>>,
    ) -> Result<Response<Self::SessionStream>, Status> {
        let (to, said) = mpsc::channel(64);
        let gateway = self.clone();
        tokio::spawn(async move {
            let session = gateway.serve(request.into_inner(), &to).await;
            let mut inner = gateway.0.lock().unwrap_or_else(PoisonError::into_inner);
            if let Some(session) = session
                && inner.speaker.as_ref().is_some_and(|(id, _)| *id == session)
            {
                inner.speaker = None;
            }
        });
        Ok(Response::new(ReceiverStream::new(said)))
    }
}

impl Gateway {
    async fn serve(&self, mut from: Streaming<FromNode>, to: &mpsc::Sender<Answer>) -> Option<u64> {
        let Some(Heard::Hello(hello)) = from.message().await.ok()??.kind else {
            return None;
        };
        let (session, first) = self.with(|inner| inner.hello(&hello));
        if !say(to, first).await {
            return session;
        }
        session?;
        while let Ok(Some(message)) = from.message().await {
            let Some(kind) = message.kind else { continue };
            let answer = self.with(|inner| {
                if inner.speaker.as_ref().map(|(id, _)| *id) != session {
                    return Err(anyhow::anyhow!("another speaks"));
                }
                inner.hear(&hello.stream, kind)
            });
            match answer {
                Ok(Some(answer)) => {
                    if !say(to, answer).await {
                        break;
                    }
                }
                Ok(None) => {}
                // A full disk: the node comes again.
                Err(_) => break,
            }
        }
        session
    }

    fn with<T>(&self, what: impl FnOnce(&mut Inner) -> T) -> T {
        what(&mut self.0.lock().unwrap_or_else(PoisonError::into_inner))
    }
}

async fn say(to: &mpsc::Sender<Answer>, kind: Said) -> bool {
    to.send(Ok(FromGateway { kind: Some(kind) })).await.is_ok()
}

impl Inner {
    fn hello(&mut self, hello: &Hello) -> (Option<u64>, Said) {
        if let Some((_, process)) = &self.speaker
            && *process != hello.process
        {
            let mut refused = Refused::default();
            refused.set_why(Why::NameTaken);
            return (None, Said::Refused(refused));
        }
        self.sessions += 1;
        self.speaker = Some((self.sessions, hello.process.clone()));
        self.incoming.clear();
        let Ok(resume_after) = self.speak(&hello.stream) else {
            let mut refused = Refused::default();
            refused.set_why(Why::Busy);
            return (None, Said::Refused(refused));
        };
        let welcome = Welcome {
            resume_after,
            max_message_bytes: 4 << 20,
            max_in_flight_records: 200,
        };
        (Some(self.sessions), Said::Welcome(welcome))
    }

    fn speak(&mut self, stream: &str) -> Result<u64> {
        let speak = self.db.transaction()?;
        let spoke: Option<String> = speak
            .query_row("SELECT stream FROM speaks", [], |row| row.get(0))
            .optional()?;
        if spoke.as_deref() != Some(stream) {
            speak.execute("DELETE FROM speaks", [])?;
            speak.execute("INSERT INTO speaks VALUES (?)", [stream])?;
            speak.execute("DELETE FROM reference_table", [])?;
        }
        speak.execute("INSERT OR IGNORE INTO stream VALUES (?, 0)", [stream])?;
        let committed = speak.query_row(
            "SELECT committed FROM stream WHERE uuid = ?",
            [stream],
            |row| row.get(0),
        )?;
        speak.commit()?;
        Ok(committed)
    }

    fn hear(&mut self, stream: &str, kind: Heard) -> Result<Option<Said>> {
        match kind {
            Heard::Records(records) => {
                let seq = self.records(stream, &records)?;
                Ok(Some(Said::Ack(Ack { seq })))
            }
            Heard::Heartbeat(beat) => self.compare(stream, &beat),
            Heard::Snapshot(part) => self.snapshot(part).map(|()| None),
            _ => Ok(None),
        }
    }

    fn records(&mut self, stream: &str, records: &Records) -> Result<u64> {
        let commit = self.db.transaction()?;
        let mut committed: u64 = commit.query_row(
            "SELECT committed FROM stream WHERE uuid = ?",
            [stream],
            |row| row.get(0),
        )?;
        let mut lines = Vec::new();
        for (seq, line) in (records.first_seq..).zip(&records.records) {
            if seq <= committed {
                continue;
            }
            if seq > committed + 1 {
                let hole = serde_json::json!({"origin": "gateway", "type": "node.gap",
                    "node": {"stream": stream, "from_seq": committed + 1, "to_seq": seq - 1}});
                lines.extend_from_slice(hole.to_string().as_bytes());
                lines.push(b'\n');
            }
            committed = seq;
            lines.extend_from_slice(line);
            lines.push(b'\n');
            let record: Record = serde_json::from_slice(line)?;
            if let Some(container) = &record.container
                && container.version == seq
            {
                if container.state == State::Removed {
                    commit.execute(
                        "DELETE FROM reference_table WHERE instance = ?",
                        [&container.instance],
                    )?;
                } else {
                    put(&commit, &container.instance, seq, &state(container.state))?;
                }
            }
        }
        commit.execute("INSERT INTO log (lines) VALUES (?)", [lines])?;
        commit.execute(
            "UPDATE stream SET committed = ? WHERE uuid = ?",
            params![committed, stream],
        )?;
        commit.commit()?;
        Ok(committed)
    }

    fn compare(&mut self, stream: &str, beat: &Heartbeat) -> Result<Option<Said>> {
        let committed: u64 = self.db.query_row(
            "SELECT committed FROM stream WHERE uuid = ?",
            [stream],
            |row| row.get(0),
        )?;
        let mut rows = self
            .db
            .prepare("SELECT instance, version FROM reference_table")?;
        let rows = rows.query_map([], |row| {
            Ok(state_hash(&row.get::<_, String>(0)?, row.get(1)?))
        })?;
        let mut hash = 0_u64;
        for row in rows {
            hash = hash.wrapping_add(row?);
        }
        let differs = committed == beat.seq && hash != beat.state_hash;
        Ok(differs.then_some(Said::SnapshotWanted(SnapshotWanted {})))
    }

    fn snapshot(&mut self, part: Snapshot) -> Result<()> {
        for line in part.containers {
            let record: Record = serde_json::from_slice(&line)?;
            let container = record.container.context("a container")?;
            let row = (
                container.instance.to_string(),
                container.version,
                state(container.state),
            );
            self.incoming.push(row);
        }
        if part.last {
            let commit = self.db.transaction()?;
            commit.execute("DELETE FROM reference_table", [])?;
            for (instance, version, state) in self.incoming.drain(..) {
                put(&commit, &instance, version, &state)?;
            }
            commit.commit()?;
        }
        Ok(())
    }
}

fn put(db: &Connection, instance: &str, version: u64, state: &str) -> Result<()> {
    db.execute(
        "INSERT OR REPLACE INTO reference_table VALUES (?, ?, ?)",
        params![instance, version, state],
    )?;
    Ok(())
}

fn state(state: State) -> String {
    let text = serde_json::to_value(state).unwrap_or_default();
    text.as_str().unwrap_or_default().to_owned()
}

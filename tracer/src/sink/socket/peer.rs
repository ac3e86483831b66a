//! One client: its request, and its place in the answer.

use std::{
    io,
    os::fd::AsFd as _,
    task::{Context, Poll},
    time::{Duration, Instant},
};

use bytes::{Buf as _, BytesMut};
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    net::{SendFlags, send},
};
use tokio::net::UnixStream;
use tracer_common::CgroupKey;

use super::{
    Explain,
    history::{History, Next},
    protocol::{Last, MAX_REQUEST, Request, Since, VERSION, Verb},
};
use crate::{
    engine::Engine,
    enrich::Source,
    filter::Filter,
    status::Status,
    time::{Timestamp, boot_now},
};

/// Bytes of an answer that wait at most, but for the line that goes beyond.
const FILL_BYTES: usize = 16 << 10;

/// Records or containers that are looked at per turn: between turns the ring has its turn.
const TURN: usize = 256;

/// What the client gets.
#[derive(Debug)]
enum Task {
    Asking,
    Events {
        place: u64,
        filter: Filter,
        follow: bool,
    },
    Ps {
        after: Option<CgroupKey>,
        filter: Filter,
    },
    /// Its files are being looked up.
    Inspect(Box<Status>),
    Ending,
}

/// Whether the connection goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Fate {
    There,
    Gone,
}

#[derive(Debug)]
pub(super) struct Peer {
    stream: UnixStream,
    came: Instant,
    task: Task,
    received: Vec<u8>,
    out: BytesMut,
    /// The socket takes no more for now.
    blocked: bool,
    /// The client will not say anything more.
    silent: bool,
}

impl Peer {
    pub(super) fn new(stream: UnixStream) -> Self {
        Self {
            stream,
            came: Instant::now(),
            task: Task::Asking,
            received: Vec::new(),
            out: BytesMut::new(),
            blocked: false,
            silent: false,
        }
    }

    /// For how long it has asked nothing.
    pub(super) fn silence(&self) -> Duration {
        match self.task {
            Task::Asking => self.came.elapsed(),
            _ => Duration::ZERO,
        }
    }

    /// Whether there is something to do.
    pub(super) fn poll(&self, cx: &mut Context<'_>, history: &History) -> Poll<()> {
        let heard = !self.silent && self.stream.poll_read_ready(cx).is_ready();
        let sends = if self.blocked {
            self.stream.poll_write_ready(cx).is_ready()
        } else {
            self.has_more(history)
        };
        if heard || sends {
            Poll::Ready(())
        } else {
            Poll::Pending
        }
    }

    fn has_more(&self, history: &History) -> bool {
        let more = match &self.task {
            Task::Asking | Task::Inspect(_) => false,
            Task::Events { place, follow, .. } => !follow || *place < history.end(),
            Task::Ps { .. } | Task::Ending => true,
        };
        more || !self.out.is_empty()
    }

    /// Hears, answers a little, sends what goes.
    pub(super) fn turn(
        &mut self,
        history: &History,
        engine: &Engine,
        explain: Explain<'_>,
    ) -> Fate {
        if self.hear(history, engine, explain) == Fate::Gone {
            return Fate::Gone;
        }
        if self.out.is_empty() {
            self.blocked = false;
            self.fill(history, engine);
        }
        self.send()
    }

    fn hear(&mut self, history: &History, engine: &Engine, explain: Explain<'_>) -> Fate {
        if self.silent {
            return Fate::There;
        }
        let mut chunk = [0; 4096];
        match self.stream.try_read(&mut chunk) {
            Ok(0) => {
                self.silent = true;
                let waits = match self.task {
                    Task::Asking => true,
                    Task::Events { follow, .. } => follow,
                    _ => false,
                };
                return if waits { Fate::Gone } else { Fate::There };
            }
            Ok(len) if matches!(self.task, Task::Asking) => {
                self.received
                    .extend_from_slice(chunk.get(..len).unwrap_or_default());
            }
            // Nothing more is expected.
            Ok(_) => return Fate::There,
            Err(error) if error.kind() == io::ErrorKind::WouldBlock => return Fate::There,
            Err(_) => return Fate::Gone,
        }
        if let Some(end) = self.received.iter().position(|byte| *byte == b'\n') {
            let mut request = std::mem::take(&mut self.received);
            request.truncate(end);
            if let Err(why) = self.begin(&request, history, engine, explain) {
                self.end(&Last::Error(why));
            }
        } else if self.received.len() > MAX_REQUEST {
            self.received = Vec::new();
            self.end(&Last::Error(format!(
                "a request has at most {MAX_REQUEST} bytes"
            )));
        }
        Fate::There
    }

    fn begin(
        &mut self,
        request: &[u8],
        history: &History,
        engine: &Engine,
        explain: Explain<'_>,
    ) -> Result<(), String> {
        let request: Request = serde_json::from_slice(request)
            .map_err(|error| format!("this is no request: {error}"))?;
        if request.version != VERSION {
            return Err(format!(
                "version {} is asked for; this daemon speaks version {VERSION}",
                request.version
            ));
        }
        self.task = match request.verb {
            Verb::Events => {
                let follow = request.follow.unwrap_or(true);
                let now = engine.renderer.offset.at(boot_now());
                let place = self.first(request.since.as_deref(), follow, now, history)?;
                Task::Events {
                    place,
                    filter: request.filter,
                    follow,
                }
            }
            Verb::Ps => Task::Ps {
                after: None,
                filter: request.filter,
            },
            Verb::Inspect => {
                let id = request.id.ok_or("inspect needs an id")?;
                let (status, ask) = Status::find(engine, &id)?;
                if !ask.is_some_and(explain) {
                    return Err("too many questions at once: ask again".to_owned());
                }
                Task::Inspect(Box::new(status))
            }
        };
        Ok(())
    }

    /// Where the answer begins; a gap in front of it goes out at once.
    fn first(
        &mut self,
        since: Option<&str>,
        follow: bool,
        now: Timestamp,
        history: &History,
    ) -> Result<u64, String> {
        let since = match since {
            Some(text) => {
                Since::parse(text, now).ok_or_else(|| format!("'{text}' is no time to begin at"))?
            }
            None if follow => return Ok(history.end()),
            None => Since::Seq(0),
        };
        let (place, gap) = history.find(since);
        self.out.extend_from_slice(&gap.unwrap_or_default());
        Ok(place)
    }

    /// What files say came in.
    pub(super) fn explained(&mut self, files: &[Source]) {
        if let Task::Inspect(status) = &mut self.task {
            status.explain("kernel", files);
            let line = status.line();
            self.out.extend_from_slice(&line);
            self.end(&Last::End("complete".to_owned()));
        }
    }

    fn end(&mut self, last: &Last) {
        self.out.extend_from_slice(&last.line());
        self.task = Task::Ending;
    }

    fn fill(&mut self, history: &History, engine: &Engine) {
        match &mut self.task {
            Task::Events {
                place,
                filter,
                follow,
            } => {
                let whole = events(history, place, filter, &mut self.out);
                if whole && !*follow {
                    self.end(&Last::End("complete".to_owned()));
                }
            }
            Task::Ps { after, filter } => {
                let mut looked = 0;
                for instance in engine.machine.instances_after(*after).take(TURN) {
                    looked += 1;
                    *after = Some(instance.identity.cgroup);
                    let status = Status::new(engine, instance);
                    if filter.selects(&status.container, status.k8s.as_deref()) {
                        self.out.extend_from_slice(&status.line());
                    }
                    if self.out.len() >= FILL_BYTES {
                        return;
                    }
                }
                if looked < TURN {
                    self.end(&Last::End("complete".to_owned()));
                }
            }
            Task::Asking | Task::Inspect(_) | Task::Ending => {}
        }
    }

    fn send(&mut self) -> Fate {
        while !self.out.is_empty() {
            match self.stream.try_write(&self.out) {
                Ok(len) => self.out.advance(len),
                Err(error) if error.kind() == io::ErrorKind::WouldBlock => {
                    self.blocked = true;
                    return Fate::There;
                }
                Err(_) => return Fate::Gone,
            }
        }
        self.blocked = false;
        if self.out.capacity() > 2 * FILL_BYTES {
            self.out = BytesMut::new();
        }
        match self.task {
            Task::Ending => Fate::Gone,
            _ => Fate::There,
        }
    }

    /// The daemon ends: what a follower has not got yet, and the word that says so.
    pub(super) fn finish(&mut self, history: &History, deadline: Instant) -> Result<(), Errno> {
        let Task::Events { mut place, .. } = self.task else {
            return Ok(());
        };
        while let Task::Events { filter, .. } = &self.task {
            if events(history, &mut place, filter, &mut self.out) {
                self.end(&Last::End("stopped".to_owned()));
            }
            while !self.out.is_empty() {
                match send(
                    &self.stream,
                    &self.out,
                    SendFlags::DONTWAIT | SendFlags::NOSIGNAL,
                ) {
                    Ok(len) => self.out.advance(len),
                    Err(Errno::AGAIN) => {
                        let left = deadline.saturating_duration_since(Instant::now());
                        let Ok(left) = Timespec::try_from(left) else {
                            return Err(Errno::INVAL);
                        };
                        let fd = self.stream.as_fd();
                        if poll(&mut [PollFd::new(&fd, PollFlags::OUT)], Some(&left))? == 0 {
                            return Err(Errno::TIMEDOUT);
                        }
                    }
                    Err(Errno::INTR) => {}
                    Err(error) => return Err(error),
                }
            }
        }
        Ok(())
    }
}

/// Appends what is wanted from `place` on; true if that was all there is.
fn events(history: &History, place: &mut u64, filter: &Filter, out: &mut BytesMut) -> bool {
    for _ in 0..TURN {
        match history.next(*place) {
            Next::Nothing => return true,
            Next::Lost(lost) => {
                tracing::warn!(
                    lost,
                    "a reader of the socket was too slow: records left out"
                );
                *place += lost;
                out.extend_from_slice(&history.gap(Some(lost), None).unwrap_or_default());
            }
            Next::Kept(kept) => {
                *place += 1;
                if filter.matches(&kept.record) {
                    out.extend_from_slice(&kept.line);
                }
            }
        }
        if out.len() >= FILL_BYTES {
            break;
        }
    }
    false
}

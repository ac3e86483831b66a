//! One socket: connect, ask what is open, and when it breaks begin again, for ever.

use std::{
    collections::{BTreeMap, BTreeSet},
    path::Path,
    rc::Rc,
    time::Duration,
};

use tokio::time::{Instant, sleep, sleep_until, timeout};

use super::{
    DEADLINE, Endpoint, Kind, Question,
    absent::Absent,
    containerd::Containerd,
    cri::Cri,
    desk::{Desk, Ticket},
    http::Http,
};
use crate::{enrich::api::Told, poll::sleep_at_rest};

/// First and longest pause before a socket is tried again.
const FIRST_PAUSE: Duration = Duration::from_millis(100);
const LONGEST_PAUSE: Duration = Duration::from_secs(30);
/// How long one that is not there is left alone. Its watch sees it being made, but not what is mounted
/// over the directory that is watched.
const AT_REST: Duration = Duration::from_mins(5);

/// When a runtime that does not know a container yet is asked again, and then for as long as the
/// container lives. A CRI runtime knows a sandbox only when it is ready, seconds after its cgroup.
const AGAIN: [Duration; 5] = [
    Duration::from_millis(100),
    Duration::from_millis(500),
    Duration::from_secs(2),
    Duration::from_secs(5),
    Duration::from_secs(20),
];
const AT_LAST: Duration = Duration::from_mins(1);

/// What became of a question.
#[derive(Debug)]
pub(super) enum Failed {
    /// The runtime does not answer this one; the connection is good.
    Refused(String),
    /// The connection is of no use any more.
    Broken(String),
}

/// A connection, by what is spoken over it.
enum Client {
    Http(Http),
    Containerd(Containerd),
    Cri(Cri),
}

impl Client {
    async fn connect(endpoint: &Endpoint) -> Result<Self, Failed> {
        Ok(match endpoint.kind {
            Kind::Docker | Kind::Podman => Self::Http(Http::connect(endpoint).await?),
            Kind::Containerd => Self::Containerd(Containerd::connect(endpoint).await?),
            Kind::Cri => Self::Cri(Cri::connect(endpoint).await?),
        })
    }

    /// `None` if the runtime has no such container.
    async fn ask(&mut self, question: &Question) -> Result<Option<Told>, Failed> {
        match self {
            Self::Http(http) => http.ask(question).await,
            Self::Containerd(containerd) => containerd.ask(question).await,
            Self::Cri(cri) => cri.ask(question).await,
        }
    }
}

/// Starts the task of one socket.
pub(super) fn start(desk: &Rc<Desk>, endpoint: Endpoint) {
    let desk = Rc::clone(desk);
    let socket: Rc<Path> = endpoint.path.as_path().into();
    // It ends with the thread's loop.
    drop(tokio::task::spawn_local(async move {
        let peer = Peer {
            desk,
            endpoint,
            socket,
        };
        peer.serve().await;
    }));
}

struct Peer {
    desk: Rc<Desk>,
    endpoint: Endpoint,
    socket: Rc<Path>,
}

/// What is asked over one connection.
#[derive(Debug, Default)]
struct Round {
    /// All questions before this one were asked.
    from: Ticket,
    /// Those to be asked again, and how often they were.
    again: BTreeSet<(Instant, Ticket)>,
    tries: BTreeMap<Ticket, usize>,
    /// The question over which the connection before broke: others come first.
    culprit: Option<Ticket>,
    /// Something was answered, if only with "no such container".
    answered: bool,
}

impl Round {
    /// Asks a question once more, later.
    fn postpone(&mut self, ticket: Ticket) {
        let tries = self.tries.entry(ticket).or_default();
        let pause = AGAIN.get(*tries).copied().unwrap_or(AT_LAST);
        *tries = tries.saturating_add(1);
        self.again.insert((Instant::now() + pause, ticket));
    }
}

impl Peer {
    async fn serve(&self) {
        let mut pause = FIRST_PAUSE;
        let mut culprit = None;
        loop {
            self.wait_for_a_question().await;
            match timeout(DEADLINE, Client::connect(&self.endpoint)).await {
                Ok(Ok(mut client)) => {
                    let mut round = Round {
                        culprit: culprit.take(),
                        ..Round::default()
                    };
                    let Some((ticket, why)) = self.ask_all(&mut client, &mut round).await else {
                        return;
                    };
                    culprit = Some(ticket);
                    self.note(&why);
                    if round.answered {
                        pause = FIRST_PAUSE;
                    }
                }
                Ok(Err(Failed::Broken(why) | Failed::Refused(why))) => self.note(&why),
                Err(_elapsed) => self.note("no connection in time"),
            }
            pause = if self.rest(pause).await {
                FIRST_PAUSE
            } else {
                (pause * 2).min(LONGEST_PAUSE)
            };
        }
    }

    /// Waits before the next try, for `pause` or until the socket is made; true in that case. A socket
    /// that is not there at all is not tried before.
    async fn rest(&self, pause: Duration) -> bool {
        let path = &self.endpoint.path;
        let is_there = path.exists();
        let pause = jittered(if is_there { pause } else { AT_REST });
        let made = match Absent::new(path, is_there) {
            Ok(None) => Ok(()),
            Ok(Some(absent)) => tokio::select! {
                made = absent.made() => made,
                () = sleep_at_rest(pause) => return false,
            },
            Err(error) => Err(error),
        };
        match made {
            Ok(()) => {
                // Until somebody listens on it; and a user who makes sockets all the time, in a
                // directory of theirs, does not keep this thread busy.
                sleep(jittered(FIRST_PAUSE)).await;
                true
            }
            Err(error) => {
                self.note(&format!("cannot be waited for: {error}"));
                sleep(pause.min(LONGEST_PAUSE)).await;
                false
            }
        }
    }

    fn note(&self, why: &str) {
        tracing::debug!(
            kind = ?self.endpoint.kind,
            socket = %self.socket.display(),
            why,
            "runtime's socket: will be tried again"
        );
    }

    async fn wait_for_a_question(&self) {
        loop {
            let arrival = self.desk.arrival();
            tokio::pin!(arrival);
            arrival.as_mut().enable();
            if self.desk.next(0, &self.endpoint).is_some() {
                return;
            }
            arrival.await;
        }
    }

    /// Asks until the connection breaks: the question over which it did, and why. `None` if nobody
    /// takes answers any more.
    async fn ask_all(&self, client: &mut Client, round: &mut Round) -> Option<(Ticket, String)> {
        loop {
            let (ticket, question) = self.next(round).await;
            let asked = timeout(DEADLINE, client.ask(&question)).await;
            round.answered |= matches!(asked, Ok(Ok(_) | Err(Failed::Refused(_))));
            match asked {
                Ok(Ok(Some(told))) => {
                    round.tries.remove(&ticket);
                    let answered = self.desk.answer(ticket, &self.endpoint, &self.socket, told);
                    if !answered.await {
                        return None;
                    }
                }
                Ok(Ok(None)) => round.postpone(ticket),
                Ok(Err(Failed::Refused(why))) => {
                    tracing::debug!(id = &*question.id, why, "a runtime refuses an answer");
                    round.postpone(ticket);
                }
                Ok(Err(Failed::Broken(why))) => return Some((ticket, why)),
                Err(_elapsed) => return Some((ticket, "no answer in time".to_owned())),
            }
        }
    }

    /// The next question: one that is due again, or the first that was not asked yet.
    async fn next(&self, round: &mut Round) -> (Ticket, Rc<Question>) {
        loop {
            let arrival = self.desk.arrival();
            tokio::pin!(arrival);
            arrival.as_mut().enable();
            let now = Instant::now();
            while let Some(&(due, ticket)) = round.again.first()
                && due <= now
            {
                round.again.pop_first();
                match self.desk.get(ticket, &self.endpoint) {
                    Some(question) => return (ticket, question),
                    None => drop(round.tries.remove(&ticket)),
                }
            }
            if let Some((ticket, question)) = self.desk.next(round.from, &self.endpoint) {
                round.from = ticket + 1;
                if round
                    .culprit
                    .take_if(|culprit| *culprit == ticket)
                    .is_some()
                {
                    round.postpone(ticket);
                    continue;
                }
                return (ticket, question);
            }
            match round.again.first() {
                Some(&(due, _)) => tokio::select! {
                    () = sleep_until(due) => {}
                    () = arrival => {}
                },
                None => arrival.await,
            }
        }
    }
}

/// Between half of it and all of it, so that many do not come back at once.
fn jittered(pause: Duration) -> Duration {
    let random = uuid::Uuid::now_v7().as_u128() & 0xff;
    let part = u32::try_from(random).unwrap_or(0);
    pause / 2 + (pause / 2) * part / 255
}

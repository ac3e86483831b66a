//! What systemd's time services say on D-Bus, where there is a bus and they are on it.
//!
//! * `NTPSynchronized` of timedate1 is annotated `EmitsChangedSignal=false`: no signal ever tells its
//!   changes. What does: timesync1's `NTPMessage` (at each answer of the server) and timedate1's
//!   `NTP`. So a signal is only a reason to look, and the slow poll asks for the value.
//! * Services are never started by asking: who is not on the bus is not asked.
//! * That one comes to the bus or leaves it the bus itself tells (`NameOwnerChanged`).
//! * A bus that is not there, or goes away, is tried again with the slow poll.

use std::{num::NonZero, time::Duration};

use tokio::{
    sync::watch,
    time::{Instant, sleep, sleep_until, timeout},
};
use tokio_stream::StreamExt as _;
use zbus::{
    Connection, MatchRule, MessageStream, OwnedVariant, Variant, connection::Builder,
    fdo::DBusProxy, message::Type,
};

use super::BusState;

/// For each question.
const PATIENCE: Duration = Duration::from_secs(5);

const TIMESYNC: &str = "org.freedesktop.timesync1";
const TIMESYNC_PATH: &str = "/org/freedesktop/timesync1";
const TIMEDATE: &str = "org.freedesktop.timedate1";
const TIMEDATE_PATH: &str = "/org/freedesktop/timedate1";

/// Follows the bus for as long as somebody listens. Each message is a reason to look at the clock,
/// also where it says the same as before.
///
/// `poll`: between two polls, and between two tries to find a bus.
pub(super) async fn follow(address: Option<String>, poll: Duration, said: watch::Sender<BusState>) {
    loop {
        let next_try = Instant::now() + poll;
        match timeout(PATIENCE, connect(address.as_deref())).await {
            Ok(Ok((connection, signals))) => {
                if let Err(error) = listen(&connection, signals, poll, &said).await {
                    tracing::debug!(%error, "the bus went away");
                }
            }
            Ok(Err(error)) => tracing::debug!(%error, "no bus: the clock is polled"),
            Err(_elapsed) => tracing::debug!("the bus does not answer: the clock is polled"),
        }
        said.send_replace(BusState::default());
        tokio::select! {
            () = said.closed() => return,
            () = sleep_until(next_try) => {}
        }
    }
}

async fn connect(address: Option<&str>) -> zbus::Result<(Connection, [MessageStream; 4])> {
    let builder = match address {
        Some(address) => Builder::address(address),
        None => Builder::system(),
    };
    let connection = builder.method_timeout(PATIENCE).build().await?;
    // By path: a wider rule would wake this thread for every unit that changes.
    let timesync = changes(TIMESYNC_PATH, &connection).await?;
    let timedate = changes(TIMEDATE_PATH, &connection).await?;
    let timesync_owner = owners(TIMESYNC, &connection).await?;
    let timedate_owner = owners(TIMEDATE, &connection).await?;
    let signals = [timesync, timedate, timesync_owner, timedate_owner];
    Ok((connection, signals))
}

async fn changes(path: &'static str, connection: &Connection) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .interface("org.freedesktop.DBus.Properties")
        .member("PropertiesChanged")
        .path(path)
        .build()?;
    MessageStream::for_match_rule(rule, connection, Some(QUEUE)).await
}

async fn owners(name: &'static str, connection: &Connection) -> zbus::Result<MessageStream> {
    let rule = MatchRule::builder()
        .msg_type(Type::Signal)
        .sender("org.freedesktop.DBus")
        .interface("org.freedesktop.DBus")
        .member("NameOwnerChanged")
        .arg(0, name)
        .build()?;
    MessageStream::for_match_rule(rule, connection, Some(QUEUE)).await
}

/// Signals that wait.
const QUEUE: NonZero<usize> = NonZero::<usize>::MIN.saturating_add(15);

async fn listen(
    connection: &Connection,
    signals: [MessageStream; 4],
    poll: Duration,
    said: &watch::Sender<BusState>,
) -> zbus::Result<()> {
    let bus = DBusProxy::new(connection).await?;
    let [
        mut timesync,
        mut timedate,
        mut timesync_owner,
        mut timedate_owner,
    ] = signals;
    loop {
        said.send_replace(ask(connection, &bus).await?);
        let signal = tokio::select! {
            () = said.closed() => return Ok(()),
            () = sleep(poll) => continue,
            signal = timesync.next() => signal,
            signal = timedate.next() => signal,
            signal = timesync_owner.next() => signal,
            signal = timedate_owner.next() => signal,
        };
        match signal {
            Some(signal) => drop(signal?),
            None => return Err(zbus::Error::Failure("no more signals".to_owned())),
        }
    }
}

async fn ask(connection: &Connection, bus: &DBusProxy<'_>) -> zbus::Result<BusState> {
    let timesync1 = bus.name_has_owner(TIMESYNC.try_into()?).await?;
    let has_timedate = bus.name_has_owner(TIMEDATE.try_into()?).await?;
    let timedate1 = if has_timedate {
        synchronized(connection).await
    } else {
        None
    };
    Ok(BusState {
        timesync1,
        timedate1,
    })
}

/// timedate1's word; `None` where it does not give it.
async fn synchronized(connection: &Connection) -> Option<bool> {
    let answer = connection
        .call_method(
            Some(TIMEDATE),
            TIMEDATE_PATH,
            Some("org.freedesktop.DBus.Properties"),
            "Get",
            &(TIMEDATE, "NTPSynchronized"),
        )
        .await;
    let value = answer.and_then(|answer| answer.body().deserialize::<OwnedVariant>());
    match value.as_deref() {
        Ok(Variant::Bool(synchronized)) => Some(*synchronized),
        Ok(_) => None,
        Err(error) => {
            tracing::debug!(%error, "timedate1 does not answer");
            None
        }
    }
}

//! A TCP proxy that fails on purpose.

use std::{io, net::SocketAddr, time::Duration};

use anyhow::{Context, Result};
use tokio::{
    io::{AsyncReadExt, AsyncWriteExt},
    net::{
        TcpListener, TcpStream,
        tcp::{OwnedReadHalf, OwnedWriteHalf},
    },
    runtime::Runtime,
    sync::watch,
    time::sleep,
};

/// How the network is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Weather {
    Fair,
    /// Connections stay, nothing moves.
    Stalls,
    /// A few bytes at a time.
    Drips,
    /// New connections end at once.
    Refuses,
}

#[derive(Debug, Clone, Copy)]
struct Control {
    weather: Weather,
    /// How often all connections were cut.
    cuts: u64,
    target: SocketAddr,
}

/// The proxy; its connections end with it.
#[derive(Debug)]
pub struct Proxy {
    control: watch::Sender<Control>,
    address: SocketAddr,
    _runtime: Runtime,
}

impl Proxy {
    /// Listens on a free port of this host.
    pub fn start(target: SocketAddr) -> Result<Self> {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .enable_all()
            .build()
            .context("start the proxy's event loop")?;
        let listener = runtime
            .block_on(TcpListener::bind("127.0.0.1:0"))
            .context("bind the proxy")?;
        let address = listener.local_addr().context("the proxy's address")?;
        let (control, changes) = watch::channel(Control {
            weather: Weather::Fair,
            cuts: 0,
            target,
        });
        runtime.spawn(accept(listener, changes));
        Ok(Self {
            control,
            address,
            _runtime: runtime,
        })
    }

    #[must_use]
    pub const fn address(&self) -> SocketAddr {
        self.address
    }

    /// From now on.
    pub fn set(&self, weather: Weather) {
        self.control
            .send_modify(|control| control.weather = weather);
    }

    /// Ends all connections, in the middle of whatever they carry.
    pub fn cut(&self) {
        self.control.send_modify(|control| control.cuts += 1);
    }

    /// New connections go there.
    pub fn aim(&self, target: SocketAddr) {
        self.control.send_modify(|control| control.target = target);
    }
}

async fn accept(listener: TcpListener, changes: watch::Receiver<Control>) {
    while let Ok((near, _)) = listener.accept().await {
        let control = *changes.borrow();
        if control.weather != Weather::Refuses {
            tokio::spawn(carry(near, control, changes.clone()));
        }
    }
}

async fn carry(near: TcpStream, begun: Control, mut changes: watch::Receiver<Control>) {
    let Ok(far) = TcpStream::connect(begun.target).await else {
        return;
    };
    let (near_reader, near_writer) = near.into_split();
    let (far_reader, far_writer) = far.into_split();
    let up = copy(near_reader, far_writer, changes.clone());
    let down = copy(far_reader, near_writer, changes.clone());
    let cut = async {
        // Ends as well when the proxy is gone.
        while let Ok(control) = changes.wait_for(|now| now.cuts != begun.cuts).await {
            if control.cuts != begun.cuts {
                return;
            }
        }
    };
    tokio::select! {
        _ = up => {}
        _ = down => {}
        () = cut => {}
    }
}

async fn copy(
    mut from: OwnedReadHalf,
    mut to: OwnedWriteHalf,
    mut changes: watch::Receiver<Control>,
) -> io::Result<()> {
    let mut buffer = vec![0; 16 << 10];
    loop {
        let read = from.read(&mut buffer).await?;
        let mut rest = buffer.get(..read).unwrap_or_default();
        if rest.is_empty() {
            return Ok(());
        }
        while !rest.is_empty() {
            let moves = changes.wait_for(|now| now.weather != Weather::Stalls).await;
            let weather = moves.map_err(io::Error::other)?.weather;
            let some = match weather {
                Weather::Drips => rest.len().min(48),
                _ => rest.len(),
            };
            let (now, later) = rest.split_at(some);
            to.write_all(now).await?;
            rest = later;
            if weather == Weather::Drips {
                sleep(Duration::from_millis(2)).await;
            }
        }
    }
}

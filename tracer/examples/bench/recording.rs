//! A recording of any length from a seed: containers live, work and die, side by side.
//!
//! Each of [`Shape::containers`] places holds one container at a time. A step picks a place by
//! chance and writes the next record of the life in it; when the life is over another container
//! takes the place. So records of different containers alternate as they do on a busy host, and the
//! table keeps its size. Every life has metadata as Docker gives it: image, labels, a name.

use std::{
    fs::File,
    io::{BufWriter, Write},
    path::Path,
    sync::Arc,
};

use anyhow::Context as _;
use tracer::{
    engine::Engine,
    engine::Entry,
    lifecycle::{self, Machine, Metadata},
    record::{Enrichment, Host, Image, Labels},
    recording::{Header, Recorder},
    render::{Renderer, Written},
    time::{BootNs, Timestamp, WallOffset},
};
use tracer_common::{ABI_VERSION, COMM_LEN, CgroupKey, FILENAME_LEN, PATH_SMALL, flags, kind};

/// What the recording is like.
#[derive(Debug, clap::Args)]
pub struct Shape {
    /// Raw records to write
    #[arg(long, default_value_t = 10_000_000)]
    records: u64,
    /// Containers at a time
    #[arg(long, default_value_t = 200)]
    containers: usize,
    /// Inner processes of each life, as `--processes` tells them; 0 is the default mode
    #[arg(long, default_value_t = 0)]
    processes: u32,
    /// Cgroups inside the container, each in the one before
    #[arg(long, default_value_t = 0)]
    depth: u64,
    #[arg(long, default_value_t = 2026)]
    seed: u64,
}

/// Writes the recording.
pub fn run(file: &Path, shape: &Shape) -> anyhow::Result<()> {
    let name = file.display();
    let to = File::create(file).with_context(|| format!("cannot create {name}"))?;
    write(BufWriter::with_capacity(1 << 20, to), shape)
        .with_context(|| format!("cannot write {name}"))
}

fn write(to: impl Write, shape: &Shape) -> anyhow::Result<()> {
    let mut writer = Writer {
        to: Recorder::new(to, &header(shape))?,
        now: 1_000_000_000,
        left: shape.records,
        bytes: Vec::with_capacity(1024),
    };
    let mut dice = Dice(shape.seed);
    let mut born = 0;
    let mut places: Vec<Life> = Vec::new();
    places.resize_with(shape.containers, || Life::new(&mut born, shape));
    while writer.left > 0 {
        let place = usize::try_from(dice.roll() % (shape.containers.max(1) as u64))?;
        let Some(life) = places.get_mut(place) else {
            break;
        };
        if !life.step(&mut writer, &mut dice)? {
            *life = Life::new(&mut born, shape);
        }
    }
    Ok(writer.to.flush()?)
}

const BOOT_ID: &str = "9b2e4f00-0c11-4d22-8e33-445566778899";

fn header(shape: &Shape) -> Header {
    let hierarchies = vec![(0, Arc::from("unified"))];
    let host = lifecycle::Host {
        boot_id: BOOT_ID.into(),
        hierarchies: hierarchies.clone(),
        freezer: None,
        processes: shape.processes != 0,
    };
    let renderer = Renderer {
        stream: "01932c5e-7a3b-7c4d-8e5f-001122334455".into(),
        host: Arc::new(Host {
            name: "edge-7".to_owned(),
            id: Some("4c1fd2a64c1fd2a64c1fd2a64c1fd2a6".to_owned()),
            boot_id: BOOT_ID.to_owned(),
        }),
        offset: WallOffset(1_795_296_168_000_000_000),
        hierarchies: hierarchies.into_iter().collect(),
        written: Written::default(),
    };
    Header::new(&Engine::new(Machine::new(host, 1), renderer))
}

/// A seeded source of choices (`SplitMix64`).
pub(crate) struct Dice(pub(crate) u64);

impl Dice {
    pub(crate) fn roll(&mut self) -> u64 {
        self.0 = self.0.wrapping_add(0x9e37_79b9_7f4a_7c15);
        let mut z = self.0;
        z = (z ^ (z >> 30)).wrapping_mul(0xbf58_476d_1ce4_e5b9);
        z = (z ^ (z >> 27)).wrapping_mul(0x94d0_49bb_1331_11eb);
        z ^ (z >> 31)
    }
}

/// One container from its mkdir to its rmdir.
struct Life {
    number: u64,
    root: CgroupKey,
    /// Where its processes are.
    home: CgroupKey,
    step: u32,
    depth: u64,
    processes: u32,
}

/// A process.
struct Task<'a> {
    pid: u32,
    vpid: u32,
    parent_pid: u32,
    start_ns: u64,
    comm: &'a [u8],
}

impl Life {
    fn new(born: &mut u64, shape: &Shape) -> Self {
        *born += 1;
        let first = *born * (shape.depth + 1);
        let key = |id| CgroupKey::new(0, 1_000 + id);
        Self {
            number: *born,
            root: key(first),
            home: key(first + shape.depth),
            step: 0,
            depth: shape.depth,
            processes: shape.processes,
        }
    }

    /// The next record; false where the life is over.
    fn step(&mut self, to: &mut Writer<impl Write>, dice: &mut Dice) -> anyhow::Result<bool> {
        if self.step == 6 && self.processes != 0 {
            self.processes -= 1;
            self.inner(to, dice)?;
            return Ok(true);
        }
        let init = self.task(0, 1, b"runc:[2:INIT]");
        let session = self.task(1, 31, b"sh");
        let landed = flags::TRACKED | flags::LANDED | flags::ENTRANT;
        let differs = flags::PID_NS_DIFFERS | flags::MNT_NS_DIFFERS;
        self.step += 1;
        match self.step {
            1 => self.mkdirs(to)?,
            2 => self.metadata(to)?,
            3 => to.fork(self.home, &init, differs)?,
            4 => {
                let init = Task {
                    comm: b"nginx",
                    ..init
                };
                to.exec(self.home, &init, landed | differs, b"/usr/sbin/nginx")?;
            }
            5 => to.exec(self.home, &session, landed | differs, b"/bin/sh")?,
            6 => to.exit(self.home, &session, 0x300, flags::TRACKED | flags::LANDED)?,
            7 => to.state(kind::CGROUP_FROZEN, self.root, 1)?,
            8 => to.state(kind::CGROUP_FROZEN, self.root, 0)?,
            9 => {
                let init = Task {
                    comm: b"nginx",
                    ..init
                };
                to.exit(self.home, &init, 9, flags::TRACKED | flags::LANDED)?;
            }
            10 => to.state(kind::CGROUP_POPULATED, self.root, 0)?,
            11 => return self.rmdirs(to).map(|()| false),
            _ => {}
        }
        Ok(true)
    }

    /// A process of the container's own executes and ends.
    fn inner(&self, to: &mut Writer<impl Write>, dice: &mut Dice) -> anyhow::Result<()> {
        let number = 40 + u32::try_from(dice.roll() % 100)?;
        let task = Task {
            parent_pid: self.task(0, 1, b"").pid,
            // The pid comes again, as another process.
            start_ns: u64::from(self.processes) * 1_000_000,
            ..self.task(number, number, b"php-fpm")
        };
        let path = b"/usr/local/sbin/php-fpm";
        to.exec(self.home, &task, flags::TRACKED | flags::BULK, path)?;
        to.exit(self.home, &task, 0, flags::TRACKED | flags::BULK)
    }

    fn task(&self, number: u32, vpid: u32, comm: &'static [u8]) -> Task<'static> {
        let first = u32::try_from(self.number % 20_000).unwrap_or(0) * 200;
        Task {
            pid: 1_000 + first + number,
            vpid,
            parent_pid: 990,
            start_ns: u64::from(number),
            comm,
        }
    }

    fn id(&self) -> String {
        let mut dice = Dice(self.number);
        let words: Vec<String> = (0..4).map(|_| format!("{:016x}", dice.roll())).collect();
        words.concat()
    }

    fn mkdirs(&self, to: &mut Writer<impl Write>) -> anyhow::Result<()> {
        let mut path = format!("/docker/{}", self.id());
        let mut parent = 2;
        for level in 0..=self.depth {
            let key = CgroupKey::new(0, self.root.id + level);
            to.mkdir(key, parent, &path)?;
            parent = key.id;
            path += "/inner";
        }
        Ok(())
    }

    fn rmdirs(&self, to: &mut Writer<impl Write>) -> anyhow::Result<()> {
        for level in (0..=self.depth).rev() {
            let key = CgroupKey::new(0, self.root.id + level);
            to.state(kind::CGROUP_RMDIR, key, 0)?;
        }
        Ok(())
    }

    fn metadata(&self, to: &mut Writer<impl Write>) -> anyhow::Result<()> {
        let metadata = Metadata {
            name: Some(format!("shop-web-{}", self.number).into()),
            image: Some(Arc::new(Image {
                name: Some("nginx".to_owned()),
                tags: vec!["1.27".to_owned()],
                id: Some(format!("sha256:{}", self.id())),
                repo_digests: Vec::new(),
            })),
            label: Some(Arc::new(Labels::from_iter([
                ("com.docker.compose.project", "shop"),
                ("com.docker.compose.service", "web"),
            ]))),
            k8s: None,
            created: Some(Timestamp(1_795_296_168_000_000_000 + self.number)),
            restart_count: None,
            sandbox: false,
            runtime: None,
            level: Enrichment::Full,
        };
        to.entry(&Entry::Metadata {
            root: self.root,
            metadata: Arc::new(metadata),
        })
    }
}

/// Writes raw records, field by field in the order of the ABI.
struct Writer<W> {
    to: Recorder<W>,
    now: u64,
    /// Raw records still to write.
    left: u64,
    bytes: Vec<u8>,
}

impl<W: Write> Writer<W> {
    fn entry(&mut self, entry: &Entry<'_>) -> anyhow::Result<()> {
        Ok(self.to.write(BootNs(self.now + 20_000), entry)?)
    }

    fn head(&mut self, kind: u16) {
        self.now += 1_700;
        self.bytes.clear();
        let now = self.now;
        self.u64(now);
        self.u32(0);
        self.u32(0);
        self.u16(kind);
        self.u16(ABI_VERSION);
        self.u32(0);
    }

    fn done(&mut self) -> anyhow::Result<()> {
        if self.left == 0 {
            return Ok(());
        }
        self.left -= 1;
        let bytes = std::mem::take(&mut self.bytes);
        self.entry(&Entry::Raw(&bytes))?;
        self.bytes = bytes;
        Ok(())
    }

    fn mkdir(&mut self, key: CgroupKey, parent: u64, path: &str) -> anyhow::Result<()> {
        self.head(kind::CGROUP_MKDIR);
        self.key(key);
        self.u64(parent);
        self.u32(2);
        self.u32(990);
        self.u32(1);
        self.u16(u16::try_from(path.len())?);
        self.u16(0);
        self.text(path.as_bytes(), PATH_SMALL);
        self.done()
    }

    fn state(&mut self, kind: u16, key: CgroupKey, value: u32) -> anyhow::Result<()> {
        self.head(kind);
        self.key(key);
        self.u32(value);
        self.u32(0);
        self.done()
    }

    fn fork(&mut self, key: CgroupKey, child: &Task<'_>, flags: u32) -> anyhow::Result<()> {
        self.head(kind::FORK);
        self.key(key);
        self.task(child);
        self.u32(flags);
        self.u32(0);
        self.done()
    }

    fn exec(
        &mut self,
        key: CgroupKey,
        task: &Task<'_>,
        bits: u32,
        path: &[u8],
    ) -> anyhow::Result<()> {
        let outside = CgroupKey::new(0, 1);
        let inner = bits & flags::BULK != 0;
        self.head(kind::EXEC);
        self.key(key);
        self.key(if inner { key } else { outside });
        self.task(task);
        self.u32(bits);
        self.u16(u16::try_from(path.len())?);
        self.u16(0);
        self.u32(0);
        self.u32(0);
        self.text(path, FILENAME_LEN);
        self.done()
    }

    fn exit(
        &mut self,
        key: CgroupKey,
        task: &Task<'_>,
        status: u32,
        bits: u32,
    ) -> anyhow::Result<()> {
        self.head(kind::EXIT);
        self.key(key);
        self.task(task);
        self.u32(status);
        self.u32(bits);
        self.done()
    }

    fn key(&mut self, key: CgroupKey) {
        self.bytes.extend_from_slice(&key.to_bytes());
    }

    fn task(&mut self, task: &Task<'_>) {
        self.u64(task.start_ns);
        self.u32(task.pid);
        self.u32(task.vpid);
        self.u32(task.parent_pid);
        self.u32(1);
        self.text(task.comm, COMM_LEN);
    }

    fn text(&mut self, text: &[u8], capacity: usize) {
        let end = self.bytes.len() + capacity;
        self.bytes.extend_from_slice(text);
        self.bytes.resize(end, 0);
    }

    fn u64(&mut self, value: u64) {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
    }

    fn u32(&mut self, value: u32) {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
    }

    fn u16(&mut self, value: u16) {
        self.bytes.extend_from_slice(&value.to_ne_bytes());
    }
}

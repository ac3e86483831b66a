//! One run: a plan carried out with real processes, and its verdict.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use anyhow::{Context, Result, ensure};
use serde_json::Value;

use super::{
    clock::FalseClock,
    gateway::Gateway,
    meddler::Meddler,
    node::{Journal, Node, NodeSettings},
    plan::{Fault, Plan, Theme},
    proxy::{Proxy, Weather},
    verdict::{self, Held, Missing},
};
use crate::{disk::Disk, wait::wait_until};

/// Programs of a run.
#[derive(Debug, Clone)]
pub struct Programs {
    /// `PROGRAM gateway …`.
    pub gateway: PathBuf,
    pub node: PathBuf,
}

/// What came of it.
#[derive(Debug, Clone)]
pub struct Outcome {
    pub theme: Theme,
    /// Faults, and how often each was done.
    pub faults: BTreeMap<String, u64>,
    /// Records that the nodes made.
    pub records: u64,
    /// Of those: missing at the gateway, and told.
    pub missing: u64,
    pub took: Duration,
}

/// For the journal to get somewhere, and for the gateway to be where the node is.
const PATIENCE: Duration = Duration::from_mins(2);

/// Bytes of a disk that is to be filled.
const DISK_BYTES: u64 = 24 << 20;

/// Under which all nodes of a run are known.
const NAME: &str = "node";

struct Run {
    plan: Plan,
    programs: Programs,
    directory: PathBuf,
    gateway: Gateway,
    proxy: Proxy,
    node: Node,
    rival: Option<Node>,
    meddler: Option<Meddler>,
    clocks: Option<Clocks>,
    faults: BTreeMap<String, u64>,
    begun: Instant,
    // Last: whoever uses them is gone by then.
    node_disk: Option<Disk>,
    gateway_disk: Option<Disk>,
}

/// Wall clocks of the two sides.
struct Clocks {
    node: FalseClock,
    gateway: FalseClock,
}

/// Carries a plan out in a directory of its own.
pub fn run(plan: Plan, programs: Programs, directory: &Path) -> Result<Outcome> {
    let mut run = Run::start(plan, programs, directory)?;
    for (at, fault) in run.plan.steps.clone() {
        run.reach(at)?;
        run.apply(fault)
            .with_context(|| format!("{fault:?} at record {at}"))?;
    }
    run.calm()?;
    run.judge()
}

impl Run {
    fn start(plan: Plan, programs: Programs, directory: &Path) -> Result<Self> {
        let begun = Instant::now();
        let node_directory = directory.join("node");
        let store = directory.join("store");
        let mount =
            |wanted: bool, path: &Path| wanted.then(|| Disk::mount(path, DISK_BYTES)).transpose();
        let node_disk = mount(
            plan.theme == Theme::NodeDiskFull,
            &node_directory.join("spool"),
        )?;
        let gateway_disk = mount(plan.theme == Theme::GatewayDiskFull, &store)?;
        let clocks = (plan.theme == Theme::Clocks)
            .then(|| Clocks::new(directory))
            .transpose()?;
        let clock = clocks.as_ref().map(|clocks| clocks.gateway.clone());
        let mut gateway = Gateway::new(programs.gateway.clone(), store, clock)?;
        gateway.start()?;
        let meddler = (plan.theme == Theme::Disorder)
            .then(|| Meddler::start(gateway.address(), plan.seed))
            .transpose()?;
        let target = meddler.as_ref().map_or(gateway.address(), Meddler::address);
        let proxy = Proxy::start(target)?;
        let mut settings = settings(&plan, &programs, &proxy);
        settings.clock = clocks.as_ref().map(|clocks| clocks.node.clone());
        let mut node = Node::new(settings, node_directory);
        node.start()?;
        Ok(Self {
            plan,
            programs,
            directory: directory.to_owned(),
            gateway,
            proxy,
            node,
            rival: None,
            meddler,
            clocks,
            faults: BTreeMap::new(),
            begun,
            node_disk,
            gateway_disk,
        })
    }

    /// Waits until the node has made so many records.
    fn reach(&self, records: u64) -> Result<()> {
        let earlier = self.node.earlier()?;
        wait_until(PATIENCE, &format!("record {records}"), || {
            Ok((earlier + self.node.made()? >= records).then_some(()))
        })
    }

    fn apply(&mut self, fault: Fault) -> Result<()> {
        let name = format!("{fault:?}");
        let name = name.split('(').next().unwrap_or_default();
        *self.faults.entry(name.to_owned()).or_default() += 1;
        match fault {
            Fault::Cut => self.proxy.cut(),
            Fault::Stall => self.proxy.set(Weather::Stalls),
            Fault::Drip => self.proxy.set(Weather::Drips),
            Fault::Refuse => {
                self.proxy.set(Weather::Refuses);
                self.proxy.cut();
            }
            Fault::Fair => self.proxy.set(Weather::Fair),
            Fault::KillNode => {
                self.node.kill()?;
                self.node.start()?;
            }
            Fault::RestartNode => {
                self.node.stop()?;
                self.node.start()?;
            }
            Fault::NewStream => {
                self.node.forget_stream()?;
                self.node.start()?;
            }
            Fault::KillGateway => self.gateway.kill()?,
            Fault::StartGateway => self.gateway.start()?,
            Fault::SaveStore => {
                self.gateway.kill()?;
                self.gateway.save(&self.directory.join("saved"))?;
                self.gateway.start()?;
            }
            Fault::RestoreStore => {
                self.gateway.kill()?;
                self.gateway.restore(&self.directory.join("saved"))?;
                self.gateway.start()?;
            }
            Fault::FillNode => fill(self.node_disk.as_ref())?,
            Fault::FillGateway => fill(self.gateway_disk.as_ref())?,
            Fault::FreeDisks => self.free()?,
            Fault::Rival => {
                let mut settings = settings(&self.plan, &self.programs, &self.proxy);
                settings.seed ^= 1 << 40;
                let mut rival = Node::new(settings, self.directory.join("rival"));
                rival.start()?;
                self.rival = Some(rival);
            }
            Fault::RivalEnds => {
                if let Some(rival) = &mut self.rival {
                    rival.stop()?;
                }
            }
            Fault::Meddle => self.meddle(true),
            Fault::MeddleNoMore => self.meddle(false),
            Fault::SetNodeClock(ahead_s) => {
                let clocks = self.clocks.as_ref().context("a node's clock")?;
                clocks.node.set(ahead_s)?;
            }
            Fault::SetGatewayClock(ahead_s) => {
                let clocks = self.clocks.as_ref().context("a gateway's clock")?;
                clocks.gateway.set(ahead_s)?;
            }
        }
        Ok(())
    }

    fn meddle(&self, meddles: bool) {
        if let Some(meddler) = &self.meddler {
            meddler.meddle(meddles);
        }
    }

    fn free(&self) -> Result<()> {
        for disk in [&self.node_disk, &self.gateway_disk].into_iter().flatten() {
            disk.free()?;
        }
        Ok(())
    }

    /// Nothing goes wrong any more; waits until the node has nothing more to say.
    fn calm(&mut self) -> Result<()> {
        self.free()?;
        self.proxy.set(Weather::Fair);
        self.meddle(false);
        self.gateway.start()?;
        if let Some(rival) = &mut self.rival {
            rival.stop()?;
        }
        self.node.start()?;
        let records = self.node.earlier()? + self.plan.records;
        self.reach(records)
    }

    /// The truth is where both agree, and it must not take long.
    fn judge(mut self) -> Result<Outcome> {
        let mut last = String::new();
        let agreed = wait_until(PATIENCE, "node and gateway to agree", || {
            match self.compare() {
                Ok(missing) => Ok(Some(missing)),
                Err(error) => {
                    last = format!("{error:#}");
                    Ok(None)
                }
            }
        });
        let missing = agreed.with_context(|| last.clone())?;
        if let Some(meddler) = &self.meddler {
            self.faults.insert("Meddled".to_owned(), meddler.meddled());
        }
        // What is told is told in the stream: once more, when all is said.
        self.node.stop()?;
        let truth = self.node.truth()?;
        let told: u64 = truth.iter().map(|journal| journal.told).sum();
        let theme = self.plan.theme;
        ensure!(
            theme.may_lose() || missing.0 == 0 && told == 0,
            "{theme:?} lost {} records and told {told}",
            missing.0
        );
        if theme != Theme::RestoredStore {
            ensure!(
                missing.0 <= told,
                "the node lost {} records and told {told}",
                missing.0
            );
        }
        Ok(Outcome {
            theme,
            faults: std::mem::take(&mut self.faults),
            records: truth.iter().map(Journal::last_seq).sum(),
            missing: missing.0,
            took: self.begun.elapsed(),
        })
    }

    fn compare(&self) -> Result<Missing> {
        let truth = self.node.truth()?;
        let held: Held = self.gateway.held(NAME)?;
        let mut missing = 0;
        for journal in &truth {
            missing += verdict::stream(&held, journal)?.0;
        }
        if let Some(rival) = &self.rival {
            for journal in rival.truth()? {
                if held.records.contains_key(&journal.stream) {
                    verdict::prefix(&held, journal)?;
                }
            }
        }
        let current = truth.last().context("a stream")?;
        verdict::table(&held, current)?;
        verdict::reach(&held)?;
        if let Some(clocks) = &self.clocks {
            clocks.agree(&self.gateway.node(NAME)?)?;
        }
        Ok(Missing(missing))
    }
}

impl Clocks {
    fn new(directory: &Path) -> Result<Self> {
        Ok(Self {
            node: FalseClock::new(directory, "node")?,
            gateway: FalseClock::new(directory, "gateway")?,
        })
    }

    /// The gateway says how far the two are apart: that both go by these clocks is known by it.
    fn agree(&self, node: &Value) -> Result<()> {
        let told = node.pointer("/clock_ahead_ms").and_then(Value::as_i64);
        let told = told.context("the gateway does not say how wrong the clock is")?;
        let ahead_s = self.node.ahead_s()? - self.gateway.ahead_s()?;
        ensure!(
            (told - ahead_s * 1000).abs() < 30_000,
            "the clock is {ahead_s} s ahead, the gateway says {told} ms"
        );
        Ok(())
    }
}

impl Drop for Run {
    fn drop(&mut self) {
        // Their files are in the way of the disks' end.
        drop(self.node.kill());
        drop(self.gateway.kill());
        if let Some(rival) = &mut self.rival {
            drop(rival.kill());
        }
    }
}

fn fill(disk: Option<&Disk>) -> Result<()> {
    disk.map_or(Ok(()), Disk::fill)
}

fn settings(plan: &Plan, programs: &Programs, proxy: &Proxy) -> NodeSettings {
    NodeSettings {
        program: programs.node.clone(),
        url: format!("http://{}", proxy.address()),
        name: NAME.to_owned(),
        seed: plan.seed,
        records: plan.records,
        rate: plan.rate,
        spool_bytes: plan.spool_bytes,
        clock: None,
    }
}

/// Copies a directory's files.
pub fn copy(from: &Path, to: &Path) -> Result<()> {
    fs::create_dir_all(to)?;
    for entry in fs::read_dir(from)? {
        let entry = entry?;
        let target = to.join(entry.file_name());
        if entry.file_type()?.is_dir() {
            copy(&entry.path(), &target)?;
        } else {
            fs::copy(entry.path(), target)?;
        }
    }
    Ok(())
}

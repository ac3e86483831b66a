//! One run: a plan carried out with real processes, and its verdict.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
    time::Duration,
};

use anyhow::{Context, Result, ensure};

use super::{
    gateway::Gateway,
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
    faults: BTreeMap<String, u64>,
    // Last: whoever uses them is gone by then.
    node_disk: Option<Disk>,
    gateway_disk: Option<Disk>,
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
        let node_directory = directory.join("node");
        let store = directory.join("store");
        let mount =
            |wanted: bool, path: &Path| wanted.then(|| Disk::mount(path, DISK_BYTES)).transpose();
        let node_disk = mount(
            plan.theme == Theme::NodeDiskFull,
            &node_directory.join("spool"),
        )?;
        let gateway_disk = mount(plan.theme == Theme::GatewayDiskFull, &store)?;
        let mut gateway = Gateway::new(programs.gateway.clone(), store)?;
        gateway.start()?;
        let proxy = Proxy::start(gateway.address())?;
        let mut node = Node::new(settings(&plan, &programs, &proxy), node_directory);
        node.start()?;
        Ok(Self {
            plan,
            programs,
            directory: directory.to_owned(),
            gateway,
            proxy,
            node,
            rival: None,
            faults: BTreeMap::new(),
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
        *self.faults.entry(format!("{fault:?}")).or_default() += 1;
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
        }
        Ok(())
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
        Ok(Missing(missing))
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

//! Which programs `tracer run` uses: those that a tracer before it left pinned, or new ones.

use std::{path::Path, sync::Arc};

use anyhow::{Context as _, anyhow};
use tracer_common::ABI_VERSION;
use uuid::Uuid;

use super::Failure;
use crate::{
    kernel::{
        hierarchies::Hierarchies,
        load::{Kernel, LoadError, Options},
        loader,
        pins::{BPFFS, Pins},
    },
    state::{Pinned, State},
};

/// What the programs have to be.
pub(super) struct Wanted<'a> {
    pub options: Options,
    pub pin: Option<&'a Path>,
    pub hierarchies: &'a Hierarchies,
    pub boot_id: &'a str,
}

impl Wanted<'_> {
    /// Attaches, and says which programs by their id: the journal tells whether they are those of the
    /// process before. Only a stream that goes on has use for these.
    pub(super) fn attach(
        &self,
        state: Option<&State>,
        goes_on: bool,
    ) -> Result<(Kernel, Arc<str>), Failure> {
        if let Some(state) = state
            && let Some(taken) = self.take_over(state, goes_on)?
        {
            return Ok(taken);
        }
        let id: Arc<str> = Uuid::now_v7().to_string().into();
        let lasting = match (self.pin, state) {
            (Some(directory), Some(state)) => {
                make_room(directory, state)?;
                Some((directory, state))
            }
            _ => None,
        };
        let (kernel, pins) = loader::load(&self.options, self.hierarchies).map_err(failure)?;
        match (pins, lasting) {
            (Some(pins), Some((directory, state))) => {
                pins.settle(directory, state.path()).map_err(failure)?;
                let pinned = self.pinned(directory, &id, &kernel);
                if let Err(error) = state.set_pinned(Some(&pinned)) {
                    tracing::error!(
                        error = format!("{error:#}"),
                        "the next tracer will not know the pins"
                    );
                }
            }
            (Some(pins), None) => {
                pins.remove().context("cannot remove pins from bpffs")?;
            }
            (None, Some(_)) => {
                return Err(Failure::Host(anyhow!(
                    "nothing can be pinned: mount bpffs with `mount -t bpf bpf {BPFFS}`, or leave --pin out"
                )));
            }
            (None, None) => {}
        }
        Ok((kernel, id))
    }

    /// What a tracer before this one left pinned, if it fits; else it is removed.
    fn take_over(
        &self,
        state: &State,
        goes_on: bool,
    ) -> Result<Option<(Kernel, Arc<str>)>, Failure> {
        let Some(pinned) = state.pinned() else {
            return Ok(None);
        };
        let pins = Pins::at(pinned.directory.clone());
        if pins.owner().as_deref() != Some(state.path()) {
            // Unloaded, or gone with the boot before.
            state.set_pinned(None)?;
            return Ok(None);
        }
        let kernel = match self.unfit(&pinned, goes_on) {
            None => match Kernel::open(pins.path(), pinned.facts) {
                Ok(kernel) => Some(kernel),
                Err(error) => {
                    tracing::warn!(%error, "pinned programs cannot be taken over: loading new ones");
                    None
                }
            },
            Some(why) => {
                tracing::warn!(why, "pinned programs do not fit: loading new ones");
                None
            }
        };
        if kernel.is_none() || self.pin.is_none() {
            pins.remove().context("cannot remove pins from bpffs")?;
            state.set_pinned(None)?;
        } else if pinned.version != env!("CARGO_PKG_VERSION") {
            tracing::info!(
                version = pinned.version,
                "going on with the programs of another version"
            );
        }
        Ok(kernel.map(|kernel| (kernel, pinned.id)))
    }

    fn unfit(&self, pinned: &Pinned, goes_on: bool) -> Option<&'static str> {
        if !goes_on {
            Some("a new stream begins")
        } else if pinned.abi != ABI_VERSION {
            Some("another ABI")
        } else if pinned.boot_id != self.boot_id {
            Some("another boot")
        } else if pinned.options != self.options {
            Some("other options")
        } else if pinned.hierarchies != self.ids() {
            Some("other cgroup hierarchies")
        } else {
            None
        }
    }

    fn pinned(&self, directory: &Path, id: &Arc<str>, kernel: &Kernel) -> Pinned {
        Pinned {
            id: Arc::clone(id),
            abi: ABI_VERSION,
            version: env!("CARGO_PKG_VERSION").to_owned(),
            boot_id: self.boot_id.to_owned(),
            directory: directory.to_owned(),
            options: self.options.clone(),
            hierarchies: self.ids(),
            facts: kernel.facts.clone(),
        }
    }

    fn ids(&self) -> Vec<u32> {
        let all = self.hierarchies.all.iter();
        all.map(|hierarchy| hierarchy.id).collect()
    }
}

/// Own pins that nobody noted (a kill in between) go; another tracer's stay.
fn make_room(directory: &Path, state: &State) -> Result<(), Failure> {
    let pins = Pins::at(directory.to_owned());
    if !pins.exist() {
        return Ok(());
    }
    let owner = pins.owner();
    if owner.as_deref() == Some(state.path()) {
        pins.remove().context("cannot remove pins from bpffs")?;
        return Ok(());
    }
    let whose = owner.map_or_else(
        || "something else than tracer's pins".to_owned(),
        |owner| {
            format!(
                "the pins of the tracer with the state directory {}",
                owner.display()
            )
        },
    );
    Err(Failure::Failed(anyhow!(
        "{} holds {whose}: give another directory with --pin=DIR, or remove them with `tracer unload`",
        directory.display()
    )))
}

fn failure(error: LoadError) -> Failure {
    if error.is_the_hosts() {
        Failure::Host(error.into())
    } else {
        Failure::Failed(error.into())
    }
}

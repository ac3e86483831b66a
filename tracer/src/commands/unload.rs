//! `tracer unload`, and the process that loads for a daemon.

use anyhow::Context as _;

use super::{Failure, print};
use crate::{
    cli::UnloadArgs,
    host,
    kernel::{loader, pins::Pins},
};

/// Removes pins: what no tracer holds is detached by that.
///
/// # Errors
///
/// [`Failure`], also where something else than pins lies there.
pub fn run(args: &UnloadArgs) -> Result<(), Failure> {
    let shown = args.pin.display();
    let pins = Pins::at(args.pin.clone());
    if !pins.exist() {
        return print(&format!("nothing is pinned in {shown}\n"));
    }
    let Some(owner) = pins.owner() else {
        return Err(Failure::Usage(anyhow::anyhow!(
            "{shown} was not made by tracer: nothing is removed"
        )));
    };
    let removed = pins
        .remove()
        .with_context(|| format!("cannot remove {shown}"))?;
    print(&format!(
        "removed {removed} pins from {shown}, of the tracer with the state directory {}; a tracer that runs goes on\n",
        owner.display()
    ))
}

/// Loads and attaches for a daemon that waits for the answer.
///
/// # Errors
///
/// Those of talking to the daemon; what goes wrong with loading is the answer.
pub fn load_programs() -> Result<(), Failure> {
    let hierarchies = host::hierarchies().context("cannot read the cgroup mounts")?;
    Ok(loader::obey(&hierarchies)?)
}

//! Containers that hold a whole system and are no OCI runtime's: LXC and systemd-nspawn.

use tracer_tests::runtimes::{Lxc, Machine};
use tracer_tests::wait::DEADLINE;
use tracer_tests::{
    Record, Result, Step, Tracer, created, emptied, ensure, exec_exited, exec_started, exited,
    killed, live, paused, removed, resumed, started,
};

const LXC: &str = "lxc";
const NSPAWN: &str = "systemd-nspawn";

/// No other was taken for a container of this runtime: no monitor, no supervisor.
fn only(tracer: &Tracer, runtime: &str, id: &str) -> Result<()> {
    let of_runtime = |record: &&Record| record.text("container.runtime.name") == Some(runtime);
    let mut own = tracer.records().iter().filter(of_runtime);
    let other = own.find(|record| record.container() != Some(id));
    ensure!(other.is_none(), "{other:?}");
    Ok(())
}

fn whole_life(runtime: &str, code: u8) -> Vec<Step> {
    let first = created().parents(&[]);
    [
        first,
        started("/bin/sh"),
        exited(code),
        emptied(),
        removed(),
    ]
    .into_iter()
    .map(|step| step.runtime(runtime).is("enrichment", "full"))
    .collect()
}

mod lxc {
    use super::*;

    #[test]
    fn a_container_ends_by_itself() -> Result<()> {
        let _live = live!("lxc-start");
        let lxc = Lxc::new()?;
        let container = lxc.container()?;
        let mut tracer = Tracer::start(&[])?;
        container
            .start(&["/bin/sh", "-c", "exit 3"])?
            .finish(DEADLINE)?;
        tracer.expect_life(container.id(), &whole_life(LXC, 3))?;
        only(&tracer, LXC, container.id())?;
        tracer.stop()?;
        Ok(())
    }

    #[test]
    fn a_container_is_attached_to_frozen_and_stopped() -> Result<()> {
        let _live = live!("lxc-start");
        let lxc = Lxc::new()?;
        let container = lxc.container()?;
        let id = container.id();
        let mut tracer = Tracer::start(&[])?;
        let running = container.start(&["/bin/sleep", "1000"])?;
        tracer.expect_of(id, "container.started", 1)?;
        container.attach(&["/bin/sh", "-c", "exit 5"])?.ended(5)?;
        tracer.expect_of(id, "container.exec_exited", 1)?;
        container.act("freeze", &[])?;
        tracer.expect_of(id, "container.paused", 1)?;
        container.act("unfreeze", &[])?;
        tracer.expect_of(id, "container.resumed", 1)?;
        container.act("stop", &["-k"])?;
        running.finish(DEADLINE)?;
        tracer.expect_life(
            id,
            &[
                created().runtime(LXC),
                started("/bin/sleep"),
                exec_started("a", "/bin/sh"),
                exec_exited("a", 5),
                paused(),
                resumed(),
                killed("SIGKILL", 9, false),
                emptied(),
                removed(),
            ],
        )?;
        only(&tracer, LXC, id)?;
        tracer.stop()?;
        Ok(())
    }
}

mod nspawn {
    use super::*;

    #[test]
    fn a_machine_lives_in_its_units_cgroup() -> Result<()> {
        let _live = live!("systemd-nspawn");
        let mut machine = Machine::new()?;
        let mut tracer = Tracer::start(&[])?;
        machine
            .start(&["/bin/sh", "-c", "exit 3"])?
            .finish(DEADLINE)?
            .ended(3)?;
        machine.remove()?;
        let mut life = whole_life(NSPAWN, 3);
        life[0] = life[0].clone().is("cgroup.path", machine.cgroup());
        tracer.expect_life(machine.name(), &life)?;
        only(&tracer, NSPAWN, machine.name())?;
        tracer.stop()?;
        Ok(())
    }
}

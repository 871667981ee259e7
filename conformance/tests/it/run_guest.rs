//! The same list as in `run_basics`, in a virtual machine with Debian's kernel and pure cgroup v2.

use std::path::Path;
use std::time::Duration;

use anyhow::{Result, ensure};
use conformance::guest::{self, Guest};
use conformance::world::World;

/// A software-emulated machine is about fifteen times slower than a real one.
const PATIENCE: Duration = Duration::from_secs(420);

#[test]
fn what_docker_pushed_rrun_runs_on_pure_cgroup_v2() -> Result<()> {
    let mut world = World::start()?;
    let reference = world.push_debian()?;
    world.stop_registry()?;

    let guest = Guest::new()?;
    guest.add(&conformance::bin("registry")?, "/opt/roadstead/registry")?;
    guest.add(&conformance::bin("rrun")?, "/opt/roadstead/rrun")?;
    guest.add(Path::new(env!("CARGO_BIN_EXE_conformance")), "/opt/roadstead/conformance")?;
    guest.add(world.registry().data(), "/srv/registry-data")?;
    let outcome = guest.run(&script(&world.registry().host(), &reference), PATIENCE)?;

    let console = guest::keep_console("run_guest", &outcome.stdout)?;
    println!("{}", outcome.stdout);
    println!(
        "the machine ran for {:.0} s; its console is in {}",
        outcome.elapsed.as_secs_f64(),
        console.display()
    );
    guest::expect_calm_kernel(&outcome.stdout)?;
    ensure!(outcome.stdout.contains("cgroup version 2 only"), "the guest is not what it should be");
    ensure!(outcome.code == 0, "the checks in the guest failed, see above");
    Ok(())
}

fn script(address: &str, reference: &str) -> String {
    format!(
        r#"
grep -q ' /sys/fs/cgroup .* - cgroup2 ' /proc/self/mountinfo &&
    ! grep -q ' - cgroup ' /proc/self/mountinfo && echo 'cgroup version 2 only'
export REGISTRY_HTTP_ADDR={address} REGISTRY_STORAGE_FILESYSTEM_ROOTDIRECTORY=/srv/registry-data
/opt/roadstead/registry serve > /tmp/registry.log 2>&1 &
for i in $(seq 100); do busybox wget -q -O /dev/null http://{address}/v2/ && break; sleep 0.2; done
mkdir -p /var/tmp
ROADSTEAD_BIN_DIR=/opt/roadstead TMPDIR=/var/tmp ROADSTEAD_SCRATCH_DIR=/var/tmp \
    /opt/roadstead/conformance check-runner {reference}
status=$?
[ $status = 0 ] || tail -n 20 /tmp/registry.log
exit $status
"#
    )
}

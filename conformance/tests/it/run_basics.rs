//! The main job: Docker builds and pushes, `rrun` pulls and runs, isolated and limited.

use anyhow::{Result, ensure};
use conformance::basics;
use conformance::checks::Checks;
use conformance::registry::free_port;
use conformance::rrun::Rrun;
use conformance::world::World;

#[test]
fn what_docker_pushed_rrun_runs() -> Result<()> {
    let world = World::start()?;
    let reference = world.push_debian()?;
    let rrun = Rrun::under(conformance::bin("rrun")?, world.directory())?;
    let mut checks = Checks::default();
    basics::all(&rrun, &reference, &mut checks);
    errors(&world, &rrun, &reference, &mut checks);
    checks.finish()
}

/// Errors say what, why, and what to do.
fn errors(world: &World, rrun: &Rrun, reference: &str, checks: &mut Checks) {
    let port = world.registry().address().port();
    let closed = free_port().unwrap_or(1);
    let table: [(&str, Vec<String>, Vec<String>); 4] = [
        (
            "nothing listens",
            vec![format!("localhost:{closed}/app")],
            vec![
                format!("rrun: cannot pull localhost:{closed}/app:latest: "),
                "connection refused".into(),
                "hint: start one with `registry serve`".into(),
            ],
        ),
        (
            "no such tag",
            vec![format!("localhost:{port}/debian:2")],
            vec![
                format!("localhost:{port}/debian:2 not found"),
                "MANIFEST_UNKNOWN".into(),
                "hint: ".into(),
            ],
        ),
        (
            "no such repository",
            vec![format!("localhost:{port}/nobody/here")],
            vec![format!("localhost:{port}/nobody/here:latest not found"), "hint: ".into()],
        ),
        (
            "no image for the platform",
            vec!["--platform=linux/s390x".into(), reference.to_owned()],
            vec!["has no image for linux/s390x; it has linux/amd64".into()],
        ),
    ];
    for (name, line, says) in table {
        checks.check(&format!("error: {name}"), || {
            let outcome = rrun.run(&line)?.expect_code(125)?;
            ensure!(outcome.stdout.is_empty(), "stdout {:?}", outcome.stdout);
            for part in &says {
                ensure!(
                    outcome.stderr.contains(part),
                    "{part:?} is missing in\n{}",
                    outcome.stderr
                );
            }
            let explained = outcome.stderr.lines().any(|line| line.starts_with("rrun: "));
            ensure!(explained, "{}", outcome.stderr);
            Ok(())
        });
    }
    checks.check("error: a verb that is reserved", || {
        let outcome = rrun.run(["build", "."])?.expect_code(125)?;
        ensure!(outcome.stderr.contains("not supported"), "{}", outcome.stderr);
        Ok(())
    });
    checks.check("rmi refuses nothing and leaves nothing", || {
        rrun.out(["rmi", reference])?;
        let listed = rrun.out(["images"])?;
        ensure!(!listed.contains("debian"), "{listed}");
        let layers = std::fs::read_dir(rrun.root().join("layers"))?.count();
        ensure!(layers == 0, "{layers} layers are still there");
        Ok(())
    });
}

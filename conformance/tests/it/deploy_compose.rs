//! `docker-compose.yml` as people use it: the image is loaded, everything comes up healthy, a push
//! and a pull work, and what was pushed is there after a restart.

use std::fs;
use std::process::Command;
use std::time::Duration;

use anyhow::{Result, ensure};
use conformance::engine::Engine;
use conformance::janitor::Scratch;
use conformance::process::run_for;
use conformance::ship::build::{self, Platform};
use conformance::ship::image;
use conformance::{tools_dir, workspace};

fn compose(engine: &Engine, words: &[&str]) -> Result<String> {
    let mut command = Command::new(tools_dir().join("../python/bin/docker-compose"));
    command.args(words).current_dir(workspace());
    command.env("DOCKER_HOST", engine.host());
    let output = run_for(Duration::from_secs(90), &mut command)?;
    ensure!(output.status.success(), "{words:?}: {}{}", output.stdout, output.stderr);
    Ok(output.stdout)
}

#[test]
fn the_registry_comes_up_healthy_and_keeps_what_is_pushed() -> Result<()> {
    let scratch = Scratch::new("compose")?;
    let binary = build::path("registry", Platform::host()?, "release")?;
    ensure!(binary.is_file(), "{} does not exist: run `make static` first", binary.display());
    let made = image::write(&scratch.join("image"), &[(Platform::host()?, binary)])?;
    let directory = scratch.join("docker");
    fs::create_dir(&directory)?;
    let engine = Engine::start_apart(&directory)?;
    engine.docker_ok(&["load", "--input", &made.path.to_string_lossy()])?;
    for profile in [&[][..], &["--profile", "observability"]] {
        compose(&engine, &[profile, &["config", "--quiet"]].concat())?;
    }
    // Its default image's name is that of the image that `make image` makes.
    compose(&engine, &["up", "--detach", "--wait", "--pull=never"])?;
    let name = "127.0.0.1:5000/app:1";
    engine.docker_ok(&["tag", &made.reference, name])?;
    engine.docker_ok(&["push", name])?;
    compose(&engine, &["down"])?;
    compose(&engine, &["up", "--detach", "--wait", "--pull=never"])?;
    engine.docker_ok(&["rmi", name])?;
    engine.docker_ok(&["pull", name])?;
    compose(&engine, &["down", "--volumes"])?;
    let left = engine.docker_ok(&["volume", "ls", "--quiet"])?.stdout;
    ensure!(left.is_empty(), "{left}");
    Ok(())
}

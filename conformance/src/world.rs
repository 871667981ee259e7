//! What the runner's tests start from: a registry, and images of a Debian system that a real
//! dockerd built and pushed to it.

use std::fs;
use std::path::Path;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};

use crate::engine::Engine;
use crate::janitor::Scratch;
use crate::registry::{Options, Registry};
use crate::rootfs;

/// A registry of ours and a Docker engine, both on loopback, with directories of their own.
#[derive(Debug)]
pub struct World {
    // In the order in which they are to go.
    engine: Engine,
    registry: Registry,
    scratch: Scratch,
}

impl World {
    /// Starts both.
    ///
    /// # Errors
    /// If a program is missing or does not come up.
    pub fn start() -> Result<Self> {
        crate::require_root()?;
        let scratch = Scratch::new("world")?;
        let registry = Registry::start(Options::default().data(scratch.join("registry-data")))?;
        let docker = scratch.join("docker");
        fs::create_dir(&docker)?;
        Ok(Self { engine: Engine::start(&docker)?, registry, scratch })
    }

    /// The registry.
    #[must_use]
    pub fn registry(&self) -> &Registry {
        &self.registry
    }

    /// Stops the registry, so that its data can be copied.
    ///
    /// # Errors
    /// If it does not stop.
    pub fn stop_registry(&mut self) -> Result<()> {
        self.registry.server().stop(Duration::from_secs(20)).map(drop)
    }

    /// A directory for a test's own files, removed with the world.
    #[must_use]
    pub fn directory(&self) -> &Path {
        self.scratch.path()
    }

    /// The full name of an image in the registry: `localhost:PORT/NAME`.
    #[must_use]
    pub fn reference(&self, name: &str) -> String {
        format!("{}/{name}", self.registry.localhost())
    }

    /// The Docker engine.
    #[must_use]
    pub fn engine(&self) -> &Engine {
        &self.engine
    }

    /// The Debian image with a file `/layers` that three further layers wrote to, pushed as
    /// `debian:1`.
    ///
    /// # Errors
    /// If it cannot be made or pushed.
    pub fn push_debian(&self) -> Result<String> {
        let context = self.scratch.join("debian-context");
        fs::create_dir_all(&context)?;
        link_or_copy(&rootfs::archive()?, &context.join("debian.tar"))?;
        let dockerfile = "FROM scratch\n\
                          ADD debian.tar /\n\
                          RUN echo one > /layers\n\
                          RUN echo two >> /layers\n\
                          RUN echo three >> /layers && rm -rf /usr/share/doc/*\n\
                          CMD [\"/bin/bash\"]\n";
        let reference = self.build("debian:1", &context, dockerfile)?;
        self.engine.docker_ok(&["push", "--quiet", &reference])?;
        Ok(reference)
    }

    /// Builds an image from a directory and the text of its Dockerfile; its full name.
    ///
    /// # Errors
    /// If the build fails.
    pub fn build(&self, name: &str, context: &Path, dockerfile: &str) -> Result<String> {
        fs::write(context.join("Dockerfile"), dockerfile)?;
        let reference = self.reference(name);
        let directory = context.to_str().context("a temporary directory with a strange name")?;
        // A step that runs needs no network here, and the engine has no bridge.
        self.engine.docker_ok(&[
            "build",
            "--quiet",
            "--network=none",
            "--tag",
            &reference,
            directory,
        ])?;
        Ok(reference)
    }
}

fn link_or_copy(source: &Path, target: &Path) -> Result<()> {
    if fs::hard_link(source, target).is_err() {
        fs::copy(source, target)?;
    }
    ensure!(target.is_file(), "{} is not there", target.display());
    Ok(())
}

//! What holds for every command: where things are kept, and how much is told.

use std::path::Path;

use crate::cli::flags::{Arguments, Flag};
use crate::dirs::{Dirs, NoDirs};
use crate::failure::Failure;
use crate::images::Store;

pub(super) const FLAGS: &[Flag] = &[
    Flag::one("root", "DIR", "where images and containers are kept [env RRUN_ROOT]"),
    Flag::one("runroot", "DIR", "where the state of this boot is kept [env RRUN_RUNROOT]"),
    Flag::switch("debug", "tell every step and request on standard error"),
    Flag::switch("help", "show this").short('h'),
];

/// The settings that every command shares, from flags, then the environment, then the defaults.
#[derive(Clone, Debug)]
pub struct Globals {
    pub dirs: Dirs,
    pub debug: bool,
}

impl Globals {
    pub(super) fn new(arguments: &Arguments) -> Result<Self, Failure> {
        let path = |flag| arguments.value(flag).filter(|text| !text.is_empty()).map(Path::new);
        let dirs = Dirs::resolve(path("root"), path("runroot")).map_err(|error| {
            let hint = match error {
                NoDirs::Root | NoDirs::Relative { .. } => "rrun --root DIR …",
                NoDirs::Runroot => "rrun --runroot DIR …",
            };
            Failure::new("no place to keep things").because(&error).hint(hint)
        })?;
        let debug = arguments.has("debug");
        start_log(debug);
        Ok(Self { dirs, debug })
    }

    /// The store of images and containers. What a killed monitor or a switched-off machine has left
    /// of containers is put right first.
    ///
    /// # Errors
    /// Where it cannot be opened, in words.
    pub fn store(&self) -> Result<Store, Failure> {
        let store = Store::open(&self.dirs.root)?;
        crate::launch::recover_all(&self.dirs);
        Ok(store)
    }
}

/// Logging costs a millisecond of a start that takes three: it is set up only when asked for.
fn start_log(debug: bool) {
    let filter = std::env::var("RRUN_LOG").ok().filter(|text| !text.is_empty());
    if !debug && filter.is_none() {
        return;
    }
    let filter = filter.unwrap_or_else(|| "rrun=debug,runner=debug,shared=debug".to_owned());
    // A second start (the tests) finds a subscriber in place, which is as good.
    let _ = tracing_subscriber::fmt()
        .with_env_filter(filter)
        .with_writer(|| crate::cli::output::Talk)
        .try_init();
}

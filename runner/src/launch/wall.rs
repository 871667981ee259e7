//! The second wall around a monitor's memory. The first is that every loop over what a container
//! says has a bound; where one should not, the monitor ends here, and its container with it, and
//! not at the expense of the host: no limit of the container's own counts for its monitor.

use std::io;

use rustix::process::{Resource, Rlimit, getrlimit, setrlimit};

use crate::known_bad::left_out;

/// How much a monitor's private memory may grow, bytes: some clients that do not read, and a few
/// requests of the largest size at once.
const GROWTH_BYTES_MAX: u64 = 64 << 20;

/// The limit that was there before, for children: it is none of theirs.
#[derive(Debug)]
pub(super) struct Wall {
    before: Rlimit,
}

impl Wall {
    /// Puts it up around this process. Soft: children can take it down again.
    ///
    /// # Errors
    /// When this process's size cannot be read; as setrlimit(2).
    pub(super) fn put_up() -> io::Result<Self> {
        let before = getrlimit(Resource::Data);
        if !left_out("monitor-wall") {
            let lower = |limit: u64| Some(before.current.map_or(limit, |known| known.min(limit)));
            let current = lower(data_bytes()?.saturating_add(GROWTH_BYTES_MAX));
            setrlimit(Resource::Data, Rlimit { current, maximum: before.maximum })?;
        }
        Ok(Self { before })
    }

    /// Takes it down: in a child that becomes a program of the container's.
    ///
    /// # Errors
    /// As setrlimit(2).
    pub(super) fn take_down(&self) -> io::Result<()> {
        Ok(setrlimit(Resource::Data, self.before)?)
    }
}

/// What this process has of the memory that the limit is about. Source: proc_pid_statm(5), `data`.
fn data_bytes() -> io::Result<u64> {
    let text = std::fs::read_to_string("/proc/self/statm")?;
    let pages = text.split(' ').nth(5).and_then(|field| field.trim().parse::<u64>().ok());
    let pages = pages.ok_or(io::ErrorKind::InvalidData)?;
    Ok(pages.saturating_mul(rustix::param::page_size() as u64))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn this_process_has_a_size() {
        assert!((1 << 16..1 << 40).contains(&data_bytes().unwrap()));
    }
}

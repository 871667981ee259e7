//! Where the commands meet launching.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};

use crate::dirs::Dirs;
use crate::images::ContainerDir;
use crate::launch::protocol::Attach;
use crate::launch::state::{self, Status};

pub(super) fn start(
    _dirs: &Dirs,
    _container: &ContainerDir,
    _attach: Option<Attach>,
) -> io::Result<UnixStream> {
    Err(io::Error::other("the launcher is not built yet"))
}

pub(super) fn connect(dirs: &Dirs, id: &str) -> io::Result<Option<UnixStream>> {
    match UnixStream::connect(state::run_directory(&dirs.runroot, id).join("ctl.sock")) {
        Ok(stream) => Ok(Some(stream)),
        Err(error)
            if matches!(
                error.kind(),
                io::ErrorKind::NotFound | io::ErrorKind::ConnectionRefused
            ) =>
        {
            Ok(None)
        }
        Err(error) => Err(error),
    }
}

pub(super) fn settled_status(dirs: &Dirs, id: &str) -> io::Result<Status> {
    state::status(&dirs.root, &dirs.runroot, id)
}

pub(super) fn log_path(container: &Path) -> PathBuf {
    container.join("log/json.log")
}

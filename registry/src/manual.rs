//! What packages bring along: completions and the manual, made from the command line's own words.

use std::path::Path;
use std::process::ExitCode;

/// Prints a shell's script.
pub(crate) fn completion(mut command: clap::Command, shell: clap_complete::Shell) -> ExitCode {
    clap_complete::generate(shell, &mut command, "registry", &mut std::io::stdout());
    ExitCode::SUCCESS
}

/// Writes `registry.1` and a page for each verb into `directory`, which is made if need be.
pub(crate) fn pages(command: clap::Command, directory: &Path) -> ExitCode {
    let written = std::fs::create_dir_all(directory)
        .and_then(|()| clap_mangen::generate_to(command, directory));
    match written {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("registry: cannot write the manual to {}: {error}", directory.display());
            ExitCode::FAILURE
        }
    }
}

//! `rrun`: the command line. What it says and answers is decided in `runner::cli`.

use std::ffi::OsString;
use std::process::ExitCode;

fn main() -> ExitCode {
    runner::timings::mark("command begins");
    runner::dirs::restrict_umask();
    let words: Vec<OsString> = std::env::args_os().skip(1).collect();
    ExitCode::from(runner::cli::main(&words))
}

//! `--init`: a process 1 that hands signals on and buries orphans.

use std::ffi::{CStr, CString};
use std::io;

use nix::sys::signal::{SigSet, Signal, kill};
use nix::sys::wait::{WaitPidFlag, WaitStatus, waitpid};
use nix::unistd::Pid;

use crate::sys;

/// Forks: the child returns and becomes the program; the parent stays for its life and ends with
/// its code.
pub(super) fn stay_as_parent(program: &[CString]) -> io::Result<()> {
    // Blocked before the fork, so that no signal is lost between.
    SigSet::all().thread_block()?;
    match sys::clone::fork()? {
        None => {
            // A job of its own, in front: the terminal's signals are for it alone, and reach it
            // once. Signals are blocked, so this does not stop anybody.
            rustix::process::setpgid(None, None)?;
            if let Ok(group) = rustix::process::getpgid(None) {
                // Not a terminal: nothing to be in front of.
                let _ = rustix::termios::tcsetpgrp(rustix::stdio::stdin(), group);
            }
            Ok(())
        }
        Some(child) => {
            let shown = [c"/sbin/docker-init", c"--"].map(CStr::to_owned);
            let shown = [&shown[..], program].concat();
            // As Docker's is called, for whoever looks for it.
            let _ = sys::process::show_as(c"docker-init", &shown);
            // The status pipe above all: its end tells the launcher that the program runs.
            if sys::process::close_from(3).is_err() {
                sys::clone::exit_now(1);
            }
            // As after an execve(2): it is the container's now, with nothing of the host's open, and
            // who may look into it may write to its /proc/1/fd/1.
            let _ = sys::process::set_dumpable(true);
            reap(Pid::from_raw(child))
        }
    }
}

fn reap(child: Pid) -> ! {
    let all = SigSet::all();
    loop {
        let code = buried(child);
        if let Some(code) = code {
            sys::clone::exit_now(code);
        }
        match all.wait() {
            Ok(Signal::SIGCHLD) | Err(_) => {}
            Ok(signal) => {
                // It may have ended just now; the next round sees.
                let _ = kill(child, signal);
            }
        }
    }
}

/// Buries whoever has ended; the program's exit code when it was among them.
fn buried(child: Pid) -> Option<i32> {
    let mut code = None;
    loop {
        match waitpid(Pid::from_raw(-1), Some(WaitPidFlag::WNOHANG)) {
            Ok(WaitStatus::Exited(pid, status)) if pid == child => code = Some(status),
            Ok(WaitStatus::Signaled(pid, signal, _)) if pid == child => {
                code = Some(128 + signal as i32);
            }
            Ok(WaitStatus::StillAlive) | Err(_) => return code,
            Ok(_) => {}
        }
    }
}

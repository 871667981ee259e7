//! Signals by name and number.

use std::str::FromStr;

/// A signal of this machine, 1 to 64.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Signal(u8);

#[derive(Debug, thiserror::Error, PartialEq, Eq)]
#[error("there is no signal {0:?}")]
pub struct UnknownSignal(String);

const NAMES: [(&str, libc::c_int); 34] = [
    ("ABRT", libc::SIGABRT),
    ("ALRM", libc::SIGALRM),
    ("BUS", libc::SIGBUS),
    ("CHLD", libc::SIGCHLD),
    ("CLD", libc::SIGCHLD),
    ("CONT", libc::SIGCONT),
    ("FPE", libc::SIGFPE),
    ("HUP", libc::SIGHUP),
    ("ILL", libc::SIGILL),
    ("INT", libc::SIGINT),
    ("IO", libc::SIGIO),
    ("IOT", libc::SIGABRT),
    ("KILL", libc::SIGKILL),
    ("PIPE", libc::SIGPIPE),
    ("POLL", libc::SIGIO),
    ("PROF", libc::SIGPROF),
    ("PWR", libc::SIGPWR),
    ("QUIT", libc::SIGQUIT),
    ("SEGV", libc::SIGSEGV),
    ("STKFLT", libc::SIGSTKFLT),
    ("STOP", libc::SIGSTOP),
    ("SYS", libc::SIGSYS),
    ("TERM", libc::SIGTERM),
    ("TRAP", libc::SIGTRAP),
    ("TSTP", libc::SIGTSTP),
    ("TTIN", libc::SIGTTIN),
    ("TTOU", libc::SIGTTOU),
    ("URG", libc::SIGURG),
    ("USR1", libc::SIGUSR1),
    ("USR2", libc::SIGUSR2),
    ("VTALRM", libc::SIGVTALRM),
    ("WINCH", libc::SIGWINCH),
    ("XCPU", libc::SIGXCPU),
    ("XFSZ", libc::SIGXFSZ),
];

/// As the kernel's ABI has it for every program, whatever the C library keeps for itself: Docker
/// counts RTMIN from 34.
const RTMIN: u8 = 34;
const RTMAX: u8 = 64;

impl Signal {
    pub const TERM: Self = Self(libc::SIGTERM as u8);
    pub const KILL: Self = Self(libc::SIGKILL as u8);

    pub fn number(self) -> i32 {
        i32::from(self.0)
    }
}

impl FromStr for Signal {
    type Err = UnknownSignal;

    /// `15`, `TERM`, `SIGTERM`, `RTMIN+3`, in any case.
    fn from_str(text: &str) -> Result<Self, UnknownSignal> {
        let unknown = || UnknownSignal(text.to_owned());
        if text.bytes().all(|b| b.is_ascii_digit()) {
            let number: u8 = text.parse().map_err(|_| unknown())?;
            return (1..=RTMAX).contains(&number).then_some(Self(number)).ok_or_else(unknown);
        }
        let upper = text.to_ascii_uppercase();
        let name = upper.strip_prefix("SIG").unwrap_or(&upper);
        if let Some((_, number)) = NAMES.iter().find(|(known, _)| *known == name) {
            return Ok(Self(*number as u8));
        }
        let real_time = |offset: &str, base: u8, sign: i16| {
            let offset = if offset.is_empty() { "0" } else { offset };
            let number = i16::from(base) + sign * offset.parse::<i16>().ok()?;
            u8::try_from(number).ok().filter(|number| (RTMIN..=RTMAX).contains(number))
        };
        let number = if let Some(rest) = name.strip_prefix("RTMIN") {
            real_time(rest.strip_prefix('+').unwrap_or(rest), RTMIN, 1)
        } else if let Some(rest) = name.strip_prefix("RTMAX") {
            real_time(rest.strip_prefix('-').unwrap_or(rest), RTMAX, -1)
        } else {
            None
        };
        number.map(Self).ok_or_else(unknown)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_and_numbers() {
        for (text, want) in [
            ("TERM", 15),
            ("SIGTERM", 15),
            ("sigkill", 9),
            ("hup", 1),
            ("9", 9),
            ("64", 64),
            ("RTMIN", 34),
            ("SIGRTMIN+3", 37),
            ("RTMAX", 64),
            ("RTMAX-1", 63),
        ] {
            assert_eq!(text.parse::<Signal>().map(Signal::number), Ok(want), "{text}");
        }
        for text in ["", "0", "65", "-1", "SIG", "NONSENSE", "RTMIN+31", "RTMAX-31", "RTMIN+x"] {
            assert!(text.parse::<Signal>().is_err(), "{text:?}");
        }
    }
}

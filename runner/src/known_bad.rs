//! Measures that a test can have left out, to see that its suite notices. Compiled with
//! debug assertions only: in a release every question below is `false`, and nothing of it is left
//! in the program.
//!
//! `RRUN_KNOWN_BAD=NAME` leaves out the measure of that name. It is passed on to the programs that
//! make containers and unpack layers, which otherwise get nothing of the caller's environment.

/// Whether the measure `name` is left out.
#[cfg(debug_assertions)]
pub(crate) fn left_out(name: &str) -> bool {
    std::env::var_os(VARIABLE).is_some_and(|chosen| chosen == name)
}

/// See the other definition.
#[cfg(not(debug_assertions))]
pub(crate) const fn left_out(_: &str) -> bool {
    false
}

#[cfg(debug_assertions)]
const VARIABLE: &str = "RRUN_KNOWN_BAD";

/// What a program of ours gets of it in its environment.
#[cfg(debug_assertions)]
pub(crate) fn passed_on() -> Option<(&'static str, std::ffi::OsString)> {
    std::env::var_os(VARIABLE).map(|chosen| (VARIABLE, chosen))
}

/// See the other definition.
#[cfg(not(debug_assertions))]
pub(crate) const fn passed_on() -> Option<(&'static str, &'static str)> {
    None
}

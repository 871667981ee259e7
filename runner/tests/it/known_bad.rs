//! Each measure is left out once (`left_out` in the runner's sources), and the test that is there
//! for it must fail: what stays green without its measure proves nothing.

use std::process::{Command, Stdio};
use std::sync::Mutex;

/// Runs each test of this program without its measure: the name of the measure, the test's path.
pub(crate) fn are_missed(pairs: &[(&str, &str)]) {
    let queue = Mutex::new(pairs.iter());
    let wrong = Mutex::new(Vec::new());
    std::thread::scope(|scope| {
        for _ in 0..4 {
            scope.spawn(|| {
                loop {
                    let Some((measure, test)) = queue.lock().unwrap().next() else { return };
                    if let Err(told) = is_missed(measure, test) {
                        wrong.lock().unwrap().push(format!("{measure}: {test} holds\n{told}"));
                    }
                }
            });
        }
    });
    // That a test fails must not be for another reason.
    if let Err(told) = end("no such measure", pairs[0].1, "1 passed; 0 failed") {
        wrong.lock().unwrap().push(format!("{} fails with every measure\n{told}", pairs[0].1));
    }
    let wrong = wrong.into_inner().unwrap();
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

/// Some tests watch a race, which a busy machine may not lose at once: what is missed in one of
/// three runs is missed.
fn is_missed(measure: &str, test: &str) -> Result<(), String> {
    let mut last = Ok(());
    for _ in 0..3 {
        last = end(measure, test, "0 passed; 1 failed");
        if last.is_ok() {
            break;
        }
    }
    last
}

fn end(measure: &str, test: &str, expected: &str) -> Result<(), String> {
    let output = Command::new(std::env::current_exe().unwrap())
        .args(["--exact", test])
        .env("RRUN_KNOWN_BAD", measure)
        .stdin(Stdio::null())
        .output()
        .unwrap();
    let told = String::from_utf8_lossy(&output.stdout).into_owned();
    if told.contains(expected) { Ok(()) } else { Err(told) }
}

//! What is compared of two runs.

use conformance::rrun::Outcome;

/// A run in the words that both programs share.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Seen {
    code: i32,
    stdout: String,
    stderr: Said,
}

/// What kind of thing is on standard error.
#[derive(Debug, PartialEq, Eq)]
enum Said {
    Nothing,
    /// The program in the container wrote it.
    ByProgram(String),
    /// `docker` or `rrun` itself explains; the words are each program's own.
    ByRunner,
}

impl Seen {
    pub(crate) fn by_docker(outcome: &Outcome) -> Self {
        let own = |line: &str| line.starts_with("docker: ") || line.starts_with("WARNING: ");
        Self::new(outcome, own)
    }

    pub(crate) fn by_rrun(outcome: &Outcome) -> Self {
        let own = |line: &str| line.starts_with("rrun: ") || line.starts_with("hint: ");
        Self::new(outcome, own)
    }

    fn new(outcome: &Outcome, own: impl Fn(&str) -> bool) -> Self {
        let stderr = if outcome.stderr.is_empty() {
            Said::Nothing
        } else if outcome.code == 125 || outcome.stderr.lines().any(own) {
            Said::ByRunner
        } else {
            Said::ByProgram(plain(&outcome.stderr))
        };
        Self { code: outcome.code, stdout: plain(&outcome.stdout), stderr }
    }

    /// The parts that differ, one under the other.
    pub(crate) fn compare(&self, ours: &Self) -> String {
        let mut text = String::new();
        if self.code != ours.code {
            text += &format!("exit status: docker {}, rrun {}\n", self.code, ours.code);
        }
        if self.stdout != ours.stdout {
            text += &format!("stdout:\n{}", lines_that_differ(&self.stdout, &ours.stdout));
        }
        if self.stderr != ours.stderr {
            text +=
                &format!("stderr: docker {:?}\n        rrun   {:?}\n", self.stderr, ours.stderr);
        }
        text
    }
}

/// Lines that only one side has; `-` is Docker's, `+` is ours.
fn lines_that_differ(docker: &str, ours: &str) -> String {
    let only = |mark: char, these: &str, others: &str| -> String {
        let others: Vec<&str> = others.lines().collect();
        these.lines().filter(|l| !others.contains(l)).map(|l| format!("  {mark} {l}\n")).collect()
    };
    let text = only('-', docker, ours) + &only('+', ours, docker);
    if text.is_empty() {
        "  (the same lines in another order or number)\n".to_owned()
    } else {
        text
    }
}

/// Ids are per run: runs of 64 hex digits become `<id>`, of 12 `<short id>`.
fn plain(text: &str) -> String {
    let mut result = String::new();
    let mut word = String::new();
    for c in text.chars().chain(std::iter::once('\0')) {
        if c.is_ascii_alphanumeric() {
            word.push(c);
            continue;
        }
        let hex = word.bytes().all(|b| b.is_ascii_digit() || (b'a'..=b'f').contains(&b));
        match (hex, word.len()) {
            (true, 64) => result.push_str("<id>"),
            (true, 12) => result.push_str("<short id>"),
            _ => result.push_str(&word),
        }
        word.clear();
        if c != '\0' {
            result.push(c);
        }
    }
    result
}

#[test]
fn ids_are_no_difference() {
    let id = "0123456789abcdef".repeat(4);
    assert_eq!(plain(&format!("/docker/{id}\n0123456789ab x")), "/docker/<id>\n<short id> x");
    assert_eq!(
        plain("md5 d41d8cd98f00b204e9800998ecf8427e"),
        "md5 d41d8cd98f00b204e9800998ecf8427e"
    );
}

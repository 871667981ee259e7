//! A list of named checks on one world that is expensive to set up: each is tried, whatever became
//! of the ones before, and the failures are told together at the end.

use std::time::Instant;

use anyhow::{Result, bail};

/// The checks so far.
#[derive(Debug, Default)]
pub struct Checks {
    passed: usize,
    failures: Vec<String>,
}

impl Checks {
    /// Tries one thing and says at once how it went.
    pub fn check(&mut self, name: &str, what: impl FnOnce() -> Result<()>) {
        let started = Instant::now();
        let result = what();
        let took = started.elapsed().as_secs_f64();
        match result {
            Ok(()) => {
                println!("ok    {name} ({took:.2} s)");
                self.passed += 1;
            }
            Err(e) => {
                println!("FAIL  {name} ({took:.2} s)\n{}", indented(&format!("{e:#}")));
                self.failures.push(name.to_owned());
            }
        }
    }

    /// # Errors
    /// If a check failed, or none was made.
    pub fn finish(self) -> Result<()> {
        if !self.failures.is_empty() {
            bail!(
                "{} of {} checks failed: {}",
                self.failures.len(),
                self.failures.len() + self.passed,
                self.failures.join(", ")
            );
        }
        if self.passed == 0 {
            bail!("no check was made");
        }
        println!("{} checks passed", self.passed);
        Ok(())
    }
}

fn indented(text: &str) -> String {
    text.lines().map(|l| format!("        {l}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_failure_fails_the_whole() {
        let mut checks = Checks::default();
        checks.check("good", || Ok(()));
        checks.check("bad", || bail!("no"));
        checks.check("good after bad", || Ok(()));
        let error = checks.finish().expect_err("a check failed").to_string();
        assert_eq!(error, "1 of 3 checks failed: bad");
    }

    #[test]
    fn no_check_is_a_failure() {
        assert!(Checks::default().finish().is_err());
    }
}

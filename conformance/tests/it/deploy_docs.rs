//! Every command block of the documentation that is marked `sh` runs, in its page's order, in a
//! network namespace and a directory of its own; one that does not run says why, and is counted.

use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::time::Duration;

use anyhow::{Context as _, Result, ensure};
use conformance::checks::Checks;
use conformance::janitor::Scratch;
use conformance::{bin, process, tools_dir, workspace};

/// Blocks that no test runs. One more is a decision.
const NOT_RUN: usize = 8;

const REASON: &str = "<!-- not run: ";

struct Page {
    name: String,
    script: String,
    not_run: usize,
}

fn pages() -> Result<Vec<Page>> {
    let mut paths: Vec<PathBuf> = fs::read_dir(workspace().join("docs"))?
        .map(|entry| Ok(entry?.path()))
        .collect::<Result<_>>()?;
    paths.retain(|path| path.extension().is_some_and(|extension| extension == "md"));
    paths.push(workspace().join("README.md"));
    paths.sort();
    paths.iter().map(|path| page(path)).collect()
}

fn page(path: &Path) -> Result<Page> {
    let text = fs::read_to_string(path)?;
    let name = path.file_name().context("a page has a name")?.to_string_lossy().into_owned();
    let mut page = Page { name, script: String::new(), not_run: 0 };
    let mut before = "";
    let mut lines = text.lines();
    while let Some(line) = lines.next() {
        if line.trim() == "```sh" {
            let block: Vec<&str> = lines.by_ref().take_while(|line| line.trim() != "```").collect();
            match before.strip_prefix(REASON) {
                Some(why) => {
                    ensure!(
                        why.trim_end_matches("-->").trim().len() > 5,
                        "{}: {before}",
                        page.name
                    );
                    page.not_run += 1;
                }
                None => page.script += &format!("{}\n", block.join("\n")),
            }
        }
        before = line;
    }
    Ok(page)
}

fn run(page: &Page) -> Result<()> {
    let scratch = Scratch::new("docs")?;
    let programs = bin("registry")?.parent().context("a program's directory")?.to_owned();
    let path =
        format!("{}:{}:/usr/sbin:/usr/bin:/sbin:/bin", programs.display(), tools_dir().display());
    let script = format!(
        "ip link set lo up\ntrap 'kill $(jobs -p) 2> /dev/null || true; wait' EXIT\nset -x\n{}",
        page.script
    );
    let mut command = Command::new("unshare");
    command.args(["--net", "--", "bash", "-euc", &script]).current_dir(scratch.path());
    command.env("PATH", path).env("HOME", scratch.path());
    let output = process::run_for(Duration::from_secs(60), &mut command)?;
    ensure!(output.status.success(), "{}\n{}\n{}", output.status, output.stdout, output.stderr);
    Ok(())
}

#[test]
fn every_block_runs_or_says_why_not() -> Result<()> {
    let pages = pages()?;
    let mut checks = Checks::default();
    let mut ran = 0;
    for page in pages.iter().filter(|page| !page.script.is_empty()) {
        ran += 1;
        checks.check(&page.name, || run(page));
    }
    ensure!(ran >= 7, "{ran} pages have something to run");
    let not_run: usize = pages.iter().map(|page| page.not_run).sum();
    ensure!(not_run == NOT_RUN, "{not_run} blocks are not run, {NOT_RUN} were");
    checks.finish()
}

/// Relative links lead somewhere.
#[test]
fn links_lead_to_files() -> Result<()> {
    let mut checks = Checks::default();
    for page in pages()? {
        let directory = if page.name == "README.md" { "" } else { "docs" };
        let directory = workspace().join(directory);
        let text = fs::read_to_string(directory.join(&page.name))?;
        for target in text.split("](").skip(1).filter_map(|rest| rest.split_once(')')) {
            let file = target.0.split('#').next().unwrap_or("");
            if file.is_empty() || file.contains("://") {
                continue;
            }
            checks.check(&format!("{}: {file}", page.name), || {
                ensure!(directory.join(file).exists(), "there is no such file");
                Ok(())
            });
        }
    }
    checks.finish()
}

//! Whether a server synced before it answered, read from its system calls.
//!
//! The rule for a blob's 201 is: the data file was synced after its last write, then renamed to its
//! name, then the directory of that name was synced, then the database's log was written and
//! synced, then the answer was sent. For any other durable answer (a manifest's 201, a delete's
//! 202) it is: the log was written and synced between the answer before and this one; so the trace
//! must be of one request after another.

use std::collections::HashMap;

use anyhow::{Context as _, Result, ensure};

/// What strace must be told before the server's command line, so that [`check`] can read `file`.
///
/// `-D` makes the server the direct child, which signals then reach.
pub fn strace(file: &std::path::Path) -> Result<Vec<std::ffi::OsString>> {
    let calls = "trace=fsync,fdatasync,rename,renameat,renameat2,\
                 write,writev,pwrite64,pwritev,pwritev2,sendto,sendmsg";
    let words = ["-D", "-f", "-yy", "-s", "600", "-e", calls, "-o"];
    let mut all = vec![crate::tool("strace")?.into_os_string()];
    all.extend(words.map(Into::into));
    all.push(file.into());
    Ok(all)
}

/// One system call: the lines of the trace where it began and ended.
struct Call<'a> {
    start: usize,
    end: usize,
    name: &'a str,
    arguments: String,
}

/// Checks every durable answer in a trace; gives how many there were.
///
/// # Errors
/// At the first answer that was sent too early, with what was missing.
pub fn check(trace: &str) -> Result<usize> {
    let calls = calls(trace);
    let mut before = 0;
    let mut durable = 0;
    for answer in calls.iter().filter(|call| is_answer(call)) {
        let head = answer.arguments.to_ascii_lowercase();
        let blob = head.contains("201 created") && head.contains("/blobs/sha");
        let delete = head.contains("202 accepted") && !head.contains("location:");
        let earlier = |call: &&Call<'_>| call.end < answer.start && call.start > before;
        let result = match blob {
            true => blob_is_durable(&calls, answer, &digest(&head)?),
            false if delete || head.contains("201 created") => {
                log_is_durable(calls.iter().filter(earlier), 0)
            }
            false => {
                before = answer.end;
                continue;
            }
        };
        result.with_context(|| format!("line {}: {}", answer.start + 1, answer.arguments))?;
        durable += 1;
        before = answer.end;
    }
    Ok(durable)
}

fn blob_is_durable(calls: &[Call<'_>], answer: &Call<'_>, digest: &str) -> Result<()> {
    let earlier = || calls.iter().filter(|call| call.end < answer.start);
    let mut rename = earlier().filter(|call| call.name.starts_with("rename")).filter_map(|call| {
        let paths: Vec<&str> = call.arguments.split('"').skip(1).step_by(2).collect();
        let (from, to) = (*paths.first()?, *paths.get(1)?);
        to.ends_with(digest).then_some((call, from, to))
    });
    let (rename, from, to) = rename.next_back().context("no file was renamed to the digest")?;
    let written = earlier()
        .filter(|call| is_write(call) && call.start < rename.start && names(call, from))
        .map(|call| call.end)
        .max()
        .context("the data file was never written")?;
    ensure!(
        synced(earlier(), from, written, rename.start),
        "the data file was not synced after its last write and before its rename"
    );
    let directory = to.rsplit_once('/').context("a directory")?.0;
    let directory_synced = earlier()
        .find(|call| is_sync(call) && names(call, directory) && call.start > rename.end)
        .context("the directory was not synced after the rename")?;
    log_is_durable(earlier(), directory_synced.end)
}

/// A write of the log after line `after` was followed by a sync of it.
fn log_is_durable<'a, 'b: 'a>(
    calls: impl Iterator<Item = &'a Call<'b>> + Clone,
    after: usize,
) -> Result<()> {
    let is_log = |call: &Call<'_>| call.arguments.contains("-wal>");
    let write = calls.clone().find(|call| call.start > after && is_write(call) && is_log(call));
    let write = write.context("the log was not written")?;
    let mut syncs = calls.filter(|call| is_sync(call) && is_log(call) && call.start > write.end);
    syncs.next().map(drop).context("the log was not synced after it was written")
}

fn synced<'a, 'b: 'a>(
    mut calls: impl Iterator<Item = &'a Call<'b>>,
    path: &str,
    after: usize,
    before: usize,
) -> bool {
    calls.any(|call| is_sync(call) && names(call, path) && call.start > after && call.end < before)
}

fn names(call: &Call<'_>, path: &str) -> bool {
    // `-yy` shows a descriptor as `37<path>`.
    call.arguments.contains(&format!("<{path}>"))
}

fn is_sync(call: &Call<'_>) -> bool {
    matches!(call.name, "fsync" | "fdatasync") && call.arguments.ends_with("= 0")
}

fn is_write(call: &Call<'_>) -> bool {
    call.name.starts_with("write") || call.name.starts_with("pwrite")
}

fn is_answer(call: &Call<'_>) -> bool {
    (call.name.starts_with("send") || call.name.starts_with("write"))
        && call.arguments.contains("<TCP:")
        && call.arguments.contains("HTTP/1.1 ")
}

/// The hex of the digest in an answer's head.
fn digest(head: &str) -> Result<String> {
    let start = head.split("docker-content-digest: ").nth(1).context("a digest in the answer")?;
    let hex = start.split_once(':').context("a digest")?.1;
    Ok(hex.chars().take_while(char::is_ascii_hexdigit).collect())
}

/// The calls of a trace by strace `-f`, those that were interrupted by another thread put together.
fn calls(trace: &str) -> Vec<Call<'_>> {
    let mut calls: Vec<Call<'_>> = Vec::new();
    let mut unfinished: HashMap<&str, usize> = HashMap::new();
    for (number, line) in trace.lines().enumerate() {
        let Some((pid, rest)) = line.split_once(' ') else { continue };
        let rest = rest.trim_start();
        if let Some(resumed) = rest.strip_prefix("<... ") {
            let Some(call) = unfinished.remove(pid).and_then(|index| calls.get_mut(index)) else {
                continue;
            };
            call.end = number;
            call.arguments += resumed.split_once("resumed>").map_or("", |(_, end)| end);
            continue;
        }
        let Some((name, arguments)) = rest.split_once('(') else { continue };
        let begun = arguments.strip_suffix(" <unfinished ...>");
        if begun.is_some() {
            unfinished.insert(pid, calls.len());
        }
        calls.push(Call {
            start: number,
            // One that never ended, because the server was killed, proves nothing.
            end: if begun.is_some() { usize::MAX } else { number },
            name,
            arguments: begun.unwrap_or(arguments).to_owned(),
        });
    }
    calls
}

#[cfg(test)]
mod tests {
    use super::*;

    const GOOD: &str = r#"7 write(5</d/uploads/u/data>, "x"..., 9) = 9
8 fdatasync(5</d/uploads/u/data>) = 0
8 rename("/d/uploads/u/data", "/d/blobs/sha256/ab/abcd") = 0
8 fsync(6</d/blobs/sha256/ab> <unfinished ...>
7 write(2</log>, "y", 1) = 1
8 <... fsync resumed>) = 0
9 pwrite64(3</d/registry.db-wal>, "z", 1, 0) = 1
9 fsync(3</d/registry.db-wal>) = 0
7 sendto(4<TCP:[a->b]>, "HTTP/1.1 201 Created\r\nlocation: /v2/a/blobs/sha256:abcd\r\ndocker-content-digest: sha256:abcd\r\n", 90, 0) = 90"#;

    #[test]
    fn the_right_order_passes() {
        assert_eq!(check(GOOD).expect("it is right"), 1);
    }

    #[test]
    fn every_line_that_is_missing_or_late_is_found() {
        let lines: Vec<&str> = GOOD.lines().collect();
        for index in [1, 2, 3, 6, 7] {
            let mut missing = lines.clone();
            let line = missing.remove(index);
            assert!(check(&missing.join("\n")).is_err(), "without {line}");
            missing.push(line);
            assert!(check(&missing.join("\n")).is_err(), "late {line}");
        }
        let mut swapped = lines.clone();
        swapped.swap(1, 2);
        assert!(check(&swapped.join("\n")).is_err(), "synced after the rename");
    }
}

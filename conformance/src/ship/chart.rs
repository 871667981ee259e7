//! The chart: rendered, read, and packed into the same bytes wherever it is checked out.

use std::collections::BTreeMap;
use std::fs;
use std::path::{Path, PathBuf};
use std::process::Command;

use anyhow::{Context as _, Result, bail};
use serde_json::Value;

use super::build::epoch;
use crate::{process, tool, workspace};

/// A repository to give `image.repository`, which has no default.
pub const REPOSITORY: &str = "registry.example/roadstead/registry";

/// The oldest and the newest Kubernetes that the chart is rendered for.
pub const KUBERNETES: [&str; 2] = ["1.25.0", "1.37.0"];

/// Where the chart is.
pub fn directory() -> PathBuf {
    workspace().join("charts/roadstead")
}

/// `helm template` of `chart` (a directory or an `oci://` reference) with more arguments.
///
/// # Errors
/// When Helm refuses, with what it said.
pub fn render(chart: &str, kubernetes: &str, arguments: &[&str]) -> Result<String> {
    let mut command = helm()?;
    command.args([
        "template",
        "demo",
        chart,
        "--namespace",
        "images",
        "--kube-version",
        kubernetes,
    ]);
    process::run(command.args(arguments))
}

/// A `helm` command with nobody's settings.
///
/// # Errors
/// When it is not installed.
pub fn helm() -> Result<Command> {
    let mut command = Command::new(tool("helm")?);
    for name in ["HELM_CONFIG_HOME", "HELM_CACHE_HOME", "HELM_DATA_HOME"] {
        command.env(name, workspace().join(".tools/helm"));
    }
    Ok(command)
}

/// The objects of a rendered chart.
///
/// # Errors
/// When it is not YAML.
pub fn objects(text: &str) -> Result<Vec<Value>> {
    let documents = text.split("\n---").map(|document| document.trim_start_matches("---"));
    let mut objects = Vec::new();
    for document in documents {
        let is_comment = |line: &str| line.trim().is_empty() || line.trim_start().starts_with('#');
        if document.lines().all(is_comment) {
            continue;
        }
        let object = serde_saphyr::from_str(document).with_context(|| document.to_owned())?;
        objects.push(object);
    }
    Ok(objects)
}

/// The one object of this kind and name (without the release's own).
///
/// # Errors
/// When there is none.
pub fn object<'a>(objects: &'a [Value], kind: &str, name: &str) -> Result<&'a Value> {
    let is_it = |object: &&Value| object["kind"] == kind && object["metadata"]["name"] == name;
    objects.iter().find(is_it).with_context(|| format!("no {kind} {name}"))
}

/// Packs the chart into `directory`: `roadstead-VERSION.tgz`. Not by Helm, which writes the time at
/// which it packs into each file's entry.
///
/// # Errors
/// When a file cannot be read or written.
pub fn package(into: &Path) -> Result<PathBuf> {
    let mut files = BTreeMap::new();
    collect(&directory(), "roadstead", &mut files)?;
    // Helm wants to find it first.
    let first = files.remove_entry("roadstead/Chart.yaml").context("no Chart.yaml")?;
    let files: Vec<_> = std::iter::once(first).chain(files).collect();
    fs::create_dir_all(into)?;
    let path = into.join(format!("roadstead-{}.tgz", super::image::VERSION));
    fs::write(&path, super::image::gzip(&super::image::archive(&files, epoch()?)?)?)?;
    Ok(path)
}

/// Every file below `directory` but the rules' tests, by its name in the package.
fn collect(directory: &Path, name: &str, files: &mut BTreeMap<String, Vec<u8>>) -> Result<()> {
    for entry in fs::read_dir(directory)? {
        let entry = entry?;
        let path = format!("{name}/{}", entry.file_name().to_string_lossy());
        if entry.file_type()?.is_dir() {
            collect(&entry.path(), &path, files)?;
        } else if !path.ends_with("_test.yaml") {
            files.insert(path, fs::read(entry.path())?);
        }
    }
    Ok(())
}

/// The table of `values.yaml`'s `# --` comments, as README.md has it.
///
/// # Errors
/// When a comment has no value below it.
pub fn values_table(values: &str) -> Result<String> {
    let mut table = String::from("| value | default | what it does |\n|---|---|---|\n");
    let mut path: Vec<(usize, String)> = Vec::new();
    let mut comment: Option<String> = None;
    let mut lines = values.lines().peekable();
    while let Some(line) = lines.next() {
        let text = line.trim_start();
        let indent = line.len() - text.len();
        if let Some(words) = text.strip_prefix("# --") {
            comment = Some(words.trim().to_owned());
            continue;
        }
        if let Some(words) = text.strip_prefix('#') {
            if let Some(comment) = &mut comment {
                comment.push(' ');
                comment.push_str(words.trim());
            }
            continue;
        }
        let Some((key, value)) = text.split_once(':') else {
            if text.is_empty() {
                continue;
            }
            bail!("values.yaml: {line}");
        };
        path.retain(|(at, _)| *at < indent);
        path.push((indent, key.to_owned()));
        let Some(words) = comment.take() else { continue };
        let name: Vec<&str> = path.iter().map(|(_, key)| key.as_str()).collect();
        let mut value = value.trim().to_owned();
        if value.is_empty() {
            let deeper = |line: &&str| line.len() - line.trim_start().len() > indent;
            let mut inner = Vec::new();
            while let Some(line) = lines.next_if(deeper) {
                inner.push(line.trim().to_owned());
            }
            value = format!("{{{}}}", inner.join(", "));
        }
        table += &format!("| `{}` | `{value}` | {words} |\n", name.join("."));
    }
    Ok(table)
}

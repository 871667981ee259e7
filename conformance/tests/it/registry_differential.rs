//! The same requests, manifests, environments and files, given to Debian's `docker-registry` and to
//! ours: every difference has a row in `docs/from-distribution.md` with its reason. A row without a
//! reason fails, and so does a reason without a row, and a page that is not what was seen.

mod docs;
mod keys;
mod manifests;
mod reasons;
pub(crate) mod requests;
mod settings;

use anyhow::{Context as _, Result, ensure};
use conformance::http::{Request, Response};
use conformance::registry::{Options, Program};
use conformance::{Registry, process};

/// The promise: so many shapes of manifests and paths at least.
const SHAPES_AT_LEAST: usize = 60;

/// What the two answered to one thing, where it was not the same.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    pub(crate) name: String,
    pub(crate) theirs: String,
    pub(crate) ours: String,
}

/// What was asked, and where the answers differ.
#[derive(Debug, Default)]
pub(crate) struct Seen {
    pub(crate) asked: usize,
    pub(crate) differences: Vec<Difference>,
}

impl Seen {
    pub(crate) fn note(&mut self, name: impl Into<String>, theirs: String, ours: String) {
        self.asked += 1;
        if theirs != ours {
            self.differences.push(Difference { name: name.into(), theirs, ours });
        }
    }
}

/// Both programs, empty, with deletes on.
pub(crate) struct Pair {
    pub(crate) theirs: Registry,
    pub(crate) ours: Registry,
}

impl Pair {
    pub(crate) fn start(environment: &[(&str, &str)]) -> Result<Self> {
        let start = |program| {
            let options = Options::default().program(program).env("REGISTRY_LOG_LEVEL", "error");
            let set = |options: Options, (name, value): &(&str, &str)| options.env(name, value);
            Registry::start(environment.iter().fold(options, set))
        };
        Ok(Self { theirs: start(Program::DockerRegistry)?, ours: start(Program::Roadstead)? })
    }

    /// Asks both for the same.
    pub(crate) fn ask(
        &self,
        seen: &mut Seen,
        name: impl Into<String>,
        ask: impl Fn(&Registry) -> Result<String>,
    ) -> Result<()> {
        let name = name.into();
        let theirs = match ask(&self.theirs) {
            Err(error) if format!("{error:#}").contains("bytes early") => {
                "an answer that breaks off".to_owned()
            }
            theirs => theirs.with_context(|| format!("docker-registry: {name}"))?,
        };
        let ours = ask(&self.ours).with_context(|| format!("ours: {name}"))?;
        seen.note(name, theirs, ours);
        Ok(())
    }
}

/// An answer in the words that matter to clients.
pub(crate) fn describe(response: &Response) -> String {
    let mut words = vec![response.status.to_string()];
    let body = serde_json::from_slice::<serde_json::Value>(&response.body).unwrap_or_default();
    if let Some(errors) = body["errors"].as_array() {
        let mut codes: Vec<_> = errors.iter().filter_map(|error| error["code"].as_str()).collect();
        codes.dedup();
        words.extend(codes.into_iter().map(str::to_owned));
    }
    if (200..300).contains(&response.status) && !response.body.is_empty() {
        let kind = response.header("content-type").unwrap_or("untyped");
        words.push(kind.split(';').next().unwrap_or(kind).to_owned());
    }
    for name in ["docker-content-digest", "docker-upload-uuid", "etag", "accept-ranges"] {
        if response.header(name).is_some() {
            words.push(name.to_owned());
        }
    }
    for name in ["range", "content-range", "oci-subject"] {
        if let Some(value) = response.header(name) {
            words.push(format!("{name}: {value}"));
        }
    }
    for name in ["location", "link"] {
        if let Some(value) = response.header(name) {
            let absolute = value.trim_start_matches('<').starts_with("http");
            words.push(format!("{} {name}", if absolute { "absolute" } else { "relative" }));
        }
    }
    if let Some(allow) = response.header("allow") {
        let mut methods: Vec<_> = allow.split(", ").collect();
        methods.sort_unstable();
        words.push(format!("allow: {}", methods.join(" ")));
    }
    words.join(", ")
}

/// Sends one request; its target may come from a `Location`.
pub(crate) fn send(
    registry: &Registry,
    method: &str,
    target: &str,
    headers: &[(&str, &str)],
    body: &[u8],
) -> Result<Response> {
    let mut request = Request::new(method, target);
    if !body.is_empty() {
        request = request.bytes(body);
    }
    for (name, value) in headers {
        request = request.header(name, *value);
    }
    request.send(registry.address())
}

/// Path and query of a URL, or what is that already.
pub(crate) fn target(url: &str) -> String {
    match url.split_once("://") {
        Some((_, rest)) => rest.find('/').map_or("/", |at| &rest[at..]).to_owned(),
        None => url.to_owned(),
    }
}

#[test]
fn it_differs_from_distribution_only_where_the_page_says() -> Result<()> {
    let began = std::time::Instant::now();
    let mut sections = Vec::new();
    let mut shapes = 0;
    let pair = Pair::start(&[])?;
    for (title, ask) in [
        ("Every route by every method", requests::routes as fn(&Pair) -> Result<Seen>),
        ("Paths and queries", requests::paths),
        ("Uploads, ranges, conditions", requests::flows),
        ("Manifests", manifests::shapes),
    ] {
        let seen = ask(&pair)?;
        if matches!(title, "Paths and queries" | "Manifests") {
            shapes += seen.asked;
        }
        println!("{title}: {} asked, {:?}", seen.asked, began.elapsed());
        sections.push((title, seen));
    }
    drop(pair);
    ensure!(shapes >= SHAPES_AT_LEAST, "{shapes} shapes of manifests and paths");
    sections.push(("Settings at work", settings::at_work()?));
    println!("settings: {:?}", began.elapsed());
    sections.push(("Keys", keys::keys()?));
    println!("keys: {:?}", began.elapsed());
    docs::verdict(&sections)
}

/// The first version of `docker-registry` that the page was written against.
pub(crate) fn oracle_version() -> Result<String> {
    let binary = conformance::tool("docker-registry")?;
    let said = process::run(std::process::Command::new(binary).arg("--version"))?;
    Ok(said.split_whitespace().last().unwrap_or_default().to_owned())
}

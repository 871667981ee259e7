//! `rrun image inspect`, and the images of `rrun inspect`.

use serde_json::{Value, json};

use super::describe::{Described, tag_of};
use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::listing::print_inspected;
use crate::cli::{Globals, Verb};
use crate::failure::Failure;
use crate::images::{Store, StoreError, familiar_name, repository_of};

pub(crate) const INSPECT: Verb = Verb {
    names: &["image inspect"],
    operands: "IMAGE [IMAGE…]",
    operands_min: 1,
    operands_max: usize::MAX,
    about: "Tell everything about images, as JSON",
    details: "",
    flags: &[
        Flag::one("format", "json|TEMPLATE", "a Go template for each").short('f'),
        Flag::one("platform", "OS/ARCH", ""),
    ],
    flags_end: FlagsEnd::AtDashes,
    run,
};

fn run(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = globals.store()?;
    let (mut values, mut failed) = (Vec::new(), None);
    for text in &arguments.operands {
        match inspect(&store, text)? {
            Some(value) => values.push(value),
            None => failed = Some(Failure::from(StoreError::NoSuchImage(text.clone())).exits(1)),
        }
    }
    print_inspected(&values, arguments.value("format"))?;
    failed.map_or(Ok(0), Err)
}

/// An image in the keys of Docker's `inspect`; none where there is none of that name or id.
///
/// # Errors
/// An ambiguous id, a store that cannot be read.
pub(crate) fn inspect(store: &Store, text: &str) -> Result<Option<Value>, Failure> {
    let Some(image) = store.find_image(text)? else { return Ok(None) };
    let all: Vec<_> =
        store.images()?.into_iter().filter(|other| other.config == image.config).collect();
    let tags: Vec<&str> = all
        .iter()
        .filter(|image| tag_of(&image.reference).is_some())
        .map(|image| familiar_name(&image.reference))
        .collect();
    let mut digests: Vec<String> = all
        .iter()
        .map(|image| format!("{}@{}", familiar_name(repository_of(&image.reference)), image.digest))
        .collect();
    digests.sort_unstable();
    digests.dedup();
    let described = Described::read(store, image)?;
    let (image, config) = (&described.image, &described.config);
    let word = |key: &str| config.get(key).cloned().unwrap_or_else(|| Value::from(""));
    let mut value = json!({
        "Id": image.config.to_string(),
        "RepoTags": tags,
        "RepoDigests": digests,
        "Parent": "",
        "Comment": last_comment(config),
        "Created": described.created().to_rfc3339(),
        "DockerVersion": word("docker_version"),
        "Author": word("author"),
        "Config": whole_config(config.get("config")),
        "Container": "",
        "Architecture": word("architecture"),
        "Os": word("os"),
        "Size": image.size,
        "VirtualSize": image.size,
        "GraphDriver": { "Name": "overlay2", "Data": null },
        "RootFS": {
            "Type": "layers",
            "Layers": image.diff_ids.iter().map(ToString::to_string).collect::<Vec<_>>(),
        },
        "Metadata": { "LastTagTime": image.pulled_at },
        "Descriptor": { "digest": image.manifest.to_string() },
    });
    if let Some(variant) = config.get("variant") {
        value["Variant"] = variant.clone();
    }
    Ok(Some(value))
}

/// What the image says, and what Docker says of the rest: an OCI configuration names only what it
/// sets.
fn whole_config(config: Option<&Value>) -> Value {
    let mut whole = json!({
        "ArgsEscaped": false,
        "AttachStderr": false,
        "AttachStdin": false,
        "AttachStdout": false,
        "Cmd": null,
        "Domainname": "",
        "Entrypoint": null,
        "Env": null,
        "ExposedPorts": {},
        "Healthcheck": null,
        "Hostname": "",
        "Image": "",
        "Labels": null,
        "OnBuild": null,
        "OpenStdin": false,
        "Shell": null,
        "StdinOnce": false,
        "StopSignal": "",
        "Tty": false,
        "User": "",
        "Volumes": null,
        "WorkingDir": "",
    });
    let said = config.and_then(Value::as_object).into_iter().flatten();
    for (key, value) in said.filter(|(_, value)| !value.is_null()) {
        whole[key] = value.clone();
    }
    whole
}

fn last_comment(config: &Value) -> Value {
    let history = config.get("history").and_then(Value::as_array);
    let last = history.and_then(|history| history.last()?.get("comment").cloned());
    last.unwrap_or_else(|| Value::from(""))
}

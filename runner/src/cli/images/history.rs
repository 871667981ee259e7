//! `rrun history`

use serde_json::{Value, json};

use super::describe::Described;
use crate::cli::flags::{Arguments, Flag, FlagsEnd};
use crate::cli::listing::{Column, Listing};
use crate::cli::{Globals, Verb, print};
use crate::failure::Failure;
use crate::images::{Store, StoreError};
use crate::pull::human_bytes;
use crate::timestamp::Timestamp;

pub(crate) const HISTORY: Verb = Verb {
    names: &["history", "image history"],
    operands: "IMAGE",
    operands_min: 1,
    operands_max: 1,
    about: "Show how an image was built",
    details: "",
    flags: &[
        Flag::one("format", "table|json|TEMPLATE", "how to show it (a Go template)"),
        Flag::switch("human", "sizes and times for people (true)").short('H'),
        Flag::switch("no-trunc", "do not shorten commands"),
        Flag::switch("quiet", "print ids only").short('q'),
    ],
    flags_end: FlagsEnd::AtDashes,
    run,
};

const FIELDS: &[Column] = &[
    ("ID", "IMAGE"),
    ("CreatedSince", "CREATED"),
    ("CreatedAt", "CREATED AT"),
    ("CreatedBy", "CREATED BY"),
    ("Size", "SIZE"),
    ("Comment", "COMMENT"),
];

/// Where Docker cuts a command.
const CREATED_BY_CHARACTERS: usize = 45;

fn run(globals: &Globals, arguments: &Arguments) -> Result<u8, Failure> {
    let store = globals.store()?;
    let text = &arguments.operands[0];
    let image = store
        .find_image(text)?
        .ok_or_else(|| Failure::from(StoreError::NoSuchImage(text.clone())).exits(1))?;
    let described = Described::read(&store, image)?;
    let full = arguments.has("no-trunc");
    let human = !arguments.given("human") || arguments.has("human");
    let mut rows = rows(&store, &described, full, human)?;
    // The last step is the image itself; the others have no image of their own here.
    rows.reverse();
    for (at, row) in rows.iter_mut().enumerate() {
        let id = match at {
            0 if full => described.image.config.to_string(),
            0 => described.image.config.short(),
            _ => "<missing>".into(),
        };
        row["ID"] = Value::from(id);
    }
    if arguments.has("quiet") {
        let ids = rows.iter().filter_map(|row| row["ID"].as_str());
        return print(&ids.map(|id| format!("{id}\n")).collect::<String>()).map(|()| 0);
    }
    let shown = if human {
        vec!["ID", "CreatedSince", "CreatedBy", "Size", "Comment"]
    } else {
        vec!["ID", "CreatedAt", "CreatedBy", "Size", "Comment"]
    };
    Listing { fields: FIELDS, shown }.print(&rows, arguments.value("format")).map(|()| 0)
}

/// Steps from the first on, with the sizes of the layers that they made.
fn rows(
    store: &Store,
    described: &Described,
    full: bool,
    human: bool,
) -> Result<Vec<Value>, Failure> {
    let mut layers = described.image.diff_ids.iter();
    let none = Vec::new();
    let history = described.config.get("history").and_then(Value::as_array).unwrap_or(&none);
    let mut rows = Vec::with_capacity(history.len());
    for step in history {
        let is_empty = step.get("empty_layer").and_then(Value::as_bool).unwrap_or(false);
        let layer = if is_empty { None } else { layers.next() };
        let bytes = match layer {
            Some(layer) => store.layer(layer)?.facts()?.bytes,
            None => 0,
        };
        rows.push(row(step, bytes, full, human));
    }
    // Layers that the history does not tell of (crane append) are there all the same.
    for layer in layers {
        let bytes = store.layer(layer)?.facts()?.bytes;
        rows.push(row(&Value::Null, bytes, full, human));
    }
    Ok(rows)
}

fn row(step: &Value, bytes: u64, full: bool, human: bool) -> Value {
    let word = |key: &str| step.get(key).and_then(Value::as_str).unwrap_or("");
    let created = Timestamp::parse(word("created"));
    let mut created_by = word("created_by").replace(['\t', '\n'], " ");
    if !full && created_by.chars().count() > CREATED_BY_CHARACTERS {
        created_by = created_by.chars().take(CREATED_BY_CHARACTERS - 1).chain(['…']).collect();
    }
    let since = created.filter(|time| time.seconds > super::describe::YEAR_ONE);
    let since = since.map(|time| format!("{} ago", time.age(Timestamp::now())));
    json!({
        "CreatedSince": since.unwrap_or_else(|| "N/A".into()),
        "CreatedAt": created.map_or_else(|| "N/A".into(), Timestamp::to_rfc3339),
        "CreatedBy": created_by,
        "Size": if human { human_bytes(bytes) } else { bytes.to_string() },
        "Comment": word("comment"),
    })
}

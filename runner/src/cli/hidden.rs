//! Why a command of the image may not be found: a layer with `bin/tool` and no word on `bin`
//! itself makes a directory of it, which hides the link `bin -> usr/bin` of a layer below.

use shared::DiffId;

use crate::container::Record;
use crate::failure::{EXIT_NOT_FOUND, Failure};
use crate::images::Store;

/// Names the layer, where that is what has happened.
pub(super) fn explain(failure: Failure, store: &Store, record: &Record) -> Failure {
    if failure.exit_code != EXIT_NOT_FOUND {
        return failure;
    }
    let process = record.spec.process().as_ref();
    let variables = process.and_then(|process| process.env().as_deref()).unwrap_or_default();
    let path = variables.iter().find_map(|text| text.strip_prefix("PATH=")).unwrap_or_default();
    let hint = path.split(':').find_map(|directory| {
        let directory = directory.trim_matches('/');
        let (layer, target) = hides_link(store, &record.image.layers, directory)?;
        Some(format!(
            "layer {layer} has files in /{directory} and makes a directory of it, which hides the \
             link {directory} -> {target} of a layer below: build it with an entry for /{directory}"
        ))
    });
    match hint {
        Some(hint) => failure.hint(hint),
        None => failure,
    }
}

/// The topmost layer that implies `directory` over a link, and where that link leads.
fn hides_link(store: &Store, layers: &[DiffId], directory: &str) -> Option<(DiffId, String)> {
    let mut hiding = None;
    for id in layers.iter().rev() {
        let layer = store.layer(id).ok()?;
        match &hiding {
            None if layer.facts().ok()?.implied.iter().any(|path| path == directory) => {
                hiding = Some(id.clone());
            }
            None => {}
            Some(above) => {
                if let Some(target) = layer.link_at(directory.as_bytes()) {
                    let target = crate::path_text::to_text(&target);
                    return Some((above.clone(), target));
                }
            }
        }
    }
    None
}

//! What stacking needs on top of layers that know nothing of each other: which of them show, and
//! attributes that a layer with implied parents would take away.
//!
//! A layer with `tmp/x` and no entry for `tmp/` has a plain directory there, and overlayfs shows
//! the attributes of the topmost one: 1777 `/tmp` would become 0755. For every such directory a
//! tiny layer on top holds it again, with the attributes of the topmost entry that names it.
//!
//! The same layer makes whiteouts invisible where nothing lies below them: overlayfs leaves
//! whiteouts out of a listing only where it merges directories, and shows those of a directory
//! that a single layer has as names that cannot be looked up.

use std::collections::{BTreeMap, HashSet};
use std::os::fd::{AsFd, OwnedFd};

use rustix::fs::{Mode, OFlags};
use serde::{Deserialize, Serialize};
use shared::{DiffId, Digest};

use super::layer::{Attributes, Found, LayerFacts, set_attributes};
use super::{FORMAT, Layer, Store, StoreError, boot_id, files};
use crate::container::RootAttributes;

/// How an image's layers are stacked.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct Stack {
    /// From the lowest up, without repetitions and without what an opaque root hides.
    pub(crate) layers: Vec<DiffId>,
    pub(crate) root: RootAttributes,
    pub(crate) fixups: Option<String>,
    /// Content of regular files in all of the image's layers, repetitions counted, bytes.
    pub(crate) size: u64,
}

struct Member {
    layer: Layer,
    facts: LayerFacts,
    implied: HashSet<Vec<u8>>,
}

impl Store {
    /// Works out the stack of an image whose layers are all whole, and makes its fixups.
    pub(crate) fn stack(&self, diff_ids: &[DiffId]) -> Result<Stack, StoreError> {
        if self.ids_to_enter().is_some() {
            return self.stack_inside(diff_ids);
        }
        let mut members = Vec::new();
        let mut size = 0;
        for diff_id in diff_ids {
            let layer = self.layer(diff_id)?;
            let facts = layer.facts()?;
            size = u64::saturating_add(size, facts.bytes);
            // A layer that the image repeats counts at its topmost place only: overlayfs refuses
            // the same directory twice, and what lies between cannot tell the difference but by
            // what it hides of the lower one, which the upper one shows again.
            members.retain(|member: &Member| member.layer.diff_id != *diff_id);
            if facts.opaque_root {
                members.clear();
            }
            let implied =
                facts.implied.iter().map(|text| crate::path_text::from_text(text)).collect();
            members.push(Member { layer, facts, implied });
        }
        let root = members.iter().rev().find_map(|member| member.facts.root.clone());
        let fixes = fixes(&members)?;
        let layers: Vec<DiffId> =
            members.iter().map(|member| member.layer.diff_id.clone()).collect();
        let fixups = if fixes.is_empty() {
            None
        } else {
            let chain = chain_id(&layers);
            self.make_fixups(&chain, &fixes)?;
            Some(chain)
        };
        Ok(Stack { layers, root: root.unwrap_or_default(), fixups, size })
    }

    fn make_fixups(
        &self,
        chain: &str,
        fixes: &BTreeMap<Vec<u8>, Attributes>,
    ) -> Result<(), StoreError> {
        let public = format!("fixups/{chain}");
        if self.find_whole(&public)?.is_some() {
            return Ok(());
        }
        self.discard_torn(&public)?;
        let staging = self.stage()?;
        let tree = files::open_dir(staging.dir(), "fs").map_err(StoreError::io("make fixups"))?;
        write_tree(&tree, fixes).map_err(StoreError::io("make fixups"))?;
        let facts = LayerFacts {
            format: FORMAT,
            form: "directory".into(),
            boot_id: boot_id()?,
            xattrs: self.marks.name().into(),
            entries: fixes.len() as u64,
            bytes: 0,
            tar_bytes: 0,
            implied: Vec::new(),
            whiteouts_in: Vec::new(),
            root: None,
            opaque_root: false,
            id_max: None,
        };
        staging.commit(&public, &facts)
    }
}

/// Names the sequence of layers. Not the specification's ChainID, which knows no stack without
/// repetitions.
fn chain_id(layers: &[DiffId]) -> String {
    let text: Vec<String> = layers.iter().map(DiffId::to_string).collect();
    Digest::sha256(text.join("\n").as_bytes()).hex()
}

/// The directories to make again, with all of their parents, and what they look like.
fn fixes(members: &[Member]) -> Result<BTreeMap<Vec<u8>, Attributes>, StoreError> {
    let mut fixes = BTreeMap::new();
    let mut settled: HashSet<&[u8]> = HashSet::new();
    for (at, member) in members.iter().enumerate().rev() {
        for path in &member.implied {
            // What a higher layer says, or implies, about the path stands already.
            if !settled.insert(path) || hidden_from_above(&members[at + 1..], path)? {
                continue;
            }
            let shown = member.layer.attributes_of(path)?;
            match topmost_explicit(&members[..=at], path)? {
                Some(wanted) if wanted != shown => drop(fixes.insert(path.clone(), wanted)),
                _ => {}
            }
        }
    }
    for member in members {
        for text in &member.facts.whiteouts_in {
            let path = crate::path_text::from_text(text);
            if !fixes.contains_key(&path)
                && contributions(members, &path)? == 1
                && let Some(attributes) = attributes_shown(members, &path)?
            {
                fixes.insert(path, attributes);
            }
        }
    }
    let paths: Vec<Vec<u8>> = fixes.keys().cloned().collect();
    for path in paths {
        for end in (0..path.len()).filter(|&at| path[at] == b'/') {
            let parent = &path[..end];
            if !fixes.contains_key(parent)
                && let Some(attributes) = attributes_shown(members, parent)?
            {
                fixes.insert(parent.to_vec(), attributes);
            }
        }
    }
    Ok(fixes)
}

/// Whether layers above name the path themselves, or take it away.
fn hidden_from_above(above: &[Member], path: &[u8]) -> Result<bool, StoreError> {
    for member in above {
        if looks_away(member, path)? {
            return Ok(true);
        }
        let found = member.layer.look(path)?;
        if matches!(found, Found::Directory { .. }) && !member.implied.contains(path) {
            return Ok(true);
        }
    }
    Ok(false)
}

/// Attributes of the topmost entry for `path` itself that still shows at the top of `members`,
/// whose last one implies the path.
fn topmost_explicit(members: &[Member], path: &[u8]) -> Result<Option<Attributes>, StoreError> {
    for member in members.iter().rev() {
        if matches!(member.layer.look(path)?, Found::Directory { .. })
            && !member.implied.contains(path)
        {
            return member.layer.attributes_of(path).map(Some);
        }
        if looks_away(member, path)? {
            return Ok(None);
        }
    }
    Ok(None)
}

/// How many layers overlayfs merges at `path`.
fn contributions(members: &[Member], path: &[u8]) -> Result<usize, StoreError> {
    let mut count = 0;
    for member in members.iter().rev() {
        if matches!(member.layer.look(path)?, Found::Directory { .. }) {
            count += 1;
        }
        if looks_away(member, path)? {
            break;
        }
    }
    Ok(count)
}

/// Attributes that a stack of `members` with fixups shows for a directory.
fn attributes_shown(members: &[Member], path: &[u8]) -> Result<Option<Attributes>, StoreError> {
    if let Some(explicit) = topmost_explicit(members, path)? {
        return Ok(Some(explicit));
    }
    for member in members.iter().rev() {
        if matches!(member.layer.look(path)?, Found::Directory { .. }) {
            return member.layer.attributes_of(path).map(Some);
        }
    }
    Ok(None)
}

/// Whether nothing of lower layers shows at `path` under this one: it, or a directory above it, is
/// opaque here or no directory at all.
fn looks_away(member: &Member, path: &[u8]) -> Result<bool, StoreError> {
    let ends = (0..path.len()).filter(|&at| path[at] == b'/').chain([path.len()]);
    for end in ends {
        match member.layer.look(&path[..end])? {
            Found::Nothing => return Ok(false),
            Found::Other | Found::Directory { opaque: true } => return Ok(true),
            Found::Directory { opaque: false } => {}
        }
    }
    Ok(false)
}

/// Parents come before children in the map's order, and get their attributes after them.
fn write_tree(tree: &OwnedFd, fixes: &BTreeMap<Vec<u8>, Attributes>) -> rustix::io::Result<()> {
    for path in fixes.keys() {
        match rustix::fs::mkdirat(tree, path.as_slice(), Mode::from_raw_mode(0o755)) {
            Ok(()) | Err(rustix::io::Errno::EXIST) => {}
            Err(error) => return Err(error),
        }
    }
    for (path, attributes) in fixes.iter().rev() {
        let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
        let dir = rustix::fs::openat(tree.as_fd(), path.as_slice(), flags, Mode::empty())?;
        set_attributes(&dir, attributes)?;
    }
    Ok(())
}

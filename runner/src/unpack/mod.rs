//! Layers become directories: parsed, checked and written by a separate process.

/// Whether an extended attribute would be read by overlayfs as a mark of its own.
///
/// A layer must not speak to overlayfs: it could hide or redirect what other layers hold.
pub fn speaks_to_overlay(xattr: &str) -> bool {
    xattr.starts_with("trusted.overlay.") || xattr.starts_with("user.overlay.")
}

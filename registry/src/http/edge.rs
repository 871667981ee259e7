//! The parsers of requests, for [`crate::edge`].

use super::authorize::repo_name;
use super::paging::{encode, page_size, query_values};
use super::range::{Wanted, parse_content_range};
use super::route::Route;

pub(crate) use super::connection::edge::{read_chunks, read_connection, read_head};

pub(crate) fn read_path(text: &str) {
    let route = Route::parse(text);
    if let Some(name) = route.repository()
        && let Ok(name) = repo_name(name)
    {
        assert!(name.as_str().split('/').all(|part| !part.is_empty() && part != ".."));
    }
}

pub(crate) fn read_query(text: &str) {
    let _ = (query_values(text, "n"), page_size(Some(text), 100));
    assert_eq!(query_values(&format!("k={}", encode(text)), "k"), [text]);
}

pub(crate) fn read_ranges(text: &str) {
    for size in [0, 1, 1000, u64::MAX] {
        if let Wanted::Parts(parts) = Wanted::parse(text, size) {
            assert!(parts.iter().all(|(first, last)| first <= last && *last < size));
        }
    }
    if let Some((first, last)) = parse_content_range(text) {
        assert!(first <= last && last < u64::MAX);
    }
}

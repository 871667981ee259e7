//! Lists of tags (end-8) and of repositories (distribution's catalog).

use actix_web::http::{StatusCode, header};
use serde_json::json;
use shared::{ErrorCode, RepoName};

use crate::http::Call;
use crate::http::authorize::{Allowed, Caller, Pull};
use crate::http::body::Body;
use crate::http::error::ApiError;
use crate::http::paging::{encode, next_link, page_size};
use crate::http::respond::{Finish as _, Reply, reply};

pub(super) async fn list(call: &Call, pull: &Allowed<Pull>) -> Result<Reply, ApiError> {
    let repo = pull.repository();
    let n = page_size(call.query_first("n").as_deref(), call.state.settings.tags_max)?;
    let last = call.query_first("last").filter(|last| !last.is_empty());
    let page = call.content().tags(repo, last.as_deref(), n).await?.ok_or_else(|| {
        ApiError::not_found(ErrorCode::NameUnknown, "there is no such repository")
    })?;
    let next = page.entries.last().filter(|_| page.more).map(|tag| {
        let last = encode(tag.as_str());
        call.url(&format!("/v2/{repo}/tags/list?n={n}&last={last}"))
    });
    Ok(reply_list(json!({ "name": repo, "tags": page.entries }), next))
}

/// The repositories that the caller may pull. Those it may not are passed over, and no cursor names
/// one of them.
pub(super) async fn catalog(call: &Call, caller: &Caller) -> Result<Reply, ApiError> {
    let n = page_size(call.query_first("n").as_deref(), call.state.settings.catalog_max)?;
    let mut last = call.query_first("last").filter(|last| !last.is_empty());
    let mut entries: Vec<RepoName> = Vec::new();
    let more = loop {
        let page = call.content().repositories(last.as_deref(), n).await?;
        last = page.entries.last().map(|name| name.as_str().to_owned());
        let mut seen = page.entries.into_iter().filter(|name| caller.may_pull(call, name));
        entries.extend(seen.by_ref().take(n - entries.len()));
        match (seen.next().is_some(), page.more) {
            (true, _) => break true,
            (false, true) if entries.len() < n => {}
            (false, more) => break more,
        }
    };
    let next = entries.last().filter(|_| more).map(|repo| {
        let last = encode(repo.as_str());
        call.url(&format!("/v2/_catalog?n={n}&last={last}"))
    });
    Ok(reply_list(json!({ "repositories": entries }), next))
}

fn reply_list(list: serde_json::Value, next: Option<String>) -> Reply {
    let mut builder = reply(StatusCode::OK);
    builder.insert_header((header::CONTENT_TYPE, "application/json"));
    if let Some(next) = next {
        builder.insert_header((header::LINK, next_link(&next)));
    }
    builder.message_body_or_500(Body::from(list.to_string())).into()
}

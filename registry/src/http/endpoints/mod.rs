//! The specification's endpoints, one file per section. A handler takes the witness that the request
//! is granted, and has its repository from it (see [`super::authorize`]).

pub(super) mod base;
pub(super) mod blobs;
pub(super) mod manifests;
pub(super) mod referrers;
pub(super) mod tags;
pub(super) mod uploads;

use super::Call;
use super::authorize::Task;
use super::error::ApiError;
use super::incoming::Incoming;
use super::respond::Reply;

/// Does what was asked for and granted.
pub(super) async fn perform(call: &Call, task: Task, body: Incoming) -> Result<Reply, ApiError> {
    match task {
        Task::Options(allowed) => Ok(base::options(&allowed)),
        Task::Root => Ok(base::root()),
        Task::Base => Ok(base::base()),
        Task::Catalog(caller) => tags::catalog(call, &caller).await,
        Task::Health(probe) => Ok(base::health(call, probe)),
        Task::Checks => Ok(base::checks(call)),
        Task::Metrics => Ok(base::metrics(call).await),
        Task::BlobGet(pull, digest) => blobs::get(call, &pull, &digest).await,
        Task::BlobDelete(delete, digest) => blobs::delete(call, &delete, &digest).await,
        Task::UploadStart(create, mount) => uploads::start(call, &create, mount, body).await,
        Task::UploadStatus(create, id) => uploads::status(call, &create, id).await,
        Task::UploadAppend(create, id) => uploads::patch(call, &create, id, body).await,
        Task::UploadFinish(create, id) => uploads::put(call, &create, id, body).await,
        Task::UploadCancel(create, id) => uploads::cancel(call, &create, id).await,
        Task::ManifestGet(pull, reference) => manifests::get(call, &pull, &reference).await,
        Task::ManifestPut(create, reference, tags) => {
            manifests::put(call, &create, &reference, tags, body).await
        }
        Task::ManifestDelete(delete, reference) => {
            manifests::delete(call, &delete, &reference).await
        }
        Task::TagList(pull) => tags::list(call, &pull).await,
        Task::Referrers(pull, subject) => referrers::list(call, &pull, &subject).await,
    }
}

//! WorkspaceService: the bytes of trees, for clients and for nodes.

mod download;
mod upload;

use std::collections::BTreeSet;
use std::sync::Arc;

use tokio_stream::wrappers::ReceiverStream;
use tonic::{Request, Response, Status, Streaming};

use super::pins::Owner;
use super::service::{Service, blocking};
use crate::middleware::stream_limit::Caller;
use crate::proto::v1::workspace_service_server::WorkspaceService;
use crate::proto::v1::{
    DownloadBlobsRequest, DownloadBlobsResponse, FindMissingBlobsRequest, FindMissingBlobsResponse,
    UploadBlobsRequest, UploadBlobsResponse,
};
use crate::status::{ApiError, FieldViolation};
use crate::types::Digest;

/// Digests in one request: with 66 bytes each on the wire, an answer that names them all stays below 1 MiB.
const MAX_DIGESTS: usize = 15_000;

/// The service.
pub struct Workspaces {
    service: Arc<Service>,
    callers: Callers,
}

/// Whose bytes come.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub enum Callers {
    /// Trees of runs that are not accepted yet: refused while there is little room.
    Clients,
    /// Outputs of runs that were accepted: the room is kept for them.
    Nodes,
}

impl Workspaces {
    /// On this server's blob store.
    pub const fn new(service: Arc<Service>, callers: Callers) -> Self {
        Self { service, callers }
    }

    fn owner<T>(&self, request: &Request<T>) -> Owner {
        (self.callers, Caller::of(request.extensions()))
    }
}

/// Reads all digests, or names all that are none.
fn digests(field: &str, texts: &[String]) -> Result<Vec<Digest>, ApiError> {
    if texts.len() > MAX_DIGESTS {
        let text = format!("has {} digests; at most {MAX_DIGESTS} are allowed", texts.len());
        return Err(ApiError::invalid(field, text));
    }
    let (mut good, mut bad) = (Vec::with_capacity(texts.len()), Vec::new());
    for (index, text) in texts.iter().enumerate() {
        match text.parse() {
            Ok(digest) => good.push(digest),
            Err(error) => bad.push(FieldViolation::new(format!("{field}[{index}]"), format!("{error}"))),
        }
    }
    if bad.is_empty() { Ok(good) } else { Err(ApiError::InvalidArgument(bad)) }
}

#[tonic::async_trait]
impl WorkspaceService for Workspaces {
    type DownloadBlobsStream = ReceiverStream<Result<DownloadBlobsResponse, Status>>;

    async fn find_missing_blobs(
        &self,
        request: Request<FindMissingBlobsRequest>,
    ) -> Result<Response<FindMissingBlobsResponse>, Status> {
        let owner = self.owner(&request);
        let asked = digests("digests", &request.into_inner().digests)?;
        // Promised before it is looked, so that nothing found can vanish in between.
        self.service.pins.promise(owner, &self.service.blobs, &asked)?;
        let blobs = self.service.blobs.clone();
        let missing_digests = blocking(move || {
            let mut told = BTreeSet::new();
            blobs
                .missing(&asked)
                .into_iter()
                .filter(|digest| told.insert(*digest))
                .map(|digest| digest.to_string())
                .collect()
        })
        .await?;
        Ok(Response::new(FindMissingBlobsResponse { missing_digests }))
    }

    async fn upload_blobs(
        &self,
        request: Request<Streaming<UploadBlobsRequest>>,
    ) -> Result<Response<UploadBlobsResponse>, Status> {
        let owner = self.owner(&request);
        Ok(Response::new(upload::take(self.service.clone(), owner, request.into_inner()).await?))
    }

    async fn download_blobs(
        &self,
        request: Request<DownloadBlobsRequest>,
    ) -> Result<Response<Self::DownloadBlobsStream>, Status> {
        let asked = digests("digests", &request.into_inner().digests)?;
        Ok(Response::new(download::stream(&self.service, asked)))
    }
}

#[cfg(test)]
mod tests;

//! Fetches the report of a run.

use anyhow::{Context as _, bail};

use super::connect::Connection;
use crate::proto::v1::{DownloadReportRequest, ReportFormat};

/// A report larger than this is refused: it would not fit in the memory of a small machine.
const MAX_BYTES: usize = 2 * 1024 * 1024 * 1024;

/// The bytes of a report in one of the server's forms.
pub async fn report(connection: &Connection, run_id: &str, format: ReportFormat) -> anyhow::Result<Vec<u8>> {
    let request = DownloadReportRequest { run_id: run_id.to_owned(), format: format.into() };
    let mut pieces = connection
        .coordinator()
        .download_report(request)
        .await
        .context("downloading the report")?
        .into_inner();
    let mut bytes = Vec::new();
    while let Some(piece) = pieces.message().await.context("downloading the report")? {
        if bytes.len() + piece.data.len() > MAX_BYTES {
            bail!("the report of run {run_id} is larger than {MAX_BYTES} bytes");
        }
        bytes.extend_from_slice(&piece.data);
    }
    Ok(bytes)
}

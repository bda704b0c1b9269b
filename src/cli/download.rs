//! Fetches the report of a run.

use std::time::Duration;

use anyhow::{Context as _, bail};
use serde::Deserialize;

use super::connect::Connection;
use super::reconnect;
use crate::linters::report::{Execution, Report, SCHEMA_VERSION};
use crate::proto::v1::{DownloadReportRequest, ReportFormat};
use crate::types::RunResult;

/// A report larger than this is refused: it would not fit in the memory of a small machine.
const MAX_BYTES: usize = 2 * 1024 * 1024 * 1024;

/// The whole report, ready to be written in any format.
pub(super) async fn parsed(
    connection: &Connection,
    run_id: &str,
    patience: Duration,
    notice: impl FnMut(&str),
) -> anyhow::Result<Report> {
    let bytes = report(connection, run_id, ReportFormat::Json, patience, notice).await?;
    parse(&bytes)
}

/// What says how the rest is to be read.
#[derive(Deserialize)]
struct Version {
    schema_version: u32,
}

/// The JSON form of a report.
#[derive(Deserialize)]
struct Document {
    result: RunResult,
    execution: Execution,
}

fn parse(bytes: &[u8]) -> anyhow::Result<Report> {
    let unreadable = "the server's report cannot be read";
    // First of all: what else is in a report of another version, nobody knows here.
    let Version { schema_version } = serde_json::from_slice(bytes).context(unreadable)?;
    if schema_version != SCHEMA_VERSION {
        bail!(
            "the server's report has version {schema_version}, and this program knows {SCHEMA_VERSION}; use the \
             server's version"
        );
    }
    let document: Document = serde_json::from_slice(bytes).context(unreadable)?;
    Ok(Report { result: document.result, execution: document.execution })
}

/// The bytes of a report in one of the server's forms. If the connection breaks it is begun anew: it is soon done.
pub(super) async fn report(
    connection: &Connection,
    run_id: &str,
    format: ReportFormat,
    patience: Duration,
    notice: impl FnMut(&str),
) -> anyhow::Result<Vec<u8>> {
    let request = DownloadReportRequest { run_id: run_id.to_owned(), format: format.into() };
    let bytes = reconnect::repeated(patience, notice, || {
        let (mut client, request) = (connection.coordinator(), request.clone());
        async move {
            let mut pieces = client.download_report(request).await?.into_inner();
            let mut bytes = Vec::new();
            while let Some(piece) = pieces.message().await? {
                if bytes.len() + piece.data.len() > MAX_BYTES {
                    return Ok(None);
                }
                bytes.extend_from_slice(&piece.data);
            }
            Ok(Some(bytes))
        }
    });
    let Some(bytes) = bytes.await.context("downloading the report")? else {
        bail!("the report of run {run_id} is larger than {MAX_BYTES} bytes");
    };
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_report_of_another_version_is_told_by_its_version_whatever_else_it_has() {
        let newer = br#"{"schema_version":2,"outcome":{"worst":"HIGH"}}"#;
        let error = parse(newer).expect_err("not known").to_string();
        assert!(error.contains("has version 2") && error.contains("use the server's version"), "{error}");
        let error = parse(br#"{"schema_version":1,"result":{}}"#).expect_err("not whole").to_string();
        assert_eq!(error, "the server's report cannot be read");
    }
}

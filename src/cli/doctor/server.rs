//! The server and its own diagnosis of the mesh.

use std::time::Duration;

use tokio::time::timeout;

use super::check::{Check, Section, Verdict};
use crate::cli::connect::{self, Connection, DEFAULT_SERVER, ServerArgs};
use crate::cli::error;
use crate::config::Settings;
use crate::proto::v1;

/// How long the server may take to answer; it waits for probes first.
const ANSWER_BOUND: Duration = Duration::from_secs(10);

/// What helps against a certificate that is for another name than the address that the configuration gives, or that
/// none of the system's authorities vouches for.
const DISTRUST: &str = "name the server as its certificate does, and the file that vouches for that: \
     --server https://NAME:PORT --ca FILE";

/// The connection, and if there is one the server's sections. A server that nobody named need not be there, unless a
/// node is asked about.
pub(super) async fn server(
    args: &ServerArgs,
    node: Option<&str>,
    settings: Option<&Settings>,
) -> Vec<Section> {
    let named = args.server.clone().filter(|url| !url.is_empty());
    let is_needed = named.is_some() || node.is_some();
    let Some(url) = named.or_else(|| configured(settings)) else {
        let evidence = "the system chooses the port of this configuration's server";
        let verdict = if is_needed { Verdict::Failed } else { Verdict::NotMeasured };
        return vec![Section::new(
            "server",
            vec![Check::wrong("connection", verdict, evidence, "name the server with --server")],
        )];
    };
    let args = ServerArgs { server: Some(url.clone()), ..args.clone() };
    let trouble = if is_needed { Verdict::Failed } else { Verdict::NotMeasured };
    let asked = timeout(ANSWER_BOUND, async {
        let connection = args.connect().await?;
        diagnosis(&connection, node).await.map_err(anyhow::Error::from)
    });
    let remedy = "check the URL, the token and the server's log";
    match asked.await {
        Ok(Ok(told)) => {
            let mut sections = vec![Section::new("server", vec![version(&url, &told.server_version)])];
            sections.extend(told.sections.iter().map(section));
            sections
        }
        Ok(Err(cause)) => {
            let (verdict, text, remedy) = match cause.downcast_ref::<error::ConnectError>() {
                Some(error) if is_distrust(error) => (trouble, error.to_string(), DISTRUST),
                Some(error) if !is_needed => {
                    (trouble, error.to_string(), "start it, or name another with --server")
                }
                Some(error) => (trouble, error.to_string(), remedy),
                // One that is there and refuses is worth a word even if it was not named.
                None => {
                    let text = error::render(&cause);
                    let text = text.trim_start_matches("error: ").to_owned();
                    (trouble.max(Verdict::Warning), text, remedy)
                }
            };
            vec![Section::new("server", vec![Check::wrong("connection", verdict, text, remedy)])]
        }
        Err(_) => {
            let evidence = format!("{url}: no answer within {} s", ANSWER_BOUND.as_secs());
            let verdict = trouble.max(Verdict::Warning);
            vec![Section::new("server", vec![Check::wrong("connection", verdict, evidence, remedy)])]
        }
    }
}

/// Whether somebody is there whose certificate this side refuses.
fn is_distrust(error: &error::ConnectError) -> bool {
    error.to_string().contains("certificate")
}

/// Where the server of this configuration would answer; none if nobody can know.
fn configured(settings: Option<&Settings>) -> Option<String> {
    let Some(settings) = settings else { return Some(DEFAULT_SERVER.to_owned()) };
    let (listen, tls) = (settings.server.listen, settings.server.tls.cert.is_some());
    let scheme = if tls { "https" } else { "http" };
    (listen.port() != 0).then(|| format!("{scheme}://{}", connect::dialled(listen)))
}

async fn diagnosis(
    connection: &Connection,
    node: Option<&str>,
) -> Result<v1::DiagnoseResponse, tonic::Status> {
    let request = v1::DiagnoseRequest { node_id: node.unwrap_or_default().to_owned(), sections: Vec::new() };
    Ok(connection.coordinator().diagnose(request).await?.into_inner())
}

fn version(url: &str, server: &str) -> Check {
    let own = env!("CARGO_PKG_VERSION");
    if server == own {
        return Check::passed("connection", format!("{url} answers; version {own}, like this program"));
    }
    let evidence = format!("{url} answers; its version is {server}, this program's is {own}");
    Check::wrong("connection", Verdict::Warning, evidence, "use server, nodes and clients of one release")
}

fn section(told: &v1::SectionDiagnosis) -> Section {
    let name = match told.section() {
        v1::DiagnosisSection::Unspecified => "mesh",
        v1::DiagnosisSection::Communication => "communication",
        v1::DiagnosisSection::Consensus => "consensus",
        v1::DiagnosisSection::Performance => "performance",
    };
    let mut checks: Vec<Check> = told.findings.iter().map(finding).collect();
    let is_found = |node: &str| told.findings.iter().any(|finding| finding.node_id == node);
    checks.extend(
        told.nodes
            .iter()
            .filter(|(name, _)| !is_found(name))
            .map(|(name, node)| Check::passed(name, reached(node))),
    );
    checks.extend(told.figures.iter().map(|figure| Check::passed(&figure.name, measured(figure))));
    if told.result() == v1::DiagnosisResult::NotMeasured {
        checks.push(Check::skipped(name, "there was nothing to measure", ""));
        checks.iter_mut().for_each(|check| check.verdict = Verdict::NotMeasured);
    }
    Section::new(name, checks)
}

fn finding(finding: &v1::Finding) -> Check {
    let verdict = match finding.severity() {
        v1::FindingSeverity::Unspecified | v1::FindingSeverity::Info => Verdict::Passed,
        v1::FindingSeverity::Warning => Verdict::Warning,
        v1::FindingSeverity::Critical => Verdict::Failed,
    };
    let name = if finding.node_id.is_empty() { &finding.code } else { &finding.node_id };
    Check::wrong(name, verdict, format!("{} [{}]", finding.evidence, finding.code), finding.remedy.clone())
}

fn reached(node: &v1::NodeCommunication) -> String {
    let round_trip = node.probes.iter().find(|probe| probe.from_node_id.is_empty()).and_then(|probe| {
        let round_trip = Duration::try_from(probe.round_trip?).ok()?;
        Some(format!(", answered in {:.1} ms", round_trip.as_secs_f64() * 1000.0))
    });
    let peers = node.probes.iter().filter(|probe| !probe.from_node_id.is_empty()).count();
    let by_peers = if peers == 0 { String::new() } else { format!(" and {peers} peers") };
    let (status, links) = (node.node_status().as_str_name(), node.connection_count);
    let status = status.trim_start_matches("NODE_STATUS_");
    format!("{status}{}{by_peers}, links alive: {links}", round_trip.unwrap_or_default())
}

fn measured(figure: &v1::Figure) -> String {
    let limit = figure.threshold.map(|limit| format!(" (limit {limit})")).unwrap_or_default();
    let unit = if figure.unit.is_empty() { String::new() } else { format!(" {}", figure.unit) };
    let value = format!("{:.3}", figure.value);
    let value = value.trim_end_matches('0').trim_end_matches('.');
    format!("{value}{unit}{limit}")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn findings_figures_and_nodes_become_checks() {
        let finding = v1::Finding {
            code: "probe_failed".into(),
            severity: v1::FindingSeverity::Critical.into(),
            node_id: "a".into(),
            evidence: "silent".into(),
            remedy: "restart it".into(),
        };
        let node = |status: v1::NodeStatus| v1::NodeCommunication {
            node_exists: true,
            node_status: status.into(),
            ..Default::default()
        };
        let figure =
            v1::Figure { name: "run_queue".into(), value: 7.0, unit: "tasks".into(), threshold: Some(100.0) };
        let told = v1::SectionDiagnosis {
            section: v1::DiagnosisSection::Communication.into(),
            result: v1::DiagnosisResult::Failed.into(),
            findings: vec![finding],
            figures: vec![figure],
            nodes: ["a", "b"].map(|name| (name.to_owned(), node(v1::NodeStatus::Active))).into(),
        };
        let told = section(&told);
        assert_eq!(told.verdict(), Verdict::Failed);
        let names: Vec<_> = told.checks.iter().map(|check| check.name.as_str()).collect();
        assert_eq!(names, ["a", "b", "run_queue"]);
        assert_eq!(told.checks[0].evidence, "silent [probe_failed]");
        assert!(told.checks[1].evidence.starts_with("ACTIVE"), "{:?}", told.checks[1]);
        assert_eq!(told.checks[2].evidence, "7 tasks (limit 100)");
    }

    #[test]
    fn another_version_is_a_warning_that_names_both() {
        assert_eq!(version("http://h:1", env!("CARGO_PKG_VERSION")).verdict, Verdict::Passed);
        let check = version("http://h:1", "9.9.9");
        assert_eq!(check.verdict, Verdict::Warning);
        assert!(check.evidence.contains("9.9.9") && check.evidence.contains(env!("CARGO_PKG_VERSION")));
    }
}

//! `lintmesh doctor`: checks this machine, the configuration and the server; each finding with evidence and remedy.

use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use serde_json::{Value, json};
use tokio::time::timeout;

use super::arguments::ConfigArgs;
use super::connect::ServerArgs;
use super::exit::Exit;
use super::{error, linters, output, toolchain};
use crate::config::{Settings, ToolchainChoice};
use crate::linters::toolchain::{ToolBinary, Toolchain};
use crate::node::shim::{SandboxStatus, sandbox_status};
use crate::proto::v1::GetMeshStatusRequest;

/// How long the server may take to answer.
const ANSWER_BOUND: Duration = Duration::from_secs(10);

/// Arguments of `doctor`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Exit codes: 0 nothing is wrong, 1 something is wrong, 2 bad usage")]
pub struct DoctorArgs {
    /// Print JSON
    #[arg(long)]
    json: bool,
    /// Do not check the linters: that installs the managed ones if they are not there yet
    #[arg(long)]
    skip_toolchain: bool,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    config: ConfigArgs,
}

/// How bad a finding is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Verdict {
    Good,
    /// Works, with less than there could be.
    Warning,
    Bad,
}

/// One finding.
#[derive(Debug, Clone, PartialEq, Eq)]
struct Check {
    name: &'static str,
    verdict: Verdict,
    evidence: String,
    /// What to do; empty if nothing is wrong.
    remedy: String,
}

impl Check {
    fn good(name: &'static str, evidence: impl Into<String>) -> Self {
        Self { name, verdict: Verdict::Good, evidence: evidence.into(), remedy: String::new() }
    }

    fn wrong(name: &'static str, verdict: Verdict, evidence: impl Into<String>, remedy: &str) -> Self {
        Self { name, verdict, evidence: evidence.into(), remedy: remedy.to_owned() }
    }
}

/// Exits 0 if nothing is wrong.
pub(super) async fn run(args: DoctorArgs) -> anyhow::Result<Exit> {
    let loaded = args.config.settings();
    let mut checks = vec![configuration(&loaded), sandbox(&sandbox_status())];
    if let Ok(settings) = loaded {
        if !args.skip_toolchain {
            checks.push(linters(settings.clone()).await);
        }
        let listeners = [
            ("API port", settings.server.listen),
            ("admin port", settings.server.admin_listen),
            ("node port", settings.server.node_listen),
        ];
        checks.extend(listeners.into_iter().map(|(name, address)| port(name, address)));
    }
    if args.server.server.as_deref().is_some_and(|url| !url.is_empty()) {
        checks.push(server(&args.server).await);
    }
    if args.json {
        output::print_line(&format!("{:#}", as_json(&checks)))?;
    } else {
        output::print(screen(&checks).as_bytes())?;
    }
    let bad = checks.iter().any(|check| check.verdict == Verdict::Bad);
    Ok(if bad { Exit::Findings } else { Exit::Success })
}

fn configuration(loaded: &anyhow::Result<Settings>) -> Check {
    match loaded {
        Ok(_) => Check::good("configuration", "valid"),
        Err(cause) => Check::wrong(
            "configuration",
            Verdict::Bad,
            format!("{cause:#}"),
            "correct the settings that are named",
        ),
    }
}

fn sandbox(status: &SandboxStatus) -> Check {
    if status.writes && status.network {
        return Check::good("sandbox", status.to_string());
    }
    Check::wrong(
        "sandbox",
        Verdict::Warning,
        status.to_string(),
        "use a kernel with Landlock (Linux 6.7 or newer has all of it) if trees are not trusted",
    )
}

async fn linters(settings: Settings) -> Check {
    let managed = settings.toolchain.mode == ToolchainChoice::Managed;
    let provide =
        move || linters::toolchain(&settings, &mut |text| output::say(&format!("lintmesh: {text}")));
    match tokio::task::spawn_blocking(provide).await {
        Ok(Ok(found)) => toolchain_check(&found),
        Ok(Err(cause)) => Check::wrong(
            "linters",
            Verdict::Bad,
            format!("{cause:#}"),
            if managed {
                "see above; `lintmesh toolchain install` tries again"
            } else {
                "set toolchain.mode to what is there"
            },
        ),
        Err(cause) => {
            Check::wrong("linters", Verdict::Bad, cause.to_string(), "report this as a bug of lintmesh")
        }
    }
}

fn toolchain_check(found: &Toolchain) -> Check {
    let all: Vec<String> = found
        .tools
        .iter()
        .map(|(name, binary)| match binary {
            ToolBinary::Present { version, .. } => format!("{name} {version}"),
            ToolBinary::Missing { reason } => format!("{name} missing ({reason})"),
        })
        .collect();
    let evidence = all.join(", ");
    if toolchain::is_complete(found) {
        return Check::good("linters", evidence);
    }
    let remedy = "install what is missing, or use the managed toolchain (toolchain.mode = \"managed\")";
    Check::wrong("linters", Verdict::Bad, evidence, remedy)
}

/// Whether `lintmesh serve` could listen there. A port that is in use is no fault if the service already runs.
fn port(name: &'static str, address: SocketAddr) -> Check {
    match TcpListener::bind(address) {
        Ok(_) if address.port() == 0 => Check::good(name, format!("{address}: any free port")),
        Ok(_) => Check::good(name, format!("{address} is free")),
        Err(cause) if cause.kind() == std::io::ErrorKind::AddrInUse => Check::wrong(
            name,
            Verdict::Warning,
            format!("{address} is in use"),
            "good if that is the service itself; else end the other program or choose another port",
        ),
        Err(cause) => Check::wrong(
            name,
            Verdict::Bad,
            format!("cannot listen on {address}: {cause}"),
            "choose an address of this machine and a port that this user may use",
        ),
    }
}

async fn server(args: &ServerArgs) -> Check {
    let ask = async {
        let connection = args.connect().await?;
        let status = connection.coordinator().get_mesh_status(GetMeshStatusRequest {}).await?;
        anyhow::Ok(status.into_inner().metrics.unwrap_or_default())
    };
    let remedy = "check the URL, the token and the server's log";
    match timeout(ANSWER_BOUND, ask).await {
        Ok(Ok(mesh)) => {
            let evidence = format!("answers: {} of {} nodes are active", mesh.active_nodes, mesh.total_nodes);
            if mesh.active_nodes > 0 {
                Check::good("server", evidence)
            } else {
                let remedy = "start nodes, or see `lintmesh status` for why none is active";
                Check::wrong("server", Verdict::Bad, evidence, remedy)
            }
        }
        Ok(Err(cause)) => {
            let text = error::render(&cause);
            Check::wrong("server", Verdict::Bad, text.trim_start_matches("error: "), remedy)
        }
        Err(_) => Check::wrong(
            "server",
            Verdict::Bad,
            format!("no answer within {} s", ANSWER_BOUND.as_secs()),
            remedy,
        ),
    }
}

const fn verdict_name(verdict: Verdict) -> &'static str {
    match verdict {
        Verdict::Good => "ok",
        Verdict::Warning => "warning",
        Verdict::Bad => "bad",
    }
}

fn screen(checks: &[Check]) -> String {
    let mut text = String::new();
    for check in checks {
        let evidence = check.evidence.replace('\n', "\n                         ");
        text.push_str(&format!("{:<8} {:<15} {evidence}\n", verdict_name(check.verdict), check.name));
        if !check.remedy.is_empty() {
            text.push_str(&format!("{:<24} -> {}\n", "", check.remedy));
        }
    }
    text
}

fn as_json(checks: &[Check]) -> Value {
    let value = |check: &Check| {
        json!({
            "name": check.name,
            "result": verdict_name(check.verdict),
            "evidence": check.evidence,
            "remedy": check.remedy,
        })
    };
    json!({
        "ok": checks.iter().all(|check| check.verdict != Verdict::Bad),
        "checks": checks.iter().map(value).collect::<Vec<_>>(),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_port_in_use_is_told_with_a_remedy_and_a_free_one_is_not() {
        let taken = TcpListener::bind("127.0.0.1:0").expect("a free port");
        let address = taken.local_addr().expect("bound");
        let check = port("API port", address);
        assert_eq!(check.verdict, Verdict::Warning);
        assert!(check.evidence.contains("in use") && !check.remedy.is_empty());
        drop(taken);
        assert_eq!(port("API port", "127.0.0.1:0".parse().expect("valid")).verdict, Verdict::Good);
        assert_eq!(port("API port", "192.0.2.1:1".parse().expect("valid")).verdict, Verdict::Bad);
    }

    #[test]
    fn only_bad_findings_fail_and_every_finding_has_its_remedy() {
        let none =
            SandboxStatus { abi: 0, writes: false, network: false, scopes: false, reason: "no".into() };
        let checks = vec![sandbox(&none), configuration(&Err(anyhow::anyhow!("lintmesh.toml: mesh.x = 1")))];
        assert_eq!(as_json(&checks[..1])["ok"], true);
        assert_eq!(as_json(&checks)["ok"], false);
        assert!(checks.iter().all(|check| !check.remedy.is_empty()));
        let text = screen(&checks);
        assert!(text.contains("warning  sandbox") && text.contains("mesh.x = 1"), "{text}");
    }
}

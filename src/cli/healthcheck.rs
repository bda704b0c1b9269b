//! `lintmesh healthcheck`: asks the standard health service and answers with grpc-health-probe's exit codes.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::timeout;
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::arguments::{ConfigArgs, parse_duration};
use super::connect;
use super::exit::Exit;
use super::output;

/// The exit codes of grpc-health-probe, which probes and scripts know.
const BAD_ARGUMENTS: Exit = Exit::Code(1);
const NOT_CONNECTED: Exit = Exit::Code(2);
const RPC_FAILED: Exit = Exit::Code(3);
const NOT_SERVING: Exit = Exit::Code(4);

/// Arguments of `healthcheck`.
#[derive(Debug, clap::Args)]
pub(super) struct HealthcheckArgs {
    /// Host and port of the listener to ask; by default the admin listener of the configuration
    #[arg(long, value_name = "HOST:PORT")]
    addr: Option<String>,
    /// What to ask for: readiness (can take work), liveness (the process), or a service's full name
    #[arg(long, default_value = "readiness")]
    service: String,
    /// How long to connect and wait, together
    #[arg(long, default_value = "1s", value_parser = parse_duration)]
    timeout: Duration,
    /// Connect with TLS
    #[arg(long)]
    tls: bool,
    /// Certificates (PEM) that vouch for the server; by default those of the system
    #[arg(long, value_name = "FILE", requires = "tls")]
    ca: Option<PathBuf>,
    #[command(flatten)]
    config: ConfigArgs,
}

/// Exits 0 when SERVING; see `lintmesh healthcheck --help` for the others.
pub(super) async fn run(args: HealthcheckArgs) -> Exit {
    let (exit, text) = check(args).await;
    if exit == Exit::Success {
        // The exit code is the answer, whoever reads the word.
        let _ = output::print_line(&text);
    } else {
        output::say(&text);
    }
    exit
}

async fn check(args: HealthcheckArgs) -> (Exit, String) {
    let address = match args.addr.map_or_else(|| admin_address(&args.config), Ok) {
        Ok(address) => address,
        Err(error) => return (BAD_ARGUMENTS, super::error::render(&error)),
    };
    let scheme = if args.tls { "https" } else { "http" };
    let url = if address.contains("://") { address } else { format!("{scheme}://{address}") };
    let endpoint = match connect::endpoint(&url, args.ca.as_deref()) {
        Ok(endpoint) => endpoint,
        Err(error) => return (BAD_ARGUMENTS, super::error::render(&error)),
    };
    let channel = match timeout(args.timeout, endpoint.connect()).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => {
            return (
                NOT_CONNECTED,
                format!("error: cannot connect to {url}: {}", connect::Trouble::of(&error).reason),
            );
        }
        Err(_) => {
            return (NOT_CONNECTED, format!("error: cannot connect to {url} within {:?}", args.timeout));
        }
    };
    let request = HealthCheckRequest { service: args.service.clone() };
    let mut client = HealthClient::new(channel);
    let status = match timeout(args.timeout, client.check(request)).await {
        Ok(Ok(answer)) => answer.into_inner().status(),
        Ok(Err(status)) => {
            let code = crate::middleware::rpc_metrics::code_name(status.code());
            return (RPC_FAILED, format!("error: the health check failed ({code}): {}", status.message()));
        }
        Err(_) => {
            return (RPC_FAILED, format!("error: no answer to the health check within {:?}", args.timeout));
        }
    };
    let text = format!("status: {}", status.as_str_name());
    (if status == ServingStatus::Serving { Exit::Success } else { NOT_SERVING }, text)
}

/// Where this machine's server answers probes.
fn admin_address(config: &ConfigArgs) -> anyhow::Result<String> {
    Ok(connect::dialled(config.settings()?.server.admin_listen).to_string())
}

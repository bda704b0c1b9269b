//! `lintmesh healthcheck`: asks the standard health service and answers with grpc-health-probe's exit codes.

use std::path::PathBuf;
use std::time::Duration;

use tokio::time::{Instant, timeout_at};
use tonic::transport::{Channel, Error};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_check_response::ServingStatus;
use tonic_health::pb::health_client::HealthClient;

use super::arguments::{ConfigArgs, parse_duration};
use super::connect;
use super::exit::Exit;
use super::output;

/// The exit codes of grpc-health-probe, which probes and scripts know.
pub(super) const BAD_ARGUMENTS: Exit = Exit::Code(1);
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
    ask(endpoint.connect(), &url, args.service, args.timeout).await
}

/// Connects and asks, both together within `limit`.
async fn ask(
    connecting: impl Future<Output = Result<Channel, Error>>,
    url: &str,
    service: String,
    limit: Duration,
) -> (Exit, String) {
    let deadline = Instant::now() + limit;
    let channel = match timeout_at(deadline, connecting).await {
        Ok(Ok(channel)) => channel,
        Ok(Err(error)) => {
            return (NOT_CONNECTED, format!("error: cannot connect to {url}: {}", connect::reason(&error)));
        }
        Err(_) => return (NOT_CONNECTED, format!("error: cannot connect to {url} within {limit:?}")),
    };
    let mut client = HealthClient::new(channel);
    let status = match timeout_at(deadline, client.check(HealthCheckRequest { service })).await {
        Ok(Ok(answer)) => answer.into_inner().status(),
        Ok(Err(status)) => {
            let code = crate::middleware::rpc_metrics::code_name(status.code());
            return (RPC_FAILED, format!("error: the health check failed ({code}): {}", status.message()));
        }
        Err(_) => return (RPC_FAILED, format!("error: no answer to the health check within {limit:?}")),
    };
    let text = format!("status: {}", status.as_str_name());
    (if status == ServingStatus::Serving { Exit::Success } else { NOT_SERVING }, text)
}

/// Where this machine's server answers probes.
fn admin_address(config: &ConfigArgs) -> anyhow::Result<String> {
    Ok(connect::dialled(config.settings()?.server.admin_listen).to_string())
}

#[cfg(test)]
mod tests {
    use tokio::time::sleep;

    use super::*;

    #[tokio::test(start_paused = true)]
    async fn connecting_and_asking_share_the_time() {
        let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("http://{}", mute.local_addr().expect("bound"));
        let endpoint = connect::endpoint(&url, None).expect("valid");
        let slowly = async {
            sleep(Duration::from_millis(700)).await;
            endpoint.connect().await
        };
        let begin = Instant::now();
        let (exit, text) = ask(slowly, &url, "readiness".to_owned(), Duration::from_secs(1)).await;
        assert_eq!(exit, RPC_FAILED, "{text}");
        let took = begin.elapsed();
        assert!(took < Duration::from_millis(1100), "{took:?}");
    }
}

//! The arguments of `lintmesh node`, and what they mean for the node.

use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;

use super::arguments::ConfigArgs;
use super::error::UsageError;
use super::linters;
use super::node::NodeCommand;
use crate::config::Settings;
use crate::node::agent::{NodeSettings, PeerSettings};
use crate::node::host;
use crate::node::peers::PeerTls;
use crate::node::secret::Secret;
use crate::types::NodeSpec;

/// A longer file is no secret.
const MAX_SECRET_BYTES: u64 = 4096;

/// Joins this machine to the mesh of a coordinator.
#[derive(Debug, clap::Args)]
#[command(after_help = "Example:\n  \
lintmesh node --coordinator https://lint.example.org:50053 --tls-ca ca.pem --node-id backend-dev \
--secret-file /run/secrets/node")]
pub(super) struct NodeArgs {
    /// The node's name, one of nodes.specialists in the settings
    #[arg(long, value_name = "NAME", required_unless_present = "launched")]
    node_id: Option<String>,
    /// The coordinator's node listener
    #[arg(long, value_name = "URL", required_unless_present = "launched")]
    coordinator: Option<String>,
    /// A file that holds the secret with which the node enrols
    #[arg(long, value_name = "FILE", required_unless_present = "launched")]
    secret_file: Option<PathBuf>,
    /// Certificates (PEM) that vouch for an https coordinator
    #[arg(long, value_name = "FILE")]
    tls_ca: Option<PathBuf>,
    /// The mesh to join
    #[arg(long, value_name = "NAME", default_value = crate::server::MESH_ID)]
    mesh_id: String,
    /// What may fail at once with this node; by default this machine
    #[arg(long, value_name = "NAME")]
    failure_domain: Option<String>,
    /// Where the node listens for its peers; beyond loopback it needs a certificate
    #[arg(long, value_name = "IP:PORT", default_value = "127.0.0.1:0")]
    peer_listen: SocketAddr,
    /// What peers dial if it is not that address: a name of the certificate, or an address that is translated
    #[arg(long, value_name = "HOST:PORT")]
    peer_advertise: Option<String>,
    /// The certificate chain (PEM) that peers are shown; --tls-ca must vouch for it on their side
    #[arg(long, value_name = "FILE", requires = "peer_tls_key")]
    peer_tls_cert: Option<PathBuf>,
    /// Its private key (PEM)
    #[arg(long, value_name = "FILE", requires = "peer_tls_cert")]
    peer_tls_key: Option<PathBuf>,
    /// Where the node makes its private folder
    #[arg(long, value_name = "DIR")]
    work_dir: Option<PathBuf>,
    /// Where results that the coordinator does not have yet outlive the node's process
    #[arg(long, value_name = "DIR")]
    state_dir: Option<PathBuf>,
    /// Started by a launcher, which tells the rest by standard input
    #[arg(long, hide = true)]
    launched: bool,
    #[command(flatten)]
    config: ConfigArgs,
}

impl NodeArgs {
    /// Whether a launcher started this process.
    pub(super) const fn is_launched(&self) -> bool {
        self.launched
    }

    /// What the node is told. Blocks while linters are installed.
    pub(super) fn command(self) -> anyhow::Result<NodeCommand> {
        let (false, Some(name), Some(coordinator), Some(secret_file)) =
            (self.launched, self.node_id, self.coordinator, self.secret_file)
        else {
            return Ok(NodeCommand::Launched);
        };
        let peers = PeerSettings {
            listen: self.peer_listen,
            advertise: self.peer_advertise,
            tls: self.peer_tls_cert.zip(self.peer_tls_key).map(|(cert, key)| PeerTls { cert, key }),
        };
        exposure(&peers)?;
        let settings = self.config.settings()?;
        let spec = specialist(&settings, &name)?;
        let secret = secret(&secret_file)?;
        let toolchain = linters::toolchain(&settings, &mut |text| tracing::info!("{text}"))?;
        let host_id = host::host_id();
        Ok(NodeCommand::Configured(Box::new(NodeSettings {
            coordinator,
            tls_ca: self.tls_ca,
            spec,
            mesh_id: self.mesh_id,
            secret,
            failure_domain: self.failure_domain.unwrap_or_else(|| host_id.clone()),
            host_id,
            environment_class: host::environment_class(&linters::interpreter(&toolchain)),
            toolchain,
            limits: linters::limits(&settings),
            drain_timeout: settings.nodes.drain_timeout,
            // Nobody launched it whose end would be its own.
            orphan_grace: Duration::ZERO,
            work_dir: self.work_dir.unwrap_or_else(std::env::temp_dir),
            state_dir: self.state_dir,
            cpu_slots: host::cpu_slots(),
            shim: std::env::current_exe().context("this program's own path is not known")?,
            peers,
        })))
    }
}

/// Beyond loopback nobody listens in on links.
fn exposure(peers: &PeerSettings) -> Result<(), UsageError> {
    if peers.tls.is_none() && !peers.listen.ip().to_canonical().is_loopback() {
        return Err(UsageError(format!(
            "--peer-listen {} is beyond loopback and needs --peer-tls-cert and --peer-tls-key",
            peers.listen
        )));
    }
    Ok(())
}

fn specialist(settings: &Settings, name: &str) -> Result<NodeSpec, UsageError> {
    let specs = settings.nodes.specs();
    let names: Vec<String> = specs.iter().map(|spec| spec.node_id.to_string()).collect();
    specs.into_iter().find(|spec| spec.node_id.as_str() == name).ok_or_else(|| {
        UsageError(format!("--node-id {name} is not in nodes.specialists; known are {}", names.join(", ")))
    })
}

fn secret(file: &Path) -> anyhow::Result<Secret> {
    let metadata =
        file.metadata().with_context(|| format!("cannot read --secret-file {}", file.display()))?;
    if metadata.len() > MAX_SECRET_BYTES {
        return Err(UsageError(format!("--secret-file {} is too large for a secret", file.display())).into());
    }
    let text = std::fs::read_to_string(file)
        .with_context(|| format!("cannot read --secret-file {}", file.display()))?;
    match text.trim() {
        "" => Err(UsageError(format!("--secret-file {} is empty", file.display())).into()),
        secret => Ok(Secret::new(secret)),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn links_beyond_this_machine_need_a_certificate() {
        let mut peers = PeerSettings::default();
        assert!(exposure(&peers).is_ok());
        peers.listen = "0.0.0.0:7000".parse().expect("an address");
        assert!(exposure(&peers).is_err_and(|error| error.to_string().contains("--peer-tls-cert")));
        peers.tls = Some(PeerTls { cert: "cert.pem".into(), key: "key.pem".into() });
        assert!(exposure(&peers).is_ok());
    }

    #[test]
    fn a_node_must_be_declared_and_have_a_secret() {
        let settings = Settings::default();
        assert!(specialist(&settings, "backend-dev").is_ok());
        let error = specialist(&settings, "nobody").expect_err("unknown").to_string();
        assert!(error.contains("backend-dev"), "{error}");

        let file = tempfile::NamedTempFile::new().expect("a file");
        assert!(secret(file.path()).is_err_and(|error| error.to_string().ends_with("is empty")));
        std::fs::write(file.path(), "s3cret\n").expect("written");
        assert_eq!(secret(file.path()).expect("a secret").expose(), "s3cret");
    }
}

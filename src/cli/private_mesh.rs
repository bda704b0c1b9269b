//! The mesh that `lintmesh lint` starts for itself: a coordinator in this process and four nodes as its children.

use std::net::{Ipv4Addr, SocketAddr};
use std::path::Path;

use anyhow::Context as _;

use super::connect::{self, Connection};
use super::interrupt::Interrupt;
use super::lint::Progress;
use super::linters;
use super::local_mesh::{self, Keeping, LocalMesh, MeshOptions};
use crate::config::{AuthSettings, Launch, Settings, StateSettings, TlsSettings};
use crate::linters::toolchain::Toolchain;
use crate::middleware::auth::{Role, Token};
use crate::server::TreePolicy;
use crate::types::Digest;

/// A running private mesh.
pub(super) struct PrivateMesh {
    mesh: LocalMesh,
    connection: Connection,
}

impl PrivateMesh {
    /// Provides the linters, starts the coordinator and its nodes, waits until they can take work, and connects.
    pub(super) async fn start(
        settings: &Settings,
        root: &Path,
        progress: &mut Progress,
        interrupt: &Interrupt,
    ) -> anyhow::Result<Self> {
        let toolchain = interrupt.unless(provide(settings.clone(), progress)).await?;
        progress.phase("starting the mesh");
        // Other users of this machine can reach loopback too, so this mesh wants a token that only it knows.
        let token = local_mesh::secret();
        let mesh = LocalMesh::start(MeshOptions {
            trees: TreePolicy {
                allowed_roots: vec![root.to_owned()],
                allow_tree_code: settings.runs.allow_tree_code.unwrap_or(true),
                nodes_share_files: true,
                allow_interpreter_paths: true,
            },
            tokens: vec![Token {
                name: "private".into(),
                role: Role::Operator,
                sha256: Digest::of(token.as_bytes()),
            }],
            admin: false,
            toolchain: Some(toolchain),
            keeping: Keeping::Nothing,
            settings: own(settings),
        })
        .await?;
        let connected = interrupt
            .unless(async {
                mesh.wait_ready().await?;
                connect::connect(&format!("http://{}", mesh.api_address()), Some(&token), None).await
            })
            .await;
        match connected {
            Ok(connection) => Ok(Self { mesh, connection }),
            Err(error) => {
                mesh.stop().await;
                Err(error)
            }
        }
    }

    /// The connection to its coordinator.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Ends the coordinator and its nodes, within a bound.
    pub(super) async fn stop(self) {
        drop(self.connection);
        self.mesh.stop().await;
    }
}

/// What of the settings holds for a mesh of one's own. A tree may have the configuration of a service beside it, or in it:
/// its certificate, callers, nodes, folders and alarms are not for the mesh of one run.
fn own(settings: &Settings) -> Settings {
    let any_port = SocketAddr::new(Ipv4Addr::LOCALHOST.into(), 0);
    let mut own = settings.clone();
    own.server.listen = any_port;
    own.server.node_listen = any_port;
    own.server.tls = TlsSettings::default();
    own.auth = AuthSettings::default();
    own.nodes.launch = Launch::Local;
    own.nodes.secrets.clear();
    own.nodes.restart_command.clear();
    own.workspace.blob_dir = None;
    own.workspace.allowed_roots.clear();
    own.alerts.alertmanager_url.clear();
    own.state = StateSettings::default();
    // They come with the request, as they would to any other server.
    own.severity.clear();
    own
}

async fn provide(settings: Settings, progress: &mut Progress) -> anyhow::Result<Toolchain> {
    let (lines, mut told) = tokio::sync::mpsc::unbounded_channel();
    let work = tokio::task::spawn_blocking(move || {
        linters::toolchain(&settings, &mut |text| {
            // Nobody listens any more if the user interrupted.
            let _ = lines.send(text);
        })
    });
    while let Some(text) = told.recv().await {
        progress.phase(&text);
        progress.tell(&text);
    }
    work.await.context("providing the linters")?
}

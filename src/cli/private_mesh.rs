//! The mesh that `lintmesh lint` starts for itself: a coordinator in this process and four nodes as its children.

use std::path::{Path, PathBuf};

use anyhow::{Context as _, bail};

use super::connect::Connection;
use super::error::UsageError;
use super::interrupt::Interrupt;
use super::lint::Progress;
use crate::config::{self, Settings};
use crate::linters::process::Limits;
use crate::linters::toolchain::Toolchain;
use crate::node::provision::{ToolchainChoice, provision};

/// A running private mesh.
pub(super) struct PrivateMesh {
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
        tracing::debug!(toolchain = %toolchain.id, root = %root.display(), "the linters are there");
        progress.phase("starting the mesh");
        bail!("a private mesh cannot be started by this build; name a server with --server")
    }

    /// The connection to its coordinator.
    pub(super) fn connection(&self) -> &Connection {
        &self.connection
    }

    /// Ends the coordinator and its nodes, within a bound.
    pub(super) async fn stop(self) {
        drop(self.connection);
    }
}

/// Serves until the user wants the process to end, then shuts down within the bound that the settings name.
pub(super) async fn serve(
    settings: Settings,
    toolchain: Option<Toolchain>,
    interrupt: &Interrupt,
) -> anyhow::Result<()> {
    drop((settings, toolchain, interrupt));
    bail!("the service cannot be started by this build")
}

/// What one linter process may use.
pub(super) fn limits(settings: &Settings) -> Limits {
    let limits = &settings.limits;
    Limits {
        wall: settings.mesh.task_timeout,
        cpu: limits.cpu,
        memory_bytes: limits.memory_bytes,
        file_bytes: limits.file_bytes,
        output_bytes: limits.output_bytes,
        processes: limits.processes,
    }
}

async fn provide(settings: Settings, progress: &mut Progress) -> anyhow::Result<Toolchain> {
    let (lines, mut told) = tokio::sync::mpsc::unbounded_channel();
    let work = tokio::task::spawn_blocking(move || {
        toolchain(&settings, &mut |text| {
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

/// Provides the linters that the settings ask for; blocks. `tell` gets a line now and then while they are installed.
pub(super) fn toolchain(settings: &Settings, tell: &mut dyn FnMut(String)) -> anyhow::Result<Toolchain> {
    let choice = match &settings.toolchain.mode {
        config::ToolchainChoice::Managed => ToolchainChoice::Managed,
        config::ToolchainChoice::System => ToolchainChoice::System,
        config::ToolchainChoice::Environment(path) => ToolchainChoice::Environment(path.clone()),
    };
    Ok(provision(choice, &cache_dir(settings)?, &mut |progress| tell(progress.to_string()))?)
}

/// Where managed linters are kept: the setting, else the user's cache folder (XDG Base Directory Specification).
fn cache_dir(settings: &Settings) -> Result<PathBuf, UsageError> {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    settings
        .toolchain
        .cache_dir
        .clone()
        .or_else(|| variable("XDG_CACHE_HOME").map(|folder| folder.join("lintmesh")))
        .or_else(|| variable("HOME").map(|home| home.join(".cache/lintmesh")))
        .ok_or_else(|| {
            UsageError(
                "there is no cache folder: neither XDG_CACHE_HOME nor HOME is set; set toolchain.cache_dir"
                    .into(),
            )
        })
}

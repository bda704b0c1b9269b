//! Typed settings: defaults, then file, then environment, then flags; all that is wrong is reported at once.
//!
//! Each setting is declared once, in a `section!`: name, type, default, what is allowed, and the doc comment which is
//! its entry in the reference as well.

mod alerts;
mod check;
mod environments;
mod lint;
mod mesh;
mod nodes;
mod queue;
mod reader;
mod reference;
mod section;
mod service;
mod setting;
mod sources;
mod state;
#[cfg(test)]
mod tests;

use std::collections::BTreeMap;
use std::path::PathBuf;

use crate::types::Severity;

pub use alerts::AlertSettings;
pub use lint::{LintSettings, OptionText, OutputFormat, ToolchainChoice, ToolchainSettings};
pub use mesh::{LimitSettings, LoadBalancing, MeshSettings};
pub use nodes::{Launch, NodeSettings, Secret, Specialist, StageSettings};
pub use queue::QueueSettings;
pub use reader::Problem;
pub use reference::{Row, reference, reference_table, with_reference};
pub use service::{
    AuthSettings, Role, RunSettings, SecretHash, ServerSettings, TlsSettings, Token, WorkspaceSettings,
};
pub use sources::{FILE_NAME, Overrides, PREFIX, Sources, process_environment};
pub use state::{StateSettings, StoreKind};

use reader::{At, Reader};
use section::{any, section};
use setting::Setting;

section! {
    /// All settings.
    pub struct Settings {
        /// How the mesh watches itself, places work and retries.
        mesh: MeshSettings = MeshSettings::default(), any("a table");
        /// Where the coordinator listens and how much it takes.
        server: ServerSettings = ServerSettings::default(), any("a table");
        /// Who may call the API.
        auth: AuthSettings = AuthSettings::default(), any("a table");
        /// Which trees are taken and where their bytes are kept.
        workspace: WorkspaceSettings = WorkspaceSettings::default(), any("a table");
        /// How many runs there are and how they go.
        runs: RunSettings = RunSettings::default(), any("a table");
        /// What is kept over a restart, and where.
        state: StateSettings = StateSettings::default(), any("a table");
        /// How the projects share the mesh.
        queue: QueueSettings = QueueSettings::default(), any("a table");
        /// The agent nodes.
        nodes: NodeSettings = NodeSettings::default(), any("a table");
        /// The capabilities that each stage of a run requires.
        stages: StageSettings = StageSettings::default(), any("a table");
        /// Where the linters come from.
        toolchain: ToolchainSettings = ToolchainSettings::default(), any("a table");
        /// What one linter process may use, everything it starts included.
        limits: LimitSettings = LimitSettings::default(), any("a table");
        /// When alerts are raised, and who is told of them.
        alerts: AlertSettings = AlertSettings::default(), any("a table");
        /// Names for the interpreters whose installed packages mypy and pylint see; requests choose one by name.
        environments: BTreeMap<String, PathBuf> = BTreeMap::new(), environments::rule();
        /// Severities that replace the catalogue's, by `tool:code` or `tool:prefix*`, for example
        /// `"pylint:C0301" = "HIGH"`.
        severity: BTreeMap<String, Severity> = BTreeMap::new(), environments::severity_rule();
        /// What `lintmesh lint` does when no flag says otherwise.
        lint: LintSettings = LintSettings::default(), any("a table");
    }
}

/// What [`load`] found.
#[derive(Debug, Clone, PartialEq)]
pub struct Loaded {
    /// The settings in force.
    pub settings: Settings,
    /// The files they were read from, weakest first.
    pub files: Vec<PathBuf>,
    /// What the user should know although it is no error.
    pub warnings: Vec<String>,
}

/// Why there are no settings. All are for the user to fix.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum SettingsError {
    /// A file cannot be read, or is not TOML.
    #[error("cannot read settings from {}: {reason}", path.display())]
    File {
        /// The file.
        path: PathBuf,
        /// The reason; never a part of the file, which may hold secrets.
        reason: String,
    },
    /// Some settings are unknown or not valid; all of them are listed.
    #[error("{}", .0.iter().map(ToString::to_string).collect::<Vec<_>>().join("\n"))]
    Invalid(Vec<Problem>),
}

/// Reads, merges and checks all settings. Blocks on reading the files, and on looking at those they name.
pub fn load(sources: &Sources) -> Result<Loaded, SettingsError> {
    let mut reader = Reader::default();
    let merged = sources::merge(sources, &mut reader)?;
    let at = At { key: "", allowed: "a table" };
    let settings = Settings::read(&merged.values, &at, &mut reader).unwrap_or_default();
    check::relations(&settings, &mut reader);
    if reader.problems.is_empty() {
        Ok(Loaded { settings, files: merged.files, warnings: merged.warnings })
    } else {
        Err(SettingsError::Invalid(reader.problems))
    }
}

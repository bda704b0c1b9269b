//! Makes the linters of this machine available: installs them, or finds what is installed.
//!
//! Tools are started by their console script, not by `python -m`: the latter puts the working directory,
//! somebody's tree, in front of the module path, and the former is what a user runs by hand.

mod child;
mod failure;
mod lock;
mod managed;
mod marker;
mod probe;

use std::ffi::OsString;
use std::fmt;
use std::path::{Path, PathBuf};
use std::time::Duration;

use crate::linters::toolchain::{ToolBinary, Toolchain, ToolchainMode};
use crate::types::{Digest, ToolName};

/// Raised when an adapter turns the same output into other diagnostics; part of every toolchain's id.
pub const ADAPTER_VERSION: u32 = 1;

/// The tools of a toolchain: the names of their console scripts and of their packages.
const TOOLS: [&str; 5] = ["bandit", "flake8", "mypy", "pylint", "ruff"];

const INSTALL_DEADLINE: Duration = Duration::from_secs(600);

/// Where the user wants the tools from.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum ToolchainChoice {
    /// Pinned versions, installed into the cache on first use.
    #[default]
    Managed,
    /// Whatever `PATH` holds.
    System,
    /// This virtual environment.
    Environment(PathBuf),
}

impl From<&std::ffi::OsStr> for ToolchainChoice {
    /// The form of the command line: `managed`, `system`, or a path.
    fn from(text: &std::ffi::OsStr) -> Self {
        match text.to_str() {
            Some("managed") => Self::Managed,
            Some("system") => Self::System,
            _ => Self::Environment(text.into()),
        }
    }
}

/// What provisioning is doing, for one line on a terminal.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Progress {
    /// Another process installs the same toolchain or one beside it.
    Waiting,
    /// The tools are being installed.
    Installing {
        /// How many packages at most.
        packages: usize,
        /// `uv` or `pip`.
        installer: &'static str,
    },
    /// They are installed.
    Installed {
        /// How long it took.
        elapsed: Duration,
    },
}

impl fmt::Display for Progress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Waiting => f.write_str("waiting for another process that installs the linters"),
            Self::Installing { packages, installer } => {
                write!(f, "installing the linters with {installer}, once ({packages} packages)")
            }
            Self::Installed { elapsed } => {
                write!(f, "installed the linters in {:.1} s", elapsed.as_secs_f64())
            }
        }
    }
}

/// Why there is no toolchain.
#[derive(Debug, thiserror::Error)]
pub enum ProvisionError {
    /// The path is not a virtual environment.
    #[error(
        "toolchain {} is not a virtual environment: {reason}; make one with `python3 -m venv`, or use `managed` or `system`",
        path.display()
    )]
    NotAnEnvironment {
        /// What the user named.
        path: PathBuf,
        /// What is missing.
        reason: String,
    },
    /// No Python that the managed tools run on.
    #[error(
        "the managed toolchain needs Python {} or newer and found {found}; install one, or use `--toolchain system` or `--toolchain PATH-TO-VENV`",
        oldest_python()
    )]
    NoPython {
        /// What was found instead.
        found: String,
    },
    /// A package could not be downloaded.
    #[error(
        "cannot get {package} for the managed toolchain ({detail}); allow access to a Python package index, or use `--toolchain system` or `--toolchain PATH-TO-VENV`"
    )]
    Unavailable {
        /// Name and pinned version.
        package: String,
        /// The installer's words.
        detail: String,
    },
    /// The installer failed for another reason.
    #[error(
        "{installer} could not install the managed toolchain: {detail}; mend that, or use `--toolchain system` or `--toolchain PATH-TO-VENV`"
    )]
    Install {
        /// Which.
        installer: &'static str,
        /// Its words.
        detail: String,
    },
    /// The installation, or waiting for another one, took too long.
    #[error(
        "the managed toolchain was not installed within {} s ({what}); try again, or use `--toolchain system` or `--toolchain PATH-TO-VENV`",
        deadline.as_secs()
    )]
    Deadline {
        /// What it was waiting for.
        what: &'static str,
        /// The deadline.
        deadline: Duration,
    },
    /// The cache cannot be used.
    #[error("cannot use the cache folder {}: {source}; name another one or make it writable", path.display())]
    Cache {
        /// The file or folder.
        path: PathBuf,
        /// The reason.
        source: std::io::Error,
    },
}

fn oldest_python() -> String {
    let (major, minor) = lock::OLDEST_PYTHON;
    format!("{major}.{minor}")
}

/// What provisioning takes from its surroundings.
#[derive(Debug, Clone)]
pub struct Host {
    /// Where programs are looked up.
    pub path: OsString,
    /// Variables that installers get on top of this process's own, for example the address of an index.
    pub installer_environment: Vec<(OsString, OsString)>,
    /// How long an installation, and waiting for another one, may take.
    pub install_deadline: Duration,
}

impl Host {
    /// This process's own surroundings, with ten minutes for an installation.
    pub fn current() -> Self {
        Self {
            path: std::env::var_os("PATH").unwrap_or_default(),
            installer_environment: Vec::new(),
            install_deadline: INSTALL_DEADLINE,
        }
    }
}

/// Provides the toolchain. Blocks: for minutes when the managed one is installed for the first time, for
/// well under 5 ms when it is there (no process is started then).
///
/// Single tools that cannot be run are no error but [`ToolBinary::Missing`].
///
/// # Errors
/// See [`ProvisionError`]; an interrupted or failed installation is redone by the next call.
pub fn provision(
    choice: ToolchainChoice,
    cache_dir: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Toolchain, ProvisionError> {
    provision_on(&Host::current(), choice, cache_dir, progress)
}

/// As [`provision`], with surroundings of the caller's choice.
///
/// # Errors
/// See [`ProvisionError`].
pub fn provision_on(
    host: &Host,
    choice: ToolchainChoice,
    cache_dir: &Path,
    progress: &mut dyn FnMut(Progress),
) -> Result<Toolchain, ProvisionError> {
    match choice {
        ToolchainChoice::Managed => managed::provision(host, cache_dir, progress),
        ToolchainChoice::System => {
            Ok(found(ToolchainMode::System, |tool| {
                probe::look_up(tool, &host.path).ok_or_else(|| {
                format!("no `{tool}` on PATH; install it, or use the managed toolchain (`--toolchain managed`)")
            })
            }))
        }
        ToolchainChoice::Environment(path) => {
            let folder = environment_folder(&path)?;
            Ok(found(ToolchainMode::Environment, |tool| {
                let program = folder.join("bin").join(tool);
                if probe::is_executable(&program) {
                    return Ok(program);
                }
                Err(format!(
                    "no program {}; install it with `{}/bin/python -m pip install {tool}`",
                    program.display(),
                    folder.display()
                ))
            }))
        }
    }
}

/// The environment's absolute path, since tools run in another folder than this process.
fn environment_folder(path: &Path) -> Result<PathBuf, ProvisionError> {
    let refused = |reason: String| ProvisionError::NotAnEnvironment { path: path.into(), reason };
    let folder = std::path::absolute(path).map_err(|error| refused(error.to_string()))?;
    if !folder.is_dir() {
        return Err(refused("there is no such folder".into()));
    }
    for part in ["pyvenv.cfg", "bin/python"] {
        if !folder.join(part).exists() {
            return Err(refused(format!("it has no {part}")));
        }
    }
    Ok(folder)
}

fn found(mode: ToolchainMode, find: impl Fn(&str) -> Result<PathBuf, String>) -> Toolchain {
    let answers = probe::ask_all(&TOOLS, find);
    let mut contents = String::new();
    for (tool, answer) in &answers {
        if let ToolBinary::Present { version, .. } = answer {
            contents.push_str(&format!("{tool}=={version}\n"));
        }
    }
    toolchain(toolchain_id(&mode, &contents), mode, answers)
}

/// Equal for equal tools, adapters and mode on the same kind of machine, and for nothing else.
fn toolchain_id(mode: &ToolchainMode, contents: &str) -> Digest {
    let (os, architecture) = (std::env::consts::OS, std::env::consts::ARCH);
    Digest::of(format!("toolchain\n{mode:?}\n{ADAPTER_VERSION}\n{os}\n{architecture}\n{contents}").as_bytes())
}

fn toolchain<'a>(
    id: Digest,
    mode: ToolchainMode,
    tools: impl IntoIterator<Item = (&'a str, ToolBinary)>,
) -> Toolchain {
    let named = tools.into_iter().filter_map(|(tool, binary)| Some((ToolName::new(tool).ok()?, binary)));
    Toolchain { id, mode, tools: named.collect() }
}

#[cfg(test)]
mod tests;

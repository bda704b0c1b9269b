//! Which linters a command uses, and what they may use.

use std::path::PathBuf;

use super::error::UsageError;
use crate::config::{self, Settings};
use crate::linters::process::Limits;
use crate::linters::toolchain::{ToolBinary, Toolchain};
use crate::node::provision::{ToolchainChoice, provision};

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

/// The interpreter that the linters run on, for example `CPython 3.11.2`, as their virtual environment tells; it tells
/// nothing outside of one.
pub(super) fn interpreter(toolchain: &Toolchain) -> String {
    let programs = toolchain.tools.values().filter_map(|binary| match binary {
        ToolBinary::Present { program, .. } => Some(program),
        ToolBinary::Missing { .. } => None,
    });
    let mut described = programs
        .filter_map(|program| program.parent()?.parent())
        .filter_map(|folder| std::fs::read_to_string(folder.join("pyvenv.cfg")).ok());
    described.find_map(|text| interpreter_of(&text)).unwrap_or_else(|| "Python".to_owned())
}

/// Reads `pyvenv.cfg`: venv writes `version`, uv and virtualenv write `version_info`.
fn interpreter_of(pyvenv: &str) -> Option<String> {
    let value = |wanted: &str| {
        let mut pairs = pyvenv.lines().filter_map(|line| line.split_once('='));
        pairs.find(|(key, _)| key.trim() == wanted).map(|(_, value)| value.trim().to_owned())
    };
    let version = value("version").or_else(|| value("version_info"))?;
    Some(format!("{} {version}", value("implementation").as_deref().unwrap_or("CPython")))
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
pub(super) fn cache_dir(settings: &Settings) -> Result<PathBuf, UsageError> {
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_interpreter_is_read_from_what_each_installer_writes() {
        let venv = "home = /usr/bin\ninclude-system-site-packages = false\nversion = 3.11.2\n";
        assert_eq!(interpreter_of(venv).as_deref(), Some("CPython 3.11.2"));
        let uv = "home = /usr/bin\nimplementation = PyPy\nuv = 0.9\nversion_info = 3.11.13\n";
        assert_eq!(interpreter_of(uv).as_deref(), Some("PyPy 3.11.13"));
        assert_eq!(interpreter_of("home = /usr/bin\n"), None);
    }
}

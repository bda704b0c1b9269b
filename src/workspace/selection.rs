//! Which names matter in a tree: what is linted, what linters read beside it, and what is passed over.

/// What a file is to a run.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Role {
    /// Python source: linted if selected, else read by mypy and pylint when others import it.
    Source,
    /// Type information that mypy reads: stubs and their marker.
    Typing,
    /// Configuration of a tool, by its well-known name.
    Configuration,
    /// Possibly configuration: a file that another one may name, for example by ruff's `extend`.
    OtherConfiguration,
}

/// The names under which the five tools look for their configuration.
pub(super) const CONFIGURATION: [&str; 14] = [
    ".bandit",
    ".flake8",
    ".mypy.ini",
    ".pylintrc",
    ".pylintrc.toml",
    ".ruff.toml",
    "bandit.yaml",
    "mypy.ini",
    "pylintrc",
    "pylintrc.toml",
    "pyproject.toml",
    "ruff.toml",
    "setup.cfg",
    "tox.ini",
];

/// [`Role::OtherConfiguration`] larger than this is data, not configuration.
pub(super) const MAX_OTHER_CONFIGURATION_BYTES: u64 = 1024 * 1024;

impl Role {
    /// The role of a file by its name; none if no linter reads it.
    pub(super) fn of(name: &str) -> Option<Role> {
        if CONFIGURATION.contains(&name) {
            return Some(Role::Configuration);
        }
        if name == "py.typed" {
            return Some(Role::Typing);
        }
        match name.rsplit_once('.')?.1 {
            "py" => Some(Role::Source),
            "pyi" => Some(Role::Typing),
            "toml" | "cfg" | "ini" => Some(Role::OtherConfiguration),
            _ => None,
        }
    }
}

/// Whether a folder is passed over for its name: hidden ones, and those that hold installed or generated files.
pub(super) fn is_skipped_folder(name: &str) -> bool {
    const NAMES: [&str; 6] =
        ["__pycache__", "__pypackages__", "_build", "buck-out", "node_modules", "site-packages"];
    name.starts_with('.') || NAMES.contains(&name)
}

/// Whether a folder of this name holds build results unless it is a Python package.
pub(super) fn is_build_folder(name: &str) -> bool {
    matches!(name, "build" | "dist")
}

/// Files that mark the folder that holds them as a virtual environment (PEP 405, conda).
pub(super) const ENVIRONMENT_MARKERS: [&str; 2] = ["pyvenv.cfg", "conda-meta"];

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn roles_go_by_name() {
        for (name, role) in [
            ("a.py", Some(Role::Source)),
            (".hidden.py", Some(Role::Source)),
            ("-x.py", Some(Role::Source)),
            ("a.pyi", Some(Role::Typing)),
            ("py.typed", Some(Role::Typing)),
            (".flake8", Some(Role::Configuration)),
            ("base.toml", Some(Role::OtherConfiguration)),
            ("py", None),
            ("a.pyc", None),
            ("README.md", None),
        ] {
            assert_eq!(Role::of(name), role, "{name}");
        }
    }

    #[test]
    fn folders_of_other_peoples_files_are_skipped_by_name() {
        for name in [".git", ".venv", ".tox", "node_modules", "__pycache__", "site-packages"] {
            assert!(is_skipped_folder(name), "{name}");
        }
        for name in ["src", "build", "venv", "tests"] {
            assert!(!is_skipped_folder(name), "{name}");
        }
    }
}

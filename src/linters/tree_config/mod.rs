//! Which configuration files of a tree matter, and how to look into them.
//!
//! A tool is told its file explicitly, chosen here by the tool's own precedence as if it were started in the root
//! of the tree; so parent folders and the user's home never take part.

mod ini;

use std::collections::BTreeMap;

pub(crate) use ini::Ini;

use crate::types::{ToolError, ToolErrorKind, TreePath};

/// The configuration files of a tree with their bytes.
pub type ConfigurationFiles = BTreeMap<TreePath, Vec<u8>>;

/// Read by the tools in the root of the tree only.
const ROOT_NAMES: [&str; 11] = [
    ".bandit",
    ".flake8",
    ".mypy.ini",
    ".pylintrc",
    ".pylintrc.toml",
    "mypy.ini",
    "pylintrc",
    "pylintrc.toml",
    "setup.cfg",
    "tox.ini",
    "pyproject.toml",
];

/// Read by ruff in every folder, for the files beneath it; a folder's first wins.
pub(crate) const RUFF_NAMES: [&str; 3] = [".ruff.toml", "ruff.toml", "pyproject.toml"];

/// Whether PLAN needs this file's bytes.
pub fn is_configuration(path: &TreePath) -> bool {
    RUFF_NAMES.contains(&path.file_name()) || ROOT_NAMES.contains(&path.as_str())
}

/// The text of a file in the root of the tree, without a byte order mark.
pub(crate) fn root_text<'a>(files: &'a ConfigurationFiles, name: &str) -> Option<Text<'a>> {
    let bytes = files.iter().find(|(path, _)| path.as_str() == name).map(|(_, bytes)| bytes)?;
    Some(match std::str::from_utf8(bytes) {
        Ok(text) => Text::Readable(text.strip_prefix('\u{feff}').unwrap_or(text)),
        Err(_) => Text::NotUtf8,
    })
}

/// A configuration file's text.
#[derive(Debug, Clone, Copy)]
pub(crate) enum Text<'a> {
    Readable(&'a str),
    NotUtf8,
}

/// What a look into a configuration file showed.
#[derive(Debug)]
pub(crate) enum Content<T> {
    Parsed(T),
    /// The tool is given the file anyway, so that the user sees the tool's own message.
    Broken(String),
}

/// Reads an INI file.
pub(crate) fn ini(text: Text<'_>, inline_comments: bool) -> Content<Ini> {
    match text {
        Text::NotUtf8 => Content::Broken(String::new()),
        Text::Readable(text) => match Ini::parse(text, inline_comments) {
            Ok(parsed) => Content::Parsed(parsed),
            Err(_) => Content::Broken(text.to_owned()),
        },
    }
}

/// Reads a TOML file.
pub(crate) fn toml(text: Text<'_>) -> Content<toml::Table> {
    match text {
        Text::NotUtf8 => Content::Broken(String::new()),
        Text::Readable(text) => match text.parse::<toml::Table>() {
            Ok(parsed) => Content::Parsed(parsed),
            Err(_) => Content::Broken(text.to_owned()),
        },
    }
}

/// `[tool.NAME]` of a parsed TOML file.
pub(crate) fn tool_table<'a>(table: &'a toml::Table, name: &str) -> Option<&'a toml::Value> {
    table.get("tool")?.get(name)
}

/// The refusal of a tool whose configuration would run code of the tree.
pub(crate) fn tree_code_refused(file: &str, section: &str, key: &str) -> ToolError {
    ToolError {
        kind: ToolErrorKind::TreeCodeRefused,
        message: format!(
            "`{file}`, section [{section}], key `{key}` would run code of the tree; \
             remove it, or allow code of the tree (allow_tree_code) if you trust the tree"
        ),
    }
}

/// A key in a file that cannot be parsed here might still be understood by the tool: when in doubt, it is there.
pub(crate) fn may_name_a_key(broken: &str, keys: &[&'static str]) -> Option<&'static str> {
    let text = broken.to_lowercase();
    let hidden = text.contains("\\u") || text.contains("\\x") || text.is_empty();
    keys.iter().find(|key| hidden || text.contains(**key)).copied()
}

#[cfg(test)]
mod tests;

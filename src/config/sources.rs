//! Where settings come from, and how the sources are merged.

use std::io;
use std::path::{Path, PathBuf};

use ::config::{Config, ConfigError, Map, Source, Value, ValueKind};

use super::SettingsError;
use super::reader::Reader;

/// The name under which a settings file is looked for.
pub const FILE_NAME: &str = "lintmesh.toml";

/// What the names of environment variables with settings start with: `LINTMESH__MESH__HEARTBEAT_INTERVAL`.
pub const PREFIX: &str = "LINTMESH__";

/// The sections that a project's own pyproject.toml may set. The others decide what runs on the machine and who may
/// reach it, which is not for a tree to say.
const PYPROJECT_SECTIONS: [&str; 2] = ["lint", "severity"];
/// What it may not set in them: a tree must not choose where sources and tokens are sent, nor which program is run.
const NOT_IN_PYPROJECT: [&str; 2] = ["server", "python"];
/// What it may set in `lint`, for the error that refuses the rest.
const PYPROJECT_LINT: [&str; 5] = ["exclude", "fail_on", "format", "options", "select_tools"];

const PYPROJECT: &str = "pyproject.toml";

/// What to read settings from, beside the defaults. Later ones win: pyproject.toml, file, environment, flags.
#[derive(Debug, Clone, Default)]
pub struct Sources {
    /// Where `lintmesh.toml` and pyproject.toml are looked for; the first folder that has one counts.
    pub directories: Vec<PathBuf>,
    /// The file that the user named; then none is looked for. One called pyproject.toml is read as such.
    pub file: Option<PathBuf>,
    /// Whether `[tool.lintmesh]` in pyproject.toml counts, as it does for the client.
    pub pyproject: bool,
    /// Environment variables; those without [`PREFIX`] are ignored.
    pub environment: Vec<(String, String)>,
    /// What the command line says.
    pub overrides: Overrides,
}

/// Settings from the command line.
#[derive(Debug, Clone, Default)]
pub struct Overrides(Vec<(String, String, String)>);

impl Overrides {
    /// Sets `key` (`section.name`) to what was given for `flag`: for lists a TOML list, or words with commas.
    pub fn set(&mut self, flag: &str, key: &str, value: impl Into<String>) {
        self.0.push((format!("flag {flag}"), key.into(), value.into()));
    }
}

/// The variables of this process that are settings.
pub fn process_environment() -> Vec<(String, String)> {
    let all = std::env::vars_os();
    all.map(|(name, value)| (name.to_string_lossy().into_owned(), value.to_string_lossy().into_owned()))
        .filter(|(name, _)| name.starts_with(PREFIX))
        .collect()
}

pub(super) struct Merged {
    pub(super) values: Value,
    pub(super) files: Vec<PathBuf>,
    pub(super) warnings: Vec<String>,
}

/// One source, each value with its origin.
#[derive(Debug, Clone, Default)]
struct Layer(Map<String, Value>);

impl Source for Layer {
    fn clone_into_box(&self) -> Box<dyn Source + Send + Sync> {
        Box::new(self.clone())
    }

    fn collect(&self) -> Result<Map<String, Value>, ConfigError> {
        Ok(self.0.clone())
    }
}

pub(super) fn merge(sources: &Sources, reader: &mut Reader) -> Result<Merged, SettingsError> {
    let mut builder = Config::builder();
    let (mut files, mut warnings) = (Vec::new(), Vec::new());
    let named_pyproject = sources.file.as_ref().filter(|file| file.ends_with(PYPROJECT));
    if let Some(file) = named_pyproject {
        builder = builder.add_source(pyproject(file, &parse(file, &read(file)?)?, reader));
        files.push(file.clone());
    } else if let Some(file) = sources.file.is_none().then(|| first(sources, PYPROJECT)).flatten()
        && sources.pyproject
    {
        // Tools will say what is wrong with a broken pyproject.toml; here it only means that it has no settings.
        match read(&file).and_then(|text| parse(&file, &text)) {
            Ok(table) => {
                let layer = pyproject(&file, &table, reader);
                if !layer.0.is_empty() {
                    builder = builder.add_source(layer);
                    files.push(file);
                }
            }
            Err(error) => warnings.push(error.to_string()),
        }
    }
    let own = if named_pyproject.is_some() { None } else { sources.file.clone() };
    let looked_up = sources.file.is_none().then(|| first(sources, FILE_NAME)).flatten();
    if let Some(file) = own.or(looked_up) {
        builder = builder.add_source(Layer(converted(&parse(&file, &read(&file)?)?, &origin_of(&file))));
        files.push(file);
    }
    let config = builder
        .add_source(environment(&sources.environment))
        .add_source(flags(&sources.overrides))
        .build()
        .map_err(|error| SettingsError::File { path: FILE_NAME.into(), reason: error.to_string() })?;
    Ok(Merged { values: config.cache, files, warnings })
}

fn first(sources: &Sources, name: &str) -> Option<PathBuf> {
    sources.directories.iter().map(|folder| folder.join(name)).find(|file| file.is_file())
}

fn origin_of(file: &Path) -> String {
    file.display().to_string()
}

fn read(file: &Path) -> Result<String, SettingsError> {
    std::fs::read_to_string(file).map_err(|error| {
        let reason = match error.kind() {
            io::ErrorKind::InvalidData => "it is not UTF-8".into(),
            _ => error.to_string(),
        };
        SettingsError::File { path: file.to_owned(), reason }
    })
}

fn parse(file: &Path, text: &str) -> Result<toml::Table, SettingsError> {
    text.parse().map_err(|error: toml::de::Error| {
        // The error's own text would quote the line, which may hold a secret.
        let line =
            error.span().map(|span| text.as_bytes()[..span.start.min(text.len())].split(|b| *b == b'\n'));
        let line = line.map_or_else(String::new, |lines| format!("line {}: ", lines.count()));
        SettingsError::File { path: file.to_owned(), reason: format!("{line}{}", error.message()) }
    })
}

fn pyproject(file: &Path, table: &toml::Table, reader: &mut Reader) -> Layer {
    let settings = table.get("tool").and_then(|tool| tool.get("lintmesh")).and_then(toml::Value::as_table);
    let Some(settings) = settings else { return Layer::default() };
    let (taken, refused): (Map<_, _>, Map<_, _>) = converted(settings, &origin_of(file))
        .into_iter()
        .partition(|(section, _)| PYPROJECT_SECTIONS.contains(&section.as_str()));
    reader.unknown(refused.into_iter().collect(), "tool.lintmesh", &PYPROJECT_SECTIONS);
    Layer(taken.into_iter().map(|(section, value)| (section, trusted(value, reader))).collect())
}

/// The section without what a tree may not say.
fn trusted(section: Value, reader: &mut Reader) -> Value {
    let origin = section.origin().map(str::to_owned);
    let ValueKind::Table(keys) = section.kind else { return section };
    let (refused, kept): (Map<_, _>, Map<_, _>) =
        keys.into_iter().partition(|(key, _)| NOT_IN_PYPROJECT.contains(&key.as_str()));
    reader.unknown(refused.into_iter().collect(), "tool.lintmesh.lint", &PYPROJECT_LINT);
    Value::new(origin.as_ref(), ValueKind::Table(kept))
}

fn converted(table: &toml::Table, origin: &str) -> Map<String, Value> {
    table.iter().map(|(name, value)| (name.clone(), convert(value, origin))).collect()
}

fn convert(value: &toml::Value, origin: &str) -> Value {
    let kind = match value {
        toml::Value::String(text) => ValueKind::String(text.clone()),
        toml::Value::Integer(number) => ValueKind::I64(*number),
        toml::Value::Float(number) => ValueKind::Float(*number),
        toml::Value::Boolean(yes) => ValueKind::Boolean(*yes),
        toml::Value::Datetime(time) => ValueKind::String(time.to_string()),
        toml::Value::Array(all) => ValueKind::Array(all.iter().map(|value| convert(value, origin)).collect()),
        toml::Value::Table(table) => ValueKind::Table(converted(table, origin)),
    };
    Value::new(Some(&origin.to_owned()), kind)
}

const VARIABLE: &str = "environment variable ";
const FLAG: &str = "flag ";

/// Whether the value is from a source that has nothing but text.
pub(super) fn is_text(value: &Value) -> bool {
    value.origin().is_some_and(|origin| origin.starts_with(VARIABLE) || origin.starts_with(FLAG))
}

/// The value that the text stands for in TOML.
pub(super) fn toml_literal(text: &str, origin: Option<&str>) -> Option<Value> {
    let mut table: toml::Table = format!("value = {text}").parse().ok()?;
    let value = table.remove("value").filter(|_| table.is_empty())?;
    Some(convert(&value, origin.unwrap_or_default()))
}

fn environment(variables: &[(String, String)]) -> Layer {
    let mut variables: Vec<_> = variables.iter().collect();
    // So that the result does not depend on the order in which the system lists them.
    variables.sort();
    let mut layer = Layer::default();
    for (name, text) in variables {
        if let Some(key) = name.strip_prefix(PREFIX) {
            let key = key.to_lowercase();
            let path: Vec<_> = key.split("__").collect();
            insert(&mut layer.0, &path, text, &format!("{VARIABLE}{name}"));
        }
    }
    layer
}

fn flags(overrides: &Overrides) -> Layer {
    let mut layer = Layer::default();
    for (origin, key, text) in &overrides.0 {
        let path: Vec<_> = key.split('.').collect();
        insert(&mut layer.0, &path, text, origin);
    }
    layer
}

/// Enters a text at a path of nested tables. A table written as text is taken as a table, so that it is merged.
fn insert(tables: &mut Map<String, Value>, path: &[&str], text: &str, origin: &str) {
    let Some((name, rest)) = path.split_first() else { return };
    if rest.is_empty() {
        let table = Some(text).filter(|text| text.trim_start().starts_with('{'));
        let value = table.and_then(|text| toml_literal(text, Some(origin)));
        let value = value.unwrap_or_else(|| Value::new(Some(&origin.to_owned()), text));
        tables.insert((*name).to_owned(), value);
        return;
    }
    let entry =
        tables.entry((*name).to_owned()).or_insert_with(|| Value::new(None, Map::<String, Value>::new()));
    if !matches!(entry.kind, ValueKind::Table(_)) {
        *entry = Value::new(None, Map::<String, Value>::new());
    }
    if let ValueKind::Table(inner) = &mut entry.kind {
        insert(inner, rest, text, origin);
    }
}

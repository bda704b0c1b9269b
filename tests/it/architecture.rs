//! Dependencies between modules point downward only, the core and the vocabulary stay pure, and files stay small.

use std::fs;
use std::path::{Path, PathBuf};

/// What a module may name of this crate; the longest matching module rules. `cli` is the top and may name all.
const MAY_USE: &[(&str, &[&str])] = &[
    ("types", &[]),
    ("proto", &[]),
    ("status", &[]),
    ("telemetry", &[]),
    ("store", &["types"]),
    ("coordinator", &["types"]),
    ("engine", &["coordinator", "store", "types"]),
    ("linters", &["types"]),
    ("workspace", &["types"]),
    ("config", &["types"]),
    // The breaker's logic is one state machine for layers and scheduler alike.
    ("middleware", &["coordinator::breaker", "status", "types"]),
    // Connections, as coordinator and nodes take them.
    ("transport", &["middleware"]),
    ("wire", &["coordinator", "engine", "proto", "status", "types"]),
    // The part that both ends of a session speak, so nothing of the coordinator.
    ("wire::peer", PEER_MAY_USE),
    ("wire::specialist", PEER_MAY_USE),
    ("wire::time", PEER_MAY_USE),
    (
        "node",
        &[
            "linters",
            "middleware",
            "proto",
            "status",
            "transport",
            "types",
            "wire::peer",
            "wire::specialist",
            "wire::time",
            "workspace",
        ],
    ),
    (
        "server",
        &[
            "config",
            "coordinator",
            "engine",
            "linters::adapter",
            "linters::adapters",
            "linters::report",
            "linters::toolchain::ToolchainMode",
            "linters::validate_options",
            "middleware",
            "proto",
            "status",
            "store",
            "transport",
            "types",
            "wire",
            "workspace",
        ],
    ),
    (
        "cli",
        &[
            "config",
            "coordinator",
            "engine",
            "linters",
            "middleware",
            "node",
            "proto",
            "server",
            "status",
            "store",
            "telemetry",
            "transport",
            "types",
            "wire",
            "workspace",
        ],
    ),
];

const PEER_MAY_USE: &[&str] = &["proto", "status", "types", "wire::time"];

/// Clocks, randomness, threads, the outside world, and what carries bytes.
const IMPURE: &[&str] = &[
    "getrandom::",
    "Instant::now",
    "nix::",
    "prost::",
    "prost_types::",
    "rand::",
    "std::env",
    "std::fs",
    "std::net",
    "std::process",
    "std::thread",
    "SystemTime::now",
    "tokio::",
    "tokio_util::",
    "tonic::",
    "tower::",
];

/// Texts that code of a module may not have, and the parts of the module that may.
const MAY_NOT_HAVE: &[(&str, &[&str], &[&str])] = &[
    ("types", IMPURE, &[]),
    ("coordinator", IMPURE, &[]),
    // Only the runner starts programs; LINT beside it reads the files it is about and writes the lists of their names.
    (
        "linters",
        &["getrandom::", "std::net", "std::process", "tokio::net", "tokio::process"],
        &["linters::process"],
    ),
    ("linters", &["std::fs", "tokio::fs"], &["linters::process", "linters::lint"]),
];

/// Texts that must not be committed, in two parts so that this file has none of them.
const UNFINISHED: &[(&str, &str)] =
    &[("TO", "DO"), ("FIX", "ME"), ("db", "g!("), ("to", "do!("), ("unimple", "mented!(")];

const MOST_LINES: usize = 400;

struct File {
    path: PathBuf,
    text: String,
}

fn files(below: &str) -> Vec<File> {
    let mut found = Vec::new();
    let mut folders = vec![Path::new(env!("CARGO_MANIFEST_DIR")).join(below)];
    while let Some(folder) = folders.pop() {
        for entry in fs::read_dir(&folder).expect("a folder of the crate") {
            let path = entry.expect("an entry").path();
            if path.is_dir() {
                folders.push(path);
            } else if path.extension().is_some_and(|extension| extension == "rs") {
                let text = fs::read_to_string(&path).expect("UTF-8");
                found.push(File { path, text });
            }
        }
    }
    found.sort_by(|one, other| one.path.cmp(&other.path));
    found
}

impl File {
    fn name(&self) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR"));
        self.path.strip_prefix(root).expect("a file of the crate").display().to_string()
    }

    /// `server::orders::tree` of `src/server/orders/tree.rs`; empty for the roots of the crate.
    fn module(&self) -> String {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).join("src");
        let inside = self.path.strip_prefix(root).expect("a file of src").with_extension("");
        let mut names: Vec<_> = inside.iter().map(|name| name.to_string_lossy().into_owned()).collect();
        names.pop_if(|name| ["mod", "lib", "main"].contains(&name.as_str()));
        names.join("::")
    }

    /// Numbered lines without comments.
    fn code(&self) -> impl Iterator<Item = (usize, &str)> {
        let uncommented = |line: &'_ str| line.find("//").unwrap_or(line.len());
        self.text.lines().enumerate().map(move |(index, line)| (index + 1, &line[..uncommented(line)]))
    }
}

fn is_within(module: &str, part: &str) -> bool {
    module.strip_prefix(part).is_some_and(|rest| rest.is_empty() || rest.starts_with("::"))
}

/// The paths of this crate that a line of a module names, from the root on: `types::NodeId` of `crate::types::NodeId`.
fn named(line: &str, module: &str) -> Vec<String> {
    let tail = |rest: &str| {
        let end = rest.find(|one: char| !(one.is_alphanumeric() || one == '_' || one == ':'));
        rest[..end.unwrap_or(rest.len())].trim_end_matches(':').to_owned()
    };
    let mut found = Vec::new();
    for rest in line.split("crate::").skip(1) {
        // `linters::{adapters, report::Format}` names two things.
        match rest.split_once("::{") {
            Some((module, group)) if module == tail(rest) => {
                let group = group.split_once('}').map_or(group, |(group, _)| group);
                let members = group.split(',').map(str::trim).filter(|member| !member.is_empty());
                found.extend(members.map(|member| format!("{module}::{}", tail(member))));
            }
            _ => found.push(tail(rest)),
        }
    }
    let mut rest = line;
    while let Some(start) = rest.find("super::") {
        rest = &rest[start..];
        let mut above: Vec<&str> = module.split("::").collect();
        while let Some(further) = rest.strip_prefix("super::") {
            above.pop();
            rest = further;
        }
        let tail = tail(rest);
        above.push(&tail);
        found.push(above.join("::").trim_end_matches(':').to_owned());
    }
    found
}

fn violations(module: &str, line: &str) -> Vec<String> {
    let rule = MAY_USE.iter().filter(|(part, _)| is_within(module, part)).max_by_key(|(part, _)| part.len());
    let Some((part, allowed)) = rule else {
        return vec![format!("module `{module}` has no row in MAY_USE")];
    };
    let forbidden = |path: &&String| !allowed.iter().chain([part]).any(|allowed| is_within(path, allowed));
    let named = named(line, module);
    let mut found: Vec<String> = named
        .iter()
        .filter(forbidden)
        .map(|path| match path.as_str() {
            "" => "names several modules in one group; write one path for each".to_owned(),
            path => format!("`{part}` may not use `{path}`; it may use {allowed:?}"),
        })
        .collect();
    for (part, texts, exempt) in MAY_NOT_HAVE {
        if is_within(module, part) && !exempt.iter().any(|exempt| is_within(module, exempt)) {
            let has = texts.iter().filter(|text| line.contains(**text));
            found.extend(has.map(|text| format!("`{part}` may not have `{text}`")));
        }
    }
    found
}

#[test]
fn modules_depend_downward_only() {
    let mut wrong = Vec::new();
    for file in files("src") {
        let module = file.module();
        // Tests may build worlds of their own.
        let is_test = module.split("::").any(|name| ["tests", "testing"].contains(&name));
        if module.is_empty() || is_test {
            continue;
        }
        for (number, line) in file.code() {
            // They end a file.
            if line.starts_with("#[cfg(test)]") {
                break;
            }
            let said = violations(&module, line);
            wrong.extend(said.into_iter().map(|text| format!("{}:{number}: {text}", file.name())));
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

#[test]
fn a_wrong_dependency_is_seen() {
    for (module, line) in [
        ("types::id", "use crate::coordinator::run::Run;"),
        ("store", "use super::engine::Handle;"),
        ("coordinator::runs", "use crate::{engine, types};"),
        ("coordinator::runs", "    let now = std::time::Instant::now();"),
        ("engine::watch", "    fn of(core: &super::super::server::Service) {"),
        ("node::session", "use crate::coordinator::input::Input;"),
        ("node::session", "use crate::wire::run;"),
        ("wire::peer", "use crate::wire::mesh;"),
        ("wire::peer", "use super::mesh;"),
        ("linters::ruff", "    std::process::Command::new(\"ruff\")"),
        ("linters::plan", "    let text = std::fs::read(path)?;"),
        ("server::events", "use crate::linters::process::run;"),
        ("server::orders", "use crate::linters::{adapters, process::run};"),
        ("dashboard", "use crate::types::NodeId;"),
    ] {
        assert!(!violations(module, line).is_empty(), "{module}: {line}");
    }
    for (module, line) in [
        ("types::id", "use super::digest::Digest;"),
        ("engine", "use crate::store::{Store, StoreError};"),
        ("middleware::breaker", "pub use crate::coordinator::breaker::State;"),
        ("node::session", "use crate::wire::peer::{Assignment, beat};"),
        ("wire::peer", "use crate::wire::time;"),
        ("server::orders::tree", "use super::super::service::Service;"),
        ("server::orders", "use crate::linters::{adapters, validate_options};"),
        ("linters::process::runner", "use tokio::process::Command;"),
        ("linters::lint", "    tokio::fs::write(&list, lines).await?;"),
    ] {
        assert_eq!(violations(module, line), [""; 0], "{module}: {line}");
    }
}

#[test]
fn files_are_short_and_finished() {
    let mut wrong = Vec::new();
    for file in files("src").into_iter().chain(files("tests")) {
        let lines = file.text.lines().count();
        if lines > MOST_LINES {
            wrong.push(format!("{}: {lines} lines, at most {MOST_LINES}: split it", file.name()));
        }
        for (number, line) in file.text.lines().enumerate() {
            let has = UNFINISHED.iter().filter(|(head, tail)| line.contains(&format!("{head}{tail}")));
            let said = has.map(|(head, tail)| format!("{}:{}: has {head}{tail}", file.name(), number + 1));
            wrong.extend(said);
        }
    }
    assert!(wrong.is_empty(), "{}", wrong.join("\n"));
}

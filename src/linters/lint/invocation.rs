//! The processes of a LINT task: arguments, environment, and lists of files that do not fit on a command line.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use super::{LintError, LintRequest, ProcessRunner};
use crate::linters::adapter::{Adapter, LongList, ProjectPython};
use crate::linters::process::{ProcessError, ProcessSpec};
use crate::linters::tree_config::RUFF_NAMES;
use crate::types::{ToolError, ToolErrorKind, TreePath};

/// POSIX systems take at least 128 KiB of arguments and environment together; the rest is for the shim's own.
const ARGUMENT_BYTES: usize = 96 * 1024;

/// A pointer per argument counts, too.
const PER_ARGUMENT: usize = 9;

/// A tool's program in the toolchain.
#[derive(Debug, Clone, Copy)]
pub(super) struct Program<'a> {
    pub(super) path: &'a Path,
    pub(super) prefix: &'a [String],
}

/// The interpreter of the project, with what the adapter wants to know about it; or why it cannot be asked.
pub(super) async fn project_python<R: ProcessRunner>(
    adapter: &dyn Adapter,
    request: &LintRequest<'_, R>,
) -> Result<Result<Option<ProjectPython>, ToolError>, LintError> {
    let Some(executable) = request.python else { return Ok(Ok(None)) };
    let mut python = ProjectPython { executable: executable.to_path_buf(), site_packages: Vec::new() };
    if !adapter.needs_site_packages() {
        return Ok(Ok(Some(python)));
    }
    let spec = ProcessSpec {
        program: executable.to_path_buf(),
        arguments: [
            "-I",
            "-c",
            "import json, sysconfig; print(json.dumps([sysconfig.get_path(n) for n in ('purelib', 'platlib')]))",
        ]
        .map(OsString::from)
        .to_vec(),
        environment: python_environment(),
        // Not the tree: nothing of it may take part in this answer.
        directory: request.scratch.to_path_buf(),
        scratch: request.scratch.to_path_buf(),
        limits: request.limits.clone(),
    };
    let refused = |words: &str| {
        let message =
            format!("cannot ask the project's interpreter where its packages are: {}", words.trim());
        Ok(Err(ToolError { kind: ToolErrorKind::Configuration, message }))
    };
    match request.runner.run(spec, request.cancel).await {
        Ok(finished) if let Some(signal) = finished.ended_from_outside() => {
            Err(LintError::EndedFromOutside { tool: "the project's interpreter", signal })
        }
        Ok(finished) => match serde_json::from_slice::<Vec<PathBuf>>(&finished.stdout) {
            Ok(mut paths) if finished.code == Some(0) => {
                paths.dedup();
                python.site_packages = paths;
                Ok(Ok(Some(python)))
            }
            _ => refused(&String::from_utf8_lossy(&finished.stderr)),
        },
        Err(ProcessError::Start { source, .. }) => refused(&source.to_string()),
        Err(ProcessError::Cancelled) => Err(LintError::Cancelled),
        Err(error @ ProcessError::Shim { .. }) => Err(LintError::Shim(error)),
    }
}

/// What all tools written in Python get: no bytecode beside the sources, UTF-8 whatever the locale, a fixed order of
/// sets, and no module of the tree in place of one of the tool's own.
fn python_environment() -> Vec<(String, OsString)> {
    [
        ("PYTHONDONTWRITEBYTECODE", "1"),
        ("PYTHONUTF8", "1"),
        ("PYTHONHASHSEED", "0"),
        ("PYTHONSAFEPATH", "1"),
        ("NO_COLOR", "1"),
    ]
    .map(|(name, value)| (name.to_owned(), value.into()))
    .to_vec()
}

/// The processes that lint the shard, in order.
pub(super) async fn invocations<R: ProcessRunner>(
    adapter: &dyn Adapter,
    program: Program<'_>,
    request: &LintRequest<'_, R>,
    python: Option<&ProjectPython>,
) -> Result<Vec<ProcessSpec>, LintError> {
    let mut base: Vec<OsString> = request.plan.arguments.iter().map(OsString::from).collect();
    let mut environment = python_environment();
    environment.extend(adapter.environment(request.scratch, request.cpu_slots));
    if let Some(python) = python {
        base.extend(adapter.project_arguments(python));
        if let Ok(joined) = std::env::join_paths(&python.site_packages)
            && adapter.needs_site_packages()
        {
            environment.push(("LINTMESH_SITE_PACKAGES".into(), joined));
        }
    }
    let spec = |program: &Path, arguments: Vec<OsString>| ProcessSpec {
        program: program.to_path_buf(),
        arguments,
        environment: environment.clone(),
        directory: request.root.to_path_buf(),
        scratch: request.scratch.to_path_buf(),
        limits: request.limits.clone(),
    };
    let plain = |base: &[OsString], files: Vec<OsString>| {
        let prefix = program.prefix.iter().map(OsString::from);
        spec(program.path, prefix.chain(base.iter().cloned()).chain(files).collect())
    };
    let mut specs = Vec::new();
    for (isolated, files) in groups(adapter, request).await {
        let mut base = base.clone();
        if isolated {
            base.push("--isolated".into());
        }
        let fixed: usize =
            base.iter().map(|argument| argument.len() + PER_ARGUMENT).sum::<usize>() + program_bytes(program);
        let chunks = chunks(&files, ARGUMENT_BYTES.saturating_sub(fixed));
        if chunks.len() <= 1 || adapter.long_list() == LongList::Split {
            specs.extend(chunks.into_iter().map(|chunk| plain(&base, chunk)));
            continue;
        }
        let list = request.scratch.join("files");
        match adapter.long_list() {
            LongList::ResponseFile => {
                // Python cuts the file at every kind of line break; names with one go on the command line.
                let (odd, even): (Vec<_>, Vec<_>) =
                    files.iter().partition(|path| has_line_break(path.as_str()));
                let lines: Vec<String> = even.iter().map(|path| format!("./{path}\n")).collect();
                tokio::fs::write(&list, lines.concat()).await?;
                let mut at = OsString::from("@");
                at.push(&list);
                let odd = odd.into_iter().map(argument_of).chain([at]).collect();
                specs.push(plain(&base, odd));
            }
            LongList::Driver(code) => {
                let paths: Vec<String> = files.iter().map(|path| format!("./{path}")).collect();
                tokio::fs::write(&list, paths.join("\0")).await?;
                let python = interpreter(program.path);
                let mut arguments: Vec<OsString> = vec!["-c".into(), code.into(), list.into_os_string()];
                arguments.extend(base);
                specs.push(spec(&python, arguments));
            }
            LongList::Split => {}
        }
    }
    Ok(specs)
}

fn program_bytes(program: Program<'_>) -> usize {
    let prefix: usize = program.prefix.iter().map(|argument| argument.len() + PER_ARGUMENT).sum();
    program.path.as_os_str().len() + prefix
}

/// The interpreter that a tool's script belongs to: the script's neighbour, or the program itself.
fn interpreter(program: &Path) -> PathBuf {
    let is_python =
        program.file_name().and_then(|name| name.to_str()).is_some_and(|name| name.starts_with("python"));
    if is_python { program.to_path_buf() } else { program.with_file_name("python") }
}

fn has_line_break(path: &str) -> bool {
    let breaks = ['\n', '\r', '\x0b', '\x0c', '\x1c', '\x1d', '\x1e', '\u{85}', '\u{2028}', '\u{2029}'];
    path.contains(breaks)
}

/// `./` keeps a file named like an option a file.
fn argument_of(path: &TreePath) -> OsString {
    format!("./{path}").into()
}

/// The files as arguments, cut so that each part fits.
fn chunks(files: &[TreePath], budget: usize) -> Vec<Vec<OsString>> {
    let mut chunks: Vec<Vec<OsString>> = Vec::new();
    let mut used = budget;
    for path in files {
        let argument = argument_of(path);
        let size = argument.len() + PER_ARGUMENT;
        if used + size > budget || chunks.is_empty() {
            chunks.push(Vec::new());
            used = 0;
        }
        used += size;
        if let Some(chunk) = chunks.last_mut() {
            chunk.push(argument);
        }
    }
    chunks
}

/// The files with configuration of the tree above them, and those without, which must not find any outside the tree.
async fn groups<R>(adapter: &dyn Adapter, request: &LintRequest<'_, R>) -> Vec<(bool, Vec<TreePath>)> {
    let files = &request.shard.files;
    let isolated = |argument: &String| argument == "--isolated";
    let (Some(configures), false) =
        (adapter.nested_configuration(), request.plan.arguments.iter().any(isolated))
    else {
        return vec![(false, files.clone())];
    };
    let mut known = std::collections::BTreeMap::new();
    let (mut with, mut without) = (Vec::new(), Vec::new());
    for path in files {
        let mut found = false;
        for folder in path.ancestors().chain([""]) {
            if !known.contains_key(folder) {
                let here = configured_here(&request.root.join(folder), configures).await;
                known.insert(folder.to_owned(), here);
            }
            found |= known.get(folder).copied().unwrap_or(false);
        }
        if found { with.push(path.clone()) } else { without.push(path.clone()) }
    }
    [(false, with), (true, without)].into_iter().filter(|(_, files)| !files.is_empty()).collect()
}

async fn configured_here(folder: &Path, configures: fn(&str, &[u8]) -> bool) -> bool {
    for name in RUFF_NAMES {
        if let Ok(bytes) = tokio::fs::read(folder.join(name)).await
            && configures(name, &bytes)
        {
            return true;
        }
    }
    false
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn chunks_hold_every_file_once_and_fit() {
        let files: Vec<_> =
            (0..5000).map(|n| TreePath::new(&format!("pkg/{n:0>40}.py")).expect("valid")).collect();
        let chunks = chunks(&files, 10_000);
        assert!(chunks.len() > 20);
        for chunk in &chunks {
            assert!(chunk.iter().map(|argument| argument.len() + PER_ARGUMENT).sum::<usize>() <= 10_000);
        }
        let all: Vec<_> = chunks.concat();
        assert_eq!(all, files.iter().map(argument_of).collect::<Vec<_>>());
    }

    #[test]
    fn the_driver_uses_the_tool_s_own_interpreter() {
        assert_eq!(interpreter(Path::new("/v/bin/pylint")), Path::new("/v/bin/python"));
        assert_eq!(interpreter(Path::new("/v/bin/python3.11")), Path::new("/v/bin/python3.11"));
    }
}

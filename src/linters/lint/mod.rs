//! The LINT stage: runs one linter over one shard and normalises what it says.

mod invocation;
mod place;
mod stand_in;

use std::future::Future;
use std::path::{Path, PathBuf};
use std::time::Duration;

use nix::sys::signal::Signal;
use tokio_util::sync::CancellationToken;

use self::invocation::{Program, invocations, project_python};
use self::place::{Cleaner, place};
use self::stand_in::{Next, StandIns};
use super::adapter::{Adapter, Output, Reading, adapter};
use super::process::{Exceeded, Finished, Limits, ProcessError, ProcessSpec};
use super::toolchain::{ToolBinary, Toolchain};
use crate::types::{LintOutput, RawDiagnostic, Shard, ToolError, ToolErrorKind, ToolPlan};

/// Bytes of a tool's error. It travels in events and answers, and some tools print without end.
const ERROR_BYTES: usize = 8 << 10;

/// Runs one process. The real one goes through the shim; tests feed recorded outputs.
pub trait ProcessRunner: Sync {
    /// Runs the process to its end, to a limit, or until cancelled.
    fn run(
        &self,
        spec: ProcessSpec,
        cancel: &CancellationToken,
    ) -> impl Future<Output = Result<Finished, ProcessError>> + Send;
}

/// One LINT task.
#[derive(Debug)]
pub struct LintRequest<'a, R> {
    /// The root of the tree; never written to.
    pub root: &'a Path,
    /// How the tool is run.
    pub plan: &'a ToolPlan,
    /// The files.
    pub shard: &'a Shard,
    /// The programs of this machine.
    pub toolchain: &'a Toolchain,
    /// The interpreter of the project's environment, if the run has one.
    pub python: Option<&'a Path>,
    /// An existing, empty folder of this task's own.
    pub scratch: &'a Path,
    /// For each process.
    pub limits: &'a Limits,
    /// How many threads a tool may use; at least 1.
    pub cpu_slots: u32,
    /// Starts the processes.
    pub runner: &'a R,
    /// Ends the task and its processes.
    pub cancel: &'a CancellationToken,
}

/// What a LINT task gives.
#[derive(Debug)]
pub struct Linted {
    /// The blob: canonical, equal on every machine.
    pub output: LintOutput,
    /// The program that ran; none if it is missing here.
    pub executable: Option<PathBuf>,
    /// Elapsed time of its processes, added up.
    pub wall: Duration,
    /// CPU time of its processes, added up.
    pub cpu: Duration,
}

/// Why a task has no answer. All of these are worth a retry on another node; what a tool does wrong is in the output.
#[derive(Debug, thiserror::Error)]
pub enum LintError {
    /// The caller cancelled.
    #[error("cancelled")]
    Cancelled,
    /// The shim broke.
    #[error(transparent)]
    Shim(ProcessError),
    /// Somebody ended the tool; what it had said by then is no answer.
    #[error("{tool} was ended from outside ({signal})")]
    EndedFromOutside {
        /// The tool, or what was run on its behalf.
        tool: &'static str,
        /// With which signal.
        signal: Signal,
    },
    /// The scratch folder cannot be written.
    #[error("cannot write to the scratch folder: {0}")]
    Scratch(#[from] std::io::Error),
}

/// Lints one shard.
///
/// The tool's failures are in [`LintOutput::error`]; diagnostics given before a failure are kept.
pub async fn lint<R: ProcessRunner>(request: LintRequest<'_, R>) -> Result<Linted, LintError> {
    let tool = request.plan.tool.clone();
    let files = u32::try_from(request.shard.files.len()).unwrap_or(u32::MAX);
    let mut linted = Linted {
        output: LintOutput { tool, files, error: None, diagnostics: Vec::new() },
        executable: None,
        wall: Duration::ZERO,
        cpu: Duration::ZERO,
    };
    let (adapter, program) = match find(&request) {
        Ok(found) => found,
        Err(error) => {
            linted.output.error = Some(error);
            return Ok(linted);
        }
    };
    linted.executable = Some(program.path.to_path_buf());
    let real_root =
        tokio::fs::canonicalize(request.root).await.unwrap_or_else(|_| request.root.to_path_buf());
    let cleaner = Cleaner::new(&[request.root, &real_root], request.scratch, program.path);
    let mut readings = Vec::new();
    match project_python(adapter, &request).await? {
        Err(error) => readings.push(Reading { findings: Vec::new(), error: Some(error) }),
        Ok(python) => {
            'invocations: for mut spec in invocations(adapter, program, &request, python.as_ref()).await? {
                let mut stand_ins = StandIns::new(adapter, &cleaner, request.scratch);
                loop {
                    let finished = match request.runner.run(spec.clone(), request.cancel).await {
                        Ok(finished) => finished,
                        Err(ProcessError::Start { source, .. }) => {
                            readings.push(Reading::failed(
                                ToolErrorKind::Missing,
                                format!("{} cannot be started: {source}", adapter.name()),
                            ));
                            break 'invocations;
                        }
                        Err(ProcessError::Cancelled) => return Err(LintError::Cancelled),
                        Err(error @ ProcessError::Shim { .. }) => return Err(LintError::Shim(error)),
                    };
                    if let Some(signal) = finished.ended_from_outside() {
                        return Err(LintError::EndedFromOutside { tool: adapter.name(), signal });
                    }
                    linted.wall += finished.wall;
                    linted.cpu += finished.cpu;
                    let reading = read(adapter, request.plan, request.limits, &finished);
                    match stand_ins.after(&spec, &finished, reading).await? {
                        Next::Again(without) => spec = without,
                        Next::Done(reading) => {
                            readings.push(reading);
                            break;
                        }
                    }
                }
            }
        }
    }
    let (diagnostics, error) = assemble(adapter, readings, &cleaner, request.root).await;
    linted.output.diagnostics = diagnostics;
    linted.output.error = error;
    Ok(linted)
}

fn find<'a, R>(request: &LintRequest<'a, R>) -> Result<(&'static dyn Adapter, Program<'a>), ToolError> {
    let name = &request.plan.tool;
    let missing = |message: String| ToolError { kind: ToolErrorKind::Missing, message };
    let adapter = adapter(name.as_str()).ok_or_else(|| missing(format!("{name} is not known")))?;
    match request.toolchain.tools.get(name) {
        Some(ToolBinary::Present { program, prefix, .. }) => Ok((adapter, Program { path: program, prefix })),
        Some(ToolBinary::Missing { .. }) | None => {
            Err(missing(format!("{name} is not in the toolchain of the node")))
        }
    }
}

/// What one process said, or which limit it met.
fn read(adapter: &dyn Adapter, plan: &ToolPlan, limits: &Limits, finished: &Finished) -> Reading {
    let mut reading = adapter.read(Output {
        code: finished.code,
        stdout: &finished.stdout,
        stderr: &finished.stderr,
        arguments: &plan.arguments,
        version: &plan.version,
    });
    if let Some(exceeded) = finished.exceeded {
        reading.error = Some(limit_error(adapter.name(), exceeded, limits));
    }
    reading
}

fn limit_error(tool: &str, exceeded: Exceeded, limits: &Limits) -> ToolError {
    let (kind, what) = match exceeded {
        Exceeded::Wall => {
            (ToolErrorKind::TimedOut, format!("{} s of elapsed time", limits.wall.as_secs_f64()))
        }
        Exceeded::Cpu => {
            (ToolErrorKind::LimitExceeded, format!("{} s of CPU time", limits.cpu.as_secs_f64()))
        }
        Exceeded::Memory => {
            (ToolErrorKind::LimitExceeded, format!("{} bytes of memory", limits.memory_bytes))
        }
        Exceeded::FileSize => {
            (ToolErrorKind::LimitExceeded, format!("{} bytes for a written file", limits.file_bytes))
        }
        Exceeded::Output => {
            (ToolErrorKind::LimitExceeded, format!("{} bytes of output", limits.output_bytes))
        }
        Exceeded::Processes => (ToolErrorKind::LimitExceeded, format!("{} processes", limits.processes)),
    };
    ToolError {
        kind,
        message: format!("{tool} was ended at its limit of {what}; raise the limit or lint less"),
    }
}

/// Normalises and sorts the findings of all processes, and joins their failures into one.
async fn assemble(
    adapter: &dyn Adapter,
    readings: Vec<Reading>,
    cleaner: &Cleaner,
    root: &Path,
) -> (Vec<RawDiagnostic>, Option<ToolError>) {
    let mut errors: Vec<ToolError> = Vec::new();
    let mut findings = Vec::new();
    for reading in readings {
        findings.extend(reading.findings);
        errors.extend(reading.error);
    }
    let (mut diagnostics, outside) = place(findings, cleaner, root).await;
    if let Some((path, message)) = outside.first() {
        errors.push(ToolError {
            kind: ToolErrorKind::Garbled,
            message: format!(
                "{} reported {} problems outside the tree, the first in `{path}`: {message}",
                adapter.name(),
                outside.len()
            ),
        });
    }
    diagnostics.sort();
    for error in &mut errors {
        error.message = cleaner.clean(&error.message);
    }
    errors.dedup();
    let mut error = errors.into_iter().reduce(|first, next| ToolError {
        kind: first.kind,
        message: format!("{}\n{}", first.message, next.message),
    });
    if let Some(ToolError { message, .. }) = &mut error
        && message.len() > ERROR_BYTES
    {
        message.truncate(message.floor_char_boundary(ERROR_BYTES));
        message.push('…');
    }
    (diagnostics, error)
}

#[cfg(test)]
mod tests;

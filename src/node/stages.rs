//! What a node does for each stage of a run: fetch the inputs, compute, keep the output.

use std::future::Future;
use std::path::{Path, PathBuf};
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use serde::Serialize;
use serde::de::DeserializeOwned;
use tempfile::TempDir;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::agent::NodeSettings;
use super::inputs::{InputError, Inputs};
use super::workspace_cache::{Tree, TreeError, WorkspaceCache};
use crate::linters::aggregate::{TaskFailure, aggregate, canonical_bytes};
use crate::linters::classify::classify;
use crate::linters::lint::{LintError, LintRequest, ProcessRunner, lint};
use crate::linters::plan::plan;
use crate::linters::process::{self, Finished, Limits, ProcessError, ProcessSpec, Progress, WALL_MARGIN};
use crate::linters::toolchain::Toolchain;
use crate::linters::tree_config::{ConfigurationFiles, is_configuration};
use crate::types::{Digest, Manifest, Measured, Plan, RunSpec, Stage, TaskOutput};
use crate::wire::peer::Assignment;

/// Outputs up to this size travel inside the result, larger ones are uploaded first.
pub const INLINE_BYTES: usize = 256 << 10;

/// What a stage leaves behind.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StageProduct {
    /// The blob's address.
    pub output: TaskOutput,
    /// The blob itself if it is small.
    pub data: Option<Vec<u8>>,
    /// The blob if it is large and could not be uploaded yet.
    pub unsent: Option<Arc<[u8]>>,
    /// What was measured; the elapsed time is the executor's to say.
    pub measured: Measured,
}

/// Why a stage has no output: the node's failure, worth another attempt on another node. What a tool does wrong is part
/// of the output.
#[derive(Debug, thiserror::Error)]
pub enum StageError {
    /// The assignment lacks an input of its stage.
    #[error("the assignment has no {0}")]
    Missing(&'static str),
    /// The assignment names something that its inputs do not have.
    #[error("the plan has no shard {shard} of {tool}")]
    NoSuchShard {
        /// The tool.
        tool: String,
        /// The shard, from 0.
        shard: u32,
    },
    /// A blob could not be had or brought.
    #[error(transparent)]
    Input(#[from] InputError),
    /// The tree could not be laid out.
    #[error(transparent)]
    Tree(#[from] TreeError),
    /// A file of the tree changed after it was listed.
    #[error("file `{0}` changed while the run was starting; run again")]
    Changed(String),
    /// The linter could not be run.
    #[error(transparent)]
    Lint(#[from] LintError),
    /// The node's own files.
    #[error("cannot use {}: {source}", path.display())]
    Local {
        /// Which.
        path: PathBuf,
        /// What the system said.
        source: std::io::Error,
    },
    /// A computation panicked: a bug.
    #[error("the {0} stage panicked; see the node's log")]
    Panicked(Stage),
    /// The attempt was revoked or ran out of time.
    #[error("cancelled")]
    Cancelled,
}

/// Runs stages. The executor knows no more of them than this.
pub trait StageRunner: Send + Sync + 'static {
    /// Runs one attempt to its end; when `cancel` is cancelled, ends what was started and returns soon. `progress` shows
    /// meanwhile whether it moves.
    fn run(
        &self,
        assignment: Assignment,
        cancel: CancellationToken,
        progress: Arc<Progress>,
    ) -> Pin<Box<dyn Future<Output = Result<StageProduct, StageError>> + Send + '_>>;
}

/// The real stages.
pub struct Stages {
    inputs: Inputs,
    trees: WorkspaceCache,
    scratch: PathBuf,
    toolchain: Toolchain,
    limits: Limits,
    shim: PathBuf,
}

impl StageRunner for Stages {
    fn run(
        &self,
        assignment: Assignment,
        cancel: CancellationToken,
        progress: Arc<Progress>,
    ) -> Pin<Box<dyn Future<Output = Result<StageProduct, StageError>> + Send + '_>> {
        Box::pin(async move {
            // Fetching, computing and uploading can simply be dropped; only a linter needs to be told (see `lint`).
            if assignment.stage == Stage::Lint {
                return self.lint(&assignment, &cancel, &progress).await;
            }
            tokio::select! {
                () = cancel.cancelled() => Err(StageError::Cancelled),
                product = self.pure(&assignment) => product,
            }
        })
    }
}

impl Stages {
    /// Stages whose linters write beneath `work_dir` only.
    pub fn new(
        inputs: Inputs,
        trees: WorkspaceCache,
        work_dir: &Path,
        settings: &NodeSettings,
    ) -> Result<Self, std::io::Error> {
        let scratch = work_dir.join("scratch");
        std::fs::create_dir(&scratch)?;
        Ok(Self {
            inputs,
            trees,
            scratch,
            toolchain: settings.toolchain.clone(),
            limits: settings.limits.clone(),
            shim: settings.shim.clone(),
        })
    }

    async fn pure(&self, assignment: &Assignment) -> Result<StageProduct, StageError> {
        let bytes = match assignment.stage {
            Stage::Plan => self.plan(assignment).await?,
            Stage::Classify => self.classify(assignment).await?,
            Stage::Aggregate => self.aggregate(assignment).await?,
            Stage::Lint => return Err(StageError::Missing("pure stage")),
        };
        self.keep(bytes, Measured::default()).await
    }

    async fn plan(&self, assignment: &Assignment) -> Result<Vec<u8>, StageError> {
        let (_, manifest) = self.manifest(assignment).await?;
        let spec: RunSpec = self.inputs.parsed(needed(assignment.inputs.spec, "spec")?, "run spec").await?;
        let mut configuration = ConfigurationFiles::new();
        for file in manifest.files().iter().filter(|file| is_configuration(&file.path)) {
            let bytes = match in_place(assignment).await {
                Some(root) => {
                    let path = file.path.under(root);
                    let bytes =
                        tokio::fs::read(&path).await.map_err(|source| StageError::Local { path, source })?;
                    // The plan must be a function of what the manifest names, in place or not.
                    if Digest::of(&bytes) != file.digest {
                        return Err(StageError::Changed(file.path.to_string()));
                    }
                    bytes
                }
                None => self.inputs.get(file.digest).await?.to_vec(),
            };
            configuration.insert(file.path.clone(), bytes);
        }
        computed(Stage::Plan, move || Ok(json(&plan(&manifest, &configuration, &spec)))).await
    }

    async fn lint(
        &self,
        assignment: &Assignment,
        cancel: &CancellationToken,
        progress: &Progress,
    ) -> Result<StageProduct, StageError> {
        let started = Instant::now();
        let prepared = tokio::select! {
            () = cancel.cancelled() => return Err(StageError::Cancelled),
            prepared = self.prepare_lint(assignment) => prepared?,
        };
        let tool = assignment.tool.as_ref().ok_or(StageError::Missing("tool"))?;
        let shard = usize::try_from(assignment.shard).unwrap_or(usize::MAX);
        let (plan, shard) = prepared
            .plan
            .tools
            .iter()
            .find(|plan| plan.tool == *tool)
            .and_then(|plan| Some((plan, plan.shards.get(shard)?)))
            .ok_or_else(|| StageError::NoSuchShard { tool: tool.to_string(), shard: assignment.shard })?;
        let shimmed = Shimmed { shim: &self.shim, progress };
        let limits = within(&self.limits, assignment.timeout, started.elapsed());
        let linted = lint(LintRequest {
            root: &prepared.root,
            plan,
            shard,
            toolchain: &self.toolchain,
            python: prepared.spec.python.as_deref().map(Path::new),
            scratch: prepared.scratch.path(),
            limits: &limits,
            cpu_slots: assignment.cpu_slots,
            runner: &shimmed,
            cancel,
        })
        .await?;
        let measured = Measured {
            executable: linted.executable.map(|program| program.display().to_string()),
            wall: linted.wall,
            cpu: linted.cpu,
        };
        let output = linted.output;
        let bytes = computed(Stage::Lint, move || Ok(json(&output))).await?;
        tokio::select! {
            () = cancel.cancelled() => Err(StageError::Cancelled),
            product = self.keep(bytes, measured) => product,
        }
    }

    async fn prepare_lint(&self, assignment: &Assignment) -> Result<Prepared, StageError> {
        let spec = self.inputs.parsed(needed(assignment.inputs.spec, "spec")?, "run spec").await?;
        let plan = self.inputs.parsed(needed(assignment.inputs.plan, "plan")?, "plan").await?;
        let (root, tree) = match in_place(assignment).await {
            Some(root) => (root.to_owned(), None),
            None => {
                let (digest, manifest) = self.manifest(assignment).await?;
                let tree = self.trees.tree(digest, &manifest).await?;
                (tree.root().to_owned(), Some(tree))
            }
        };
        let scratch = tempfile::tempdir_in(&self.scratch)
            .map_err(|source| StageError::Local { path: self.scratch.clone(), source })?;
        Ok(Prepared { spec, plan, root, _tree: tree, scratch })
    }

    async fn classify(&self, assignment: &Assignment) -> Result<Vec<u8>, StageError> {
        let spec: RunSpec = self.inputs.parsed(needed(assignment.inputs.spec, "spec")?, "run spec").await?;
        let digest = needed(assignment.inputs.outputs.first().copied(), "output to classify")?;
        let bytes = self.inputs.made(digest, &assignment.inputs.makers).await?;
        computed(Stage::Classify, move || {
            Ok(json(&classify(&parse(digest, "linter's output", &bytes)?, &spec)))
        })
        .await
    }

    async fn aggregate(&self, assignment: &Assignment) -> Result<Vec<u8>, StageError> {
        let spec: RunSpec = self.inputs.parsed(needed(assignment.inputs.spec, "spec")?, "run spec").await?;
        let plan: Plan = self.inputs.parsed(needed(assignment.inputs.plan, "plan")?, "plan").await?;
        let mut outputs = Vec::with_capacity(assignment.inputs.outputs.len());
        for digest in &assignment.inputs.outputs {
            outputs.push((*digest, self.inputs.made(*digest, &assignment.inputs.makers).await?));
        }
        let failed = failures(&plan, assignment);
        computed(Stage::Aggregate, move || {
            let classified = outputs
                .iter()
                .map(|(digest, bytes)| parse(*digest, "classified output", bytes))
                .collect::<Result<Vec<_>, _>>()?;
            Ok(canonical_bytes(&aggregate(&plan, &spec, &classified, &failed)))
        })
        .await
    }

    async fn manifest(&self, assignment: &Assignment) -> Result<(Digest, Arc<Manifest>), StageError> {
        let digest = needed(assignment.inputs.manifest, "manifest")?;
        let bytes = self.inputs.get(digest).await?;
        let manifest = Manifest::parse(&bytes).map_err(|error| InputError::Garbled {
            digest,
            what: "manifest",
            reason: error.to_string(),
        })?;
        Ok((digest, Arc::new(manifest)))
    }

    async fn keep(&self, bytes: Vec<u8>, measured: Measured) -> Result<StageProduct, StageError> {
        let output =
            TaskOutput { digest: Digest::of(&bytes), size: u64::try_from(bytes.len()).unwrap_or(u64::MAX) };
        if bytes.len() <= INLINE_BYTES {
            self.inputs.keep(output.digest, bytes.clone().into());
            return Ok(StageProduct { output, data: Some(bytes), unsent: None, measured });
        }
        let bytes: Arc<[u8]> = bytes.into();
        self.inputs.keep(output.digest, Arc::clone(&bytes));
        let unsent = self.inputs.bring(output.digest, bytes).await?;
        Ok(StageProduct { output, data: None, unsent, measured })
    }
}

/// What a linter needs beside its programs.
struct Prepared {
    spec: RunSpec,
    plan: Plan,
    root: PathBuf,
    /// The tree from its blobs, unless it is read in place; kept until the linter has ended.
    _tree: Option<Tree>,
    scratch: TempDir,
}

/// Runs linters beneath the shim.
#[derive(Debug)]
struct Shimmed<'a> {
    shim: &'a Path,
    progress: &'a Progress,
}

impl ProcessRunner for Shimmed<'_> {
    async fn run(&self, spec: ProcessSpec, cancel: &CancellationToken) -> Result<Finished, ProcessError> {
        process::run_watched(spec, self.shim, cancel, self.progress).await
    }
}

/// The root of the tree if it can be read in place.
async fn in_place(assignment: &Assignment) -> Option<&Path> {
    let root = assignment.tree_root.as_deref()?;
    tokio::fs::metadata(root).await.is_ok_and(|found| found.is_dir()).then_some(root)
}

/// The limits for a linter that starts now: it must end, and be told to be the tool's failure, before its attempt's
/// timeout makes it the node's.
fn within(limits: &Limits, timeout: Duration, elapsed: Duration) -> Limits {
    let margin = (timeout / 10).min(WALL_MARGIN);
    let left = timeout.saturating_sub(elapsed).saturating_sub(margin);
    Limits { wall: limits.wall.min(left), ..limits.clone() }
}

/// The tasks that no node could finish, with the files they would have seen.
fn failures(plan: &Plan, assignment: &Assignment) -> Vec<TaskFailure> {
    let files = |tool, shard| {
        let plan = plan.tools.iter().find(|plan| plan.tool == tool)?;
        plan.shards.get(usize::try_from(shard).ok()?).map(|shard| shard.files.clone())
    };
    let failed = assignment.inputs.failed.iter();
    failed
        .map(|task| TaskFailure {
            files: files(task.tool.clone(), task.shard).unwrap_or_default(),
            tool: task.tool.clone(),
            reason: task.reason.clone(),
        })
        .collect()
}

fn needed(digest: Option<Digest>, what: &'static str) -> Result<Digest, StageError> {
    digest.ok_or(StageError::Missing(what))
}

/// Computes off the threads that carry heartbeats: a large report takes seconds.
async fn computed(
    stage: Stage,
    compute: impl FnOnce() -> Result<Vec<u8>, StageError> + Send + 'static,
) -> Result<Vec<u8>, StageError> {
    tokio::task::spawn_blocking(compute).await.map_err(|_| StageError::Panicked(stage))?
}

fn parse<T: DeserializeOwned>(digest: Digest, what: &'static str, bytes: &[u8]) -> Result<T, InputError> {
    serde_json::from_slice(bytes).map_err(|error| InputError::Garbled {
        digest,
        what,
        reason: error.to_string(),
    })
}

fn json(value: &impl Serialize) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_else(|error| unreachable!("plain data serialises: {error}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_linter_ends_before_its_attempt_does() {
        let limits = Limits {
            wall: Duration::from_secs(60),
            cpu: Duration::from_secs(60),
            memory_bytes: 1,
            file_bytes: 1,
            output_bytes: 1,
            processes: 1,
        };
        let wall = |timeout, elapsed| {
            within(&limits, Duration::from_secs(timeout), Duration::from_secs(elapsed)).wall.as_secs()
        };
        assert_eq!(wall(600, 0), 60, "its own limit is tighter");
        assert_eq!(wall(50, 0), 45);
        assert_eq!(wall(50, 20), 25, "what was spent on inputs is gone");
        assert_eq!(wall(10, 60), 0);
    }
}

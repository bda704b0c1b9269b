//! `lintmesh lint`: finds the files, has them linted by a private mesh or a server, writes the report.

mod arguments;
mod nothing;
mod outputs;
mod progress;
mod request;
mod tree;
mod upload;
mod viewpoint;

use std::io::{self, IsTerminal as _};
use std::time::{Duration, SystemTime};

use anyhow::Context as _;

pub(super) use arguments::LintArgs;
pub(super) use progress::Progress;
pub(super) use viewpoint::Viewpoint;

use super::connect::{self, Connection};
use super::exit::{self, Exit};
use super::follow::{self, Manner, Start};
use super::interrupt::Interrupt;
use super::private_mesh::PrivateMesh;
use super::run_view::RunView;
use super::{download, output, terminal};
use crate::config::Settings;
use crate::linters::report::{self, Format, Options, Report};
use crate::proto::v1::{Outcome, RunFinished, workspace};
use crate::types::TreePath;
use tree::Tree;

/// How long to try again when the connection to a private mesh breaks.
const PRIVATE_PATIENCE: Duration = Duration::from_secs(10);

/// Lints; see the exit codes in the command's help.
pub(super) async fn run(args: LintArgs, interrupt: &Interrupt) -> anyhow::Result<Exit> {
    outputs::check_distinct(&args.output)?;
    outputs::check_writable(&args.output)?;
    let progress = Progress::new(!args.no_progress, args.quiet);
    let exit = lint(args, progress, interrupt).await;
    match interrupt.exit() {
        Some(interrupted) => {
            if let Err(error) = exit {
                tracing::debug!(%error, "interrupted");
            }
            Ok(interrupted)
        }
        None => exit,
    }
}

async fn lint(args: LintArgs, mut progress: Progress, interrupt: &Interrupt) -> anyhow::Result<Exit> {
    let began = SystemTime::now();
    progress.phase("looking for Python files");
    let (settings, tree) = interrupt.unless(tree::find(&args)).await?;
    for file in tree.found.manifest.unreadable() {
        progress.tell(&format!("{} cannot be linted: {}", file.path, file.reason));
    }
    request::check(&args, &settings)?;
    if tree.found.manifest.targets().next().is_none() {
        progress.finish();
        if tree.found.manifest.unreadable().is_empty() && !args.quiet {
            output::say(&format!("nothing to lint: no Python file in {}", tree.described()));
        }
        let report = nothing::report(&tree.found.manifest, &settings, began, SystemTime::now())?;
        return conclude(&report, &args, &settings, &tree);
    }
    let server = args.server.server.clone().filter(|url| !url.is_empty()).or(settings.lint.server.clone());
    let run = match server {
        Some(url) => {
            let (token, ca) = (args.server.token.as_deref(), args.server.ca.as_deref());
            let connection = interrupt.unless(connect::connect(&url, token, ca)).await?;
            lint_on(&connection, &tree, &args, &settings, &mut progress, interrupt).await?
        }
        None => {
            let source = request::in_place(&tree)?;
            let mesh = PrivateMesh::start(&settings, &tree.found.root, &mut progress, interrupt).await?;
            let run =
                lint_by(mesh.connection(), source, &args, &settings, &mut progress, interrupt, true).await;
            progress.finish();
            mesh.stop().await;
            run?
        }
    };
    progress.finish();
    let Some(report) = run.report else {
        output::say(&format!("error: the run was cancelled: {}", run.finished.detail));
        return Ok(Exit::Incomplete);
    };
    conclude(&report, &args, &settings, &tree)
}

/// Writes the report where it is wanted; how the process ends for it.
fn conclude(report: &Report, args: &LintArgs, settings: &Settings, tree: &Tree) -> anyhow::Result<Exit> {
    let complete = write(report, args, settings, tree)?;
    let result = &report.result;
    let exit = exit::of_run(result.outcome, &result.summary.by_severity, args.fail_on(settings));
    Ok(if complete { exit } else { Exit::Error })
}

/// By a server: ships the tree, and ships it once more if the server has lost it by the time the run is to start.
async fn lint_on(
    connection: &Connection,
    tree: &Tree,
    args: &LintArgs,
    settings: &Settings,
    progress: &mut Progress,
    interrupt: &Interrupt,
) -> anyhow::Result<Run> {
    let patience = args.reconnect.reconnect;
    let mut is_second = false;
    loop {
        progress.phase("uploading the tree");
        let (root, manifest) = (&tree.found.root, &tree.found.manifest);
        let uploading = upload::upload(connection, root, manifest, patience, |text| progress.tell(text));
        let sent = interrupt.unless(uploading).await?;
        tracing::info!(blobs = sent.blobs, retries = sent.retries, "the server has the tree");
        let source = request::snapshot(tree);
        let run = lint_by(connection, source, args, settings, progress, interrupt, false).await;
        let lacks_files = |error: &anyhow::Error| {
            error.downcast_ref::<follow::FollowError>().is_some_and(follow::FollowError::lacks_files)
        };
        match run {
            Err(error) if !is_second && lacks_files(&error) => {
                progress.tell("the server has lost the tree, perhaps in a restart; uploading it again");
                is_second = true;
            }
            run => return run,
        }
    }
}

/// How a run ended.
struct Run {
    finished: RunFinished,
    /// None if it was cancelled.
    report: Option<Report>,
}

async fn lint_by(
    connection: &Connection,
    source: workspace::Source,
    args: &LintArgs,
    settings: &Settings,
    progress: &mut Progress,
    interrupt: &Interrupt,
    in_place: bool,
) -> anyhow::Result<Run> {
    progress.phase("starting the run");
    // The coordinator of a private mesh is in this process: it does not come back.
    let patience = if in_place { PRIVATE_PATIENCE } else { args.reconnect.reconnect };
    let request = request::coordinate(source, args, settings, in_place, patience)?;
    let mut view = RunView::default();
    let start = Start::New(Box::new(request));
    let manner = Manner { cancel: true, patience };
    let finished = follow::follow(connection, start, manner, interrupt, progress, &mut view).await?;
    if finished.outcome() == Outcome::Cancelled {
        return Ok(Run { finished, report: None });
    }
    progress.phase("fetching the report");
    let downloading = download::parsed(connection, &view.run_id, patience, |text| progress.tell(text));
    let report = interrupt.unless(downloading).await?;
    Ok(Run { finished, report: Some(report) })
}

/// Writes the report to its files and to standard output. False if one of them could not be written, which has been
/// said; the others are written all the same.
fn write(report: &Report, args: &LintArgs, settings: &Settings, tree: &Tree) -> anyhow::Result<bool> {
    let viewpoint = Viewpoint::on(&tree.found.root).context("the current folder cannot be read")?;
    let render = |format: Format, color: bool, width: usize| {
        let look = Look { color, width, statistics: args.statistics, quiet: args.quiet };
        rendered(report, format, &viewpoint, settings.workspace.max_file_bytes, look)
    };
    let mut complete = true;
    for file in &args.output {
        let bytes = render(file.format, false, terminal::DEFAULT_WIDTH)?;
        if let Err(error) = outputs::write_file(&file.path, &bytes) {
            output::say(&format!("error: {}", outputs::write_problem(&file.path, &error)));
            complete = false;
        }
    }
    let format = args.format.unwrap_or_else(|| request::report_format(settings.lint.format));
    let bytes = render(format, args.color.wanted(io::stdout().is_terminal()), terminal::width())?;
    output::print(&bytes).context("cannot write the report to standard output")?;
    Ok(complete)
}

/// What the user wants to see of a report.
pub(super) struct Look {
    pub(super) color: bool,
    pub(super) width: usize,
    pub(super) statistics: bool,
    pub(super) quiet: bool,
}

/// The report in one format; source excerpts come from the tree.
pub(super) fn rendered(
    report: &Report,
    format: Format,
    viewpoint: &Viewpoint,
    max_file_bytes: u64,
    look: Look,
) -> io::Result<Vec<u8>> {
    let Look { color, width, statistics, quiet } = look;
    let source = |path: &TreePath| tree::text_of(&path.under(viewpoint.root()), max_file_bytes);
    let name = |path: &TreePath| viewpoint.name(format, path);
    let options = Options { color, width, statistics, quiet, source: &source, name: &name };
    let mut bytes = Vec::new();
    report::write(report, format, &options, &mut bytes)?;
    Ok(bytes)
}

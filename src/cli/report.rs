//! `lintmesh report`: the report of a run that has ended, in any format.

use std::io::IsTerminal as _;
use std::path::PathBuf;

use anyhow::Context as _;

use super::connect::ServerArgs;
use super::exit::Exit;
use super::lint::{Look, Viewpoint, rendered};
use super::reconnect::ReconnectArgs;
use super::terminal::{self, ColorChoice};
use super::{download, output};
use crate::linters::report::Format;
use crate::proto::v1::ReportFormat;
use crate::workspace::project_root::project_root;

/// Source files larger than this are shown without excerpts.
const MAX_SOURCE_BYTES: u64 = 16 << 20;

/// Arguments of `report`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
lintmesh report RUN --format sarif > report.sarif\n  \
lintmesh report RUN --result | sha256sum    the digest that the run's last event names")]
pub(super) struct ReportArgs {
    /// The run, as `lintmesh runs` names it
    #[arg(value_name = "RUN")]
    run: String,
    /// The format: full, concise, json, json-lines, sarif, github or junit
    #[arg(long, value_name = "FORMAT", default_value = "full")]
    format: Format,
    /// Print the canonical result instead: the bytes that the report's digest stands for
    #[arg(long, conflicts_with = "format")]
    result: bool,
    /// Where the tree is, for source excerpts and the paths of text, GitHub and SARIF; by default the current project
    #[arg(long, value_name = "DIR")]
    root: Option<PathBuf>,
    /// Show how often each rule was broken
    #[arg(long)]
    statistics: bool,
    /// When to use colours
    #[arg(long, value_enum, value_name = "WHEN", default_value_t)]
    color: ColorChoice,
    #[command(flatten)]
    server: ServerArgs,
    #[command(flatten)]
    reconnect: ReconnectArgs,
}

pub(super) async fn run(args: ReportArgs) -> anyhow::Result<Exit> {
    let connection = args.server.connect().await?;
    let patience = args.reconnect.reconnect;
    let notice = |text: &str| output::say(&format!("lintmesh: {text}"));
    let bytes = if args.result {
        download::report(&connection, &args.run, ReportFormat::Result, patience, notice).await?
    } else {
        let report = download::parsed(&connection, &args.run, patience, notice).await?;
        let cwd = std::env::current_dir().context("the current folder cannot be read")?;
        let root = args.root.unwrap_or_else(|| project_root(&cwd, &[]));
        let viewpoint = Viewpoint::on(&root).context("the current folder cannot be read")?;
        let look = Look {
            color: args.color.wanted(std::io::stdout().is_terminal()),
            width: terminal::width(),
            statistics: args.statistics,
            quiet: false,
        };
        rendered(&report, args.format, &viewpoint, MAX_SOURCE_BYTES, look)?
    };
    output::print(&bytes).context("cannot write the report to standard output")?;
    Ok(Exit::Success)
}

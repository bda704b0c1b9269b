//! The command line: one file per command. Nothing below this module prints or exits.

mod arguments;
mod cancel;
pub mod connect;
pub mod doctor;
mod download;
pub mod error;
pub mod exit;
mod explain;
mod fault;
pub mod follow;
mod healthcheck;
pub mod interrupt;
mod lint;
mod linters;
mod local_mesh;
pub mod node;
mod node_args;
pub mod output;
mod patience;
mod private_mesh;
pub mod reconnect;
mod report;
mod reserve;
pub mod run_view;
mod runs;
mod schema;
mod serve;
mod state_dir;
mod status;
mod supervisor;
mod terminal;
mod time;
mod toolchain;
mod watch;

use std::process::ExitCode;
use std::time::Duration;

use anyhow::Context as _;
use clap::{Parser, Subcommand};

use crate::proto::v1::{Outcome, Stage, TaskRef};
use crate::telemetry;
use exit::Exit;
use interrupt::Interrupt;

/// How long the last log lines of a launched node may take to be read.
const LAST_WORDS: Duration = Duration::from_secs(1);

/// Lints a Python tree with flake8, pylint, ruff, mypy and bandit, and gives one report.
///
/// `lintmesh lint` works on its own: it starts a private mesh of four agent nodes on this machine, lints in place and
/// leaves nothing running. `lintmesh serve` offers the same as a gRPC service for many users.
#[derive(Debug, Parser)]
#[command(
    name = "lintmesh",
    version,
    disable_help_subcommand = true,
    after_help = "Examples:\n  \
        lintmesh lint                                  lint the current folder\n  \
        lintmesh lint src --output sarif=out.sarif     and write a SARIF file beside the text\n  \
        lintmesh serve                                 run the service on this machine\n  \
        lintmesh lint --server http://127.0.0.1:50051  lint by way of a service\n  \
        lintmesh doctor                                find out why something does not work"
)]
pub struct Cli {
    #[command(subcommand)]
    command: Command,
}

#[derive(Debug, Subcommand)]
enum Command {
    /// Lint files and folders
    Lint(Box<lint::LintArgs>),
    /// Run the service: a coordinator, and by default its four nodes on this machine
    Serve(serve::ServeArgs),
    /// Run an agent node that joins the mesh of a coordinator
    Node(node_args::NodeArgs),
    /// Show the mesh on one screen
    Status(status::StatusArgs),
    /// Check this machine and the configuration: what works, what does not, and the remedy
    Doctor(doctor::DoctorArgs),
    /// Tell why the tasks of a run are where they are, and what would make them go
    Explain(explain::ExplainArgs),
    /// Take a node out of the mesh, or bring it back
    Fault(fault::FaultArgs),
    /// List the newest runs
    Runs(runs::RunsArgs),
    /// Follow the events of a run
    Watch(watch::WatchArgs),
    /// Cancel a run
    Cancel(cancel::CancelArgs),
    /// Print or write the report of a run that has ended
    Report(report::ReportArgs),
    /// Ask the health service, as a container's or Kubernetes' probe
    #[command(
        after_help = "Exit codes: 0 serving, 1 bad arguments, 2 not connected, 3 the call failed, 4 not serving"
    )]
    Healthcheck(healthcheck::HealthcheckArgs),
    /// Manage the linters that lintmesh brings itself
    Toolchain(toolchain::ToolchainArgs),
    /// Print the JSON Schema of the JSON report
    Schema,
}

impl Command {
    /// The log filter when the environment names none: services tell what they do, commands only what is wrong.
    const fn log_default(&self) -> &'static str {
        match self {
            Command::Serve(_) => "info",
            // What a launched node does, its coordinator tells.
            Command::Node(args) if !args.is_launched() => "info",
            // What happens to a run, its watcher tells; the coordinator of a private mesh need not say it again.
            Command::Lint(_) => "warn,lintmesh::engine=error",
            _ => "warn",
        }
    }

    /// How the process ends when the command could not do its work. Probes know grpc-health-probe's codes, in which 2
    /// means that there is no connection.
    const fn exit_on_error(&self) -> Exit {
        match self {
            Command::Healthcheck(_) => healthcheck::BAD_ARGUMENTS,
            _ => Exit::Error,
        }
    }
}

/// Runs the command that the process was started with.
pub fn main() -> ExitCode {
    let cli = match Cli::try_parse() {
        Ok(cli) => cli,
        Err(error) => {
            // Printing fails only if nobody reads.
            let _ = error.print();
            return ExitCode::from(usage_exit(&error).code());
        }
    };
    let exit_on_error = cli.command.exit_on_error();
    let exit = match start(cli.command) {
        Ok(exit) => exit,
        Err(error) => {
            output::say(&error::render(&error));
            exit_on_error
        }
    };
    ExitCode::from(exit.code())
}

/// Bad usage, before it is known which command was meant.
fn usage_exit(error: &clap::Error) -> Exit {
    let is_probe = std::env::args_os().nth(1).is_some_and(|argument| argument == "healthcheck");
    match (error.use_stderr(), is_probe) {
        (false, _) => Exit::Success,
        (true, true) => healthcheck::BAD_ARGUMENTS,
        (true, false) => Exit::Error,
    }
}

fn start(command: Command) -> anyhow::Result<Exit> {
    if matches!(&command, Command::Node(args) if args.is_launched()) {
        return launched(command.log_default());
    }
    telemetry::init(command.log_default(), || output::LogLines)?;
    // A node chooses its own runtime.
    if let Command::Node(args) = command {
        return node::node(args.command()?).map(|()| Exit::Success);
    }
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .enable_all()
        .build()
        .context("cannot start the asynchronous runtime")?;
    let exit = runtime.block_on(run(command));
    // Blocking work that nobody waits for any more (a read of a dead mount) must not hold the process.
    runtime.shutdown_background();
    exit
}

/// A node with a launcher, whose standard error it shares. When that is gone, whoever read it may be gone too, or read no
/// more: nothing that is said there may hold the node up.
fn launched(log_default: &'static str) -> anyhow::Result<Exit> {
    let log = telemetry::Aside::start(output::LogLines).context("cannot start the thread that logs")?;
    let lines = log.clone();
    telemetry::init(log_default, move || lines.clone())?;
    let ended = node::node(node::NodeCommand::Launched);
    if let Err(error) = &ended {
        tracing::error!("{}", error::render(error));
    }
    log.flush(LAST_WORDS);
    Ok(if ended.is_ok() { Exit::Success } else { Exit::Error })
}

async fn run(command: Command) -> anyhow::Result<Exit> {
    match command {
        Command::Lint(args) => lint::run(*args, &listen()?).await,
        Command::Serve(args) => serve::run(args, &listen()?).await,
        Command::Node(_) => unreachable!("a node is started without this runtime"),
        Command::Status(args) => status::run(args, &listen()?).await,
        Command::Doctor(args) => doctor::run(args).await,
        Command::Explain(args) => explain::run(args).await,
        Command::Fault(args) => fault::run(args).await,
        Command::Runs(args) => runs::run(args).await,
        Command::Watch(args) => watch::run(args, &listen()?).await,
        Command::Cancel(args) => cancel::run(args).await,
        Command::Report(args) => report::run(args).await,
        Command::Healthcheck(args) => Ok(healthcheck::run(args).await),
        Command::Toolchain(args) => toolchain::run(args).await,
        Command::Schema => schema::run(),
    }
}

fn listen() -> anyhow::Result<Interrupt> {
    Interrupt::listen().context("cannot listen for signals")
}

/// An id for a request that nobody else makes: 32 hexadecimal digits.
fn random_id() -> anyhow::Result<String> {
    let mut bytes = [0_u8; 16];
    getrandom::fill(&mut bytes).context("the system gives no random numbers")?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}

/// A task as people read it: `lint ruff 1/2`, `aggregate`.
fn task_name(task: &TaskRef) -> String {
    let stage = match task.stage() {
        Stage::Unspecified => "task",
        Stage::Plan => "plan",
        Stage::Lint => "lint",
        Stage::Classify => "classify",
        Stage::Aggregate => "aggregate",
    };
    match (task.tool.is_empty(), task.shard) {
        (true, _) => stage.to_owned(),
        (false, 0) => format!("{stage} {}", task.tool),
        (false, shard) => format!("{stage} {} {shard}/{}", task.tool, task.shards),
    }
}

/// An outcome as reports write it.
fn outcome_name(outcome: Outcome) -> &'static str {
    match outcome {
        Outcome::Unspecified => "UNKNOWN",
        Outcome::Clean => "CLEAN",
        Outcome::Findings => "FINDINGS",
        Outcome::Incomplete => "INCOMPLETE",
        Outcome::Cancelled => "CANCELLED",
    }
}

#[cfg(test)]
mod tests {
    use clap::CommandFactory as _;

    use super::*;

    #[test]
    fn the_command_line_is_consistent_and_every_argument_is_explained() {
        let command = Cli::command();
        command.clone().debug_assert();
        for sub in command.get_subcommands() {
            assert!(sub.get_about().is_some(), "{}", sub.get_name());
            for argument in sub.get_arguments().filter(|a| !a.is_hide_set()) {
                assert!(argument.get_help().is_some(), "{} {}", sub.get_name(), argument.get_id());
            }
        }
    }

    #[test]
    fn request_ids_fit_the_protocol_and_differ() {
        let (one, other) = (random_id().expect("random"), random_id().expect("random"));
        assert_ne!(one, other);
        assert!(one.len() <= 36 && one.bytes().all(|byte| byte.is_ascii_graphic()));
    }

    #[test]
    fn tasks_are_named_by_stage_tool_and_shard() {
        let mut task =
            TaskRef { stage: Stage::Lint.into(), tool: "ruff".into(), shard: 1, shards: 2, task_id: 4 };
        assert_eq!(task_name(&task), "lint ruff 1/2");
        task = TaskRef { stage: Stage::Aggregate.into(), ..TaskRef::default() };
        assert_eq!(task_name(&task), "aggregate");
    }
}

//! `lintmesh cancel`: ends a run.

use anyhow::Context as _;

use super::connect::ServerArgs;
use super::exit::Exit;
use super::output;
use crate::proto::v1::{CancelRunRequest, Outcome, RunState};

/// Arguments of `cancel`.
#[derive(Debug, clap::Args)]
pub(super) struct CancelArgs {
    /// The run, as `lintmesh runs` names it
    #[arg(value_name = "RUN")]
    run: String,
    #[command(flatten)]
    server: ServerArgs,
}

pub(super) async fn run(args: CancelArgs) -> anyhow::Result<Exit> {
    let connection = args.server.connect().await?;
    let request = CancelRunRequest { run_id: args.run };
    let answer =
        connection.coordinator().cancel_run(request).await.context("cancelling the run")?.into_inner();
    let run = answer.run.unwrap_or_default();
    let text = match (run.state(), run.outcome()) {
        (RunState::Finished, Outcome::Cancelled) => format!("run {} is cancelled", run.run_id),
        (RunState::Finished, outcome) => {
            format!("run {} had ended before: {}", run.run_id, super::outcome_name(outcome))
        }
        _ => format!("run {} is being cancelled", run.run_id),
    };
    output::print_line(&text)?;
    Ok(Exit::Success)
}

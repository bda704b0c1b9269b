//! `lintmesh status`: the mesh on one screen, once, until it is ready, or for as long as somebody looks.

mod facts;
mod json;
mod screen;
mod watch;

use std::time::Duration;

use anyhow::Context as _;

use super::arguments::parse_duration;
use super::connect::{Connection, ServerArgs};
use super::exit::Exit;
use super::interrupt::Interrupt;
use super::output;
use super::patience::{self, Waited};
use crate::proto::v1::{GetMeshStatusRequest, GetMeshStatusResponse};

/// Arguments of `status`.
#[derive(Debug, clap::Args)]
#[command(after_help = "Examples:\n  \
        lintmesh status --watch                          follow the mesh\n  \
        lintmesh status --wait=ready --timeout 5m        in a script, or in an init container\n\n\
        Exit codes: 0 told, and ready if that was waited for; 1 not ready within --timeout, or no server was there; 2 an error")]
pub(super) struct StatusArgs {
    /// Print JSON; with --watch one line for each change
    #[arg(long)]
    json: bool,
    /// Follow the mesh until interrupted, over broken connections
    #[arg(long, conflicts_with = "wait")]
    watch: bool,
    /// Wait until the mesh is in this state; exit 1 if it is not within --timeout. A server that is not there yet is
    /// waited for too
    #[arg(long, value_name = "STATE", value_enum)]
    wait: Option<Wait>,
    /// How long to wait
    #[arg(long, default_value = "30s", value_parser = parse_duration)]
    timeout: Duration,
    #[command(flatten)]
    server: ServerArgs,
}

#[derive(Debug, Clone, Copy, clap::ValueEnum)]
enum Wait {
    /// All nodes are ACTIVE
    Ready,
}

pub(super) async fn run(args: StatusArgs, interrupt: &Interrupt) -> anyhow::Result<Exit> {
    if args.watch {
        return watch::watch(&args.server, args.json, interrupt).await;
    }
    let status = match args.wait {
        None => ask(&args.server.connect().await?).await?,
        Some(Wait::Ready) => {
            let look = async || ask(&args.server.connect().await?).await;
            let wait = patience::until(args.timeout, look, facts::is_ready);
            match interrupt.unless(wait).await? {
                Waited::Seen(status) => status,
                Waited::Unseen(error) => {
                    let error = patience::in_vain(error, "not ready", args.timeout);
                    output::say(&super::error::render(&error));
                    return Ok(Exit::Findings);
                }
            }
        }
    };
    if args.json {
        output::print_line(&format!("{:#}", json::as_json(&status)))?;
    } else {
        output::print(screen::screen(&status).as_bytes())?;
    }
    let unmet = args.wait.is_some() && !facts::is_ready(&status);
    Ok(if unmet { Exit::Findings } else { Exit::Success })
}

async fn ask(connection: &Connection) -> anyhow::Result<GetMeshStatusResponse> {
    let answer = connection.coordinator().get_mesh_status(GetMeshStatusRequest {}).await;
    Ok(answer.context("asking for the status")?.into_inner())
}

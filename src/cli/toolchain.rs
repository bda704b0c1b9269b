//! `lintmesh toolchain install`: installs the managed linters ahead of the first run, for example into an image.

use anyhow::Context as _;

use super::arguments::ConfigArgs;
use super::exit::Exit;
use super::linters;
use super::output;
use crate::linters::toolchain::{ToolBinary, Toolchain};

/// Arguments of `toolchain`.
#[derive(Debug, clap::Args)]
pub(super) struct ToolchainArgs {
    #[command(subcommand)]
    command: ToolchainCommand,
}

#[derive(Debug, clap::Subcommand)]
enum ToolchainCommand {
    /// Make the linters available and list them; the managed ones are installed if they are not there yet
    #[command(after_help = "Exit codes: 0 all five linters are there, 1 some are missing, 2 an error")]
    Install {
        #[command(flatten)]
        config: ConfigArgs,
    },
}

pub(super) async fn run(args: ToolchainArgs) -> anyhow::Result<Exit> {
    let ToolchainCommand::Install { config } = args.command;
    let settings = config.settings()?;
    let provide =
        move || linters::toolchain(&settings, &mut |text| output::say(&format!("lintmesh: {text}")));
    let toolchain = tokio::task::spawn_blocking(provide).await.context("installing the linters")??;
    output::print(listing(&toolchain).as_bytes())?;
    Ok(if is_complete(&toolchain) { Exit::Success } else { Exit::Findings })
}

/// Whether every tool can be run.
pub(super) fn is_complete(toolchain: &Toolchain) -> bool {
    toolchain.tools.values().all(|binary| matches!(binary, ToolBinary::Present { .. }))
}

fn listing(toolchain: &Toolchain) -> String {
    let rows: Vec<Vec<String>> = toolchain
        .tools
        .iter()
        .map(|(name, binary)| match binary {
            ToolBinary::Present { version, program, .. } => {
                vec![name.to_string(), version.clone(), program.display().to_string()]
            }
            ToolBinary::Missing { reason } => vec![name.to_string(), "missing".to_owned(), reason.clone()],
        })
        .collect();
    output::table(&rows)
}

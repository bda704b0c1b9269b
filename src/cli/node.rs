//! `lintmesh node`: one agent node process.

use std::io::BufReader;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::node::agent::{self, NodeOptions, NodeSettings};
use crate::node::{lifetime, link};

/// Where the node's settings come from.
pub enum NodeCommand {
    /// From a launcher, by standard input, which is also the node's lifeline.
    Launched,
    /// From the command line and configuration.
    Configured(Box<NodeSettings>),
}

/// Runs the node until it is asked to end (SIGTERM, SIGINT, its coordinator, its launcher's end) or is refused.
pub fn node(command: NodeCommand) -> anyhow::Result<()> {
    let stop = CancellationToken::new();
    let settings = match command {
        NodeCommand::Configured(settings) => *settings,
        NodeCommand::Launched => {
            let mut input = BufReader::new(std::io::stdin());
            let settings = lifetime::read_settings(&mut input)?;
            lifetime::end_with(input, stop.clone()).context("cannot watch standard input")?;
            settings
        }
    };
    // One thread for the session, one for what comes in bulk; linters and stages have theirs.
    let runtime = tokio::runtime::Builder::new_multi_thread()
        .worker_threads(2)
        .enable_all()
        .build()
        .context("cannot start the runtime")?;
    let ended = runtime.block_on(async {
        stop_on_signals(&stop).context("cannot listen for signals")?;
        let options = NodeOptions { settings, connector: link::tcp(), random: Arc::new(link::jitter) };
        agent::run(options, stop).await.map_err(anyhow::Error::from)
    });
    // A stage that computes cannot be interrupted, and nobody waits for it any more.
    runtime.shutdown_background();
    ended
}

fn stop_on_signals(stop: &CancellationToken) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let stop = stop.clone();
    tokio::spawn(async move {
        tokio::select! {
            _ = terminate.recv() => {}
            _ = interrupt.recv() => {}
        }
        stop.cancel();
    });
    Ok(())
}

//! `lintmesh node`: one agent node process.

use std::io::BufReader;
use std::sync::Arc;

use anyhow::Context as _;
use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use crate::node::agent::{self, NodeOptions, NodeSettings};
use crate::node::{lifetime, link};
use crate::transport::listener::Tcp;

/// Where the node's settings come from.
pub enum NodeCommand {
    /// From a launcher, by standard input, which is also the node's lifeline.
    Launched,
    /// From the command line and configuration.
    Configured(Box<NodeSettings>),
}

/// Runs the node until its coordinator or its launcher ends it, it is left alone by both, it is refused, or a signal asks it to: the first SIGTERM
/// or SIGINT lets it finish what it runs, within `nodes.drain_timeout`; the second ends it at once.
pub fn node(command: NodeCommand) -> anyhow::Result<()> {
    let [stop, drain, orphaned] = [(); 3].map(|()| CancellationToken::new());
    let settings = match command {
        NodeCommand::Configured(settings) => *settings,
        NodeCommand::Launched => {
            let mut input = BufReader::new(std::io::stdin());
            let settings: NodeSettings = lifetime::read_settings(&mut input)?;
            let may_survive = !settings.orphan_grace.is_zero();
            lifetime::follow(input, may_survive, stop.clone(), orphaned.clone())
                .context("cannot watch standard input")?;
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
        end_on_signals(&drain, &stop).context("cannot listen for signals")?;
        let options = NodeOptions {
            settings,
            network: Tcp,
            connector: link::tcp(),
            drain,
            orphaned,
            random: Arc::new(link::jitter),
        };
        agent::run(options, stop).await.map_err(anyhow::Error::from)
    });
    // A stage that computes cannot be interrupted, and nobody waits for it any more.
    runtime.shutdown_background();
    ended
}

fn end_on_signals(drain: &CancellationToken, stop: &CancellationToken) -> std::io::Result<()> {
    let (mut terminate, mut interrupt) = (signal(SignalKind::terminate())?, signal(SignalKind::interrupt())?);
    let tokens = [drain.clone(), stop.clone()];
    tokio::spawn(async move {
        for token in tokens {
            tokio::select! {
                _ = terminate.recv() => {}
                _ = interrupt.recv() => {}
            }
            token.cancel();
        }
    });
    Ok(())
}

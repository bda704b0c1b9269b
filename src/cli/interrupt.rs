//! Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends the process at once.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};

use tokio::signal::unix::{SignalKind, signal};
use tokio_util::sync::CancellationToken;

use super::exit::Exit;

/// The user asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Tells whether the user wants the command to end.
#[derive(Clone, Default)]
pub struct Interrupt {
    token: CancellationToken,
    signal: Arc<AtomicI32>,
    at_once: Arc<Mutex<Option<LastAct>>>,
}

/// What is done before the process ends at once.
type LastAct = Box<dyn FnOnce() + Send>;

impl Interrupt {
    /// Starts to listen for SIGINT and SIGTERM. Their default action is gone from here on.
    pub fn listen() -> std::io::Result<Self> {
        let interrupt = Self::default();
        let mut int = signal(SignalKind::interrupt())?;
        let mut term = signal(SignalKind::terminate())?;
        let seen = interrupt.clone();
        tokio::spawn(async move {
            loop {
                let number = tokio::select! {
                    _ = int.recv() => SignalKind::interrupt().as_raw_value(),
                    _ = term.recv() => SignalKind::terminate().as_raw_value(),
                };
                if seen.token.is_cancelled() {
                    if let Some(act) = seen.last_act().take() {
                        act();
                    }
                    // Other children notice that their parent is gone and end too.
                    std::process::exit(i32::from(Exit::Signal(number).code()));
                }
                seen.raise(number);
            }
        });
        Ok(interrupt)
    }

    /// Has something done before the second signal ends the process. It must not take long.
    pub fn before_ending_at_once(&self, act: impl FnOnce() + Send + 'static) {
        *self.last_act() = Some(Box::new(act));
    }

    fn last_act(&self) -> std::sync::MutexGuard<'_, Option<LastAct>> {
        self.at_once.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Behaves as if the signal had arrived.
    pub fn raise(&self, number: i32) {
        self.signal.store(number, Ordering::Release);
        self.token.cancel();
    }

    /// Completes when the user wants the command to end.
    pub async fn requested(&self) {
        self.token.cancelled().await;
    }

    /// The outcome of `work`, which is dropped if the user wants the command to end.
    pub async fn unless<T>(&self, work: impl Future<Output = anyhow::Result<T>>) -> anyhow::Result<T> {
        tokio::select! {
            () = self.requested() => Err(Interrupted.into()),
            outcome = work => outcome,
        }
    }

    /// How the process ends, if the user wanted it to.
    pub fn exit(&self) -> Option<Exit> {
        self.token.is_cancelled().then(|| Exit::Signal(self.signal.load(Ordering::Acquire)))
    }
}

//! Ctrl-C and SIGTERM: the first asks for an orderly end, the second ends the process at once, unless it comes so soon
//! that nobody can have meant it.

use std::sync::atomic::{AtomicI32, Ordering};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use tokio::signal::unix::{SignalKind, signal};
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use super::exit::Exit;

/// The user asked to end.
#[derive(Debug, Clone, Copy, PartialEq, Eq, thiserror::Error)]
#[error("interrupted")]
pub struct Interrupted;

/// Signals so soon after the first are the same one: `timeout -s INT` and some terminals send one to the process and one to
/// its group.
const SAME_WISH: Duration = Duration::from_millis(500);

/// What a signal means, after those before it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Wish {
    /// The first.
    OrderlyEnd,
    /// The first once more.
    Said,
    /// The user does not want to wait.
    EndAtOnce,
}

/// The signals so far.
#[derive(Debug, Default)]
struct Signals {
    first: Option<Instant>,
}

impl Signals {
    /// A signal arrived; `is_ending` says that the command ends already, for whatever reason.
    fn arrived(&mut self, now: Instant, is_ending: bool) -> Wish {
        match self.first {
            Some(first) if now.duration_since(first) < SAME_WISH => Wish::Said,
            None if !is_ending => {
                self.first = Some(now);
                Wish::OrderlyEnd
            }
            _ => Wish::EndAtOnce,
        }
    }
}

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
            let mut signals = Signals::default();
            loop {
                let number = tokio::select! {
                    _ = int.recv() => SignalKind::interrupt().as_raw_value(),
                    _ = term.recv() => SignalKind::terminate().as_raw_value(),
                };
                match signals.arrived(Instant::now(), seen.token.is_cancelled()) {
                    Wish::OrderlyEnd => seen.raise(number),
                    Wish::Said => {}
                    Wish::EndAtOnce => {
                        if let Some(act) = seen.last_act().take() {
                            act();
                        }
                        // Other children notice that their parent is gone and end too.
                        std::process::exit(i32::from(Exit::Signal(number).code()));
                    }
                }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_wish_may_come_as_several_signals_and_a_second_wish_ends_at_once() {
        let first = Instant::now();
        let after = |millis| first + Duration::from_millis(millis);
        let mut signals = Signals::default();
        let wishes = [0, 0, 1, 499, 500].map(|millis| signals.arrived(after(millis), millis > 0));
        assert_eq!(wishes, [Wish::OrderlyEnd, Wish::Said, Wish::Said, Wish::Said, Wish::EndAtOnce]);
        assert_eq!(signals.arrived(after(9_000), true), Wish::EndAtOnce);
        // What ended for another reason is not waited for either.
        assert_eq!(Signals::default().arrived(first, true), Wish::EndAtOnce);
    }
}

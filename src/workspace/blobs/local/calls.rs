//! The way from callers that block to a library of futures.
//!
//! Callers are anywhere: in plain threads, in the blocking threads of a runtime, in tests inside of one. The library
//! hands its file work to the blocking threads of the runtime it is called in; were it called in one of these, all of
//! them could come to wait for each other. So it is called in threads of its own, which belong to no runtime: there it
//! does the work at once, and nobody it waits for can wait for it.

use std::io;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::pin::pin;
use std::sync::{Arc, Mutex, PoisonError, mpsc};
use std::task::{Context, Poll, Wake, Waker};
use std::thread::{self, Thread};

/// Calls under way at a time; each is one system call or a few.
const THREADS: usize = 4;
/// Calls that wait for a thread; beyond, callers wait to queue.
const QUEUE: usize = 64;

type Call = Box<dyn FnOnce() + Send>;

/// Threads that do nothing but calls; they end when this is dropped.
pub(super) struct Calls {
    queue: mpsc::SyncSender<Call>,
}

impl Calls {
    /// Starts the threads.
    pub(super) fn start() -> io::Result<Self> {
        let (queue, queued) = mpsc::sync_channel::<Call>(QUEUE);
        let queued = Arc::new(Mutex::new(queued));
        for _ in 0..THREADS {
            let queued = Arc::clone(&queued);
            thread::Builder::new().name("lintmesh-blobs".into()).spawn(move || work(&queued))?;
        }
        Ok(Self { queue })
    }

    /// Makes a future and waits for its end; nothing if the thread that did so panicked.
    pub(super) fn run<T, F>(&self, make: impl FnOnce() -> F + Send + 'static) -> Option<T>
    where
        T: Send + 'static,
        F: Future<Output = T>,
    {
        let (answer, answered) = mpsc::sync_channel(1);
        let call = Box::new(move || {
            let done = wait(make());
            // The caller waits below; it cannot have gone away.
            let _ = answer.send(done);
        });
        self.queue.send(call).ok()?;
        answered.recv().ok()
    }
}

fn work(queued: &Mutex<mpsc::Receiver<Call>>) {
    loop {
        let call = queued.lock().unwrap_or_else(PoisonError::into_inner).recv();
        let Ok(call) = call else { return };
        if catch_unwind(AssertUnwindSafe(call)).is_err() {
            tracing::error!("a call of the blob folder panicked");
        }
    }
}

/// Waits for a future on this thread.
fn wait<F: Future>(future: F) -> F::Output {
    struct Unpark(Thread);
    impl Wake for Unpark {
        fn wake(self: Arc<Self>) {
            self.0.unpark();
        }
    }
    let waker = Waker::from(Arc::new(Unpark(thread::current())));
    let mut future = pin!(future);
    loop {
        match future.as_mut().poll(&mut Context::from_waker(&waker)) {
            Poll::Ready(done) => return done,
            Poll::Pending => thread::park(),
        }
    }
}

#[cfg(test)]
mod tests {
    use std::time::Duration;

    use super::*;

    #[test]
    fn calls_from_anywhere_are_answered_even_if_every_blocking_thread_makes_one() {
        let runtime = tokio::runtime::Builder::new_multi_thread()
            .worker_threads(1)
            .max_blocking_threads(2)
            .build()
            .expect("a runtime");
        let calls = Arc::new(Calls::start().expect("threads"));
        // What the library does wherever it finds a runtime.
        let hop = || async {
            match tokio::runtime::Handle::try_current() {
                Ok(runtime) => runtime.spawn_blocking(|| 7).await.expect("ran"),
                Err(_) => 7,
            }
        };
        assert_eq!(calls.run(hop), Some(7), "from a plain thread");
        let inside = Arc::clone(&calls);
        runtime.block_on(async move {
            assert_eq!(inside.run(hop), Some(7), "from within a runtime");
            let jobs: Vec<_> = (0..8)
                .map(|_| {
                    let calls = Arc::clone(&inside);
                    tokio::task::spawn_blocking(move || calls.run(hop))
                })
                .collect();
            for job in jobs {
                assert_eq!(job.await.expect("no panic"), Some(7), "from a blocking thread");
            }
        });
    }

    #[test]
    fn a_future_that_waits_and_one_that_panics_leave_the_threads_at_work() {
        let calls = Calls::start().expect("threads");
        let (told, hears) = tokio::sync::oneshot::channel();
        let teller = thread::spawn(move || {
            thread::sleep(Duration::from_millis(1));
            told.send(3).expect("heard");
        });
        assert_eq!(calls.run(move || async move { hears.await.expect("told") }), Some(3));
        teller.join().expect("no panic");
        for _ in 0..THREADS {
            assert_eq!(calls.run(|| async { panic!("as a test") }), None::<()>);
        }
        assert_eq!(calls.run(|| async { 4 }), Some(4));
    }
}

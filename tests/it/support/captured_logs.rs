//! What is logged by some work on this thread.

use std::io::{self, Write};
use std::sync::{Arc, LazyLock, Mutex};

use tracing::Dispatch;

/// A buffer that several may write to.
#[derive(Clone, Default)]
struct Sink(Arc<Mutex<Vec<u8>>>);

impl Write for Sink {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.0.lock().expect("no panic").write(bytes)
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// As long as there is one subscriber only, tracing asks the thread that comes to a line first whether anybody wants it,
/// and holds on to the answer, though that may be the thread of another test.
static ANOTHER: LazyLock<Dispatch> = LazyLock::new(|| Dispatch::new(tracing_subscriber::registry()));

/// Does it, and gives the lines that were logged, of level INFO and above.
pub(crate) fn logs_of(work: impl FnOnce()) -> String {
    LazyLock::force(&ANOTHER);
    let sink = Sink::default();
    let to = sink.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone()).finish();
    tracing::subscriber::with_default(subscriber, work);
    String::from_utf8(sink.0.lock().expect("no panic").clone()).expect("text")
}

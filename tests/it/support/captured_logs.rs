//! What is logged by some work on this thread.

use std::io::{self, Write};
use std::sync::{Arc, Mutex};

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

/// Does it, and gives the lines that were logged, of level INFO and above.
pub(crate) fn logs_of(work: impl FnOnce()) -> String {
    let sink = Sink::default();
    let to = sink.clone();
    let subscriber = tracing_subscriber::fmt().with_ansi(false).with_writer(move || to.clone()).finish();
    tracing::subscriber::with_default(subscriber, work);
    String::from_utf8(sink.0.lock().expect("no panic").clone()).expect("text")
}

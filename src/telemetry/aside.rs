//! Log lines of a process whose standard error may be a pipe that nobody reads any more.

use std::io::{self, Write};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc::{Receiver, SyncSender, sync_channel};
use std::time::Duration;

/// Lines that may wait to be written; more are lost.
const QUEUE: usize = 1024;

/// Writes whole lines by a thread of its own, so that whoever logs never waits: what cannot be written in time is lost,
/// and told as a number once something can. Clones share the thread.
#[derive(Clone)]
pub struct Aside {
    queue: SyncSender<Entry>,
    lost: Arc<AtomicU64>,
}

enum Entry {
    Line(Vec<u8>),
    /// Answered when all before it is written.
    Flush(SyncSender<()>),
}

impl Aside {
    /// Starts the thread, which lives until all clones are gone.
    pub fn start(out: impl Write + Send + 'static) -> io::Result<Self> {
        let (queue, entries) = sync_channel(QUEUE);
        let lost = Arc::new(AtomicU64::new(0));
        let counted = Arc::clone(&lost);
        std::thread::Builder::new().name("log".into()).spawn(move || write(&entries, out, &counted))?;
        Ok(Self { queue, lost })
    }

    /// Waits until everything logged so far is written, at most so long.
    pub fn flush(&self, bound: Duration) {
        let (done, is_done) = sync_channel(1);
        if self.queue.try_send(Entry::Flush(done)).is_ok() {
            // Nobody reads: there is nothing more to do for it.
            let _ = is_done.recv_timeout(bound);
        }
    }
}

impl Write for Aside {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.queue.try_send(Entry::Line(bytes.to_vec())).is_err() {
            self.lost.fetch_add(1, Ordering::Relaxed);
        }
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

/// An error does not end it: a full disk may have room again.
fn write(entries: &Receiver<Entry>, mut out: impl Write, lost: &AtomicU64) {
    while let Ok(entry) = entries.recv() {
        match entry {
            Entry::Line(line) => {
                let _ = out.write_all(&line);
            }
            Entry::Flush(done) => {
                let _ = done.send(());
            }
        }
        let lost = lost.swap(0, Ordering::Relaxed);
        if lost > 0 {
            let _ = writeln!(out, "{lost} log lines were lost, since nobody read them");
        }
    }
}

#[cfg(test)]
mod tests {
    use std::io::{BufRead as _, BufReader};

    use super::*;

    const BOUND: Duration = Duration::from_secs(60);

    #[test]
    fn who_logs_never_waits_and_what_is_lost_is_counted() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let mut log = Aside::start(writer).expect("a thread");
        let line = [b"x".repeat(999), vec![b'\n']].concat();
        // Far more than queue and pipe hold; nobody reads.
        let all = 20 * QUEUE;
        for _ in 0..all {
            log.write_all(&line).expect("taken");
        }
        log.flush(Duration::from_millis(1));
        let mut lines = BufReader::new(reader).lines().map(|line| line.expect("text"));
        let mut whole = 0;
        let told = loop {
            let line = lines.next().expect("it goes on");
            if line.contains("lost") {
                break line;
            }
            assert_eq!(line.len(), 999);
            whole += 1;
        };
        let lost: usize = told.split(' ').next().expect("a number").parse().expect("a number");
        assert!(lost > 0 && whole <= QUEUE && whole + lost <= all, "{whole} {lost}");
    }

    #[test]
    fn a_closed_pipe_is_no_end() {
        let (reader, writer) = io::pipe().expect("a pipe");
        drop(reader);
        let mut log = Aside::start(writer).expect("a thread");
        for _ in 0..3 {
            log.write_all(b"line\n").expect("taken");
            log.flush(BOUND);
        }
        assert_eq!(Arc::strong_count(&log.lost), 2, "its thread lives");
    }

    #[test]
    fn flushed_lines_are_there() {
        let (reader, writer) = io::pipe().expect("a pipe");
        let mut log = Aside::start(writer).expect("a thread");
        log.write_all(b"one\n").expect("taken");
        log.write_all(b"two\n").expect("taken");
        log.flush(BOUND);
        drop(log);
        let lines: Vec<_> = BufReader::new(reader).lines().map(|line| line.expect("text")).collect();
        assert_eq!(lines, ["one", "two"]);
    }
}

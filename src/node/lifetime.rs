//! Ties a launched node to its launcher: the pipe at its standard input carries its settings, then the order to end; and
//! its end without that order is the launcher's end, however that died.
//!
//! `PR_SET_PDEATHSIG` is not used: it follows the thread that started the process, and the threads of a runtime come
//! and go.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

/// More than any settings.
const MAX_SETTINGS_BYTES: u64 = 1 << 20;

/// The launcher's order to end at once.
pub const STOP: &[u8] = b"stop\n";

/// How long the process may take to end by itself when it is to.
const END_BOUND: Duration = Duration::from_secs(2);

/// Why a process has no settings.
#[derive(Debug, thiserror::Error)]
pub enum SettingsError {
    /// The pipe broke.
    #[error("cannot read the settings from standard input: {0}")]
    Read(#[from] std::io::Error),
    /// It is not what a launcher sends.
    #[error("standard input does not begin with one line of node settings: {0}")]
    Garbled(#[from] serde_json::Error),
}

/// Reads the one line of JSON that a launcher sends first. The reader is then good for [`follow`].
pub fn read_settings<T: DeserializeOwned, R: Read>(input: &mut BufReader<R>) -> Result<T, SettingsError> {
    let mut line = Vec::new();
    input.by_ref().take(MAX_SETTINGS_BYTES).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

/// Reads what the launcher says after the settings: [`STOP`] cancels `stop`, and so does the end of `input` without it if
/// the node may not outlive its launcher; else that cancels `orphaned`. A process that is to end and does not is ended
/// soon after.
///
/// A thread of its own, since a read from standard input cannot be cancelled and would keep a runtime from ending.
pub fn follow<R: Read + Send + 'static>(
    mut input: BufReader<R>,
    may_survive: bool,
    stop: CancellationToken,
    orphaned: CancellationToken,
) -> std::io::Result<()> {
    let wait = move || {
        if !is_told_to_stop(&mut input) && may_survive {
            return orphaned.cancel();
        }
        stop.cancel();
        std::thread::sleep(END_BOUND);
        // The shims around the linters see this process end and end them.
        std::process::exit(1);
    };
    std::thread::Builder::new().name("lifetime".into()).spawn(wait).map(drop)
}

/// Whether the order came before the end. An error is an end too, and no launcher says anything else.
fn is_told_to_stop(input: &mut impl BufRead) -> bool {
    let mut line = Vec::new();
    let read = input.take(STOP.len() as u64).read_until(b'\n', &mut line);
    read.is_ok() && line == STOP
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn settings_are_one_line_and_what_follows_stays() {
        let mut input = BufReader::new(&b"[1,2]\nrest"[..]);
        assert_eq!(read_settings::<Vec<u32>, _>(&mut input).expect("JSON"), [1, 2]);
        let mut rest = String::new();
        input.read_to_string(&mut rest).expect("text");
        assert_eq!(rest, "rest");
    }

    #[test]
    fn only_the_whole_order_is_one() {
        let told = |said: &[u8]| is_told_to_stop(&mut BufReader::new(said));
        assert!(told(STOP));
        for said in [&b""[..], b"stop", b"sto", b"\n", b"stopped\n", &[b'x'; 1 << 20]] {
            assert!(!told(said), "{}", said.len());
        }
    }

    #[test]
    fn a_launcher_that_is_gone_is_an_order_only_to_those_that_may_not_survive() {
        let (stop, orphaned) = (CancellationToken::new(), CancellationToken::new());
        follow(BufReader::new(&b""[..]), true, stop.clone(), orphaned.clone()).expect("a thread");
        let seen = std::thread::spawn({
            let orphaned = orphaned.clone();
            move || {
                while !orphaned.is_cancelled() {
                    std::thread::yield_now();
                }
            }
        });
        seen.join().expect("seen");
        assert!(!stop.is_cancelled());
    }

    #[test]
    fn anything_else_is_refused() {
        for bytes in [&b""[..], b"\n", b"GET / HTTP/1.1\n", &[b'['; 2 << 20]] {
            assert!(read_settings::<Vec<u32>, _>(&mut BufReader::new(bytes)).is_err());
        }
    }
}

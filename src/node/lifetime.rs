//! Ties a launched node to its launcher: the pipe at its standard input carries its settings, and its end is the
//! launcher's end, however that died.
//!
//! `PR_SET_PDEATHSIG` is not used: it follows the thread that started the process, and the threads of a runtime come
//! and go.

use std::io::{BufRead, BufReader, Read};
use std::time::Duration;

use serde::de::DeserializeOwned;
use tokio_util::sync::CancellationToken;

/// More than any settings.
const MAX_SETTINGS_BYTES: u64 = 1 << 20;

/// How long the process may take to end by itself when its launcher is gone.
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

/// Reads the one line of JSON that a launcher sends first. The reader is then good for [`end_with`].
pub fn read_settings<T: DeserializeOwned, R: Read>(input: &mut BufReader<R>) -> Result<T, SettingsError> {
    let mut line = Vec::new();
    input.by_ref().take(MAX_SETTINGS_BYTES).read_until(b'\n', &mut line)?;
    Ok(serde_json::from_slice(&line)?)
}

/// Cancels `stop` when `input` ends, and ends the process if it has not done so by itself soon after.
///
/// A thread of its own, since a read from standard input cannot be cancelled and would keep a runtime from ending.
pub fn end_with<R: Read + Send + 'static>(
    mut input: BufReader<R>,
    stop: CancellationToken,
) -> std::io::Result<()> {
    let wait = move || {
        // What else comes is not for us; an error is an end too.
        let _ = std::io::copy(&mut input, &mut std::io::sink());
        stop.cancel();
        std::thread::sleep(END_BOUND);
        // The shims around the linters see this process end and end them.
        std::process::exit(1);
    };
    std::thread::Builder::new().name("lifetime".into()).spawn(wait).map(drop)
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
    fn anything_else_is_refused() {
        for bytes in [&b""[..], b"\n", b"GET / HTTP/1.1\n", &[b'['; 2 << 20]] {
            assert!(read_settings::<Vec<u32>, _>(&mut BufReader::new(bytes)).is_err());
        }
    }
}

//! Standard output: what a command was asked for, and nothing else. Standard error: all other words.

use std::io::{self, Write};
use std::sync::{Mutex, PoisonError};

use indicatif::MultiProgress;

/// The bars on standard error, if there are any now.
static BARS: Mutex<Option<MultiProgress>> = Mutex::new(None);

/// Writes all of `bytes`. A reader that has seen enough (`| head`) is no error.
pub fn print(bytes: &[u8]) -> io::Result<()> {
    let mut stdout = io::stdout().lock();
    quiet_end(stdout.write_all(bytes).and_then(|()| stdout.flush()))
}

/// Writes a line.
pub fn print_line(text: &str) -> io::Result<()> {
    print(format!("{text}\n").as_bytes())
}

/// Writes a line to standard error. That nobody reads it (`2>&1 | head`, a full disk) stops no work.
pub fn say(text: &str) {
    let _ = LogLines.write_all(format!("{text}\n").as_bytes());
}

/// Tells which bars are drawn from now on, so that lines are written above them, not through them.
pub fn set_bars(bars: Option<MultiProgress>) {
    *BARS.lock().unwrap_or_else(PoisonError::into_inner) = bars;
}

/// Standard error, for whole lines.
#[derive(Debug, Clone, Copy)]
pub struct LogLines;

impl Write for LogLines {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        let bars = BARS.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let write = || io::stderr().lock().write_all(bytes);
        match bars {
            Some(bars) => bars.suspend(write),
            None => write(),
        }?;
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        io::stderr().flush()
    }
}

/// Takes a closed pipe for a good end.
pub fn quiet_end(written: io::Result<()>) -> io::Result<()> {
    match written {
        Err(error) if error.kind() == io::ErrorKind::BrokenPipe => Ok(()),
        other => other,
    }
}

/// Rows with columns as wide as their widest cell, two spaces apart; the last column is not padded.
pub fn table(rows: &[Vec<String>]) -> String {
    let columns = rows.iter().map(Vec::len).max().unwrap_or(0);
    let width = |column: usize| {
        rows.iter().filter_map(|row| row.get(column)).map(|cell| cell.chars().count()).max().unwrap_or(0)
    };
    let widths: Vec<usize> = (0..columns).map(width).collect();
    let mut text = String::new();
    for row in rows {
        let mut line = String::new();
        for (cell, width) in row.iter().zip(&widths) {
            line.push_str(&format!("{cell:<width$}  "));
        }
        text.push_str(line.trim_end());
        text.push('\n');
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn columns_line_up_and_lines_have_no_trailing_space() {
        let rows = [["node", "status", ""], ["a-long-name", "ACTIVE", "x"]]
            .map(|row| row.map(String::from).to_vec());
        assert_eq!(table(&rows), "node         status\na-long-name  ACTIVE  x\n");
    }

    #[test]
    fn only_a_closed_pipe_is_forgiven() {
        assert!(quiet_end(Err(io::ErrorKind::BrokenPipe.into())).is_ok());
        assert!(quiet_end(Err(io::ErrorKind::StorageFull.into())).is_err());
    }
}

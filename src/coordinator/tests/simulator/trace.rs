//! What happened in a simulation: a digest of everything, to compare executions, and the last lines, to read.

use std::collections::VecDeque;
use std::fmt::{self, Write};

use crate::types::Tick;

/// Lines that are kept for a failure.
const KEPT: usize = 60;

/// FNV-1a (Fowler, Noll, Vo) over the text of everything.
pub(super) struct Trace {
    digest: u64,
    lines: VecDeque<String>,
    mode: Mode,
}

/// How much is written down; writing costs more than simulating.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Mode {
    Nothing,
    /// The digest and the last lines.
    Digest,
    /// All lines, to standard error.
    Print,
}

impl Write for Trace {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        for byte in text.bytes() {
            self.digest = (self.digest ^ u64::from(byte)).wrapping_mul(0x0000_0100_0000_01b3);
        }
        Ok(())
    }
}

impl Trace {
    pub(super) const fn new(mode: Mode) -> Self {
        Self { digest: 0xcbf2_9ce4_8422_2325, lines: VecDeque::new(), mode }
    }

    pub(super) fn write(&mut self, now: Tick, what: &impl fmt::Debug) {
        if self.mode == Mode::Nothing {
            return;
        }
        let line = format!("{:>12.6} {what:?}", now.0 as f64 / 1e6);
        if self.mode == Mode::Print {
            eprintln!("{line}");
        }
        self.write_str(&line).expect("a digest takes any text");
        self.lines.push_back(line);
        if self.lines.len() > KEPT {
            self.lines.pop_front();
        }
    }

    pub(super) const fn digest(&self) -> u64 {
        self.digest
    }

    pub(super) fn lines(&self) -> impl Iterator<Item = &String> {
        self.lines.iter()
    }
}

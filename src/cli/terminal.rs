//! What the terminal can show.

use std::io::IsTerminal as _;

/// Columns where there is no terminal to ask.
pub(super) const DEFAULT_WIDTH: usize = 120;

/// When to use colours.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, clap::ValueEnum)]
pub(super) enum ColorChoice {
    /// On a terminal, unless NO_COLOR is set
    #[default]
    Auto,
    /// Always
    Always,
    /// Never
    Never,
}

impl ColorChoice {
    /// Whether to use colours on an output that is a terminal or not.
    pub(super) fn wanted(self, terminal: bool) -> bool {
        let set = |name: &str| std::env::var_os(name).filter(|value| !value.is_empty());
        self.decide(terminal, set("NO_COLOR").is_some(), set("TERM").is_some_and(|term| term == "dumb"))
    }

    /// `no_color`: NO_COLOR is set and not empty (no-color.org).
    const fn decide(self, terminal: bool, no_color: bool, dumb: bool) -> bool {
        match self {
            ColorChoice::Always => true,
            ColorChoice::Never => false,
            ColorChoice::Auto => terminal && !no_color && !dumb,
        }
    }
}

/// The width of standard output in columns.
pub(super) fn width() -> usize {
    if !std::io::stdout().is_terminal() {
        return DEFAULT_WIDTH;
    }
    console::Term::stdout().size_checked().map_or(DEFAULT_WIDTH, |(_, columns)| usize::from(columns).max(20))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn colours_go_to_terminals_that_want_them() {
        assert!(ColorChoice::Auto.decide(true, false, false));
        for (terminal, no_color, dumb) in [(false, false, false), (true, true, false), (true, false, true)] {
            assert!(!ColorChoice::Auto.decide(terminal, no_color, dumb));
            assert!(ColorChoice::Always.decide(terminal, no_color, dumb));
        }
        assert!(!ColorChoice::Never.decide(true, false, false));
    }
}

//! Progress on a terminal: a headline and one bar for each tool, drawn on standard error.

use std::collections::BTreeMap;
use std::io::{IsTerminal as _, stderr};
use std::time::Duration;

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressStyle};

use crate::cli::follow::Watcher;
use crate::cli::output;
use crate::cli::run_view::{RunView, tool_line};
use crate::linters::report::visible;
use crate::proto::v1::RunEvent;
use crate::proto::v1::run_event::Event;

/// Steps of a bar.
const STEPS: u64 = 100;

/// How often the headline's spinner turns.
const SPIN: Duration = Duration::from_millis(120);

/// Where progress and notices go.
pub(in crate::cli) struct Progress {
    bars: Option<Bars>,
    quiet: bool,
}

struct Bars {
    all: MultiProgress,
    headline: ProgressBar,
    tools: BTreeMap<String, ProgressBar>,
    spinner: ProgressStyle,
    bar: ProgressStyle,
}

impl Progress {
    /// Bars only if standard error is a terminal and they are wanted; notices unless `quiet`.
    pub(in crate::cli) fn new(wanted: bool, quiet: bool) -> Self {
        let bars = (wanted && !quiet && stderr().is_terminal()).then(Bars::new).flatten();
        Self { bars, quiet }
    }

    /// What is going on before the run starts.
    pub(in crate::cli) fn phase(&mut self, text: &str) {
        if let Some(bars) = &self.bars {
            bars.headline.set_message(text.to_owned());
        }
    }

    /// Takes the bars away, so that the report starts on a clean line.
    pub(in crate::cli) fn finish(&mut self) {
        if let Some(bars) = self.bars.take() {
            bars.headline.finish_and_clear();
            for bar in bars.tools.values() {
                bar.finish_and_clear();
            }
            output::set_bars(None);
        }
    }

    /// Something the user should know, unless they want quiet.
    pub(in crate::cli) fn tell(&self, text: &str) {
        if !self.quiet {
            output::say(&format!("lintmesh: {text}"));
        }
    }
}

impl Drop for Progress {
    fn drop(&mut self) {
        self.finish();
    }
}

impl Bars {
    /// None if the templates cannot be read: a run without progress is better than none.
    fn new() -> Option<Self> {
        let spinner = ProgressStyle::with_template("{spinner} {msg} {elapsed}").ok()?;
        // On a narrow terminal the words matter more than the bar; what does not fit is cut, never wrapped.
        let template = match Term::stderr().size_checked() {
            Some((_, columns)) if columns < 64 => "  {prefix:<8} {bar:8} {wide_msg}",
            _ => "  {prefix:<8} {bar:24} {wide_msg}",
        };
        let bar = ProgressStyle::with_template(template).ok()?.progress_chars("━╸─");
        let all = MultiProgress::new();
        output::set_bars(Some(all.clone()));
        let headline = all.add(ProgressBar::new_spinner().with_style(spinner.clone()));
        headline.enable_steady_tick(SPIN);
        Some(Self { all, headline, tools: BTreeMap::new(), spinner, bar })
    }

    fn draw(&mut self, view: &RunView) {
        self.headline.set_style(self.spinner.clone());
        self.headline.set_message(view.headline());
        for (name, tool) in &view.tools {
            let bar = self.tools.entry(name.clone()).or_insert_with(|| {
                // Complete before it is added: a bar on its own would draw over the others.
                let bar = ProgressBar::new(STEPS).with_style(self.bar.clone()).with_prefix(name.clone());
                self.all.add(bar.with_message(tool_line(tool)))
            });
            bar.set_position(position(tool.progress));
            bar.set_message(tool_line(tool));
        }
    }
}

/// The step of a bar at `progress`, which is 0 to 1.
#[expect(
    clippy::cast_possible_truncation,
    clippy::cast_sign_loss,
    clippy::cast_precision_loss,
    reason = "a share of 100"
)]
fn position(progress: f64) -> u64 {
    (progress.clamp(0.0, 1.0) * STEPS as f64) as u64
}

impl Watcher for Progress {
    fn event(&mut self, event: &RunEvent, view: &RunView) {
        if let Some(Event::Fault(fault)) = &event.event {
            let of =
                if fault.node_id.is_empty() { String::new() } else { format!("node {}: ", fault.node_id) };
            self.notice(&visible(&format!("{of}{} ({})", fault.detail, fault.cause)));
        }
        if let Some(bars) = &mut self.bars {
            bars.draw(view);
        }
    }

    fn notice(&mut self, text: &str) {
        self.tell(text);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_never_leaves_its_frame() {
        for (progress, step) in [(-1.0, 0), (0.0, 0), (0.5, 50), (1.0, 100), (7.0, 100), (f64::NAN, 0)] {
            assert_eq!(position(progress), step, "{progress}");
        }
    }
}

//! Goes on past a file that stops a tool: the tool is started again with another text in that file's place.

use std::collections::BTreeSet;
use std::path::{Path, PathBuf};

use super::place::Cleaner;
use crate::linters::adapter::{Adapter, Finding, Reading, StandIn};
use crate::linters::process::{Finished, ProcessSpec};
use crate::types::TreePath;

/// How often a tool is started again. A tool tells of one broken file at a time, or of a few; a tree with more of them
/// than this is not worth the time, and the tool's error says that the rest was not checked.
const MOST_RESTARTS: usize = 16;

/// What follows a process.
#[derive(Debug)]
pub(super) enum Next {
    /// The same, with stand-ins for the files that stopped it.
    Again(ProcessSpec),
    /// Nothing: this is what the tool said.
    Done(Reading),
}

/// The files that stopped a tool so far, and what it said of them.
#[derive(Debug)]
pub(super) struct StandIns<'a> {
    how: Option<StandIn>,
    cleaner: &'a Cleaner,
    text: PathBuf,
    replaced: BTreeSet<TreePath>,
    said: Vec<Finding>,
    restarts: usize,
}

impl<'a> StandIns<'a> {
    pub(super) fn new(adapter: &dyn Adapter, cleaner: &'a Cleaner, scratch: &Path) -> Self {
        Self {
            how: adapter.stand_in(),
            cleaner,
            text: scratch.join("stand_in.py"),
            replaced: BTreeSet::new(),
            said: Vec::new(),
            restarts: 0,
        }
    }

    /// Decides whether the tool is started again. All its processes together have the time of one.
    pub(super) async fn after(
        &mut self,
        spec: &ProcessSpec,
        finished: &Finished,
        reading: Reading,
    ) -> std::io::Result<Next> {
        let stopped = self.stopped_at(finished, &reading);
        let wall = spec.limits.wall.saturating_sub(finished.wall);
        let Some(how) =
            self.how.filter(|_| !stopped.is_empty() && self.restarts < MOST_RESTARTS && !wall.is_zero())
        else {
            return Ok(Next::Done(self.done(reading)));
        };
        tokio::fs::write(&self.text, how.text).await?;
        let mut again = spec.clone();
        again.limits.wall = wall;
        for path in &stopped {
            again.arguments.extend([
                how.argument.into(),
                format!("./{path}").into(),
                self.text.clone().into(),
            ]);
        }
        let of_stopped = reading.findings.into_iter().filter(|finding| self.is_in(&stopped, finding));
        let of_stopped: Vec<_> = of_stopped.collect();
        self.said.extend(of_stopped);
        self.replaced.extend(stopped);
        self.restarts += 1;
        Ok(Next::Again(again))
    }

    /// The files of the tree at which the tool stopped for the first time.
    fn stopped_at(&self, finished: &Finished, reading: &Reading) -> BTreeSet<TreePath> {
        let stops = self.how.is_some_and(|how| finished.code == Some(how.status));
        let paths = reading.findings.iter().filter(|_| stops && finished.exceeded.is_none());
        let paths = paths.filter_map(|finding| self.cleaner.tree_path(&finding.path));
        paths.filter(|path| !self.replaced.contains(path)).collect()
    }

    /// The last reading without what it says of stand-ins, with what was said of the files themselves.
    fn done(&mut self, mut reading: Reading) -> Reading {
        reading.findings.retain(|finding| !self.is_in(&self.replaced, finding));
        reading.findings.append(&mut self.said);
        reading
    }

    fn is_in(&self, paths: &BTreeSet<TreePath>, finding: &Finding) -> bool {
        self.cleaner.tree_path(&finding.path).is_some_and(|path| paths.contains(&path))
    }
}

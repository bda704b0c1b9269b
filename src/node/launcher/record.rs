//! What the next launcher must know of this one's processes, in a file: it may have to go on without a word from this one.

use std::collections::BTreeMap;
use std::fs::{self, OpenOptions};
use std::io::{self, Write as _};
use std::net::SocketAddr;
use std::os::unix::fs::OpenOptionsExt as _;
use std::path::{Path, PathBuf};

use serde::{Deserialize, Serialize};

use super::stranger::Stranger;
use crate::types::{Digest, NodeId};

/// The form of the file.
const FORMAT: u32 = 1;
/// More than any record.
const MAX_BYTES: u64 = 1 << 20;

/// A launched process.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Process {
    /// Its number.
    pub pid: u32,
    /// When it started, in clock ticks since the machine did (field 22 of proc_pid_stat(5)): tells it from a later one
    /// with its number.
    pub started: u64,
    /// SHA-256 of the secret with which it enrols.
    pub secret: Digest,
    /// SHA-256 of all else that it was told at its start.
    pub settings: Digest,
}

/// The file and what is in it.
///
/// It is replaced as a whole, so that a reader finds the one or the other. It is not synced to the disk: after the death
/// of a process the system still has it, and after the death of the machine there is no process left to know of.
#[derive(Debug)]
pub struct Record {
    path: PathBuf,
    content: Content,
}

#[derive(Debug, PartialEq, Eq, Serialize, Deserialize)]
struct Content {
    format: u32,
    /// The kernel's name for the time since the machine started.
    boot: String,
    /// Where the nodes look for their coordinator.
    node_listener: Option<SocketAddr>,
    processes: BTreeMap<NodeId, Process>,
}

/// Why a record says nothing.
#[derive(Debug, thiserror::Error)]
enum Unreadable {
    #[error(transparent)]
    Io(#[from] io::Error),
    #[error(transparent)]
    Garbled(#[from] serde_json::Error),
    #[error("its format is {0}, and {FORMAT} is known here")]
    Format(u32),
}

impl Record {
    /// Reads the file. One that is missing or cannot be read is an empty record: its processes, if there are any, are
    /// strangers then, and end by themselves.
    pub fn read(path: &Path) -> Self {
        let boot = fs::read_to_string("/proc/sys/kernel/random/boot_id").unwrap_or_default();
        Self { path: path.to_owned(), content: read(path, boot.trim()) }
    }

    /// Where the nodes look for their coordinator; none before the first.
    pub const fn node_listener(&self) -> Option<SocketAddr> {
        self.content.node_listener
    }

    /// Kills every process that still lives, and does not wait for their end; none if it is another coordinator's record
    /// than that of the one where nodes look at `listener`.
    pub fn kill_all(&self, listener: SocketAddr) {
        if self.content.node_listener != Some(listener) {
            return;
        }
        for process in self.content.processes.values() {
            if let Some(stranger) = Stranger::find(process.pid, process.started) {
                stranger.kill();
            }
        }
    }

    /// The processes, of which some may have ended.
    pub(super) const fn processes(&self) -> &BTreeMap<NodeId, Process> {
        &self.content.processes
    }

    /// Notes a process in place of the node's last one.
    pub(super) fn note(&mut self, node: &NodeId, process: Process) -> io::Result<()> {
        self.content.processes.insert(node.clone(), process);
        self.write_again()
    }

    /// Notes where nodes find the coordinator, and keeps of the processes only those of some nodes.
    pub(super) fn begin(&mut self, listener: SocketAddr, keep: impl Fn(&NodeId) -> bool) -> io::Result<()> {
        self.content.node_listener = Some(listener);
        self.content.processes.retain(|node, _| keep(node));
        self.write()
    }

    /// No process is left.
    pub(super) fn clear(&mut self) -> io::Result<()> {
        self.content.processes.clear();
        self.write_again()
    }

    /// Writes it where it was written before. If the folder was moved since, there may be another coordinator's by now:
    /// one with another listener, since no two can have the same.
    fn write_again(&self) -> io::Result<()> {
        let there = parsed(&self.path).ok().flatten().and_then(|content| content.node_listener);
        if there.is_some() && there != self.content.node_listener {
            return Err(io::Error::other("it is another coordinator's by now"));
        }
        self.write()
    }

    fn write(&self) -> io::Result<()> {
        let text = serde_json::to_vec_pretty(&self.content)?;
        let beside = self.path.with_extension("new");
        // For its owner only: digests of secrets say little, but they are nobody's business.
        let mut file =
            OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&beside)?;
        file.write_all(&text)?;
        fs::rename(&beside, &self.path)
    }
}

fn read(path: &Path, boot: &str) -> Content {
    let empty =
        Content { format: FORMAT, boot: boot.to_owned(), node_listener: None, processes: BTreeMap::new() };
    let content = match parsed(path) {
        Ok(Some(content)) => content,
        Ok(None) => return empty,
        Err(error) => {
            tracing::warn!(
                file = %path.display(),
                %error,
                "what earlier nodes were is not known; those that still run end by themselves"
            );
            return empty;
        }
    };
    if content.boot != boot {
        // The machine was started since: all are dead, and their numbers are others' now.
        return Content { node_listener: content.node_listener, ..empty };
    }
    content
}

fn parsed(path: &Path) -> Result<Option<Content>, Unreadable> {
    let bytes = match fs::metadata(path) {
        Ok(metadata) if metadata.len() > MAX_BYTES => {
            return Err(io::Error::new(io::ErrorKind::FileTooLarge, "it is too large").into());
        }
        Ok(_) => fs::read(path)?,
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        Err(error) => return Err(error.into()),
    };
    #[derive(Deserialize)]
    struct Head {
        format: u32,
    }
    let Head { format } = serde_json::from_slice(&bytes)?;
    if format != FORMAT {
        return Err(Unreadable::Format(format));
    }
    Ok(Some(serde_json::from_slice(&bytes)?))
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::PermissionsExt as _;

    use super::*;

    fn node(name: &str) -> NodeId {
        NodeId::new(name).expect("valid")
    }

    fn process(pid: u32) -> Process {
        let digest = |text: &str| Digest::of(format!("{text} of {pid}").as_bytes());
        Process { pid, started: u64::from(pid) * 10, secret: digest("secret"), settings: digest("settings") }
    }

    #[test]
    fn what_was_noted_is_read_by_the_next_and_by_nobody_else() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("launched.json");
        let mut record = Record::read(&path);
        assert_eq!((record.node_listener(), record.processes().len()), (None, 0));
        let listener = "127.0.0.1:4000".parse().expect("an address");
        record.begin(listener, |_| true).expect("written");
        record.note(&node("a"), process(1)).expect("written");
        record.note(&node("b"), process(2)).expect("written");
        record.note(&node("a"), process(3)).expect("written");
        let mode = fs::metadata(&path).expect("there").permissions().mode();
        assert_eq!(mode & 0o777, 0o600);

        let mut next = Record::read(&path);
        assert_eq!(next.node_listener(), Some(listener));
        let noted: Vec<_> = next.processes().values().copied().collect();
        assert_eq!(noted, [process(3), process(2)]);
        next.begin(listener, |id| *id == node("b")).expect("written");
        assert_eq!(Record::read(&path).processes().len(), 1);
        next.clear().expect("written");
        let last = Record::read(&path);
        assert_eq!((last.node_listener(), last.processes().len()), (Some(listener), 0));
        assert_eq!(fs::read_dir(dir.path()).expect("there").count(), 1, "nothing beside the file");
    }

    #[test]
    fn another_coordinator_s_record_is_left_alone() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("launched.json");
        let [own, others] = ["127.0.0.1:4000", "127.0.0.1:4001"].map(|at| at.parse().expect("an address"));
        let mut moved = Record::read(&path);
        moved.begin(own, |_| true).expect("written");
        moved.note(&node("a"), process(1)).expect("written");
        fs::remove_file(&path).expect("removed");
        moved.note(&node("a"), process(2)).expect("nobody's is in its place");
        let mut other = Record::read(&path);
        other.begin(others, |_| false).expect("its own by now");
        other.note(&node("b"), process(3)).expect("written");
        assert!(moved.note(&node("a"), process(4)).is_err() && moved.clear().is_err());
        let read = Record::read(&path);
        assert_eq!((read.node_listener(), read.processes().len()), (Some(others), 1));
    }

    #[test]
    fn of_an_earlier_life_of_the_machine_only_the_port_counts() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("launched.json");
        let mut record = Record::read(&path);
        record.content.boot = "an earlier one".into();
        record.begin("127.0.0.1:4000".parse().expect("an address"), |_| true).expect("written");
        record.note(&node("a"), process(1)).expect("written");
        let next = Record::read(&path);
        assert!(next.node_listener().is_some() && next.processes().is_empty());
        assert_ne!(next.content.boot, "an earlier one");
    }

    #[test]
    fn a_file_that_is_none_is_an_empty_record() {
        let dir = tempfile::tempdir().expect("a folder");
        let path = dir.path().join("launched.json");
        let later = "{\"format\": 2, \"boot\": 7}";
        for text in ["", "{", "[]", "{\"format\": 1}", later] {
            fs::write(&path, text).expect("written");
            assert!(Record::read(&path).processes().is_empty(), "{text}");
        }
        fs::write(&path, later).expect("written");
        assert!(matches!(parsed(&path), Err(Unreadable::Format(2))));
    }
}

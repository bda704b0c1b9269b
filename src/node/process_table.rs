//! The processes of this host as `/proc` shows them, and who descends from whom.

use std::collections::HashMap;
use std::fs;

/// One line of `/proc/<pid>/stat`, as far as it matters here.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(super) struct Process {
    /// Its number.
    pub(super) pid: i32,
    /// Its parent's number.
    pub(super) parent: i32,
    /// CPU time in clock ticks: its own and that of the children it has waited for.
    pub(super) cpu_ticks: u64,
    /// Resident memory in pages.
    pub(super) resident_pages: u64,
    /// When it started, in clock ticks since the machine did: tells it from another one with its number.
    pub(super) started: u64,
    /// It runs no more; its parent has not looked yet.
    pub(super) has_ended: bool,
}

/// Reads one process; none if there is none.
pub(super) fn read_one(pid: u32) -> Option<Process> {
    parse(&fs::read(format!("/proc/{pid}/stat")).ok()?)
}

/// Reads every process; those that vanish meanwhile are left out.
pub(super) fn read() -> Vec<Process> {
    let Ok(folders) = fs::read_dir("/proc") else { return Vec::new() };
    folders
        .flatten()
        .filter(|folder| folder.file_name().as_encoded_bytes().first().is_some_and(u8::is_ascii_digit))
        .filter_map(|folder| parse(&fs::read(folder.path().join("stat")).ok()?))
        .collect()
}

/// The descendants of `root`, without `root` itself.
pub(super) fn descendants(table: &[Process], root: i32) -> Vec<Process> {
    let mut children: HashMap<i32, Vec<Process>> = HashMap::new();
    for process in table {
        children.entry(process.parent).or_default().push(*process);
    }
    let (mut found, mut parents) = (Vec::new(), vec![root]);
    while let Some(parent) = parents.pop() {
        // Taken out, so that a table read while numbers were reused cannot make a circle.
        for child in children.remove(&parent).unwrap_or_default() {
            parents.push(child.pid);
            found.push(child);
        }
    }
    found
}

/// Parses the text of `/proc/<pid>/stat` (proc_pid_stat(5)); fields are counted from 1 there.
fn parse(stat: &[u8]) -> Option<Process> {
    // Field 2 is the name in parentheses, which may itself hold spaces, parentheses and any bytes.
    let open = stat.iter().position(|byte| *byte == b'(')?;
    let close = stat.iter().rposition(|byte| *byte == b')')?;
    let pid = std::str::from_utf8(stat.get(..open)?).ok()?.trim().parse().ok()?;
    let rest: Vec<&str> =
        std::str::from_utf8(stat.get(close + 1..)?).ok()?.split_ascii_whitespace().collect();
    let field = |number: usize| rest.get(number - 3).copied();
    let ticks = |number| field(number).and_then(|text| text.parse::<i64>().ok()).map(|n| n.max(0) as u64);
    Some(Process {
        pid,
        parent: field(4)?.parse().ok()?,
        cpu_ticks: ticks(14)?
            .saturating_add(ticks(15)?)
            .saturating_add(ticks(16)?)
            .saturating_add(ticks(17)?),
        resident_pages: ticks(24)?,
        started: ticks(22)?,
        has_ended: ["Z", "X", "x"].contains(&field(3)?),
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    /// A real line, its name replaced by the worst that a program can choose.
    const LINE: &[u8] = b"812 (a) R (b \xff) S 7 812 812 0 -1 4194560 1052 90 0 0 11 5 3 2 20 0 1 0 \
        4242 10485760 321 18446744073709551615 1 1 0 0 0 0 0 0 0 0 0 0 17 1 0 0 0 0 0 0 0 0 0 0 0 0 0\n";

    fn process(pid: i32, parent: i32) -> Process {
        Process { pid, parent, ..Process::default() }
    }

    #[test]
    fn a_line_is_read_whatever_the_name_holds() {
        let wanted = Process {
            pid: 812,
            parent: 7,
            cpu_ticks: 21,
            resident_pages: 321,
            started: 4242,
            has_ended: false,
        };
        assert_eq!(parse(LINE), Some(wanted));
        let zombie = parse(b"812 (a) Z 7 812 812 0 -1 4 0 0 0 0 0 0 0 0 20 0 1 0 4242 0 0");
        assert!(zombie.is_some_and(|process| process.has_ended));
    }

    #[test]
    fn a_broken_line_is_none() {
        let needed = LINE.windows(5).position(|part| part == b" 321 ").unwrap();
        for length in 0..=needed {
            assert_eq!(parse(&LINE[..length]), None, "cut at {length}");
        }
        assert_eq!(parse(b")("), None);
        assert_eq!(parse(b"x (a) S 1"), None);
    }

    #[test]
    fn descendants_are_found_through_any_depth_and_circles_end() {
        let table = [process(1, 0), process(5, 1), process(6, 5), process(7, 6), process(8, 1)];
        let mut pids: Vec<i32> = descendants(&table, 5).iter().map(|p| p.pid).collect();
        pids.sort_unstable();
        assert_eq!(pids, [6, 7]);
        assert_eq!(descendants(&[process(2, 3), process(3, 2)], 2).len(), 2);
        assert!(descendants(&table, 99).is_empty());
    }

    #[test]
    fn this_process_is_in_the_table() {
        let me = i32::try_from(std::process::id()).unwrap();
        assert!(read().iter().any(|process| process.pid == me && process.resident_pages > 0));
    }
}

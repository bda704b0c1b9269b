//! The committed list of what a managed toolchain consists of.

use std::collections::BTreeMap;

/// In pip's requirements format with hashes; part of the binary, so that it cannot differ from it.
pub(super) const LOCK: &str = include_str!("../../linters/toolchain.lock");

/// The oldest Python that every pinned release supports.
pub(super) const OLDEST_PYTHON: (u32, u32) = (3, 11);

/// The pinned version of each package, by the name as the lock spells it.
pub(super) fn pins(lock: &str) -> BTreeMap<&str, &str> {
    lock.lines()
        // Continuation lines, which hold the hashes, are indented.
        .filter(|line| line.starts_with(|first: char| first.is_ascii_alphanumeric()))
        .filter_map(|line| {
            let requirement = line.split([' ', ';', '\\']).next()?;
            requirement.split_once("==")
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_tool_and_what_it_needs_is_pinned_with_hashes() {
        let pins = pins(LOCK);
        for tool in super::super::TOOLS {
            assert!(pins.contains_key(tool), "{tool}");
        }
        for needed in ["astroid", "pycodestyle", "pyflakes", "mccabe", "stevedore", "pyyaml"] {
            assert!(pins.contains_key(needed), "{needed}");
        }
        let entries =
            LOCK.split("\n").filter(|line| line.contains("==")).filter(|line| !line.starts_with('#'));
        assert_eq!(entries.count(), pins.len());
        for entry in
            LOCK.replace("\\\n", " ").lines().filter(|line| line.contains("==") && !line.starts_with('#'))
        {
            assert!(entry.contains("--hash=sha256:"), "{entry}");
        }
        assert!(!LOCK.contains("://"), "the lock names no host");
    }

    #[test]
    fn markers_comments_and_hashes_are_no_part_of_a_version() {
        let lock =
            "# a==1\ncolorama==0.4.6 ; sys_platform == 'win32' \\\n    --hash=sha256:00\nruff==1.2\\\n";
        assert_eq!(pins(lock), BTreeMap::from([("colorama", "0.4.6"), ("ruff", "1.2")]));
    }
}

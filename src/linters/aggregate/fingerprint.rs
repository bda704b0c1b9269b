//! Names for problems that hold across runs.

use std::collections::HashMap;

use sha2::{Digest as _, Sha256};

use super::fold::Entry;
use crate::linters::equivalence::RuleKey;
use crate::types::{Diagnostic, TreePath};

/// Bytes of the SHA-256 that are kept: 128 bits, 32 hexadecimal digits.
const KEPT_BYTES: usize = 16;

/// Gives each entry its fingerprint and drops what only served to compute it.
///
/// The fingerprint is over path, rule key, text of the line, and the ordinal among those that are equal in all three,
/// in the order of the report. So it is the same when lines move, whichever of the equivalent tools ran, and two equal
/// lines of a file keep two fingerprints.
pub(super) fn with_fingerprints(entries: Vec<Entry>) -> Vec<Diagnostic> {
    let mut seen: HashMap<(TreePath, RuleKey, String), u64> = HashMap::new();
    entries
        .into_iter()
        .map(|Entry { key, mut diagnostic }| {
            let line_hash = std::mem::take(&mut diagnostic.line_hash);
            let ordinal = seen.entry((diagnostic.path.clone(), key.clone(), line_hash.clone())).or_default();
            diagnostic.fingerprint =
                fingerprint(diagnostic.path.as_str(), key.as_str(), &line_hash, *ordinal);
            *ordinal += 1;
            diagnostic
        })
        .collect()
}

/// SHA-256 over the length-prefixed parts, so that no two different lists of parts are the same bytes.
fn fingerprint(path: &str, key: &str, line_hash: &str, ordinal: u64) -> String {
    let mut hash = Sha256::new();
    for part in [path, key, line_hash] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part.as_bytes());
    }
    hash.update(ordinal.to_be_bytes());
    hash.finalize().iter().take(KEPT_BYTES).map(|byte| format!("{byte:02x}")).collect()
}

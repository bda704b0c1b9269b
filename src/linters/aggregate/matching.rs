//! Which report of one tool is which report of another, among those of one line and one rule.

use std::collections::{BTreeSet, HashMap, HashSet};

use super::fold::Entry;
use crate::linters::equivalence::traits;

/// Folds each of `others`, reports of one tool, into the entry of `folded` that means the same; at most one into each.
///
/// First by what the messages name, then by column, then by order. What fits nowhere stays an entry of its own.
/// Takes time linear in the number of reports and the length of their messages.
pub(super) fn fold_into(mut folded: Vec<Entry>, others: Vec<Entry>) -> Vec<Entry> {
    let mut free = vec![true; folded.len()];
    let words = distinct(folded.iter().map(all_words));
    let (mut left, mut new) = (Vec::new(), Vec::new());
    for other in others {
        let mut candidates = words_of(&other.diagnostic.message).into_iter();
        let slot = candidates.find_map(|word| words.get(&word).copied().flatten().filter(|slot| free[*slot]));
        match slot {
            Some(slot) => take(&mut folded, &mut free, slot, other, &mut left),
            None => left.push(other),
        }
    }
    let columns = distinct(folded.iter().enumerate().map(|(slot, entry)| {
        entry.diagnostic.column.filter(|_| free[slot]).into_iter().collect::<BTreeSet<_>>()
    }));
    let mut unmatched = Vec::new();
    for other in left {
        let column = other.diagnostic.column;
        let slot = column.and_then(|column| columns.get(&column).copied().flatten());
        match slot.filter(|slot| free[*slot]) {
            Some(slot) if may_mean_the_same(&folded[slot], &other) => {
                take(&mut folded, &mut free, slot, other, &mut unmatched);
            }
            _ => unmatched.push(other),
        }
    }
    let mut next = 0;
    for other in unmatched {
        while next < free.len() && !free[next] {
            next += 1;
        }
        if next < free.len() && may_mean_the_same(&folded[next], &other) {
            take(&mut folded, &mut free, next, other, &mut new);
        } else {
            new.push(other);
        }
    }
    folded.append(&mut new);
    folded
}

/// Folds `other` into the slot, or leaves it in `left` if one of its tools is there already.
fn take(folded: &mut [Entry], free: &mut [bool], slot: usize, other: Entry, left: &mut Vec<Entry>) {
    if folded[slot].shares_tool_with(&other) {
        left.push(other);
    } else {
        free[slot] = false;
        folded[slot].absorb(other);
    }
}

/// For each value, the one slot that has it; none if several have.
fn distinct<T: std::hash::Hash + Eq>(
    slots: impl Iterator<Item = impl IntoIterator<Item = T>>,
) -> HashMap<T, Option<usize>> {
    let mut found = HashMap::new();
    for (slot, values) in slots.enumerate() {
        for value in values {
            found.entry(value).and_modify(|one| *one = None).or_insert(Some(slot));
        }
    }
    found
}

/// False if the rule's messages name what they speak of, and these two name different things.
fn may_mean_the_same(a: &Entry, b: &Entry) -> bool {
    if !traits(&a.key).named {
        return true;
    }
    let names =
        |entry: &Entry| entry.diagnostic.reported_by.iter().flat_map(|one| quoted(&one.message)).collect();
    let (named_by_a, named_by_b): (HashSet<String>, HashSet<String>) = (names(a), names(b));
    named_by_a.is_empty()
        || named_by_b.is_empty()
        || named_by_a.intersection(&all_words(b)).next().is_some()
        || named_by_b.intersection(&all_words(a)).next().is_some()
}

fn all_words(entry: &Entry) -> HashSet<String> {
    entry.diagnostic.reported_by.iter().flat_map(|report| words_of(&report.message)).collect()
}

/// What a message speaks of: its words in quotation marks; all its words if it has no such marks.
fn words_of(message: &str) -> Vec<String> {
    let mut words = quoted(message);
    if words.is_empty() {
        split_words(message, &mut words);
    }
    words
}

/// The words within quotation marks of any kind that linters use.
fn quoted(message: &str) -> Vec<String> {
    let mut words = Vec::new();
    let mut rest = message;
    while let Some(open) = rest.find(['\'', '"', '`']) {
        let mark = &rest[open..=open];
        let after = &rest[open + 1..];
        let Some(close) = after.find(mark) else { break };
        split_words(&after[..close], &mut words);
        rest = &after[close + 1..];
    }
    words
}

/// Identifiers, dotted names, and the last part of dotted names, since tools differ in how much of a name they give.
fn split_words(text: &str, words: &mut Vec<String>) {
    for word in text.split(|c: char| !(c.is_alphanumeric() || c == '_' || c == '.')) {
        let word = word.trim_matches('.');
        if !word.is_empty() {
            words.push(word.to_owned());
            if let Some((_, last)) = word.rsplit_once('.') {
                words.push(last.to_owned());
            }
        }
    }
}

/// The last part of the name that a message about an unused import speaks of.
///
/// `'a.b as c' imported but unused` (pyflakes, ruff with backquotes), `Unused b imported from a as c`, `Unused import
/// a.b` (pylint).
pub(super) fn imported_name(message: &str) -> Option<String> {
    let named = match message.strip_prefix("Unused ") {
        Some(rest) => rest.strip_prefix("import ").unwrap_or(rest).split(' ').next()?,
        None => {
            let open = message.find(['\'', '`'])?;
            let mark = &message[open..=open];
            let after = &message[open + 1..];
            after[..after.find(mark)?].split(' ').next()?
        }
    };
    let last = named.rsplit('.').next()?;
    (!last.is_empty()).then(|| last.to_owned())
}

//! A check of XML documents.

/// Checks that a document is well-formed XML of the kind we write, and gives its elements' names in order.
pub(super) fn parsed_xml(text: &str) -> Result<Vec<String>, String> {
    let legal = |c: char| matches!(c, '\t' | '\n' | '\r' | ' '..='\u{d7ff}' | '\u{e000}'..='\u{fffd}' | '\u{10000}'..);
    if let Some(bad) = text.chars().find(|c| !legal(*c)) {
        return Err(format!("illegal character {bad:?}"));
    }
    let mut rest =
        text.strip_prefix("<?xml version=\"1.0\" encoding=\"UTF-8\"?>\n").ok_or("no declaration")?;
    let (mut open, mut elements): (Vec<&str>, Vec<String>) = (Vec::new(), Vec::new());
    let entities = |text: &str| {
        let known = ["amp;", "lt;", "gt;", "quot;", "apos;", "#9;", "#10;", "#13;"];
        text.split('&').skip(1).all(|after| known.iter().any(|entity| after.starts_with(entity)))
    };
    while let Some(at) = rest.find('<') {
        let (before, after) = rest.split_at(at);
        let (tag, behind) = after[1..].split_once('>').ok_or("a tag does not end")?;
        if before.contains('>') || !entities(before) || (open.is_empty() && !before.trim().is_empty()) {
            return Err(format!("bad text {before:?}"));
        }
        rest = behind;
        if let Some(name) = tag.strip_prefix('/') {
            if open.pop() != Some(name) {
                return Err(format!("</{name}> closes nothing"));
            }
            continue;
        }
        let (tag, closed) = tag.strip_suffix('/').map_or((tag, false), |tag| (tag, true));
        let (name, attributes) = tag.split_once(' ').unwrap_or((tag, ""));
        // Attributes are `name="value"`; values hold no quotation marks.
        let parts: Vec<_> = attributes.split('"').collect();
        let names = parts.iter().step_by(2).all(|part| part.is_empty() || part.ends_with('='));
        if parts.len() % 2 == 0 || !names || !entities(attributes) {
            return Err(format!("bad attributes {attributes:?}"));
        }
        elements.push(name.to_owned());
        if !closed {
            open.push(name);
        }
    }
    if open.is_empty() && rest.trim().is_empty() { Ok(elements) } else { Err(format!("{open:?} still open")) }
}

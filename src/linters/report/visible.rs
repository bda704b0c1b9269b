//! Text from outside made fit for a terminal: nothing in it can move the cursor, colour, or reorder what is shown.

use std::borrow::Cow;

/// Whether a character must not reach a terminal as it is: control characters, what reorders text
/// (bidirectional controls), and what breaks lines without being a line feed.
pub(super) fn is_hostile(c: char) -> bool {
    c.is_control()
        || matches!(c,
            '\u{061c}' | '\u{200e}' | '\u{200f}' | '\u{2028}' | '\u{2029}'
            | '\u{202a}'..='\u{202e}' | '\u{2066}'..='\u{2069}' | '\u{feff}')
}

/// The text with every hostile character written out: `\n`, `\u{1b}`.
pub fn visible(text: &str) -> Cow<'_, str> {
    if text.chars().any(is_hostile) {
        let mut shown = String::with_capacity(text.len() + 16);
        for c in text.chars() {
            if is_hostile(c) { shown.extend(c.escape_default()) } else { shown.push(c) }
        }
        Cow::Owned(shown)
    } else {
        Cow::Borrowed(text)
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn control_characters_are_written_out() {
        assert_eq!(visible("a\u{1b}[31mb\nc\td\u{202e}"), "a\\u{1b}[31mb\\nc\\td\\u{202e}");
        assert_eq!(visible("naïve 漢字"), "naïve 漢字");
    }

    proptest! {
        #[test]
        fn nothing_hostile_is_left(text in any::<String>()) {
            prop_assert!(!visible(&text).chars().any(is_hostile));
        }
    }
}

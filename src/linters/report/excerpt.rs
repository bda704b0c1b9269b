//! A source line with a marker beneath, aligned whatever the line holds: tabs, wide and combining characters.

use unicode_width::UnicodeWidthChar;

use super::visible::is_hostile;

/// Python's own rule for tabs, see the language reference on indentation.
const TAB: usize = 8;

/// Stands where a line was clipped.
const CLIPPED: &str = "...";

/// A line ready to be shown, and the markers that go beneath it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Excerpt {
    pub(super) text: String,
    pub(super) marker: String,
}

/// One character as it is shown: what is printed, from which terminal column, how wide.
struct Cell {
    shown: String,
    at: usize,
    width: usize,
}

/// Shows `line` with `^` beneath the characters from `start` to `end` (columns from 1 in code points, `end` exclusive).
///
/// Without a `start` the line is shown without marker. A line wider than `width` terminal columns is clipped around the
/// marker. Control characters are written out.
pub(super) fn excerpt(line: &str, start: Option<u32>, end: Option<u32>, width: usize) -> Excerpt {
    let cells = cells(line.trim_end());
    let total = cells.last().map_or(0, |cell| cell.at + cell.width);
    let column = |code_point: u32| {
        let index = usize::try_from(code_point).unwrap_or(usize::MAX).saturating_sub(1);
        cells.get(index).map_or(total, |cell| cell.at)
    };
    let marked = start.map(|start| {
        let from = column(start);
        (from, end.filter(|end| *end > start).map_or(from + 1, column).max(from + 1))
    });
    let width = width.max(20);
    let (left, right) = window(total, marked, width);
    let inside = cells.iter().filter(|cell| cell.at >= left && cell.at + cell.width <= right);
    let inside: Vec<_> = inside.collect();
    // A wide character may straddle the edge, so what is shown can start later than the window.
    let origin = inside.first().map_or(left, |cell| cell.at);
    let shown: String = inside.iter().map(|cell| cell.shown.as_str()).collect();
    let before = if left > 0 { CLIPPED } else { "" };
    let after = if right < total { CLIPPED } else { "" };
    let marker = marked.map_or_else(String::new, |(from, to)| {
        let from = from.max(origin);
        let to = to.min(right.max(from + 1));
        let indent = before.len() + from - origin;
        format!("{}{}", " ".repeat(indent), "^".repeat(to.saturating_sub(from).max(1)))
    });
    Excerpt { text: format!("{before}{shown}{after}"), marker }
}

/// The part of a line `total` columns wide that is shown in `width` columns, with the marker in it.
fn window(total: usize, marked: Option<(usize, usize)>, width: usize) -> (usize, usize) {
    if total <= width {
        return (0, total);
    }
    let room = width - 2 * CLIPPED.len();
    let from = marked.map_or(0, |(from, _)| from);
    // A third before the marker: enough to see what it belongs to.
    let left = from.saturating_sub(room / 3).min(total - room);
    (left, left + room)
}

fn cells(line: &str) -> Vec<Cell> {
    let mut at = 0;
    let mut cells = Vec::with_capacity(line.len());
    for c in line.chars() {
        let (shown, width) = match c {
            '\t' => {
                let width = TAB - at % TAB;
                (" ".repeat(width), width)
            }
            _ if is_hostile(c) => {
                let shown: String = c.escape_default().collect();
                let width = shown.len();
                (shown, width)
            }
            _ => (c.to_string(), c.width().unwrap_or(0)),
        };
        cells.push(Cell { shown, at, width });
        at += width;
    }
    cells
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use unicode_width::UnicodeWidthStr;

    use super::*;

    fn both(line: &str, start: u32, end: Option<u32>) -> String {
        let Excerpt { text, marker } = excerpt(line, Some(start), end, 60);
        format!("{text}\n{marker}")
    }

    #[test]
    fn the_marker_stands_beneath_what_is_meant() {
        assert_eq!(both("x = foo(1)", 5, Some(8)), "x = foo(1)\n    ^^^");
        assert_eq!(both("x = foo(1)", 5, None), "x = foo(1)\n    ^");
        assert_eq!(both("\tx = y", 2, Some(3)), "        x = y\n        ^");
        assert_eq!(both("漢字 = y", 6, None), "漢字 = y\n       ^");
        assert_eq!(both("e\u{301} = y", 6, None), "e\u{301} = y\n    ^");
        assert_eq!(both("a\u{1b}b", 3, None), "a\\u{1b}b\n       ^");
        assert_eq!(both("short", 99, None), "short\n     ^");
        assert_eq!(excerpt("x", None, None, 60), Excerpt { text: "x".into(), marker: String::new() });
    }

    #[test]
    fn a_long_line_is_clipped_around_the_marker() {
        let line = format!("{}HERE{}", "a".repeat(500), "b".repeat(500));
        let Excerpt { text, marker } = excerpt(&line, Some(501), Some(505), 60);
        assert_eq!(text.len(), 60);
        assert!(text.starts_with("...a") && text.ends_with("b..."), "{text}");
        let at = marker.find('^').expect("a marker");
        assert_eq!(&text[at..at + 4], "HERE");
        assert_eq!(marker.trim_start(), "^^^^");
    }

    proptest! {
        #[test]
        fn it_fits_and_holds_nothing_hostile(
            line in "(\\PC|[\\x00-\\x1f]|漢|\\u{301}|a){0,200}",
            start in prop::option::of(0..300_u32),
            end in prop::option::of(0..300_u32),
            width in 0..120_usize,
        ) {
            let Excerpt { text, marker } = excerpt(&line, start, end, width);
            prop_assert!(!text.chars().any(is_hostile));
            let cells: usize = text.chars().map(|c| c.width().unwrap_or(0)).sum();
            prop_assert!(cells <= width.max(20), "{cells} > {width}: {text:?}");
            prop_assert!(marker.width() <= width.max(20) + 1, "{marker:?} beneath {text:?}");
        }
    }
}

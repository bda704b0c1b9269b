//! A source file as the tools see it: its lines, and how their ways of counting columns meet in code points.

use crate::types::Digest;

/// What a tool counts in a line.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Unit {
    /// Unicode code points: tokens, regular expressions, ruff.
    CodePoints,
    /// Bytes of the line in UTF-8: `col_offset` of Python's `ast`.
    Utf8Bytes,
    /// What mypy 2 with its native parser prints: from a column C that counts code points it takes away the UTF-8
    /// continuation bytes among the first C + 2 bytes of the line. Measured with mypy 2.4.1: true of 300 of 300
    /// random lines. Inside of a run of non-ASCII text several C give the same number.
    MypyNative,
}

/// How a tool counts columns.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Counting {
    /// What it counts.
    pub unit: Unit,
    /// The number it gives to the first column: 0 or 1.
    pub first: u32,
}

/// A decoded file, cut into lines where Python cuts: after `\n`, `\r\n` and `\r`, nowhere else.
#[derive(Debug, Clone)]
pub struct Source {
    text: String,
    /// Start and end of each line in `text`, without its line break.
    lines: Vec<(usize, usize)>,
}

impl Source {
    /// Decodes as Python would: by byte order mark or coding cookie, UTF-8 otherwise. Bytes that are not valid are
    /// taken for Latin-1, as flake8 does, so that every byte is one column.
    pub fn new(bytes: &[u8]) -> Self {
        let bytes = bytes.strip_prefix(b"\xef\xbb\xbf").unwrap_or(bytes);
        let latin = || bytes.iter().map(|byte| char::from(*byte)).collect::<String>();
        let text = if declares_latin(bytes) {
            latin()
        } else {
            std::str::from_utf8(bytes).map_or_else(|_| latin(), str::to_owned)
        };
        let mut lines = Vec::new();
        let mut start = 0;
        let raw = text.as_bytes();
        let mut at = 0;
        while at < raw.len() {
            let width = match (raw[at], raw.get(at + 1)) {
                (b'\r', Some(b'\n')) => 2,
                (b'\r' | b'\n', _) => 1,
                _ => {
                    at += 1;
                    continue;
                }
            };
            lines.push((start, at));
            at += width;
            start = at;
        }
        if start < raw.len() {
            lines.push((start, raw.len()));
        }
        Self { text, lines }
    }

    /// A line by its number, from 1, without its line break.
    pub fn line(&self, number: u32) -> Option<&str> {
        let index = usize::try_from(number).ok()?.checked_sub(1)?;
        let (start, end) = *self.lines.get(index)?;
        self.text.get(start..end)
    }

    /// First 16 hexadecimal digits of the SHA-256 of the line without surrounding white space; empty if there is
    /// no such line.
    pub fn line_hash(&self, number: u32) -> String {
        self.line(number).map_or_else(String::new, |line| {
            let mut digits = Digest::of(line.trim().as_bytes()).to_string();
            digits.truncate(16);
            digits
        })
    }
}

/// Whether one of the first two lines declares an 8-bit Latin encoding (PEP 263).
fn declares_latin(bytes: &[u8]) -> bool {
    bytes.split(|byte| matches!(byte, b'\n' | b'\r')).take(2).any(|line| {
        let line = String::from_utf8_lossy(line).to_ascii_lowercase();
        let comment = line.trim_start_matches([' ', '\t', '\x0c']);
        let Some((_, after)) = comment.strip_prefix('#').and_then(|text| text.split_once("coding")) else {
            return false;
        };
        let Some(name) = after.strip_prefix([':', '=']) else { return false };
        let name = name.trim_start_matches([' ', '\t']).replace('_', "-");
        ["latin-1", "latin1", "iso-8859-1", "iso8859-1", "cp1252", "windows-1252"]
            .iter()
            .any(|known| name.starts_with(known))
    })
}

/// A tool's column as a column from 1 in code points. A column beyond the end of the line stays just as far beyond.
pub fn column_in_code_points(line: Option<&str>, column: i64, counting: Counting) -> Option<u32> {
    let offset = usize::try_from(column.checked_sub(i64::from(counting.first))?).ok()?;
    let points = match (line, counting.unit) {
        (None, _) | (_, Unit::CodePoints) => offset,
        (Some(line), Unit::Utf8Bytes) => points_before_byte(line, offset),
        (Some(line), Unit::MypyNative) => undo_mypy_native(line, offset),
    };
    u32::try_from(points.checked_add(1)?).ok()
}

fn points_before_byte(line: &str, bytes: usize) -> usize {
    let whole = line.char_indices().take_while(|(at, c)| at + c.len_utf8() <= bytes).count();
    whole + bytes.saturating_sub(line.len())
}

/// The column in code points for which mypy prints `given`; see [`Unit::MypyNative`].
fn undo_mypy_native(line: &str, given: usize) -> usize {
    let is_continuation = |at: usize| line.as_bytes().get(at).is_some_and(|byte| byte & 0xc0 == 0x80);
    // The printed number never falls as the column grows, and lags behind it by the continuation bytes at most.
    let lag = line.len() - line.chars().count();
    let within = given.saturating_add(2).min(line.len());
    let mut taken = (0..within).filter(|at| is_continuation(*at)).count();
    let mut candidates = Vec::new();
    for column in given..=given.saturating_add(lag) {
        match column.saturating_sub(taken).cmp(&given) {
            std::cmp::Ordering::Less => {}
            std::cmp::Ordering::Equal => candidates.push(column),
            std::cmp::Ordering::Greater => break,
        }
        taken += usize::from(is_continuation(column.saturating_add(2)));
    }
    // Of several candidates prefer one where a name starts.
    let is_name = |c: char| c.is_alphanumeric() || c == '_';
    let chars: Vec<char> = line.chars().collect();
    let starts_name = |at: &&usize| {
        let before = at.checked_sub(1).and_then(|at| chars.get(at));
        chars.get(**at).is_some_and(|c| is_name(*c)) && !before.is_some_and(|c| is_name(*c))
    };
    candidates.iter().find(starts_name).or(candidates.first()).copied().unwrap_or(given)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const BYTES_FROM_0: Counting = Counting { unit: Unit::Utf8Bytes, first: 0 };
    /// The forward direction, as measured.
    fn mypy_native(line: &str, column: usize) -> usize {
        let within = column.saturating_add(2).min(line.len());
        column.saturating_sub(line.as_bytes()[..within].iter().filter(|byte| **byte & 0xc0 == 0x80).count())
    }

    const MYPY: Counting = Counting { unit: Unit::MypyNative, first: 0 };

    fn lines(source: &Source) -> Vec<&str> {
        (1..).map_while(|number| source.line(number)).collect()
    }

    #[test]
    fn lines_end_where_python_ends_them() {
        let source = Source::new("a\r\nb\rc\n\x0cd\u{2028}e\u{85}f\x0b\x1cg".as_bytes());
        assert_eq!(lines(&source), ["a", "b", "c", "\x0cd\u{2028}e\u{85}f\x0b\x1cg"]);
        assert_eq!(source.line(0), None);
        assert!(lines(&Source::new(b"")).is_empty());
        assert_eq!(lines(&Source::new(b"\xef\xbb\xbfx\n\n")), ["x", ""]);
    }

    #[test]
    fn encodings_follow_bom_cookie_and_fallback() {
        assert_eq!(Source::new(b"# -*- coding: latin-1 -*-\n\xc3\xa9").line(2), Some("\u{c3}\u{a9}"));
        assert_eq!(Source::new(b"#\n\xc3\xa9").line(2), Some("é"));
        assert_eq!(Source::new(b"#\n\xe9").line(2), Some("é"));
    }

    #[test]
    fn bytes_become_code_points() {
        let line = Some("s = \"ééé\"; assert s; y = undefinedname");
        assert_eq!(column_in_code_points(line, 28, BYTES_FROM_0), Some(26));
        assert_eq!(column_in_code_points(line, 29, Counting { unit: Unit::Utf8Bytes, first: 1 }), Some(26));
        assert_eq!(column_in_code_points(line, 26, Counting { unit: Unit::CodePoints, first: 1 }), Some(26));
        assert_eq!(column_in_code_points(Some("\tx"), 1, BYTES_FROM_0), Some(2));
        assert_eq!(column_in_code_points(Some("é"), 5, BYTES_FROM_0), Some(5), "3 beyond the end");
        assert_eq!(column_in_code_points(line, -1, BYTES_FROM_0), None);
    }

    #[test]
    fn mypy_columns_measured_with_2_4_1_are_undone() {
        for (line, given, real) in [
            ("s = \"ééé\"; assert s; y = undefinedname; import sys", 22, 25),
            ("s=\"éééééééé\";u", 7, 13),
            ("s = \"日日日\";undefined", 6, 10),
            ("noté = 1; \"é\"; undefined2", 13, 15),
            ("s = \"a\u{2028}b\"; t = undef", 13, 15),
            ("s=\"ééé\";u3", 5, 8),
            ("s=\"日日日日\";v1", 4, 9),
            ("s=\"𝒳𝒳𝒳\";v3", 3, 8),
            ("x = undefined", 4, 4),
        ] {
            assert_eq!(column_in_code_points(Some(line), given, MYPY), Some(real + 1), "{line}");
        }
    }

    #[test]
    fn the_hash_does_not_see_indentation() {
        let source = Source::new(b"  x = 1  \nx = 1\n");
        assert_eq!(source.line_hash(1), source.line_hash(2));
        assert_eq!(source.line_hash(1).len(), 16);
        assert_eq!(source.line_hash(3), "");
    }

    proptest! {
        #[test]
        fn a_byte_offset_of_a_character_is_its_index(line in "[a\té日𝒳]{0,30}") {
            for (index, (at, _)) in line.char_indices().enumerate() {
                let column = column_in_code_points(Some(&line), i64::try_from(at).expect("short"), BYTES_FROM_0);
                prop_assert_eq!(column, Some(u32::try_from(index).expect("short") + 1));
            }
        }

        #[test]
        fn what_mypy_prints_is_undone_exactly_where_it_can_be(line in "[a \té日𝒳]{0,30}") {
            for real in 0..=line.chars().count() {
                let given = mypy_native(&line, real);
                let found = undo_mypy_native(&line, given);
                prop_assert_eq!(mypy_native(&line, found), given);
                if line.is_ascii() { prop_assert_eq!(found, real); }
            }
        }

        #[test]
        fn no_column_and_no_bytes_panic(bytes in proptest::collection::vec(any::<u8>(), 0..40), column: i64, number: u32) {
            let source = Source::new(&bytes);
            for unit in [Unit::CodePoints, Unit::Utf8Bytes, Unit::MypyNative] {
                for first in [0, 1] {
                    // Columns of this size come from tools; anything greater is cut by the parsers.
                    let column = column % 1_000_000;
                    let _ = column_in_code_points(source.line(number % 5), column, Counting { unit, first });
                }
            }
            let _ = source.line_hash(number);
        }
    }
}

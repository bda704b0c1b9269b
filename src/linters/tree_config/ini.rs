//! INI files as Python's `configparser` reads them: the same lines must mean the same to the tools and to us,
//! because a key that only the tool sees could run code.

use std::collections::BTreeMap;

/// The sections of a file, each with its options; option names are lower case.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Ini {
    sections: BTreeMap<String, BTreeMap<String, String>>,
    defaults: BTreeMap<String, String>,
}

/// What Python itself counts as white space beyond Unicode's own list: the four information separators.
fn is_python_space(c: char) -> bool {
    c.is_whitespace() || ('\u{1c}'..='\u{1f}').contains(&c)
}

fn strip(text: &str) -> &str {
    text.trim_matches(is_python_space)
}

impl Ini {
    /// Reads a file, or says in which line and why `configparser` would refuse it.
    ///
    /// `inline_comments` as pylint asks for it: `#` and `;` after white space start a comment.
    pub(crate) fn parse(text: &str, inline_comments: bool) -> Result<Self, String> {
        let mut ini = Ini::default();
        let mut section: Option<String> = None;
        let mut option: Option<String> = None;
        let mut indent_of_option = 0;
        let text = text.replace("\r\n", "\n").replace('\r', "\n");
        for (number, raw) in text.split('\n').enumerate() {
            let line = without_comment(raw, inline_comments);
            let value = strip(line);
            if value.is_empty() {
                // An empty line stays part of the value; a comment line does not. Neither ends it.
                continue;
            }
            let indent = line.chars().take_while(|c| is_python_space(*c)).count();
            if let (Some(section), Some(option)) = (&section, &option)
                && indent > indent_of_option
            {
                let value_so_far = ini.options_mut(section).entry(option.clone()).or_default();
                value_so_far.push('\n');
                value_so_far.push_str(value);
                continue;
            }
            indent_of_option = indent;
            if let Some(name) = header(value) {
                if name != "DEFAULT" && ini.sections.contains_key(name) {
                    return Err(format!("line {}: section `{name}` is there twice", number + 1));
                }
                if name != "DEFAULT" {
                    ini.sections.insert(name.to_owned(), BTreeMap::new());
                }
                section = Some(name.to_owned());
                option = None;
                continue;
            }
            let Some(section) = &section else {
                return Err(format!("line {}: text before the first section", number + 1));
            };
            let Some((name, first)) = value.split_once(['=', ':']) else {
                return Err(format!("line {}: neither a section nor `name = value`", number + 1));
            };
            let name = strip(name).to_lowercase();
            if name.is_empty() || ini.options_mut(section).contains_key(&name) {
                return Err(format!("line {}: option `{name}` is empty or there twice", number + 1));
            }
            ini.options_mut(section).insert(name.clone(), strip(first).to_owned());
            option = Some(name);
        }
        Ok(ini)
    }

    fn options_mut(&mut self, section: &str) -> &mut BTreeMap<String, String> {
        if section == "DEFAULT" {
            &mut self.defaults
        } else {
            self.sections.entry(section.to_owned()).or_default()
        }
    }

    /// The names of the sections, without `DEFAULT`.
    pub(crate) fn sections(&self) -> impl Iterator<Item = &str> {
        self.sections.keys().map(String::as_str)
    }

    /// Whether the section is there.
    pub(crate) fn has(&self, section: &str) -> bool {
        self.sections.contains_key(section)
    }

    /// The value of an option, from the section or from `DEFAULT`; none if the section is missing.
    pub(crate) fn get(&self, section: &str, option: &str) -> Option<&str> {
        let own = self.sections.get(section)?;
        own.get(option).or_else(|| self.defaults.get(option)).map(String::as_str)
    }
}

fn without_comment(line: &str, inline: bool) -> &str {
    if strip(line).starts_with(['#', ';']) {
        return "";
    }
    if !inline {
        return line;
    }
    let mut before = None;
    for (at, c) in line.char_indices() {
        if matches!(c, '#' | ';') && before.is_none_or(is_python_space) {
            return &line[..at];
        }
        before = Some(c);
    }
    line
}

fn header(value: &str) -> Option<&str> {
    // configparser's pattern is `\[(?P<header>.+)\]`: greedy, and text after the last bracket is ignored.
    let inner = value.strip_prefix('[')?;
    let name = &inner[..inner.rfind(']')?];
    (!name.is_empty()).then_some(name)
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn continuation_comments_and_defaults_follow_configparser() {
        let ini = Ini::parse(
            "[DEFAULT]\nX: 1\n[a] rest\n# c\nKey = one,\n  two ; not a comment\n\n   three\nother:v\n[b]\n",
            false,
        )
        .expect("valid");
        assert_eq!(ini.get("a", "key"), Some("one,\ntwo ; not a comment\nthree"));
        assert_eq!(ini.get("a", "other"), Some("v"));
        assert_eq!(ini.get("b", "x"), Some("1"));
        assert_eq!(ini.get("c", "x"), None);
        assert_eq!(ini.sections().collect::<Vec<_>>(), ["a", "b"]);
    }

    #[test]
    fn inline_comments_only_where_asked_for() {
        let text = "[a]\nk = v # c\nw = a#b\n";
        let with = Ini::parse(text, true).expect("valid");
        assert_eq!((with.get("a", "k"), with.get("a", "w")), (Some("v"), Some("a#b")));
        let without = Ini::parse(text, false).expect("valid");
        assert_eq!(without.get("a", "k"), Some("v # c"));
    }

    #[test]
    fn what_configparser_refuses_is_refused() {
        for bad in
            ["k = v\n", "[a\nk = v\n", "[a]\nnonsense\n", "[a]\n[a]\n", "[a]\nk=1\nK=2\n", "[a]\n= 1\n"]
        {
            assert!(Ini::parse(bad, false).is_err(), "{bad:?}");
        }
    }

    proptest! {
        #[test]
        fn any_text_is_read_or_refused(text in "[\\[\\]a=:#; \n\r\t\u{1c}é]{0,60}") {
            let _ = Ini::parse(&text, true);
            let _ = Ini::parse(&text, false);
        }
    }
}

//! Declares a table of settings: its fields, their defaults, and what is allowed.

/// What values a setting takes beyond having its type.
pub(super) struct Rule<T> {
    /// In words for the user.
    pub(super) allowed: &'static str,
    /// The same as a test.
    pub(super) accepts: fn(&T) -> bool,
}

/// Every value of the type is allowed.
pub(super) const fn any<T>(allowed: &'static str) -> Rule<T> {
    Rule { allowed, accepts: |_| true }
}

/// Makes a struct, its defaults, its reader and its rows of the reference from one declaration:
/// `field: Type = default, rule;`.
macro_rules! section {
    (
        $(#[doc = $about:literal])+
        pub struct $name:ident {
            $( $(#[doc = $doc:literal])+ $field:ident : $type:ty = $default:expr, $rule:expr; )+
        }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, PartialEq)]
        pub struct $name {
            $( $(#[doc = $doc])+ pub $field: $type, )+
        }

        impl Default for $name {
            fn default() -> Self {
                Self { $( $field: $default, )+ }
            }
        }

        impl $crate::config::setting::Setting for $name {
            fn read(
                value: &::config::Value,
                at: &$crate::config::reader::At<'_>,
                reader: &mut $crate::config::reader::Reader,
            ) -> Option<Self> {
                let mut table = reader.table(value, at)?;
                let section = Self {
                    $( $field: reader
                        .field::<$type>(&mut table, at.key, stringify!($field), &$rule)
                        .unwrap_or_else(|| $default), )+
                };
                reader.unknown(table, at.key, &[$( stringify!($field) ),+]);
                Some(section)
            }

            fn show(&self) -> String {
                String::new()
            }

            fn rows(&self, key: &str, _: &[&str], _: &str) -> Vec<$crate::config::reference::Row> {
                let mut rows = Vec::new();
                $( rows.extend(self.$field.rows(
                    &$crate::config::reader::joined(key, stringify!($field)),
                    &[$( $doc ),+],
                    {
                        let rule: $crate::config::section::Rule<$type> = $rule;
                        rule.allowed
                    },
                )); )+
                rows
            }

            fn element_rows(key: &str) -> Vec<$crate::config::reference::Row> {
                Self::default().rows(key, &[], "")
            }
        }
    };
}

/// Makes an enum of words from one declaration: `Variant = "word",`.
macro_rules! choice {
    (
        $(#[doc = $about:literal])+
        pub enum $name:ident { $( $(#[doc = $doc:literal])+ $variant:ident = $word:literal, )+ }
    ) => {
        $(#[doc = $about])+
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        pub enum $name {
            $( $(#[doc = $doc])+ $variant, )+
        }

        impl $name {
            /// All of them, in the order of the documentation.
            pub const ALL: &'static [Self] = &[$( Self::$variant ),+];

            /// The word for it in settings.
            pub const fn as_str(self) -> &'static str {
                match self {
                    $( Self::$variant => $word, )+
                }
            }
        }

        impl $crate::config::setting::Setting for $name {
            fn read(
                value: &::config::Value,
                at: &$crate::config::reader::At<'_>,
                reader: &mut $crate::config::reader::Reader,
            ) -> Option<Self> {
                $crate::config::setting::text(value)
                    .and_then(|text| Self::ALL.iter().copied().find(|word| word.as_str() == text))
                    .or_else(|| reader.refuse(value, at))
            }

            fn show(&self) -> String {
                format!("{:?}", self.as_str())
            }
        }
    };
}

pub(super) use {choice, section};

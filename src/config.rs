//! Typed settings: defaults, then file, then environment, then flags.

//! The environment a linter gets: fixed, so that a result does not depend on who started the node.

use std::ffi::OsString;
use std::path::{Path, PathBuf};

use crate::linters::process::ProcessSpec;

/// Where system programs are; tools themselves are started by their full path.
const SYSTEM_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// The folders inside `scratch` that the environment points to; they must exist before the start.
pub(in crate::node) fn folders(scratch: &Path) -> [PathBuf; 2] {
    [scratch.join("home"), scratch.join("tmp")]
}

/// The fixed part, then what the caller asked for, which wins.
pub(super) fn variables(spec: &ProcessSpec) -> Vec<(OsString, OsString)> {
    let asked = spec.environment.iter().map(|(name, value)| (OsString::from(name), value.clone()));
    fixed(&spec.scratch).into_iter().chain(asked).collect()
}

/// The part that is the same for every linter, its folders inside `scratch`.
pub(in crate::node) fn fixed(scratch: &Path) -> Vec<(OsString, OsString)> {
    let [home, temporary] = folders(scratch);
    let variables: [(&str, OsString); 15] = [
        ("PATH", SYSTEM_PATH.into()),
        ("XDG_CACHE_HOME", home.join(".cache").into()),
        ("XDG_CONFIG_HOME", home.join(".config").into()),
        ("XDG_DATA_HOME", home.join(".local/share").into()),
        ("XDG_STATE_HOME", home.join(".local/state").into()),
        ("HOME", home.into()),
        ("TMPDIR", temporary.into()),
        ("LANG", "C.UTF-8".into()),
        ("LC_ALL", "C.UTF-8".into()),
        ("TZ", "UTC".into()),
        ("NO_COLOR", "1".into()),
        // Sets and dictionaries of strings iterate in an order that depends on the seed.
        ("PYTHONHASHSEED", "0".into()),
        ("PYTHONDONTWRITEBYTECODE", "1".into()),
        ("PYTHONNOUSERSITE", "1".into()),
        // Messages may hold any character of the tree, whatever the locale of the host.
        ("PYTHONIOENCODING", "utf-8:backslashreplace".into()),
    ];
    variables.into_iter().map(|(name, value)| (name.into(), value)).collect()
}

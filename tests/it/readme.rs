//! The README tells the settings as the code has them.

use std::path::Path;

use lintmesh::config::with_reference;

/// With `UPDATE_README=1` the README is brought up to date instead.
#[test]
fn the_readme_lists_the_settings_as_they_are() {
    let file = Path::new(env!("CARGO_MANIFEST_DIR")).join("README.md");
    let written = std::fs::read_to_string(&file).expect("the README is readable");
    let current = with_reference(&written).expect("the README has both markers of the table");
    if std::env::var_os("UPDATE_README").is_some() {
        std::fs::write(&file, &current).expect("the README is writable");
    } else {
        assert!(written == current, "the settings changed: run `UPDATE_README=1 cargo test readme`");
    }
}

use std::ffi::OsStr;
use std::fs;

use super::*;

#[test]
fn the_command_line_names_a_choice() {
    let choice = |text: &str| ToolchainChoice::from(OsStr::new(text));
    assert_eq!(choice("managed"), ToolchainChoice::Managed);
    assert_eq!(choice("system"), ToolchainChoice::System);
    assert_eq!(choice("./system"), ToolchainChoice::Environment("./system".into()));
}

#[test]
fn an_id_changes_with_everything_that_changes_results() {
    let id = toolchain_id(&ToolchainMode::System, "ruff==1\n");
    assert_eq!(id, toolchain_id(&ToolchainMode::System, "ruff==1\n"));
    assert_ne!(id, toolchain_id(&ToolchainMode::Managed, "ruff==1\n"));
    assert_ne!(id, toolchain_id(&ToolchainMode::System, "ruff==2\n"));
}

#[test]
fn a_path_that_is_no_environment_is_refused_with_the_reason() {
    let folder = tempfile::tempdir().unwrap();
    let refused = |path: &Path| {
        let choice = ToolchainChoice::Environment(path.into());
        provision(choice, Path::new("/nowhere"), &mut |_| {}).unwrap_err().to_string()
    };
    assert!(refused(&folder.path().join("no")).contains("there is no such folder"));
    assert!(refused(folder.path()).contains("it has no pyvenv.cfg"));
    fs::write(folder.path().join("pyvenv.cfg"), "").unwrap();
    assert!(refused(folder.path()).contains("it has no bin/python"));
}

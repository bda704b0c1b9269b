//! The lintmesh binary.

use std::process::ExitCode;

use lintmesh::linters::process::control;

fn main() -> ExitCode {
    // First of all: the shim starts once per linter and needs no command line, log or runtime.
    if std::env::args_os().nth(1).is_some_and(|argument| argument == control::SUBCOMMAND) {
        return lintmesh::node::shim::main();
    }
    lintmesh::cli::main()
}

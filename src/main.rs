//! The lintmesh binary.

use std::process::ExitCode;

use lintmesh::cli::node::{NodeCommand, node};
use lintmesh::linters::process::control;

fn main() -> ExitCode {
    let arguments: Vec<_> = std::env::args_os().skip(1).collect();
    // First of all: the shim starts once per linter and needs no command line, log or runtime.
    if arguments.first().is_some_and(|argument| argument == control::SUBCOMMAND) {
        return lintmesh::node::shim::main();
    }
    if arguments == ["node", "--launched"] {
        return match node(NodeCommand::Launched) {
            Ok(()) => ExitCode::SUCCESS,
            Err(error) => {
                eprintln!("lintmesh node: {error:#}");
                ExitCode::from(2)
            }
        };
    }
    ExitCode::SUCCESS
}

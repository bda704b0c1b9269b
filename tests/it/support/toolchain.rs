//! The five linters: the product's own managed toolchain, installed once into the user's cache.

use std::path::PathBuf;

use lintmesh::linters::toolchain::Toolchain;
use lintmesh::node::provision::{ToolchainChoice, provision};

/// Installs it if need be, which takes a minute and the network; any number of processes may do so at a time.
pub(crate) fn toolchain() -> Toolchain {
    provision(ToolchainChoice::Managed, &cache_dir(), &mut |progress| eprintln!("{progress}"))
        .expect("the linters can be installed")
}

/// Where the product keeps it by default.
fn cache_dir() -> PathBuf {
    let variable = |name: &str| std::env::var_os(name).map(PathBuf::from).filter(|path| path.is_absolute());
    let cache = variable("XDG_CACHE_HOME").or_else(|| Some(variable("HOME")?.join(".cache")));
    cache.expect("HOME is set").join("lintmesh")
}

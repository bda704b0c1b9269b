//! Without the network, and without the linters in the cache, the user learns which package could not be had and what
//! to do instead.

use std::net::TcpListener;
use std::path::{Path, PathBuf};

use super::support::lint_command::World;

/// An index on this machine that nobody answers for.
fn nobody() -> String {
    let listener = TcpListener::bind("127.0.0.1:0").unwrap();
    format!("http://{}/simple", listener.local_addr().unwrap())
}

/// A machine with an empty cache and nothing but the index above.
fn offline() -> World {
    let mut world = World::new();
    world.file("a.py", "import os\n");
    let (cache, installer) = (world.path("cache"), world.path("installer"));
    world.set("LINTMESH__TOOLCHAIN__CACHE_DIR", &cache).set("UV_CACHE_DIR", &installer);
    world.set("PIP_CACHE_DIR", &installer).set("PIP_RETRIES", "0").set("UV_HTTP_RETRIES", "0");
    for name in ["PIP_INDEX_URL", "UV_INDEX_URL", "UV_DEFAULT_INDEX"] {
        world.set(name, nobody());
    }
    world
}

fn assert_told(world: &World) {
    let ran = world.lint(&[]);
    assert_eq!(ran.code, Some(2), "{ran:?}");
    assert_eq!(ran.stdout, "");
    for part in ["cannot get ", "==", "--toolchain system", "--toolchain PATH-TO-VENV"] {
        assert!(ran.stderr.contains(part), "{part} in {}", ran.stderr);
    }
    world.assert_nobody_left();
    assert_eq!(world.temporary(), Vec::<PathBuf>::new());
}

#[test]
fn with_any_installer_the_package_and_both_alternatives_are_named() {
    assert_told(&offline());
}

#[test]
fn with_pip_the_package_and_both_alternatives_are_named() {
    let mut world = offline();
    // The same machine without uv.
    let bin = world.path("bin");
    std::fs::create_dir(&bin).unwrap();
    let python = std::env::split_paths(&std::env::var_os("PATH").unwrap())
        .map(|folder| folder.join("python3"))
        .find(|program| program.is_file())
        .expect("python3 is installed");
    std::os::unix::fs::symlink(python, bin.join("python3")).unwrap();
    let mut path = bin.into_os_string();
    let has_uv = |folder: &str| Path::new(folder).join("uv").exists();
    for folder in ["/usr/bin", "/bin"].into_iter().filter(|folder| !has_uv(folder)) {
        path.push(":");
        path.push(folder);
    }
    world.set("PATH", path);
    assert_told(&world);
}

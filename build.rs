//! Compiles the protocol with protox, so that no protoc is needed, and keeps the descriptors for reflection.

use std::path::PathBuf;

use prost::Message as _;

fn main() -> Result<(), Box<dyn std::error::Error>> {
    // Printed by hand: tonic-prost-build's own switch does nothing, and without it every change rebuilds everything.
    println!("cargo:rerun-if-changed=proto");
    println!("cargo:rerun-if-changed=build.rs");

    let public = protox::compile(
        [
            "lintmesh/v1/coordinator.proto",
            "lintmesh/v1/diagnose.proto",
            "lintmesh/v1/explain.proto",
            "lintmesh/v1/health.proto",
            "lintmesh/v1/lint.proto",
            "lintmesh/v1/node.proto",
            "lintmesh/v1/workspace.proto",
        ],
        ["proto"],
    )?;
    let out = PathBuf::from(std::env::var("OUT_DIR")?);
    std::fs::write(out.join("public_descriptor.bin"), public.encode_to_vec())?;

    let all = protox::compile(
        ["lintmesh/v1/coordinator.proto", "lintmesh/v1/workspace.proto", "lintmesh/peer/v1/peer.proto"],
        ["proto"],
    )?;
    // BTreeMap, so that equal messages print equally.
    tonic_prost_build::configure()
        .btree_map(".")
        // One report goes to every watcher: it is encoded once for all of them.
        .extern_path(".lintmesh.v1.StreamHealthResponse", "crate::proto::shared::StreamHealthResponse")
        .compile_fds(all)?;
    Ok(())
}

//! The generated wire types. No logic lives here; `wire` turns them into the vocabulary.

pub mod shared;

/// What clients speak.
pub mod v1 {
    #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
    tonic::include_proto!("lintmesh.v1");

    pub use crate::proto::shared::StreamHealthResponse;

    /// The public services and messages, for reflection.
    pub const FILE_DESCRIPTOR_SET: &[u8] = include_bytes!(concat!(env!("OUT_DIR"), "/public_descriptor.bin"));
}

/// What the processes of a mesh speak among themselves.
pub mod peer {
    /// Version 1.
    pub mod v1 {
        #![allow(missing_docs, unreachable_pub, clippy::all, clippy::pedantic)]
        tonic::include_proto!("lintmesh.peer.v1");
    }
}

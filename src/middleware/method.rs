//! What the layers must know about a method before it runs: its least role, and whether it streams.

use super::auth::Role;

/// Who may call a method.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Access {
    /// Anyone, without credentials: probes and tools must work before there are any.
    Open,
    /// Callers whose role is at least this.
    AtLeast(Role),
}

/// Services whose methods are open to all and never counted by a circuit breaker.
const INFRASTRUCTURE: [&str; 3] = [
    "grpc.health.v1.Health",
    "grpc.reflection.v1.ServerReflection",
    "grpc.reflection.v1alpha.ServerReflection",
];

const READER_PREFIXES: [&str; 7] = ["Get", "List", "Watch", "Stream", "Download", "Explain", "Diagnose"];

const SUBMITTER_METHODS: [&str; 5] =
    ["Coordinate", "StartRun", "CancelRun", "FindMissingBlobs", "UploadBlobs"];

/// Calls that last as long as there is something to say, in either direction.
const STREAMING_METHODS: [&str; 10] = [
    "Coordinate",
    "WatchRun",
    "StreamHealth",
    "DownloadReport",
    "UploadBlobs",
    "DownloadBlobs",
    "Session",
    "Exchange",
    "Watch",
    "ServerReflectionInfo",
];

fn split(path: &str) -> (&str, &str) {
    path.strip_prefix('/').and_then(|rest| rest.split_once('/')).unwrap_or(("", path))
}

/// Who may call the method at `path` (`/package.Service/Method`). What is not known needs an operator,
/// so that a method that somebody forgets here is closed, not open.
pub fn access(path: &str) -> Access {
    let (service, method) = split(path);
    if INFRASTRUCTURE.contains(&service) {
        return Access::Open;
    }
    if !service.starts_with("lintmesh.v1.") {
        return Access::AtLeast(Role::Operator);
    }
    if SUBMITTER_METHODS.contains(&method) {
        Access::AtLeast(Role::Submitter)
    } else if READER_PREFIXES.iter().any(|prefix| method.starts_with(prefix)) {
        Access::AtLeast(Role::Reader)
    } else {
        Access::AtLeast(Role::Operator)
    }
}

/// Whether the method at `path` streams, in either direction.
pub fn is_streaming(path: &str) -> bool {
    STREAMING_METHODS.contains(&split(path).1)
}

/// Whether `path` belongs to health checking or reflection.
pub fn is_infrastructure(path: &str) -> bool {
    INFRASTRUCTURE.contains(&split(path).0)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_of_roles() {
        for (path, expected) in [
            ("/grpc.health.v1.Health/Check", Access::Open),
            ("/grpc.reflection.v1.ServerReflection/ServerReflectionInfo", Access::Open),
            ("/lintmesh.v1.CoordinatorService/GetRun", Access::AtLeast(Role::Reader)),
            ("/lintmesh.v1.CoordinatorService/StreamHealth", Access::AtLeast(Role::Reader)),
            ("/lintmesh.v1.CoordinatorService/Diagnose", Access::AtLeast(Role::Reader)),
            ("/lintmesh.v1.CoordinatorService/Coordinate", Access::AtLeast(Role::Submitter)),
            ("/lintmesh.v1.WorkspaceService/UploadBlobs", Access::AtLeast(Role::Submitter)),
            ("/lintmesh.v1.WorkspaceService/FindMissingBlobs", Access::AtLeast(Role::Submitter)),
            ("/lintmesh.v1.CoordinatorService/InitializeMesh", Access::AtLeast(Role::Operator)),
            ("/lintmesh.v1.CoordinatorService/HandleFault", Access::AtLeast(Role::Operator)),
            ("/lintmesh.v1.CoordinatorService/ProposeDecision", Access::AtLeast(Role::Operator)),
            ("/lintmesh.v1.CoordinatorService/BrandNew", Access::AtLeast(Role::Operator)),
            ("/other.Service/GetThing", Access::AtLeast(Role::Operator)),
            ("/grpc.health.v1.HealthX/Check", Access::AtLeast(Role::Operator)),
            ("nonsense", Access::AtLeast(Role::Operator)),
        ] {
            assert_eq!(access(path), expected, "{path}");
        }
    }

    #[test]
    fn streams_are_known() {
        assert!(is_streaming("/grpc.health.v1.Health/Watch"));
        assert!(is_streaming("/lintmesh.peer.v1.NodeService/Session"));
        assert!(!is_streaming("/grpc.health.v1.Health/Check"));
        assert!(!is_streaming("/lintmesh.v1.CoordinatorService/StartRun"));
    }
}

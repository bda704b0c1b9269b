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

/// The package of the public services.
const PUBLIC: &str = "lintmesh.v1.";

/// The least role for each method of the public services: every one of them is here by its whole name, so that no name
/// opens a method by the way it begins.
pub const ROLES: [(Role, &[&str]); 3] = [
    (
        Role::Reader,
        &[
            "CoordinatorService/WatchRun",
            "CoordinatorService/GetRun",
            "CoordinatorService/ListRuns",
            "CoordinatorService/DownloadReport",
            "CoordinatorService/ExplainTask",
            "CoordinatorService/Diagnose",
            "CoordinatorService/GetMeshStatus",
            "CoordinatorService/StreamHealth",
            "WorkspaceService/DownloadBlobs",
        ],
    ),
    (
        Role::Submitter,
        &[
            "CoordinatorService/Coordinate",
            "CoordinatorService/StartRun",
            "CoordinatorService/CancelRun",
            "WorkspaceService/FindMissingBlobs",
            "WorkspaceService/UploadBlobs",
        ],
    ),
    (Role::Operator, &["CoordinatorService/InitializeMesh", "CoordinatorService/HandleFault"]),
];

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

/// Who may call the method at `path` (`/package.Service/Method`). What is not in [`ROLES`] needs an operator,
/// so that a method that somebody forgets there is closed, not open.
pub fn access(path: &str) -> Access {
    if INFRASTRUCTURE.contains(&split(path).0) {
        return Access::Open;
    }
    let name = path.strip_prefix('/').and_then(|name| name.strip_prefix(PUBLIC)).unwrap_or_default();
    let known = ROLES.into_iter().find(|(_, methods)| methods.contains(&name));
    Access::AtLeast(known.map_or(Role::Operator, |(role, _)| role))
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
            ("/lintmesh.v1.CoordinatorService/GetSecrets", Access::AtLeast(Role::Operator)),
            ("/lintmesh.v1.CoordinatorService/WatchRunAndDrain", Access::AtLeast(Role::Operator)),
            ("/lintmesh.v1.CoordinatorService/StreamOrders", Access::AtLeast(Role::Operator)),
            ("/lintmesh.v1.WorkspaceService/DownloadSecrets", Access::AtLeast(Role::Operator)),
            ("/lintmesh.v1.WorkspaceService/GetRun", Access::AtLeast(Role::Operator)),
            ("/other.Service/GetThing", Access::AtLeast(Role::Operator)),
            ("/other.CoordinatorService/GetRun", Access::AtLeast(Role::Operator)),
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

//! Where the coordinator listens, whom it lets in, what it takes and keeps.

use std::fmt;
use std::net::{Ipv4Addr, SocketAddr};
use std::path::PathBuf;
use std::time::Duration;

use ::config::Value;

use super::mesh::{AT_LEAST_ONE, BYTES, POSITIVE};
use super::reader::{At, Reader};
use super::section::{Rule, any, choice, section};
use super::setting::{Setting, text};
use crate::types::Digest;

const ADDRESS: Rule<SocketAddr> = any("IP:PORT; port 0 takes any free one");
const FILE: Rule<Option<PathBuf>> = any("path of a readable PEM file");
const FOLDER: Rule<Option<PathBuf>> = any("path of a folder");

const fn loopback(port: u16) -> SocketAddr {
    SocketAddr::new(std::net::IpAddr::V4(Ipv4Addr::LOCALHOST), port)
}

section! {
    /// Where the coordinator listens and how much it takes.
    pub struct ServerSettings {
        /// The public API. Beyond loopback it needs `server.tls` and a token.
        listen: SocketAddr = loopback(50051), ADDRESS;
        /// Health checks, in plain text, without authentication.
        admin_listen: SocketAddr = loopback(50052), ADDRESS;
        /// Sessions of the nodes. Beyond loopback it needs `server.tls` and a node secret.
        node_listen: SocketAddr = loopback(0), ADDRESS;
        /// What launched nodes dial if `node_listen` is beyond loopback: a name that the certificate has. Needed if
        /// `node_listen` is every address of the machine (`0.0.0.0`), which nobody can dial.
        advertise: Option<String> = None, any("HOST:PORT");
        /// The certificate of the public API and of the node listener.
        tls: TlsSettings = TlsSettings::default(), any("a table");
        /// Seconds that a unary request may take when its client sets no deadline.
        request_timeout: Duration = Duration::from_secs(60), POSITIVE;
        /// Bytes of the largest message that is taken.
        max_message_bytes: u64 = 4 << 20, BYTES;
        /// Unary requests handled at a time; more are refused.
        max_concurrent_requests: u32 = 256, AT_LEAST_ONE;
        /// Streams that one client may have open, uploads among them; more are refused.
        max_streams_per_client: u32 = 64, AT_LEAST_ONE;
        /// Seconds that open runs get to end when the server stops. Those that have not ended then go on at the next start;
        /// with `state.store = "memory"` they are cancelled.
        drain_timeout: Duration = Duration::from_secs(15), any("seconds");
        /// Seconds that open requests get to end when the server stops, after the runs.
        shutdown_grace: Duration = Duration::from_secs(10), any("seconds");
        /// Whether clients may ask for the API's description (gRPC reflection).
        reflection: bool = true, any("true or false");
    }
}

section! {
    /// A certificate and its key.
    pub struct TlsSettings {
        /// Certificate chain, PEM.
        cert: Option<PathBuf> = None, FILE;
        /// Its private key, PEM.
        key: Option<PathBuf> = None, FILE;
        /// Authorities, PEM; if set, clients of the API must show a certificate of one of them.
        client_ca: Option<PathBuf> = None, FILE;
    }
}

/// The SHA-256 of a secret. It is never shown.
#[derive(Clone, Default, PartialEq, Eq)]
pub struct SecretHash(Option<Digest>);

impl SecretHash {
    /// Whether this is the hash of `presented`. Takes no longer for a near miss: hashes are compared, not secrets.
    pub fn matches(&self, presented: &[u8]) -> bool {
        self.0 == Some(Digest::of(presented))
    }

    /// The hash itself, for comparing in constant time; none if it was not given.
    pub const fn digest(&self) -> Option<Digest> {
        self.0
    }

    /// Whether a hash was given; a missing one is reported when settings are loaded and matches nothing.
    pub(super) fn is_set(&self) -> bool {
        self.0.is_some()
    }
}

impl fmt::Debug for SecretHash {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("(hidden)")
    }
}

impl Setting for SecretHash {
    fn read(value: &Value, at: &At<'_>, reader: &mut Reader) -> Option<Self> {
        let digest = text(value).and_then(|text| text.parse().ok());
        digest.map(|digest| Self(Some(digest))).or_else(|| reader.refuse(value, at))
    }

    fn show(&self) -> String {
        String::new()
    }
}

/// How the hash of a secret is given.
pub(super) const HASH: Rule<SecretHash> = any("SHA-256 of the secret, 64 hexadecimal digits");

choice! {
    /// What a token lets its holder do; each role may do what those before it may.
    pub enum Role {
        /// See runs and the state of the mesh.
        Reader = "reader",
        /// Start and cancel runs.
        Submitter = "submitter",
        /// Change the mesh.
        Operator = "operator",
    }
}

section! {
    /// One token of the API.
    pub struct Token {
        /// Names its holder in logs; required.
        name: String = String::new(), any("text");
        /// What it allows.
        role: Role = Role::Reader, any("reader, submitter or operator");
        /// SHA-256 of the token; required.
        sha256: SecretHash = SecretHash::default(), HASH;
    }
}

section! {
    /// Who may call the API.
    pub struct AuthSettings {
        /// The tokens; with none, whoever can connect may do everything.
        tokens: Vec<Token> = Vec::new(), any("a list of tables {name, role, sha256}");
    }
}

section! {
    /// Which trees are taken and where their bytes are kept.
    pub struct WorkspaceSettings {
        /// Folders of the server whose trees requests may name.
        allowed_roots: Vec<PathBuf> = Vec::new(), Rule {
            allowed: "a list of absolute paths of folders",
            accepts: |roots: &Vec<PathBuf>| roots.iter().all(|root| root.is_absolute()),
        };
        /// Bytes of the largest file; a larger one is reported as not linted, or refused in a request.
        max_file_bytes: u64 = 16 << 20, BYTES;
        /// Bytes of all files of a tree together.
        max_snapshot_bytes: u64 = 512 << 20, BYTES;
        /// Files of a tree.
        max_snapshot_files: u64 = 50_000, Rule { allowed: "a whole number, at least 1", accepts: |n| *n >= 1 };
        /// Files and folders of any kind that are looked at to find them.
        max_entries: u64 = 500_000, Rule { allowed: "a whole number, at least 1", accepts: |n| *n >= 1 };
        /// Bytes of all inline files of a request together.
        max_inline_bytes: u64 = 3 << 20, BYTES;
        /// Bytes of the largest blob: a file, or the output of a task.
        max_blob_bytes: u64 = 256 << 20, BYTES;
        /// Bytes of all blobs together; the least recently used go first. Trees may take 7/8 of it: the rest is for what
        /// their runs make.
        max_store_bytes: u64 = 4 << 30, BYTES;
        /// Where blobs are kept; if not set, in `state.dir`, or with `state.store = "memory"` in a temporary folder that
        /// goes with the process.
        blob_dir: Option<PathBuf> = None, FOLDER;
    }
}

impl WorkspaceSettings {
    /// Bytes of the blob store that what clients bring may take, so that room is left for what their runs make: a run that
    /// cannot store what it makes cannot end.
    pub const fn max_input_bytes(&self) -> u64 {
        self.max_store_bytes - self.max_store_bytes / 8
    }
}

section! {
    /// How many runs there are and how they go.
    pub struct RunSettings {
        /// Runs that are not finished; more are refused.
        max_open: u32 = 100, AT_LEAST_ONE;
        /// Seconds that a run may take when its request does not say.
        timeout: Duration = Duration::from_secs(3600), POSITIVE;
        /// Finished runs that are kept, with their reports.
        keep: u32 = 1000, AT_LEAST_ONE;
        /// Seconds for which a finished run is kept (30 days).
        keep_for: Duration = Duration::from_secs(30 * 24 * 3600), POSITIVE;
        /// Whether configuration that runs code of the tree is used (plugins, init hooks); if not set, only when the
        /// tree is linted in place by its user.
        allow_tree_code: Option<bool> = None, any("true or false");
    }
}

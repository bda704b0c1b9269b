//! A certificate that is renewed while the server runs is shown to whoever connects from then on.

use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use lintmesh::config::{self, Settings, Sources};
use lintmesh::engine::clock::SystemClock;
use lintmesh::server::{self, Secrets, ServerOptions, TreePolicy};
use lintmesh::store::{MemoryLog, MemoryStore};
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic_health::pb::HealthCheckRequest;
use tonic_health::pb::health_client::HealthClient;

use super::rig::fixed_bits;
use super::support::serve::DEADLINE;

/// Writes a new certificate, which vouches for itself, and its key; answers the certificate.
fn renew(dir: &Path) -> String {
    let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
    std::fs::write(dir.join("cert.pem"), own.cert.pem()).expect("written");
    std::fs::write(dir.join("key.pem"), own.signing_key.serialize_pem()).expect("written");
    own.cert.pem()
}

fn settings(dir: &Path) -> Settings {
    let (file, cert, key) = (dir.join("lintmesh.toml"), dir.join("cert.pem"), dir.join("key.pem"));
    let text = format!(
        "[server]\nlisten = \"127.0.0.1:0\"\nnode_listen = \"127.0.0.1:0\"\ntls = {{ cert = {cert:?}, key = {key:?} }}\n\
         [nodes]\nlaunch = \"external\"\n"
    );
    std::fs::write(&file, text).expect("written");
    config::load(&Sources { file: Some(file), ..Sources::default() }).expect("valid").settings
}

// Its only thread is this one's, so that its clock can be set forward.
#[tokio::test]
async fn a_renewed_certificate_is_shown_without_a_restart() {
    let dir = tempfile::tempdir().expect("a folder");
    let old = renew(dir.path());
    let settings = settings(dir.path());
    let options = ServerOptions {
        secrets: Arc::new(Secrets::new(&settings)),
        node_port: None,
        settings,
        trees: TreePolicy::default(),
        tokens: Vec::new(),
        admin: false,
        toolchain_mode: None,
        blob_dir: dir.path().join("blobs"),
        state_dir: None,
        free_bytes: Arc::new(server::free_bytes),
        store: MemoryStore::over(MemoryLog::default()),
        salvage: false,
        clock: Arc::new(SystemClock::new()),
        random: fixed_bits(),
    };
    let server = server::start(options).await.expect("starts");
    let connect = async |trusted: &str| {
        let tls =
            ClientTlsConfig::new().ca_certificate(Certificate::from_pem(trusted)).domain_name("localhost");
        let url = format!("https://{}", server.api_address());
        let endpoint = Endpoint::from_shared(url).expect("valid").tls_config(tls).expect("valid");
        endpoint.connect().await
    };
    let mut before = HealthClient::new(connect(&old).await.expect("the first one is shown"));
    let alive = || HealthCheckRequest { service: "liveness".into() };
    before.check(alive()).await.expect("serving");

    let new = renew(dir.path());
    connect(&new).await.expect_err("nobody has looked yet");
    tokio::time::pause();
    tokio::time::advance(Duration::from_secs(61)).await;
    tokio::time::resume();
    let taken_up = async {
        loop {
            match connect(&new).await {
                Ok(channel) => return channel,
                Err(_) => tokio::time::sleep(Duration::from_millis(10)).await,
            }
        }
    };
    let channel = tokio::time::timeout(DEADLINE, taken_up).await.expect("it is shown");
    HealthClient::new(channel).check(alive()).await.expect("serving");
    connect(&old).await.expect_err("the first one is not shown any more");
    before.check(alive()).await.expect("open connections go on");
    server.shutdown().await;
}

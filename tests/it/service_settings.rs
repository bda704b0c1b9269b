//! `lintmesh lint` beside the configuration of a service: the private mesh of one run takes nothing of it that is for others.

use std::fs;
use std::net::TcpListener;

use super::support::lint_command::World;

#[test]
fn a_private_mesh_ignores_who_and_where_the_service_of_the_same_configuration_is() {
    let world = World::new();
    world.file("unused.py", "import os\n");
    let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).unwrap();
    fs::write(world.path("cert.pem"), own.cert.pem()).unwrap();
    fs::write(world.path("key.pem"), own.signing_key.serialize_pem()).unwrap();
    fs::create_dir(world.path("roots")).unwrap();
    // Whoever posts an alert connects first.
    let pager = TcpListener::bind("127.0.0.1:0").unwrap();
    pager.set_nonblocking(true).unwrap();
    let path = |name: &str| world.path(name).display().to_string();
    let hash = "0".repeat(64);
    let toml = format!(
        r#"
[server]
listen = "0.0.0.0:50051"
node_listen = "0.0.0.0:50053"
advertise = "lint.example.org:50053"
[server.tls]
cert = "{cert}"
key = "{key}"
client_ca = "{cert}"
[auth]
tokens = [{{ name = "ci", role = "submitter", sha256 = "{hash}" }}]
[nodes]
launch = "external"
secrets = [{{ name = "pool", sha256 = "{hash}" }}]
restart_command = ["/bin/false", "{{node_id}}"]
[workspace]
blob_dir = "{blobs}"
allowed_roots = ["{roots}"]
[state]
dir = "{state}"
[alerts]
alertmanager_url = ["http://{pager}"]
raise_after = 0
degraded_health = 1.0
low_connectivity = 1.0
"#,
        cert = path("cert.pem"),
        key = path("key.pem"),
        blobs = path("blobs"),
        roots = path("roots"),
        state = path("state"),
        pager = pager.local_addr().unwrap(),
    );
    world.file("lintmesh.toml", toml);
    let ran = world.lint(&["--select-tools", "ruff", "--format", "concise"]);
    assert_eq!(ran.code, Some(1), "{ran:?}");
    assert!(ran.stdout.contains("unused.py:1:8: MEDIUM ruff F401"), "{ran:?}");
    for folder in ["blobs", "state"] {
        assert!(!world.path(folder).exists(), "{folder} is the service's");
    }
    let alarmed = pager.accept().map(|_| ());
    assert!(alarmed.is_err(), "nobody is paged by a run on a laptop");
    world.assert_nobody_left();
}

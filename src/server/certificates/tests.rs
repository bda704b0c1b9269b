use rustls::pki_types::ServerName;
use tokio_rustls::{TlsAcceptor, TlsConnector};

use super::*;

/// A certificate that vouches for itself, with its key.
type Own = rcgen::CertifiedKey<rcgen::KeyPair>;

fn made() -> Own {
    rcgen::generate_simple_self_signed(["mesh".to_owned()]).expect("a certificate")
}

struct Folder(tempfile::TempDir);

impl Folder {
    fn with(own: &Own) -> Self {
        let folder = Self(tempfile::tempdir().expect("a folder"));
        folder.replace(Some(own), Some(own));
        folder
    }

    /// Replaces the certificate, the key, or both.
    fn replace(&self, cert: Option<&Own>, key: Option<&Own>) {
        if let Some(own) = cert {
            std::fs::write(self.0.path().join("cert.pem"), own.cert.pem()).expect("written");
        }
        if let Some(own) = key {
            std::fs::write(self.0.path().join("key.pem"), own.signing_key.serialize_pem()).expect("written");
        }
    }

    fn settings(&self) -> TlsSettings {
        let path = |name| Some(self.0.path().join(name));
        TlsSettings { cert: path("cert.pem"), key: path("key.pem"), client_ca: None }
    }
}

/// Whether a client that trusts only this certificate gets a connection.
async fn shows(configs: &TlsConfigs, own: &Own) -> bool {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(own.cert.der().clone()).expect("an authority");
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let client = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("versions")
        .with_root_certificates(roots)
        .with_no_client_auth();
    let (near, far) = tokio::io::duplex(64 << 10);
    let acceptor = TlsAcceptor::from(Arc::clone(&configs.borrow()));
    let accepted = tokio::spawn(async move { acceptor.accept(far).await.is_ok() });
    let name = ServerName::try_from("mesh").expect("a name");
    // Held until the other end has said its last word.
    let connected = TlsConnector::from(Arc::new(client)).connect(name, near).await;
    let accepted = accepted.await.expect("no panic");
    connected.is_ok() && accepted
}

#[tokio::test(start_paused = true)]
async fn a_replaced_certificate_is_shown_to_clients_and_to_nodes_within_a_minute() {
    let (old, new) = (made(), made());
    let folder = Folder::with(&old);
    let certificates = Certificates::read(&folder.settings()).await.expect("good").expect("some");
    let (mut api, nodes) = certificates.configs();
    tokio::spawn(certificates.follow());
    assert!(shows(&api, &old).await && shows(&nodes, &old).await && !shows(&api, &new).await);

    folder.replace(Some(&new), Some(&new));
    let start = tokio::time::Instant::now();
    api.changed().await.expect("followed");
    assert_eq!(start.elapsed().as_secs(), 60);
    for configs in [&api, &nodes] {
        assert!(shows(configs, &new).await && !shows(configs, &old).await);
    }
}

#[tokio::test]
async fn what_cannot_be_used_leaves_the_old_one_in_force() {
    let (old, new) = (made(), made());
    let folder = Folder::with(&old);
    let mut certificates = Certificates::read(&folder.settings()).await.expect("good").expect("some");
    let (api, _) = certificates.configs();
    let cert = folder.0.path().join("cert.pem");

    // Nothing has changed: nothing is replaced.
    certificates.look().await;
    assert!(!api.has_changed().expect("followed"));
    // Somebody is still writing; a certificate without its key; no file at all.
    std::fs::write(&cert, &new.cert.pem()[..100]).expect("written");
    certificates.look().await;
    folder.replace(Some(&new), None);
    certificates.look().await;
    std::fs::remove_file(&cert).expect("removed");
    certificates.look().await;
    assert!(!api.has_changed().expect("followed"));
    assert!(shows(&api, &old).await);

    // The key that was missing makes it whole.
    folder.replace(Some(&new), Some(&new));
    certificates.look().await;
    assert!(shows(&api, &new).await);
}

#[tokio::test]
async fn at_the_start_a_certificate_must_be_good() {
    let folder = Folder::with(&made());
    folder.replace(None, Some(&made()));
    let error = Certificates::read(&folder.settings()).await.map(|_| ()).expect_err("another key");
    assert!(error.to_string().starts_with("server.tls: "), "{error}");
    let settings = TlsSettings { key: Some("/nonexistent".into()), ..folder.settings() };
    let error = Certificates::read(&settings).await.map(|_| ()).expect_err("no key");
    assert!(error.to_string().contains("/nonexistent (server.tls.key)"), "{error}");
    assert!(Certificates::read(&TlsSettings::default()).await.expect("nothing wrong").is_none());
}

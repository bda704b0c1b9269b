//! TLS of the listeners: rustls with ring, and certificates that can be replaced while it runs.

use std::sync::Arc;

use rustls::ServerConfig;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::server::WebPkiClientVerifier;
use tokio::sync::watch;

/// What is wrong with the certificates of a listener.
#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    /// Not PEM, or the wrong kind of PEM.
    #[error("{what} is not readable as PEM: {reason}")]
    Unreadable {
        /// Which of the inputs.
        what: &'static str,
        /// What the parser says.
        reason: String,
    },
    /// Readable, and does not fit together.
    #[error("the certificate cannot be used: {0}")]
    Unusable(String),
}

/// The TLS settings in force. The receiver's value is used for each new connection, so whoever holds the
/// sender replaces certificates without a restart.
pub type TlsConfigs = watch::Receiver<Arc<ServerConfig>>;

fn certificates(pem: &[u8], what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let unreadable = |reason: String| TlsError::Unreadable { what, reason };
    let chain: Vec<_> = CertificateDer::pem_slice_iter(pem)
        .collect::<Result<_, _>>()
        .map_err(|e| unreadable(e.to_string()))?;
    if chain.is_empty() { Err(unreadable("it holds no certificate".into())) } else { Ok(chain) }
}

/// Settings for a gRPC listener from PEM: certificate chain (leaf first), its private key, and the
/// authorities whose client certificates are asked for and required, if any.
pub fn server_config(
    chain: &[u8],
    key: &[u8],
    client_ca: Option<&[u8]>,
) -> Result<Arc<ServerConfig>, TlsError> {
    let unusable = |error: &dyn std::fmt::Display| TlsError::Unusable(error.to_string());
    let chain = certificates(chain, "the certificate")?;
    let key = PrivateKeyDer::from_pem_slice(key)
        .map_err(|e| TlsError::Unreadable { what: "the private key", reason: e.to_string() })?;
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder = ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| unusable(&e))?;
    let builder = match client_ca {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(pem, "the client authority")? {
                roots.add(certificate).map_err(|e| unusable(&e))?;
            }
            let verifier = WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                .build()
                .map_err(|e| unusable(&e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(chain, key).map_err(|e| unusable(&e))?;
    // gRPC is HTTP/2 only; clients that check ALPN refuse a server that does not offer it.
    config.alpn_protocols = vec![b"h2".to_vec()];
    Ok(Arc::new(config))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_not_a_certificate_is_refused_by_name() {
        let own = rcgen::generate_simple_self_signed(["localhost".to_owned()]).expect("a certificate");
        let (chain, key) = (own.cert.pem(), own.signing_key.serialize_pem());
        assert!(server_config(chain.as_bytes(), key.as_bytes(), Some(chain.as_bytes())).is_ok());
        for (chain, key, part) in
            [("nonsense", key.as_str(), "the certificate"), (chain.as_str(), "nonsense", "the private key")]
        {
            let error = server_config(chain.as_bytes(), key.as_bytes(), None).expect_err("nonsense");
            assert!(error.to_string().starts_with(part), "{error}");
        }
        let other = rcgen::KeyPair::generate().expect("a key").serialize_pem();
        let error = server_config(chain.as_bytes(), other.as_bytes(), None).expect_err("another key");
        assert!(matches!(error, TlsError::Unusable(_)), "{error}");
    }
}

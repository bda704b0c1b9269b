//! The server's certificates, and those that replace them while it runs.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use rustls::ServerConfig;
use tokio::sync::watch;

use crate::config::TlsSettings;
use crate::transport::tls::{TlsConfigs, TlsError, server_config};

/// How often the files are looked at. Whoever renews certificates does it days before the old ones end.
const LOOK_INTERVAL: Duration = Duration::from_secs(60);

/// Why certificates cannot be used. All are for the user to fix.
#[derive(Debug, thiserror::Error)]
pub enum CertificateError {
    /// A file cannot be read.
    #[error("cannot read {} ({setting}): {source}", path.display())]
    Unreadable {
        /// The file.
        path: PathBuf,
        /// The setting that names it.
        setting: &'static str,
        /// The reason.
        source: io::Error,
    },
    /// Certificate and key cannot be used.
    #[error("server.tls: {0}")]
    Tls(#[from] TlsError),
}

/// The files of a certificate, and what is made of them: for the API, and for the listener of nodes.
pub struct Certificates {
    files: Files,
    /// What they held when it was last looked, whether it could be used or not.
    seen: Seen,
    api: watch::Sender<Arc<ServerConfig>>,
    nodes: watch::Sender<Arc<ServerConfig>>,
}

struct Files {
    cert: PathBuf,
    key: PathBuf,
    client_ca: Option<PathBuf>,
}

/// The bytes of the files, not their times: a file that is replaced by way of a symbolic link, as Kubernetes does it,
/// may look older than the one before.
#[derive(PartialEq, Eq)]
struct Pem {
    chain: Vec<u8>,
    key: Vec<u8>,
    client_ca: Option<Vec<u8>>,
}

#[derive(PartialEq, Eq)]
enum Seen {
    Bytes(Pem),
    /// They could not be read, in words.
    Unreadable(String),
}

impl Files {
    async fn read(&self) -> Result<Pem, CertificateError> {
        let read = async |path: &Path, setting| {
            tokio::fs::read(path).await.map_err(|source| CertificateError::Unreadable {
                path: path.to_owned(),
                setting,
                source,
            })
        };
        let client_ca = match &self.client_ca {
            Some(path) => Some(read(path, "server.tls.client_ca").await?),
            None => None,
        };
        let (chain, key) =
            (read(&self.cert, "server.tls.cert").await?, read(&self.key, "server.tls.key").await?);
        Ok(Pem { chain, key, client_ca })
    }
}

impl Pem {
    /// Only callers of the API may be asked for a certificate: nodes have none, their secret proves them.
    fn configs(&self) -> Result<[Arc<ServerConfig>; 2], TlsError> {
        let Self { chain, key, client_ca } = self;
        Ok([server_config(chain, key, client_ca.as_deref())?, server_config(chain, key, None)?])
    }
}

impl Certificates {
    /// Reads the files that the settings name; none if they name none.
    ///
    /// # Errors
    /// If they cannot be read or used.
    pub async fn read(settings: &TlsSettings) -> Result<Option<Self>, CertificateError> {
        let (Some(cert), Some(key)) = (&settings.cert, &settings.key) else { return Ok(None) };
        let files = Files { cert: cert.clone(), key: key.clone(), client_ca: settings.client_ca.clone() };
        let pem = files.read().await?;
        let [api, nodes] = pem.configs()?.map(watch::Sender::new);
        Ok(Some(Self { files, seen: Seen::Bytes(pem), api, nodes }))
    }

    /// What is in force for the API and for nodes, now and later.
    pub fn configs(&self) -> (TlsConfigs, TlsConfigs) {
        (self.api.subscribe(), self.nodes.subscribe())
    }

    /// Takes new certificates up, for ever: new connections get them, open ones keep theirs. What cannot be used leaves
    /// the old ones in force, with a warning; certificate and key are two files, so one may be newer for a moment.
    pub async fn follow(mut self) {
        loop {
            tokio::time::sleep(LOOK_INTERVAL).await;
            self.look().await;
        }
    }

    async fn look(&mut self) {
        let (seen, configs) = match self.files.read().await {
            Ok(pem) => {
                let configs = pem.configs().map_err(CertificateError::from);
                (Seen::Bytes(pem), configs)
            }
            Err(error) => (Seen::Unreadable(error.to_string()), Err(error)),
        };
        if seen == self.seen {
            return;
        }
        self.seen = seen;
        match configs {
            Ok([api, nodes]) => {
                self.api.send_replace(api);
                self.nodes.send_replace(nodes);
                tracing::info!(cert = %self.files.cert.display(), "the certificate was replaced and is in force for new connections");
            }
            Err(error) => {
                tracing::warn!(%error, "the certificate was replaced and cannot be used; the one before stays in force");
            }
        }
    }
}

#[cfg(test)]
mod tests;

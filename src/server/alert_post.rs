//! One HTTP POST, over a connection of its own: alerts are rare, and a kept connection would be one more thing to watch.

use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use http::header::{CONTENT_TYPE, HOST};
use http::{Method, Request, StatusCode, Uri};
use http_body_util::{BodyExt as _, Full, Limited};
use hyper::body::Bytes;
use hyper_util::rt::TokioIo;
use rustls::pki_types::pem::PemObject as _;
use rustls::pki_types::{CertificateDer, ServerName};
use rustls::{ClientConfig, RootCertStore};
use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::TcpStream;
use tokio_rustls::TlsConnector;

/// From connecting to the answer.
const DEADLINE: Duration = Duration::from_secs(5);
/// Bytes of an answer that are read, for the log.
const ANSWER_BYTES: usize = 4096;

/// Why a target cannot be posted to at all. All are for the user to fix.
#[derive(Debug, thiserror::Error)]
pub enum ClientError {
    /// The URL.
    #[error("alerts.alertmanager_url: `{0}` is not http://HOST:PORT or https://HOST:PORT")]
    Url(String),
    /// The authorities.
    #[error("alerts.alertmanager_ca: cannot use {}: {reason}", path.display())]
    Authorities {
        /// The file.
        path: PathBuf,
        /// The reason.
        reason: String,
    },
}

/// Why a post failed. Trying again may help with each.
#[derive(Debug, thiserror::Error)]
pub enum PostError {
    /// Nobody takes it.
    #[error("cannot connect: {0}")]
    Connect(#[from] std::io::Error),
    /// The connection broke.
    #[error("the connection broke: {0}")]
    Http(#[from] hyper::Error),
    /// It was not taken.
    #[error("answered {status}: {text}")]
    Refused {
        /// How.
        status: StatusCode,
        /// The first words of the answer.
        text: String,
    },
    /// No answer in time.
    #[error("no answer within {} s", DEADLINE.as_secs())]
    Deadline,
}

/// Where to post to.
pub struct Client {
    uri: Uri,
    host: String,
    port: u16,
    tls: Option<(TlsConnector, ServerName<'static>)>,
}

impl Client {
    /// To `path` beneath a base URL; `authorities` is a PEM file, for https.
    pub fn new(base: &Uri, path: &str, authorities: Option<&Path>) -> Result<Self, ClientError> {
        let wrong = || ClientError::Url(base.to_string());
        let host = base.host().ok_or_else(wrong)?.trim_matches(['[', ']']).to_owned();
        let is_https = base.scheme_str() == Some("https");
        let tls = match (is_https, authorities) {
            (true, Some(file)) => {
                let name = ServerName::try_from(host.clone()).map_err(|_| wrong())?;
                Some((connector(file)?, name))
            }
            (true, None) => return Err(wrong()),
            (false, _) => None,
        };
        let target = format!("{}{path}", base.path().trim_end_matches('/'));
        let authority = base.authority().ok_or_else(wrong)?.clone();
        let scheme = if is_https { "https" } else { "http" };
        let uri = Uri::builder().scheme(scheme).authority(authority).path_and_query(target).build();
        let port = base.port_u16().unwrap_or(if is_https { 443 } else { 80 });
        Ok(Self { uri: uri.map_err(|_| wrong())?, host, port, tls })
    }

    /// Where.
    pub const fn url(&self) -> &Uri {
        &self.uri
    }

    /// Posts JSON; an answer other than 2xx is an error.
    pub async fn post(&self, json: Bytes) -> Result<(), PostError> {
        tokio::time::timeout(DEADLINE, self.exchange(json)).await.map_err(|_| PostError::Deadline)?
    }

    async fn exchange(&self, json: Bytes) -> Result<(), PostError> {
        let stream = TcpStream::connect((self.host.as_str(), self.port)).await?;
        match &self.tls {
            Some((connector, name)) => self.send(connector.connect(name.clone(), stream).await?, json).await,
            None => self.send(stream, json).await,
        }
    }

    async fn send<I>(&self, io: I, json: Bytes) -> Result<(), PostError>
    where
        I: AsyncRead + AsyncWrite + Unpin + Send + 'static,
    {
        let (mut sender, connection) = hyper::client::conn::http1::handshake(TokioIo::new(io)).await?;
        let path = self.uri.path_and_query().map_or("/", |path| path.as_str());
        let request = Request::builder()
            .method(Method::POST)
            .uri(path)
            .header(HOST, self.uri.authority().map_or("", |authority| authority.as_str()))
            .header(CONTENT_TYPE, "application/json")
            .body(Full::new(json))
            .unwrap_or_else(|error| unreachable!("made of checked parts: {error}"));
        let answered = async {
            let response = sender.send_request(request).await?;
            let status = response.status();
            if status.is_success() {
                return Ok(());
            }
            let body = Limited::new(response.into_body(), ANSWER_BYTES).collect().await;
            let bytes = body.map(|body| body.to_bytes()).unwrap_or_default();
            let text = String::from_utf8_lossy(&bytes).chars().take(200).collect();
            Err(PostError::Refused { status, text })
        };
        tokio::pin!(answered);
        // The connection does the work; when it is over, the answer is there or will never be.
        tokio::select! {
            answer = &mut answered => answer,
            ended = connection => {
                ended?;
                answered.await
            }
        }
    }
}

fn connector(file: &Path) -> Result<TlsConnector, ClientError> {
    let refused = |reason: String| ClientError::Authorities { path: file.to_owned(), reason };
    let mut roots = RootCertStore::empty();
    for certificate in CertificateDer::pem_file_iter(file).map_err(|error| refused(error.to_string()))? {
        let certificate = certificate.map_err(|error| refused(error.to_string()))?;
        roots.add(certificate).map_err(|error| refused(error.to_string()))?;
    }
    if roots.is_empty() {
        return Err(refused("it has no certificate".to_owned()));
    }
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|error| refused(error.to_string()))?
        .with_root_certificates(roots)
        .with_no_client_auth();
    Ok(TlsConnector::from(Arc::new(config)))
}

//! The connection of a command to a server.

mod trouble;
mod wire;

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::num::{NonZeroU16, ParseIntError};
use std::path::{Path, PathBuf};
use std::time::Duration;

use anyhow::Context as _;
use http::Uri;
use http::uri::Authority;
use tonic::metadata::{Ascii, MetadataValue};
use tonic::service::Interceptor;
use tonic::service::interceptor::InterceptedService;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Request, Status};

pub use trouble::Trouble;
pub use wire::Wire;

use super::error::{ConnectError, UsageError};
use crate::proto::v1::coordinator_service_client::CoordinatorServiceClient;
use crate::proto::v1::workspace_service_client::WorkspaceServiceClient;

/// Where a command finds its server when neither a flag nor the environment names one.
pub const DEFAULT_SERVER: &str = "http://127.0.0.1:50051";

/// The port of a URL that names none: where `lintmesh serve` listens if its settings do not say otherwise.
const DEFAULT_PORT: u16 = 50051;

/// How long to try to connect.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(10);

/// A connection that is silent for this long is probed, so that a run whose server vanished does not wait for ever.
const KEEP_ALIVE: Duration = Duration::from_secs(20);

/// Where the certificates of public authorities are kept, by system.
const SYSTEM_AUTHORITIES: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Which server, and how it is asked.
#[derive(Debug, Clone, clap::Args)]
pub struct ServerArgs {
    /// The server: http or https, host and port (50051 if left out), for example http://127.0.0.1:50051
    #[arg(
        long,
        value_name = "URL",
        env = "LINTMESH_SERVER",
        hide_env_values = true,
        help_heading = "Server"
    )]
    pub server: Option<String>,
    /// The token that the server asks for
    #[arg(long, env = "LINTMESH_TOKEN", hide_env_values = true, help_heading = "Server")]
    pub token: Option<String>,
    /// Certificates (PEM) that vouch for the server; by default those of the system
    #[arg(long, value_name = "FILE", help_heading = "Server")]
    pub ca: Option<PathBuf>,
}

impl ServerArgs {
    /// Connects to the server that is named, or to the default one.
    pub async fn connect(&self) -> anyhow::Result<Connection> {
        let url = self.server.as_deref().filter(|url| !url.is_empty()).unwrap_or(DEFAULT_SERVER);
        connect(url, self.token.as_deref(), self.ca.as_deref()).await
    }
}

/// Adds the token to each call.
#[derive(Debug, Clone)]
pub struct Bearer(Option<MetadataValue<Ascii>>);

impl Interceptor for Bearer {
    fn call(&mut self, mut request: Request<()>) -> Result<Request<()>, Status> {
        if let Some(value) = &self.0 {
            request.metadata_mut().insert("authorization", value.clone());
        }
        Ok(request)
    }
}

/// A channel with credentials.
#[derive(Debug, Clone)]
pub struct Connection {
    wire: Wire,
    bearer: Bearer,
    /// How another command reaches the same server.
    flags: String,
}

/// A client's transport.
pub type Transport = InterceptedService<Wire, Bearer>;

impl Connection {
    /// Runs, status, faults.
    pub fn coordinator(&self) -> CoordinatorServiceClient<Transport> {
        CoordinatorServiceClient::with_interceptor(self.wire.clone(), self.bearer.clone())
    }

    /// How another command is told of this server, fit for a shell: `--server URL`, and `--ca FILE` if it was needed.
    pub fn flags(&self) -> &str {
        &self.flags
    }

    /// Blobs.
    pub fn workspace(&self) -> WorkspaceServiceClient<Transport> {
        WorkspaceServiceClient::with_interceptor(self.wire.clone(), self.bearer.clone())
    }
}

/// Connects to `url`; without a scheme it is taken as plain text (`http://`).
pub async fn connect(url: &str, token: Option<&str>, ca: Option<&Path>) -> anyhow::Result<Connection> {
    let endpoint = endpoint(url, ca)?
        .http2_keep_alive_interval(KEEP_ALIVE)
        .keep_alive_timeout(KEEP_ALIVE)
        .connect_timeout(CONNECT_TIMEOUT);
    let bearer = bearer(token)?;
    let refused = |trouble| ConnectError { url: endpoint.uri().to_string(), trouble };
    // The endpoint's own bound ends with the TCP connection: something may accept that and never answer the TLS handshake.
    let channel = match tokio::time::timeout(CONNECT_TIMEOUT, endpoint.connect()).await {
        Err(_) => return Err(refused(Trouble::silence()).into()),
        Ok(Err(error)) => {
            let other_tongue = wire::wants_tls(&endpoint).await;
            return Err(other_tongue.unwrap_or_else(|| refused(Trouble::of(&error))).into());
        }
        Ok(Ok(channel)) => channel,
    };
    Ok(Connection { wire: Wire::new(channel, &endpoint), bearer, flags: flags(endpoint.uri(), ca) })
}

/// Where a listener of this machine is reached: one on all addresses by loopback.
pub fn dialled(mut address: SocketAddr) -> SocketAddr {
    if address.ip().is_unspecified() {
        let loopback: IpAddr =
            if address.is_ipv4() { Ipv4Addr::LOCALHOST.into() } else { Ipv6Addr::LOCALHOST.into() };
        address.set_ip(loopback);
    }
    address
}

/// A channel description with TLS for `https` URLs. A URL without a port means 50051, whatever its scheme.
pub fn endpoint(url: &str, ca: Option<&Path>) -> anyhow::Result<Endpoint> {
    let full = if url.contains("://") { url.to_owned() } else { format!("http://{url}") };
    let refused =
        || UsageError(format!("server URL `{url}` is not valid; use http://HOST:PORT or https://HOST:PORT"));
    let mut uri: Uri = full.parse().map_err(|_| refused())?;
    let authority = uri.authority().ok_or_else(refused)?;
    // The client would take port 80, or 443, for one that it cannot read, and send the token there.
    if port(authority).map_err(|_| refused())?.is_none() {
        let scheme = uri.scheme_str().unwrap_or_default();
        let path = uri.path();
        uri = format!("{scheme}://{authority}:{DEFAULT_PORT}{path}").parse().map_err(|_| refused())?;
    }
    let endpoint = Endpoint::from(uri);
    let uri = endpoint.uri();
    if uri.host().is_none_or(str::is_empty) || !matches!(uri.path(), "" | "/") {
        return Err(refused().into());
    }
    match uri.scheme_str() {
        Some("http") if ca.is_some() => Err(UsageError(format!(
            "--ca is of use with an https:// URL only, and `{url}` asks for plain text"
        ))
        .into()),
        Some("http") => Ok(endpoint),
        Some("https") => {
            let tls = ClientTlsConfig::new().ca_certificate(Certificate::from_pem(authorities(ca)?));
            endpoint.tls_config(tls).context("cannot use the certificates given with --ca")
        }
        _ => Err(refused().into()),
    }
}

/// The port, if there is one.
fn port(authority: &Authority) -> Result<Option<NonZeroU16>, ParseIntError> {
    let without_user = authority.as_str().rsplit('@').next().unwrap_or_default();
    match without_user.strip_prefix(authority.host()) {
        None | Some("") => Ok(None),
        Some(rest) => rest.strip_prefix(':').unwrap_or(rest).parse().map(Some),
    }
}

fn authorities(ca: Option<&Path>) -> anyhow::Result<Vec<u8>> {
    if let Some(file) = ca {
        return std::fs::read(file).with_context(|| format!("cannot read --ca {}", file.display()));
    }
    SYSTEM_AUTHORITIES.iter().find_map(|file| std::fs::read(file).ok()).ok_or_else(|| {
        UsageError(
            "this system has no certificates of public authorities; name the server's with --ca FILE".into(),
        )
        .into()
    })
}

fn bearer(token: Option<&str>) -> anyhow::Result<Bearer> {
    let Some(token) = token.filter(|token| !token.is_empty()) else { return Ok(Bearer(None)) };
    let mut value: MetadataValue<Ascii> = format!("Bearer {token}").parse().map_err(|_| {
        UsageError("the token (--token, LINTMESH_TOKEN) has characters that are not printable ASCII".into())
    })?;
    value.set_sensitive(true);
    Ok(Bearer(Some(value)))
}

/// `--server URL --ca FILE`, fit for a shell.
fn flags(uri: &Uri, ca: Option<&Path>) -> String {
    let quoted = |text: &str| {
        let is_plain =
            text.bytes().all(|byte| byte.is_ascii_alphanumeric() || b"-._~:/@%+=,".contains(&byte));
        if is_plain { text.to_owned() } else { format!("'{}'", text.replace('\'', "'\\''")) }
    };
    let mut flags = format!("--server {}", quoted(uri.to_string().trim_end_matches('/')));
    if let Some(ca) = ca {
        flags.push_str(&format!(" --ca {}", quoted(&ca.to_string_lossy())));
    }
    flags
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_checked_before_anything_is_sent() {
        for good in ["http://127.0.0.1:1", "localhost:50051", "http://[::1]:50051/"] {
            assert!(endpoint(good, None).is_ok(), "{good}");
        }
        for bad in [
            "",
            "ftp://h:1",
            "http://",
            "http://h:1/path",
            "h h",
            "http://h:99999",
            "http://h:",
            "h:0",
            "h:x",
            "https://[::1]:70000",
        ] {
            let error = endpoint(bad, None).expect_err(bad).to_string();
            assert!(error.contains("https://HOST:PORT"), "{bad}: {error}");
        }
        let error = endpoint("http://h:1", Some(Path::new("ca.pem"))).expect_err("a CA without TLS");
        assert!(error.to_string().contains("--ca"), "{error}");
    }

    #[test]
    fn a_url_without_a_port_means_the_service_s() {
        for (url, full) in [
            ("http://h", "http://h:50051/"),
            ("h", "http://h:50051/"),
            ("http://[::1]/", "http://[::1]:50051/"),
            ("http://h:80", "http://h:80/"),
        ] {
            assert_eq!(endpoint(url, None).expect("valid").uri().to_string(), full, "{url}");
        }
    }

    #[test]
    fn the_flags_of_another_command_survive_a_shell() {
        let of =
            |url: &str, ca: Option<&str>| flags(endpoint(url, None).expect("valid").uri(), ca.map(Path::new));
        assert_eq!(of("h", None), "--server http://h:50051");
        assert_eq!(
            of("http://[::1]:1", Some("o'hara/ca.pem")),
            "--server 'http://[::1]:1' --ca 'o'\\''hara/ca.pem'"
        );
    }

    #[test]
    fn a_token_with_a_line_break_is_refused_without_showing_it() {
        let error = bearer(Some("secret\nx")).expect_err("not a header value").to_string();
        assert!(error.contains("--token") && !error.contains("secret"), "{error}");
        assert!(bearer(Some("")).expect("none").0.is_none());
    }

    #[tokio::test(start_paused = true)]
    async fn a_server_that_accepts_and_says_nothing_is_given_up() {
        let mute = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
        let url = format!("https://{}", mute.local_addr().expect("bound"));
        let own = rcgen::generate_simple_self_signed(["127.0.0.1".to_owned()]).expect("a certificate");
        let file = tempfile::NamedTempFile::new().expect("a file");
        std::fs::write(file.path(), own.cert.pem()).expect("written");
        let error = connect(&url, None, Some(file.path())).await.expect_err("nobody answers").to_string();
        assert_eq!(error, format!("cannot connect to {url}/: no answer in time"));
    }

    #[tokio::test]
    async fn a_refused_connection_names_the_url_in_one_line() {
        let port = {
            let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a free port");
            listener.local_addr().expect("bound").port()
        };
        let url = format!("http://127.0.0.1:{port}");
        let error = connect(&url, None, None).await.expect_err("nobody listens").to_string();
        assert_eq!(error, format!("cannot connect to {url}/: connection refused"));
    }
}

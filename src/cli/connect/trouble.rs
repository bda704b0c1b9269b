//! Why there is no connection, in a few words, and what to do about it.

use std::error::Error;
use std::io;

use rustls::CertificateError as Certificate;

const ABSENT: &str =
    "is the server running there? Start one with `lintmesh serve`, or correct --server or LINTMESH_SERVER";
const TLS: &str = "the server is there, but no TLS connection came about; its log may say more";

/// What is wrong with a connection.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Trouble {
    /// In a few words.
    pub reason: String,
    /// What to do about it.
    pub remedy: &'static str,
}

impl Trouble {
    /// Nobody answered in time.
    pub fn silence() -> Self {
        Self { reason: "no answer in time".to_owned(), remedy: ABSENT }
    }

    /// The innermost cause: the layers above it only say "transport error".
    pub fn of(error: &(dyn Error + 'static)) -> Self {
        if let Some(tls) = tls_error(error) {
            return of_tls(tls);
        }
        let mut cause = error;
        loop {
            if let Some(io) = cause.downcast_ref::<io::Error>() {
                match io.kind() {
                    io::ErrorKind::ConnectionRefused => {
                        return Self { reason: "connection refused".to_owned(), remedy: ABSENT };
                    }
                    io::ErrorKind::TimedOut => return Self::silence(),
                    _ => {}
                }
            }
            match cause.source() {
                Some(source) => cause = source,
                None => return Self { reason: cause.to_string(), remedy: ABSENT },
            }
        }
    }
}

/// What TLS had to say, wherever in the chain of causes it is.
fn tls_error<'a>(error: &'a (dyn Error + 'static)) -> Option<&'a rustls::Error> {
    let mut cause = error;
    loop {
        // An I/O error hides what it holds: its source is already the source of that.
        let held = || cause.downcast_ref::<io::Error>()?.get_ref()?.downcast_ref();
        if let Some(found) = cause.downcast_ref().or_else(held) {
            return Some(found);
        }
        cause = cause.source()?;
    }
}

/// Whether a server that was asked for TLS understood the question, whatever it or this side made of the answer.
pub(super) fn is_answer_in_tls(error: &(dyn Error + 'static)) -> bool {
    use rustls::Error as E;
    tls_error(error).is_some_and(|error| {
        matches!(
            error,
            E::InvalidCertificate(_)
                | E::AlertReceived(_)
                | E::PeerIncompatible(_)
                | E::NoApplicationProtocol
        )
    })
}

fn of_tls(error: &rustls::Error) -> Trouble {
    let told = |reason: &str, remedy| Trouble { reason: reason.to_owned(), remedy };
    match error {
        rustls::Error::InvalidCertificate(problem) => of_certificate(problem),
        rustls::Error::InvalidMessage(rustls::InvalidMessage::InvalidContentType) => {
            told("it does not speak TLS", "does the server speak plain text? Then use http://")
        }
        other => told(&format!("TLS: {other}"), TLS),
    }
}

fn of_certificate(problem: &Certificate) -> Trouble {
    let told = |reason: &str, remedy| Trouble { reason: reason.to_owned(), remedy };
    match problem {
        // A signature is bad where an authority of the same name has another key: one that was renewed, mostly.
        Certificate::UnknownIssuer | Certificate::BadSignature => told(
            "no authority that is known here vouches for its certificate",
            "name the authority's certificate with --ca FILE; for a self-signed one that is the certificate itself",
        ),
        Certificate::NotValidForName | Certificate::NotValidForNameContext { .. } => told(
            "its certificate is for another name",
            "connect by a name or address that is among the certificate's subject alternative names",
        ),
        Certificate::Expired | Certificate::ExpiredContext { .. } => told(
            "its certificate has expired",
            "renew the server's certificate, unless it is this machine's clock that is wrong",
        ),
        Certificate::NotValidYet | Certificate::NotValidYetContext { .. } => {
            told("its certificate is not valid yet", "is this machine's clock right?")
        }
        // The library has no word of its own for it.
        Certificate::Other(other) if other.to_string().contains("CaUsedAsEndEntity") => told(
            "its certificate is one of an authority (CA:TRUE), which no server may show",
            "make the server one that is not, for example with `openssl req -x509 -addext \
             basicConstraints=critical,CA:FALSE`",
        ),
        other => told(&format!("its certificate is not valid: {other}"), TLS),
    }
}

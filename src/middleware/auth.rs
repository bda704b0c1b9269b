//! Authentication of API callers: bearer tokens, kept as SHA-256, each with a name and a role.

use std::sync::Arc;
use std::task::{Context, Poll};

use http::Request;
use serde::{Deserialize, Serialize};
use subtle::{Choice, ConditionallySelectable as _, ConstantTimeEq as _};
use tonic::body::Body;
use tower::{Layer, Service};

use super::method::{Access, access};
use super::{CallFuture, bearer_token, refusal};
use crate::status::ApiError;
use crate::types::Digest;

/// What a caller may do; each role may do all that the ones before it may.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Role {
    /// Looks.
    Reader,
    /// Starts and cancels runs.
    Submitter,
    /// Changes the mesh.
    Operator,
}

impl Role {
    /// The name as it is written in configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Role::Reader => "reader",
            Role::Submitter => "submitter",
            Role::Operator => "operator",
        }
    }
}

/// The caller of a request, in its extensions.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Identity {
    /// Name of its token; `anonymous` without one.
    pub name: Arc<str>,
    /// What it may do.
    pub role: Role,
    /// Whether a token proved it.
    pub authenticated: bool,
}

impl Identity {
    fn anonymous(role: Role) -> Self {
        Self { name: "anonymous".into(), role, authenticated: false }
    }
}

/// One token as configuration knows it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Token {
    /// Who holds it.
    pub name: Arc<str>,
    /// What its holder may do.
    pub role: Role,
    /// SHA-256 of the token's text; the text itself is nowhere.
    pub sha256: Digest,
}

/// Lets a call through if its token's role allows the method, and puts the [`Identity`] into the
/// request's extensions. Health checking and reflection are open.
#[derive(Clone)]
pub struct AuthLayer {
    tokens: Arc<[Token]>,
}

impl AuthLayer {
    /// Without tokens everyone is an operator: only for a listener that nobody else can reach.
    pub fn new(tokens: Vec<Token>) -> Self {
        Self { tokens: tokens.into() }
    }
}

/// Looks at every token whatever it finds, so that the time taken tells nothing about them.
fn identify(tokens: &[Token], presented: &str) -> Option<Identity> {
    let digest = Digest::of(presented.as_bytes());
    let mut position = 0_u64;
    let mut found = Choice::from(0);
    for (index, token) in tokens.iter().enumerate() {
        let equal = token.sha256.as_bytes().ct_eq(digest.as_bytes());
        position.conditional_assign(&(index as u64), equal);
        found |= equal;
    }
    let token = bool::from(found).then(|| usize::try_from(position).ok())?.and_then(|i| tokens.get(i))?;
    Some(Identity { name: Arc::clone(&token.name), role: token.role, authenticated: true })
}

fn authorize(tokens: &[Token], path: &str, presented: Option<&str>) -> Result<Identity, ApiError> {
    if tokens.is_empty() {
        return Ok(Identity::anonymous(Role::Operator));
    }
    let identity = presented.and_then(|token| identify(tokens, token));
    let needed = match access(path) {
        Access::Open => return Ok(identity.unwrap_or_else(|| Identity::anonymous(Role::Reader))),
        Access::AtLeast(role) => role,
    };
    let identity = identity.ok_or(ApiError::Unauthenticated(match presented {
        None => "no credentials; send metadata `authorization: Bearer <token>`",
        Some(_) => "the token is not known; ask the operator of this server for one",
    }))?;
    if identity.role < needed {
        return Err(ApiError::PermissionDenied {
            identity: identity.name.as_ref().to_owned(),
            role: identity.role.as_str(),
            method: path.to_owned(),
            needed: needed.as_str(),
        });
    }
    Ok(identity)
}

impl<S> Layer<S> for AuthLayer {
    type Service = Authenticated<S>;

    fn layer(&self, inner: S) -> Self::Service {
        Authenticated { inner, tokens: Arc::clone(&self.tokens) }
    }
}

/// The service of [`AuthLayer`].
#[derive(Clone)]
pub struct Authenticated<S> {
    inner: S,
    tokens: Arc<[Token]>,
}

impl<S, B> Service<Request<B>> for Authenticated<S>
where
    S: Service<Request<B>, Response = http::Response<Body>>,
    S::Future: Send + 'static,
    S::Error: Send + 'static,
{
    type Response = http::Response<Body>;
    type Error = S::Error;
    type Future = CallFuture<S::Error>;

    fn poll_ready(&mut self, cx: &mut Context<'_>) -> Poll<Result<(), S::Error>> {
        self.inner.poll_ready(cx)
    }

    fn call(&mut self, mut request: Request<B>) -> Self::Future {
        match authorize(&self.tokens, request.uri().path(), bearer_token(request.headers())) {
            Ok(identity) => {
                request.extensions_mut().insert(identity);
                Box::pin(self.inner.call(request))
            }
            Err(error) => {
                tracing::debug!(%error, "call refused");
                Box::pin(std::future::ready(Ok(refusal(error))))
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const GET: &str = "/lintmesh.v1.CoordinatorService/GetRun";
    const FAULT: &str = "/lintmesh.v1.CoordinatorService/HandleFault";

    fn tokens() -> Vec<Token> {
        [("ci", Role::Submitter, "s3cret"), ("ops", Role::Operator, "0perator")]
            .map(|(name, role, text)| Token { name: name.into(), role, sha256: Digest::of(text.as_bytes()) })
            .into()
    }

    #[test]
    fn a_known_token_gives_its_identity() {
        let identity = authorize(&tokens(), GET, Some("s3cret")).expect("known");
        assert_eq!((identity.name.as_ref(), identity.role), ("ci", Role::Submitter));
        let identity = authorize(&tokens(), FAULT, Some("0perator")).expect("known");
        assert_eq!(identity.name.as_ref(), "ops");
    }

    #[test]
    fn no_token_and_a_wrong_token_are_unauthenticated() {
        for presented in [None, Some("S3cret"), Some("s3cret ")] {
            let refused = authorize(&tokens(), GET, presented).expect_err("not known");
            assert!(matches!(refused, ApiError::Unauthenticated(_)), "{presented:?}");
        }
    }

    #[test]
    fn a_role_that_is_too_low_is_named() {
        let refused = authorize(&tokens(), FAULT, Some("s3cret")).expect_err("submitter");
        assert_eq!(refused.to_string(), format!("`ci` has the role submitter; {FAULT} needs operator"));
    }

    #[test]
    fn health_is_open_and_without_tokens_everything_is() {
        let probe = authorize(&tokens(), "/grpc.health.v1.Health/Check", None).expect("open");
        assert_eq!(probe.role, Role::Reader);
        assert_eq!(authorize(&[], FAULT, None).expect("loopback").role, Role::Operator);
    }

    #[test]
    fn only_bearer_tokens_are_read() {
        for (value, expected) in [
            ("Bearer abc", Some("abc")),
            ("bearer  abc", Some("abc")),
            ("Basic abc", None),
            ("Bearer ", None),
        ] {
            let mut headers = http::HeaderMap::new();
            headers.insert("authorization", value.parse().expect("header"));
            assert_eq!(bearer_token(&headers), expected, "{value}");
        }
    }
}

//! Opens a connection to a peer.

use std::error::Error;
use std::io;
use std::time::Duration;

use http::HeaderValue;
use http::header::AUTHORIZATION;
use tokio::sync::mpsc;
use tokio_stream::wrappers::ReceiverStream;
use tonic::transport::{Certificate, ClientTlsConfig, Endpoint};
use tonic::{Request, Status, Streaming};

use super::Shared;
use super::roster::Dial;
use crate::node::agent::PROTOCOL;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::peer_service_client::PeerServiceClient;

/// For the connection, and for the peer's Welcome.
const CONNECT_TIMEOUT: Duration = Duration::from_secs(2);
const WELCOME_DEADLINE: Duration = Duration::from_secs(5);
/// Messages that wait to be sent.
const QUEUE: usize = 16;
/// The largest message of a peer; see the service.
pub(super) const MAX_MESSAGE_BYTES: usize = 1 << 20;

/// A connection that stands: the peer has said Welcome.
pub(super) struct Connection {
    pub(super) outbound: mpsc::Sender<pb::ExchangeRequest>,
    pub(super) inbound: Streaming<pb::ExchangeResponse>,
}

/// Why there is none, as far as it tells anything about the peer.
#[derive(Debug)]
pub(super) enum DialError {
    /// Its machine refused it, or ended it.
    Reset,
    /// The peer's process answered, and does not want it.
    TurnedAway(Box<Status>),
    /// Nothing came back in time.
    Silent,
    /// The address cannot be dialled at all.
    Unusable(String),
}

/// Opens a connection of its own.
pub(super) async fn dial(
    shared: &Shared,
    peer: &Dial,
    purpose: pb::LinkPurpose,
) -> Result<Connection, DialError> {
    let (outbound, requests) = mpsc::channel(QUEUE);
    let own = &shared.own;
    let hello = pb::PeerHello {
        protocol_min: PROTOCOL.0,
        protocol_max: PROTOCOL.1,
        mesh_id: own.mesh_id.clone(),
        node_id: own.node.to_string(),
        incarnation: own.incarnation.0,
        receiver_id: peer.node.to_string(),
        receiver_incarnation: peer.incarnation.0,
        purpose: purpose.into(),
    };
    let hello = pb::ExchangeRequest { message: Some(pb::exchange_request::Message::Hello(hello)) };
    if outbound.try_send(hello).is_err() {
        return Err(DialError::Unusable("the queue is closed".to_owned()));
    }
    let mut bearer = HeaderValue::try_from(format!("Bearer {}", peer.secret.expose()))
        .map_err(|_| DialError::Unusable("its secret cannot be sent".to_owned()))?;
    bearer.set_sensitive(true);
    let channel = (own.connector)(endpoint(shared, &peer.endpoint).map_err(DialError::Unusable)?);
    let mut client = PeerServiceClient::with_interceptor(channel, move |mut request: Request<()>| {
        if let Ok(value) = bearer.to_str()
            && let Ok(value) = value.parse()
        {
            request.metadata_mut().insert(AUTHORIZATION.as_str(), value);
        }
        Ok(request)
    })
    .max_decoding_message_size(MAX_MESSAGE_BYTES);
    let opened = async {
        let mut inbound = client.exchange(ReceiverStream::new(requests)).await?.into_inner();
        match inbound.message().await?.and_then(|first| first.message) {
            Some(pb::exchange_response::Message::Welcome(_)) => Ok(inbound),
            _ => Err(Status::unavailable("the peer's first answer is not a Welcome")),
        }
    };
    match tokio::time::timeout(WELCOME_DEADLINE, opened).await {
        Ok(Ok(inbound)) => Ok(Connection { outbound, inbound }),
        Ok(Err(status)) => Err(judge(status)),
        Err(_) => Err(DialError::Silent),
    }
}

/// Without HTTP/2 pings: a peer that is silent for a while must not look like one that is gone.
fn endpoint(shared: &Shared, uri: &str) -> Result<Endpoint, String> {
    let mut endpoint = Endpoint::from_shared(uri.to_owned())
        .map_err(|error| error.to_string())?
        .connect_timeout(CONNECT_TIMEOUT)
        .tcp_nodelay(true);
    if endpoint.uri().scheme_str() == Some("https") {
        let mut tls = ClientTlsConfig::new();
        if let Some(pem) = &shared.own.tls_ca {
            tls = tls.ca_certificate(Certificate::from_pem(pem));
        }
        endpoint = endpoint.tls_config(tls).map_err(|error| error.to_string())?;
    }
    Ok(endpoint)
}

/// What the end of a call tells. The peer's own words have no source; what the connection says has one.
pub(super) fn judge(status: Status) -> DialError {
    let Some(mut source) = status.source() else { return DialError::TurnedAway(Box::new(status)) };
    loop {
        if let Some(error) = source.downcast_ref::<io::Error>()
            && error.kind() == io::ErrorKind::TimedOut
        {
            return DialError::Silent;
        }
        match source.source() {
            Some(next) => source = next,
            None => return DialError::Reset,
        }
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use super::*;

    #[test]
    fn a_connection_that_times_out_is_silent_and_one_that_breaks_is_reset() {
        let by = |kind: io::ErrorKind| {
            let mut status = Status::unavailable("transport");
            status.set_source(Arc::new(io::Error::from(kind)));
            judge(status)
        };
        assert!(matches!(by(io::ErrorKind::TimedOut), DialError::Silent));
        assert!(matches!(by(io::ErrorKind::ConnectionRefused), DialError::Reset));
        assert!(matches!(by(io::ErrorKind::BrokenPipe), DialError::Reset));
        assert!(matches!(judge(Status::unauthenticated("who?")), DialError::TurnedAway(_)));
    }
}

//! Messages that go to many: encoded once, their bytes shared.

use std::ops::Deref;
use std::sync::{Arc, OnceLock};

use prost::bytes::{Buf, BufMut, Bytes};
use prost::encoding::{DecodeContext, WireType};
use prost::{DecodeError, Message};

/// The health of the mesh. Source of the fields: `coordinator.proto`.
#[derive(Clone, PartialEq, Message)]
pub struct StreamHealthResponse {
    /// The measured health.
    #[prost(message, optional, tag = "1")]
    pub health: Option<Shared<super::v1::MeshHealth>>,
}

/// A message whose clones share one encoding.
#[derive(Debug, Clone, Default)]
pub struct Shared<T>(Arc<Inner<T>>);

#[derive(Debug, Clone, Default)]
struct Inner<T> {
    message: T,
    encoded: OnceLock<Bytes>,
}

impl<T: Message> Shared<T> {
    fn encoded(&self) -> &Bytes {
        self.0.encoded.get_or_init(|| self.0.message.encode_to_vec().into())
    }
}

impl<T> From<T> for Shared<T> {
    fn from(message: T) -> Self {
        Self(Arc::new(Inner { message, encoded: OnceLock::new() }))
    }
}

impl<T> Deref for Shared<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0.message
    }
}

impl<T: PartialEq> PartialEq for Shared<T> {
    fn eq(&self, other: &Self) -> bool {
        self.0.message == other.0.message
    }
}

impl<T: Message + Default + Clone> Message for Shared<T> {
    fn encode_raw(&self, buf: &mut impl BufMut) {
        buf.put_slice(self.encoded());
    }

    fn merge_field(
        &mut self,
        tag: u32,
        wire_type: WireType,
        buf: &mut impl Buf,
        ctx: DecodeContext,
    ) -> Result<(), DecodeError> {
        // Nobody else has what is just being read, so this copies nothing.
        let inner = Arc::make_mut(&mut self.0);
        inner.encoded = OnceLock::new();
        inner.message.merge_field(tag, wire_type, buf, ctx)
    }

    fn encoded_len(&self) -> usize {
        self.encoded().len()
    }

    fn clear(&mut self) {
        *self = Self::default();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::proto::v1::MeshHealth;

    #[test]
    fn clones_share_their_bytes_and_the_wire_sees_the_plain_message() {
        let health = MeshHealth { revision: 7, topology_health: 0.5, ..MeshHealth::default() };
        let response = StreamHealthResponse { health: Some(health.clone().into()) };
        let bytes = response.encode_to_vec();
        let copy = response.clone();
        assert_eq!(copy.encode_to_vec(), bytes);
        let of = |response: &StreamHealthResponse| response.health.as_ref().expect("set").encoded().as_ptr();
        assert_eq!(of(&copy), of(&response));
        let read = StreamHealthResponse::decode(bytes.as_slice()).expect("reads");
        assert_eq!(read, response);
        assert_eq!(**read.health.as_ref().expect("set"), health);
        let mut merged = response.clone();
        merged.merge(bytes.as_slice()).expect("merges");
        assert_eq!(merged.encode_to_vec(), bytes, "what was changed is encoded anew");
    }
}

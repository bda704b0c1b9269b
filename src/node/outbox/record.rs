//! The form of an unacknowledged result in a file.
//!
//! A line that names the form; the SHA-256 of the head; the head, which is the length of the output's bytes (8 bytes,
//! little endian) and the result as `TaskResult`, preceded by its own length; the output's bytes, which the result names
//! by their digest. A form never changes its meaning.

use prost::Message as _;

use super::Unacknowledged;
use crate::proto::peer::v1::TaskResult;
use crate::types::Digest;
use crate::wire::peer::{AttemptResult, Ending, PeerMessageError};

const FORM: &[u8] = b"lintmesh-result 1\n";
/// How every form begins.
const FORMS: &[u8] = b"lintmesh-result ";
/// The bytes of a digest.
const DIGEST: usize = 32;
/// The bytes of a length.
const LENGTH: usize = 8;

/// Why a file is no result.
#[derive(Debug, PartialEq, Eq, thiserror::Error)]
pub(super) enum RecordError {
    /// It is of another release.
    #[error("it has a form that this release does not know")]
    Form,
    /// Bytes are missing, too many, or others than were written.
    #[error("its bytes do not match their digests")]
    Damaged,
    /// What was written, and is whole, breaks the protocol of this release.
    #[error("it is not a result: {0}")]
    Message(#[from] PeerMessageError),
}

/// A result as it is written: its head, then the output's bytes.
pub(super) fn head(kept: &Unacknowledged) -> Vec<u8> {
    let message = kept.result.to_proto().encode_length_delimited_to_vec();
    let unsent = kept.unsent.as_ref().map_or(0, |bytes| bytes.len() as u64);
    let mut head = Vec::with_capacity(LENGTH + message.len());
    head.extend(unsent.to_le_bytes());
    head.extend(message);
    let mut record = Vec::with_capacity(FORM.len() + DIGEST + head.len());
    record.extend(FORM);
    record.extend(Digest::of(&head).as_bytes());
    record.extend(head);
    record
}

/// Reads what was written.
pub(super) fn parse(bytes: &[u8]) -> Result<Unacknowledged, RecordError> {
    let Some(rest) = bytes.strip_prefix(FORM) else {
        // A damaged name of the form may look like another form; then it waits, which costs its place only.
        return Err(if bytes.starts_with(FORMS) { RecordError::Form } else { RecordError::Damaged });
    };
    let (digest, head) = rest.split_at_checked(DIGEST).ok_or(RecordError::Damaged)?;
    let (length, mut rest) = head.split_first_chunk::<LENGTH>().ok_or(RecordError::Damaged)?;
    let message = TaskResult::decode_length_delimited(&mut rest).map_err(|_| RecordError::Damaged)?;
    let head = &head[..head.len() - rest.len()];
    let is_whole = Digest::of(head).as_bytes() == digest
        && u64::try_from(rest.len()).is_ok_and(|length_found| length_found == u64::from_le_bytes(*length));
    if !is_whole {
        return Err(RecordError::Damaged);
    }
    let result = AttemptResult::from_proto(message)?;
    let unsent = match &result.ending {
        _ if rest.is_empty() => None,
        Ending::Output { output, data: None } if Digest::of(rest) == output.digest => Some(rest.into()),
        _ => return Err(RecordError::Damaged),
    };
    Ok(Unacknowledged { result, unsent })
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::node::testing::result;
    use crate::types::TaskOutput;

    /// One of each kind: failed, with its output inside, with its output beside it, with its output brought.
    fn all() -> Vec<Unacknowledged> {
        let bytes = b"a large output".to_vec();
        let output = TaskOutput { digest: Digest::of(&bytes), size: bytes.len() as u64 };
        let made = |data: Option<&Vec<u8>>| AttemptResult {
            ending: Ending::Output { output, data: data.cloned() },
            ..result(2)
        };
        vec![
            Unacknowledged { result: result(1), unsent: None },
            Unacknowledged { result: made(Some(&bytes)), unsent: None },
            Unacknowledged { result: made(None), unsent: Some(bytes.clone().into()) },
            Unacknowledged { result: made(None), unsent: None },
        ]
    }

    fn written(kept: &Unacknowledged) -> Vec<u8> {
        let mut bytes = head(kept);
        bytes.extend(kept.unsent.iter().flat_map(|unsent| unsent.iter()));
        bytes
    }

    #[test]
    fn what_is_written_is_read() {
        for kept in all() {
            assert_eq!(parse(&written(&kept)), Ok(kept));
        }
    }

    #[test]
    fn no_cut_and_no_changed_byte_goes_unnoticed() {
        for kept in all() {
            let whole = written(&kept);
            for length in 0..whole.len() {
                assert!(parse(&whole[..length]).is_err(), "cut to {length} of {}", whole.len());
            }
            for at in 0..whole.len() {
                let mut changed = whole.clone();
                changed[at] ^= 1;
                assert!(parse(&changed).is_err(), "changed at {at} of {}", whole.len());
            }
            let longer = [&whole[..], b"x"].concat();
            assert!(parse(&longer).is_err());
        }
        assert_eq!(parse(b"lintmesh-result 2\n"), Err(RecordError::Form));
    }
}

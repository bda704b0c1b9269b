//! What a node and the shim around a linter tell each other.
//!
//! They share one socket, the shim's standard input. The node sends one frame (what to run) and then
//! nothing; its end of file means "stop: the caller cancelled, or the node is dead". The shim answers with
//! one JSON [`Report`] and its own end of file. The frame travels by socket because a list of files does not
//! fit an argument, and a socket that nobody else inherits cannot be kept open or forged by the linter.

use std::ffi::{OsStr, OsString};
use std::io::{self, Read};
use std::os::unix::ffi::{OsStrExt, OsStringExt};
use std::time::Duration;

use serde::{Deserialize, Serialize};

use super::{Exceeded, Limits, ProcessSpec};

/// The argument of the binary that makes it the shim.
pub const SUBCOMMAND: &str = "exec";

/// The environment variable that marks every process of one run, so that those left by a killed shim are found.
pub const MARK: &str = "LINTMESH_EXEC";

/// More than any command line the kernel accepts, less than what would hurt.
const FRAME_LIMIT: u64 = 64 << 20;

/// How the linter ended, in the words of its shim.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Report {
    /// The program could not be started.
    NotStarted {
        /// The system's error number.
        errno: i32,
    },
    /// The shim could not do its part, so the program did not run or was ended.
    Broken {
        /// Why.
        reason: String,
    },
    /// The program ran, and nothing that it started is left.
    Ended {
        /// The exit status, if it exited.
        code: Option<i32>,
        /// The signal, if a signal ended it.
        signal: Option<i32>,
        /// The limit that ended it, if one did.
        exceeded: Option<Exceeded>,
        /// CPU time of it and its waited-for descendants.
        cpu: Duration,
        /// The most memory seen in use, in bytes: by it alone, or by it and its descendants when sampled.
        peak_memory_bytes: u64,
    },
}

/// The numbers of a frame; the strings follow it, each ended by a zero byte.
#[derive(Serialize, Deserialize)]
struct Header {
    limits: Limits,
    arguments: usize,
    environment: usize,
    bytes: u64,
}

/// The bytes that tell the shim what to run.
///
/// # Errors
/// A string with a zero byte, which no program can be given.
pub fn encode(spec: &ProcessSpec) -> io::Result<Vec<u8>> {
    let mut body = Vec::new();
    let mut push = |text: &[u8]| {
        if text.contains(&0) {
            return Err(io::Error::new(io::ErrorKind::InvalidInput, "an argument holds a zero byte"));
        }
        body.extend_from_slice(text);
        body.push(0);
        Ok(())
    };
    for path in [&spec.program, &spec.directory, &spec.scratch] {
        push(path.as_os_str().as_bytes())?;
    }
    for argument in &spec.arguments {
        push(argument.as_bytes())?;
    }
    for (name, value) in &spec.environment {
        push(name.as_bytes())?;
        push(value.as_bytes())?;
    }
    let header = serde_json::to_vec(&Header {
        limits: spec.limits.clone(),
        arguments: spec.arguments.len(),
        environment: spec.environment.len(),
        bytes: body.len() as u64,
    })?;
    let mut frame = Vec::with_capacity(header.len() + 1 + body.len());
    frame.extend_from_slice(&header);
    frame.push(0);
    frame.append(&mut body);
    Ok(frame)
}

/// Reads one frame and not a byte more.
///
/// # Errors
/// End of file, or bytes that are no frame.
pub fn decode(from: &mut impl Read) -> io::Result<ProcessSpec> {
    let header: Header = serde_json::from_slice(&read_header(from)?)?;
    if header.bytes > FRAME_LIMIT {
        return Err(malformed("longer than any command line"));
    }
    let mut body = Vec::new();
    from.take(header.bytes).read_to_end(&mut body)?;
    let Some(body) = body.strip_suffix(&[0]).filter(|_| body.len() as u64 == header.bytes) else {
        return Err(malformed("cut off"));
    };
    let mut strings = body.split(|byte| *byte == 0).map(OsStr::from_bytes);
    let mut next = || strings.next().ok_or_else(|| malformed("a string is missing"));
    let (program, directory, scratch) = (next()?, next()?, next()?);
    let arguments: Vec<OsString> =
        (0..header.arguments).map(|_| next().map(OsString::from)).collect::<io::Result<_>>()?;
    let environment = (0..header.environment)
        .map(|_| {
            let name = String::from_utf8(next()?.to_owned().into_vec());
            Ok((name.map_err(|_| malformed("a variable's name is not UTF-8"))?, next()?.into()))
        })
        .collect::<io::Result<_>>()?;
    Ok(ProcessSpec {
        program: program.into(),
        arguments,
        environment,
        directory: directory.into(),
        scratch: scratch.into(),
        limits: header.limits,
    })
}

/// Byte by byte, since what follows belongs to the body and a socket cannot be rewound.
fn read_header(from: &mut impl Read) -> io::Result<Vec<u8>> {
    let mut header = Vec::with_capacity(256);
    let mut byte = [0];
    while header.len() < 4096 {
        from.read_exact(&mut byte)?;
        if byte[0] == 0 {
            return Ok(header);
        }
        header.push(byte[0]);
    }
    Err(malformed("no header"))
}

fn malformed(what: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidData, format!("not a frame: {what}"))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn spec(arguments: Vec<OsString>) -> ProcessSpec {
        ProcessSpec {
            program: "/bin/true".into(),
            arguments,
            environment: vec![("A".into(), OsString::from_vec(vec![0xff, b'='])), ("B".into(), "".into())],
            directory: "/".into(),
            scratch: "/tmp/x y".into(),
            limits: Limits {
                wall: Duration::from_millis(1500),
                cpu: Duration::from_secs(2),
                memory_bytes: u64::MAX,
                file_bytes: 3,
                output_bytes: 4,
                processes: 5,
            },
        }
    }

    #[test]
    fn a_frame_keeps_every_byte_and_leaves_what_follows() {
        for arguments in [
            vec![],
            vec!["".into()],
            vec!["".into(), "a\nb".into(), OsString::from_vec(vec![0x80, 0xfe]), "x".repeat(300_000).into()],
        ] {
            let wanted = spec(arguments);
            let mut bytes = encode(&wanted).unwrap();
            bytes.extend_from_slice(b"rest");
            let mut left = bytes.as_slice();
            let got = decode(&mut left).unwrap();
            assert_eq!(left, b"rest");
            assert_eq!(format!("{got:?}"), format!("{wanted:?}"));
        }
    }

    #[test]
    fn a_zero_byte_is_refused() {
        let error = encode(&spec(vec!["a\0b".into()])).unwrap_err();
        assert_eq!(error.kind(), io::ErrorKind::InvalidInput);
    }

    #[test]
    fn every_cut_and_garbage_is_an_error_not_a_panic() {
        let bytes = encode(&spec(vec!["one".into(), "two".into()])).unwrap();
        for length in 0..bytes.len() {
            assert!(decode(&mut &bytes[..length]).is_err(), "cut at {length}");
        }
        let huge = br#"{"limits":{},"arguments":1,"environment":0,"bytes":18446744073709551615}"#;
        for garbage in [&b"\0"[..], b"{}\0", &[b'x'; 5000], huge] {
            assert!(decode(&mut &garbage[..]).is_err());
        }
    }
}

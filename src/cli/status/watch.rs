//! Follows the mesh: StreamHealth says when to look again, and a broken stream is taken up anew.

use std::io::{IsTerminal as _, Write as _};
use std::time::Duration;

use tokio::time::{Instant, sleep, sleep_until};
use tonic::{Code, Status};

use super::json::as_json;
use super::screen::screen;
use crate::cli::connect::ServerArgs;
use crate::cli::error::ConnectError;
use crate::cli::exit::Exit;
use crate::cli::interrupt::Interrupt;
use crate::cli::reconnect::{self, Outage};
use crate::cli::{output, terminal};
use crate::middleware::rpc_metrics::code_name;
use crate::proto::v1::{GetMeshStatusResponse, StreamHealthRequest};

/// Between two looks at most, so that ages and loads on the screen are fresh.
const INTERVAL: prost_types::Duration = prost_types::Duration { seconds: 2, nanos: 0 };
/// Between two looks at least: a mesh in trouble changes faster than anybody reads.
const SHORTEST: Duration = Duration::from_millis(100);
/// A stream that is silent for so long, though it should speak at each interval, is given up.
const SILENCE: Duration = Duration::from_secs(10);

/// Why a watch cannot go on now.
enum Broken {
    /// It can be taken up again.
    Later(String),
    /// It cannot.
    Never(anyhow::Error),
}

/// Ends when the user interrupts it, or nobody reads any more. A server that is not there at the start is an error.
pub(super) async fn watch(server: &ServerArgs, json: bool, interrupt: &Interrupt) -> anyhow::Result<Exit> {
    let mut view = View { json, terminal: std::io::stdout().is_terminal(), seen: false, closed: None };
    let mut outage = Outage::new(None);
    loop {
        let broken = tokio::select! {
            broken = follow(server, &mut view, &mut outage) => broken,
            () = interrupt.requested() => return Ok(interrupt.exit().unwrap_or(Exit::Error)),
        };
        if let Some(error) = view.closed.take() {
            return output::quiet_end(Err(error)).map(|()| Exit::Success).map_err(Into::into);
        }
        let reason = match broken {
            Broken::Later(reason) => reason,
            Broken::Never(error) => return Err(error),
        };
        let Some(retry) = outage.broke(Instant::now(), reconnect::BROKE, &reason, reconnect::random()) else {
            return Err(anyhow::Error::msg(reason));
        };
        if let Some(text) = retry.notice {
            output::say(&format!("lintmesh: {text}"));
        }
        tokio::select! {
            () = sleep(retry.pause) => {}
            () = interrupt.requested() => {}
        }
    }
}

/// One connection, until it breaks.
async fn follow(server: &ServerArgs, view: &mut View, outage: &mut Outage) -> Broken {
    let connection = match server.connect().await {
        Ok(connection) => connection,
        // Only a server that was there before is waited for: else the URL is more likely wrong.
        Err(error) if view.seen && error.is::<ConnectError>() => return Broken::Later(error.to_string()),
        Err(error) => return Broken::Never(error),
    };
    let request = StreamHealthRequest { interval: Some(INTERVAL), ..StreamHealthRequest::default() };
    let mut changes = match connection.coordinator().stream_health(request).await {
        Ok(stream) => stream.into_inner(),
        Err(status) => return broken(status, view.seen),
    };
    loop {
        match tokio::time::timeout(SILENCE, changes.message()).await {
            Ok(Ok(Some(_))) => {}
            Ok(Ok(None)) => return Broken::Later("the stream ended".to_owned()),
            Ok(Err(status)) => return broken(status, view.seen),
            Err(_) => return Broken::Later(format!("nothing for {} s", SILENCE.as_secs())),
        }
        let next = Instant::now() + SHORTEST;
        let status = match tokio::time::timeout(SILENCE, super::ask(&connection)).await {
            Ok(Ok(status)) => status,
            Ok(Err(error)) => match error.downcast::<Status>() {
                Ok(status) => return broken(status, view.seen),
                Err(error) => return Broken::Never(error),
            },
            Err(_) => return Broken::Later("no answer".to_owned()),
        };
        if let Some(lasted) = outage.holds(Instant::now()) {
            output::say(&format!("lintmesh: {}", reconnect::connected_again(lasted)));
        }
        if let Err(error) = view.show(&status) {
            view.closed = Some(error);
            return Broken::Later(String::new());
        }
        sleep_until(next).await;
    }
}

fn broken(status: Status, seen: bool) -> Broken {
    let refused = matches!(
        status.code(),
        Code::Unauthenticated | Code::PermissionDenied | Code::InvalidArgument | Code::Unimplemented
    );
    if refused || !seen {
        return Broken::Never(anyhow::Error::from(status).context("following the mesh"));
    }
    Broken::Later(format!("{}: {}", code_name(status.code()), status.message()))
}

/// Where the screens go.
struct View {
    json: bool,
    terminal: bool,
    /// Whether a screen was shown yet.
    seen: bool,
    closed: Option<std::io::Error>,
}

impl View {
    fn show(&mut self, status: &GetMeshStatusResponse) -> std::io::Result<()> {
        let text = if self.json {
            format!("{}\n", as_json(status))
        } else if self.terminal {
            redrawn(&screen(status), terminal::width())
        } else {
            let between = if self.seen { "\n" } else { "" };
            format!("{between}{}", screen(status))
        };
        self.seen = true;
        let mut stdout = std::io::stdout().lock();
        stdout.write_all(text.as_bytes()).and_then(|()| stdout.flush())
    }
}

/// A screen in place of the one before: each line clears what it leaves of the old one, and is cut where it would wrap.
fn redrawn(screen: &str, width: usize) -> String {
    let mut text = "\u{1b}[H".to_owned();
    for line in screen.lines() {
        text.extend(line.chars().take(width));
        text.push_str("\u{1b}[K\n");
    }
    text.push_str("\u{1b}[J");
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_redrawn_screen_leaves_nothing_of_the_one_before_and_does_not_wrap() {
        assert_eq!(redrawn("abcdef\ng\n", 4), "\u{1b}[Habcd\u{1b}[K\ng\u{1b}[K\n\u{1b}[J");
    }

    #[test]
    fn what_was_refused_is_not_tried_again_and_what_broke_is_if_it_ever_worked() {
        assert!(matches!(broken(Status::unauthenticated("no"), true), Broken::Never(_)));
        assert!(matches!(broken(Status::unavailable("gone"), true), Broken::Later(_)));
        assert!(matches!(broken(Status::unavailable("gone"), false), Broken::Never(_)));
    }
}

//! A connection that broke: what may be tried again, how long, and what the user is told of it.

use std::time::Duration;

use tokio::time::Instant;
use tonic::{Code, Status};

use super::arguments::parse_duration;
use super::connect;
use super::error::ConnectError;

/// The pause before the second attempt; doubled for each further one, at most [`LONGEST_PAUSE`].
const FIRST_PAUSE: Duration = Duration::from_millis(200);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);
/// What is the matter, mostly.
pub const BROKE: &str = "the connection to the server broke";
/// Pauses are shorter by up to this share, at random: clients that lost the same server do not come back as one.
const JITTER: f64 = 0.25;

/// How long a command that follows something waits for its server.
#[derive(Debug, Clone, clap::Args)]
pub struct ReconnectArgs {
    /// How long to try to reach the server again when the connection breaks
    #[arg(
        long,
        value_name = "TIME",
        default_value = "60s",
        value_parser = parse_duration,
        help_heading = "Server"
    )]
    pub reconnect: Duration,
}

/// What a user is told of a break.
#[derive(Debug, PartialEq, Eq)]
pub struct Retry {
    /// Until the next attempt.
    pub pause: Duration,
    /// Something that was not said before.
    pub notice: Option<String>,
}

/// The connection to a server: whether it holds, and for how long it has not.
#[derive(Debug)]
pub struct Outage {
    /// How long it may last; for ever if none.
    patience: Option<Duration>,
    /// When the connection broke, if it has.
    since: Option<Instant>,
    /// Attempts in vain since then.
    failures: u32,
    /// The trouble that was told last.
    told: String,
}

impl Outage {
    /// A connection that holds.
    pub const fn new(patience: Option<Duration>) -> Self {
        Self { patience, since: None, failures: 0, told: String::new() }
    }

    /// An attempt failed: `what` is the matter, and why. None if it is time to give up. `random` is from 0 to 1.
    pub fn broke(&mut self, now: Instant, what: &str, trouble: &str, random: f64) -> Option<Retry> {
        let since = *self.since.get_or_insert(now);
        let left = self.patience.map(|patience| patience.saturating_sub(now.duration_since(since)));
        if left.is_some_and(|left| left.is_zero()) {
            return None;
        }
        let is_first = self.failures == 0;
        let full = FIRST_PAUSE.saturating_mul(1 << self.failures.min(8)).min(LONGEST_PAUSE);
        let pause = full.mul_f64(1.0 - JITTER * random.clamp(0.0, 1.0));
        self.failures = self.failures.saturating_add(1);
        let notice = if is_first {
            let how_long = match self.patience {
                Some(patience) => format!(" for {} s", patience.as_secs_f64()),
                None => String::new(),
            };
            Some(format!("{what} ({trouble}); trying again{how_long}"))
        } else if trouble != self.told {
            Some(format!("still in vain ({trouble})"))
        } else {
            None
        };
        trouble.clone_into(&mut self.told);
        // The last attempt is made when the time is over, not before.
        Some(Retry { pause: left.map_or(pause, |left| pause.min(left)), notice })
    }

    /// The server said something. How long it was out of reach, if it was.
    pub fn holds(&mut self, now: Instant) -> Option<Duration> {
        self.failures = 0;
        self.since.take().map(|since| now.duration_since(since))
    }
}

/// A number from 0 to 1.
pub fn random() -> f64 {
    crate::node::link::jitter()
}

/// Repeats a call that changes nothing until the server answers it, as long as the patience lasts.
pub async fn repeated<T, F: Future<Output = Result<T, Status>>>(
    patience: Duration,
    mut notice: impl FnMut(&str),
    mut call: impl FnMut() -> F,
) -> Result<T, Status> {
    let mut outage = Outage::new(Some(patience));
    loop {
        let broken = match call().await {
            Err(broken) if may_pass(&broken) => broken,
            done => {
                if let Some(lasted) = outage.holds(Instant::now())
                    && done.is_ok()
                {
                    notice(&connected_again(lasted));
                }
                return done;
            }
        };
        let Some(retry) = outage.broke(Instant::now(), BROKE, &trouble(&broken), random()) else {
            return Err(broken);
        };
        if let Some(text) = retry.notice {
            notice(&text);
        }
        tokio::time::sleep(retry.pause).await;
    }
}

/// `connected again after 3.2 s`.
pub fn connected_again(lasted: Duration) -> String {
    format!("connected again after {:.1} s", lasted.as_secs_f64())
}

/// Whether the same call can succeed later. A broken transport arrives as UNKNOWN or UNAVAILABLE; ABORTED ends a stream
/// that was read too slowly, and can be resumed.
pub fn may_pass(status: &Status) -> bool {
    match status.code() {
        Code::Unavailable | Code::Aborted => true,
        Code::Unknown | Code::Internal | Code::Cancelled => {
            // A server that wants TLS will want it later too.
            std::error::Error::source(status).is_some_and(|cause| !cause.is::<ConnectError>())
        }
        _ => false,
    }
}

/// What is wrong, in a few words.
pub fn trouble(status: &Status) -> String {
    let mut cause = std::error::Error::source(status);
    while let Some(inner) = cause {
        if let Some(transport) = inner.downcast_ref::<tonic::transport::Error>() {
            return connect::Trouble::of(transport).reason;
        }
        cause = inner.source();
    }
    status.message().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;

    const PATIENCE: Duration = Duration::from_secs(60);

    /// Fails again and again; answers the moments of the attempts, in milliseconds, and what was told.
    fn outage(patience: Option<Duration>, random: f64, most: usize) -> (Vec<u128>, Vec<String>) {
        let begin = Instant::now();
        let (mut now, mut outage) = (begin, Outage::new(patience));
        let (mut attempts, mut told) = (Vec::new(), Vec::new());
        while attempts.len() < most {
            let Some(retry) = outage.broke(now, BROKE, "connection refused", random) else { break };
            told.extend(retry.notice);
            now += retry.pause;
            attempts.push(now.duration_since(begin).as_millis());
        }
        (attempts, told)
    }

    #[test]
    fn pauses_double_up_to_a_bound_and_vary() {
        let (attempts, told) = outage(Some(PATIENCE), 0.0, 7);
        assert_eq!(attempts, [200, 600, 1400, 3000, 5000, 7000, 9000]);
        assert_eq!(
            told,
            ["the connection to the server broke (connection refused); trying again for 60 s"],
            "said once"
        );
        assert_eq!(outage(Some(PATIENCE), 1.0, 5).0, [150, 450, 1050, 2250, 3750]);
    }

    #[test]
    fn the_last_attempt_is_made_when_the_time_is_over() {
        let (attempts, _) = outage(Some(PATIENCE), 0.3, 1000);
        assert_eq!(attempts.last(), Some(&60_000));
        assert_eq!(outage(None, 0.3, 1000).0.len(), 1000, "without a bound there is no last one");
    }

    #[test]
    fn each_outage_has_its_own_patience_and_tells_how_long_it_lasted() {
        let begin = Instant::now();
        let mut outage = Outage::new(Some(PATIENCE));
        assert_eq!(outage.holds(begin), None);
        // An hour without a word is no outage.
        let broke = begin + Duration::from_secs(3600);
        assert!(outage.broke(broke, BROKE, "reset", 0.0).is_some());
        let later = outage.broke(broke + Duration::from_secs(59), BROKE, "refused", 0.0);
        assert_eq!(later.expect("not over yet").notice.as_deref(), Some("still in vain (refused)"));
        assert_eq!(outage.holds(broke + Duration::from_millis(59_240)), Some(Duration::from_millis(59_240)));
        assert_eq!(outage.holds(broke + PATIENCE), None, "told once");
        let again = broke + 2 * PATIENCE;
        assert_eq!(outage.broke(again, BROKE, "reset", 0.0).expect("anew").pause, FIRST_PAUSE);
        assert!(outage.broke(again + PATIENCE, BROKE, "reset", 0.0).is_none());
        assert_eq!(connected_again(Duration::from_millis(3_240)), "connected again after 3.2 s");
    }

    #[test]
    fn refusals_are_not_tried_again() {
        assert!(may_pass(&Status::unavailable("down")));
        assert!(may_pass(&Status::aborted("too slow")));
        for refusal in [Status::invalid_argument(""), Status::not_found(""), Status::internal("a bug")] {
            assert!(!may_pass(&refusal), "{refusal}");
        }
    }

    #[test]
    fn a_broken_transport_is_tried_again_unless_the_server_wants_tls() {
        let broken = Status::from_error(Box::new(std::io::Error::from(std::io::ErrorKind::ConnectionReset)));
        assert!(may_pass(&broken), "{broken:?}");
        let wants_tls = ConnectError { url: "http://h:1/".into(), trouble: connect::Trouble::silence() };
        assert!(!may_pass(&Status::from_error(Box::new(wants_tls))));
    }

    #[tokio::test(start_paused = true)]
    async fn a_call_is_repeated_over_an_outage_and_not_after_a_refusal() {
        let (mut told, mut calls) = (Vec::new(), 0);
        let answer = repeated(
            PATIENCE,
            |text| told.push(text.to_owned()),
            || {
                calls += 1;
                std::future::ready(if calls < 3 { Err(Status::unavailable("stopping")) } else { Ok(calls) })
            },
        );
        assert_eq!(answer.await.expect("in the end"), 3);
        assert_eq!(told.len(), 2, "{told:?}");
        assert!(told[1].starts_with("connected again after 0."), "{told:?}");
        let begin = Instant::now();
        let refused = repeated(PATIENCE, |_| {}, || async { Err::<(), _>(Status::not_found("no")) }).await;
        assert_eq!(refused.expect_err("a refusal").code(), Code::NotFound);
        assert_eq!(begin.elapsed(), Duration::ZERO);
        let gone = repeated(PATIENCE, |_| {}, || async { Err::<(), _>(Status::unavailable("no")) }).await;
        assert_eq!(gone.expect_err("given up").code(), Code::Unavailable);
        assert_eq!(begin.elapsed().as_secs(), 60);
    }
}

//! Asks a coordinator that says nothing whether it is there, and gives the session up when it stays silent.

use std::time::Duration;

use tokio::sync::mpsc;
use tokio::time::{Instant, MissedTickBehavior};

use crate::node::envelope::Said;
use crate::node::way::Way;
use crate::proto::peer::v1 as pb;
use crate::proto::peer::v1::mesh_message::Payload;

/// How often silence is looked at, and after how much of it the coordinator is asked.
const LOOK: Duration = Duration::from_secs(1);
/// A timer that comes so much late says that this process was asleep, and the coordinator perhaps not silent.
const LATE: Duration = Duration::from_millis(500);

/// Completes when the coordinator has been silent for `limit`, or has answered nothing for that long beyond `every`, in
/// which a heartbeat is sent: then it hears nothing, though it speaks. A new connection heals that sooner than the old one
/// tries again.
pub(super) async fn until_silent(way: &Way, limit: Duration, every: Duration, queue: mpsc::Sender<Said>) {
    let mut looks = tokio::time::interval(LOOK);
    looks.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let (mut awake_since, mut number) = (Instant::now(), 0);
    loop {
        let due = looks.tick().await;
        let now = Instant::now();
        if now.saturating_duration_since(due) > LATE {
            awake_since = now;
        }
        let heard = way.last_heard().map_or(awake_since, |heard| heard.max(awake_since));
        let silence = now.saturating_duration_since(heard);
        let answered = way.last_answered().map_or(awake_since, |answered| answered.max(awake_since));
        let unanswered = now.saturating_duration_since(answered);
        if silence >= limit || unanswered >= limit + every {
            return;
        }
        if silence >= LOOK || unanswered >= every + LOOK {
            number += 1;
            let kind = Some(pb::heartbeat::Kind::Probe(pb::Probe { number }));
            // A queue that is full says enough already.
            let _ = queue.try_send(Payload::Heartbeat(pb::Heartbeat { kind }).into());
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const EVERY: Duration = Duration::from_secs(5);

    #[tokio::test(start_paused = true)]
    async fn a_silent_coordinator_is_asked_each_second_and_given_up_at_the_limit() {
        let (way, (queue, mut asked)) = (Way::default(), mpsc::channel(64));
        let start = Instant::now();
        way.opened(start, queue.clone());
        until_silent(&way, Duration::from_secs(5), EVERY, queue).await;
        assert_eq!(start.elapsed(), Duration::from_secs(5));
        let mut probes = 0;
        while asked.try_recv().is_ok() {
            probes += 1;
        }
        assert_eq!(probes, 4);
    }

    #[tokio::test(start_paused = true)]
    async fn a_coordinator_that_speaks_but_hears_nothing_is_given_up_after_a_heartbeat_and_the_limit() {
        let (way, (queue, _asked)) = (Way::default(), mpsc::channel(64));
        let start = Instant::now();
        way.opened(start, queue.clone());
        let speaking = async {
            loop {
                way.heard(Instant::now());
                tokio::time::sleep(Duration::from_millis(900)).await;
            }
        };
        tokio::select! {
            () = until_silent(&way, Duration::from_secs(5), EVERY, queue) => {}
            () = speaking => {}
        }
        assert_eq!(start.elapsed(), Duration::from_secs(10));
    }

    #[tokio::test(start_paused = true)]
    async fn a_coordinator_that_speaks_is_not_asked() {
        let (way, (queue, mut asked)) = (Way::default(), mpsc::channel(64));
        way.opened(Instant::now(), queue.clone());
        let speaking = async {
            loop {
                way.heard(Instant::now());
                way.answered(Instant::now());
                tokio::time::sleep(Duration::from_millis(900)).await;
            }
        };
        tokio::select! {
            () = until_silent(&way, Duration::from_secs(5), EVERY, queue) => panic!("given up"),
            () = speaking => {}
            () = tokio::time::sleep(Duration::from_secs(60)) => {}
        }
        assert!(asked.try_recv().is_err());
    }
}

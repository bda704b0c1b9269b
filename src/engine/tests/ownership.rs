//! A coordinator that may not be the newest one.

use std::time::Duration;

use super::rig::rig_over;
use crate::coordinator::settings::Settings;
use crate::engine::{EngineError, Stopped};
use crate::store::{MemoryLog, MemoryStore, Store as _, StoreError};

#[tokio::test(start_paused = true)]
async fn a_coordinator_that_wakes_up_after_a_later_one_began_stops_when_it_is_doubted() {
    let log = MemoryLog::default();
    let rig = rig_over(Settings::default(), log.clone());
    rig.handle.check_ownership().await.expect("a lie stops nobody");
    MemoryStore::over(log).open_epoch().expect("opens");
    tokio::time::sleep(Duration::from_secs(10)).await;
    assert_eq!(rig.handle.check_ownership().await, Err(Stopped));
    let ended = rig.engine.await.expect("no panic");
    assert!(matches!(ended, Err(EngineError::Store(StoreError::Fenced { .. }))), "{ended:?}");
}

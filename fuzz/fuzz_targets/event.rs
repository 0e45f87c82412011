//! Any text as an event: reading it never panics, and finds only valid health check ids.
//!
//! ```text
//! cargo install cargo-fuzz
//! cargo +nightly fuzz run event fuzz/corpus/event events/sns events/cloudwatch events/eventbridge
//! ```
//! Without a nightly toolchain: `RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none event …`.
#![no_main]

use failover::failover_lock::event::{self, Message};
use failover::failover_lock::health_check::HealthCheckId;

libfuzzer_sys::fuzz_target!(|event: &[u8]| {
    let Ok(event) = std::str::from_utf8(event) else { return };
    for record in event::records(event).into_iter().flatten() {
        let Ok(Message::Alarm(transition)) = record.message else { continue };
        for id in transition.health_checks {
            assert!(HealthCheckId::try_from(id.as_str().to_owned()).is_ok());
        }
    }
});

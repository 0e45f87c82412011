//! Any text as a request to the function's URL: reading it never panics, and no alert accuses a site that is not one,
//! or the reporter itself.
//!
//! ```text
//! cargo install cargo-fuzz
//! cargo +nightly fuzz run webhook fuzz/corpus/webhook events/alertmanager
//! ```
//! Without a nightly toolchain: `RUSTC_BOOTSTRAP=1 cargo fuzz run --sanitizer none webhook …`.
#![no_main]

use failover::site_fence::decide::{Concern, concern};
use failover::site_fence::site::Site;
use failover::site_fence::webhook::{Alert, Request};

/// The alert's name in `events/alertmanager`.
const NAME: &str = "SiteOffline";

libfuzzer_sys::fuzz_target!(|event: &[u8]| {
    let Ok(event) = std::str::from_utf8(event) else { return };
    let Ok(request) = Request::read(event) else { return };
    if let Ok(credentials) = request.credentials() {
        // RFC 7617: the user ends at the first colon.
        assert!(!credentials.are("a:b", ""));
    }
    let Ok(webhook) = request.webhook() else { return };
    for alert in &webhook.alerts {
        let Ok(alert) = Alert::read(alert) else { continue };
        let Ok(Concern::Accuses(accusation)) = concern(&alert, NAME, "") else { continue };
        for site in [&accusation.site, &accusation.reporter] {
            assert!(Site::try_from(site.as_str().to_owned()).is_ok());
        }
        assert_ne!(accusation.site, accusation.reporter);
        let is_name = |c: char| c.is_ascii_alphanumeric() || c == '-' || c == '.';
        assert!(
            (1..=255).contains(&accusation.accelerator.len()) && accusation.accelerator.chars().all(is_name)
        );
    }
});

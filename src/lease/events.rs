//! The state of the claim and every change of it, as [server-sent events].
//!
//! [server-sent events]: https://html.spec.whatwg.org/multipage/server-sent-events.html

use std::convert::Infallible;
use std::future::pending;
use std::pin::Pin;
use std::task::{Context, Poll};
use std::time::Duration;

use hyper::HeaderMap;
use hyper::body::{Body, Bytes, Frame};
use hyper::header::ACCEPT;
use tokio::select;
use tokio::sync::{mpsc, watch};
use tokio::time::{Instant, sleep};

use super::clock::sleep_until;
use super::site::Site;
use super::status::Running;

/// The type of a stream of events.
pub(super) const EVENTS: &str = "text/event-stream";
/// After this long without an event comes a comment, so that both sides notice a connection that is gone.
const QUIET: Duration = Duration::from_secs(15);
/// How often it is looked whether the claim is blocked, which nothing reports.
const LOOK: Duration = Duration::from_secs(1);
const COMMENT: &[u8] = b":\n\n";

/// The body of an answer that lasts as long as its connection: an event for the state now, and one for each change.
///
/// A caller that reads slowly misses changes, but not the last one.
#[derive(Debug)]
pub(super) struct Events(mpsc::Receiver<Bytes>);

/// Whether the caller wants events.
pub(super) fn are_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|kinds| kinds.to_str().ok());
    let mut kinds = accepted.flat_map(|kinds| kinds.split(','));
    kinds.any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(EVENTS)))
}

// === impl Events ===

impl Events {
    pub(super) fn of(site: Site) -> Self {
        // Nothing is made in advance for a caller that does not read.
        let (send, events) = mpsc::channel(1);
        tokio::spawn(report(site, send));
        Self(events)
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.poll_recv(context).map(|event| event.map(|event| Ok(Frame::data(event))))
    }
}

/// Waits until the command's state changes.
async fn changed(running: &mut Option<watch::Receiver<Running>>) {
    let changed = match running {
        Some(running) => running.changed().await.is_ok(),
        None => false,
    };
    if !changed {
        pending::<()>().await;
    }
}

/// Reports until the connection or the keeper has ended.
async fn report(site: Site, events: mpsc::Sender<Bytes>) {
    let (mut claim, mut wishes) = site.lease.changes();
    let mut running = site.running.clone();
    loop {
        claim.mark_unchanged();
        wishes.mark_unchanged();
        let status = site.lease.status();
        // Before the event: if the lease runs out in between, it is reported twice rather than never.
        let until = status.active().map(|holding| holding.until);
        let silence = site.silence();
        let event = format!("event: state\ndata: {}\n\n", site.state(&status));
        if events.send(event.into()).await.is_err() {
            return;
        }
        let mut quiet = Instant::now();
        loop {
            select! {
                changed = claim.changed() => match changed {
                    Ok(()) => break,
                    Err(_) => return,
                },
                Ok(()) = wishes.changed() => break,
                () = changed(&mut running) => break,
                () = sleep_until(until.unwrap_or_default()), if until.is_some() => break,
                () = events.closed() => return,
                () = sleep(LOOK) => {
                    if site.silence() != silence {
                        break;
                    }
                    if quiet.elapsed() >= QUIET {
                        quiet = Instant::now();
                        if events.send(Bytes::from_static(COMMENT)).await.is_err() {
                            return;
                        }
                    }
                },
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use http_body_util::BodyExt as _;
    use hyper::header::HeaderValue;

    use super::super::claim::{Candidate, Holding, Standing, Will};
    use super::super::clock::now;
    use super::super::held::{Lease, Wishes};
    use super::super::metrics::Metrics;
    use super::super::status::Status;
    use super::*;

    #[test]
    fn events_are_wanted_by_name_only() {
        let wanted = |kinds: &'static str| {
            let mut headers = HeaderMap::new();
            headers.insert(ACCEPT, HeaderValue::from_static(kinds));
            are_wanted(&headers)
        };
        assert!(wanted("text/event-stream") && wanted("application/json, Text/Event-Stream;q=0.9"));
        assert!(!wanted("*/*") && !wanted("text/event-stream2") && !are_wanted(&HeaderMap::new()));
    }

    /// The events of a claim with this state, and what keeps the claim.
    fn events(holding: Option<Holding>) -> (Events, watch::Sender<Status>) {
        let standing = if holding.is_some() { Standing::Mine } else { Standing::Missing };
        let (will, unwilling) = (Will::Take, None);
        let (record, unexpected_term, failing) = (None, None, None);
        let status = Status { holding, standing, record, unexpected_term, failing, will, unwilling };
        let status = watch::Sender::new(status);
        let wishes = watch::Sender::new(Wishes::default());
        let lease = Lease::new(status.subscribe(), wishes, watch::Sender::new(()));
        let me = Candidate { name: "site-a".to_owned(), writer: "this process".to_owned() };
        let metrics = Metrics::new("orders", Duration::from_secs(15));
        let site = Site { name: "orders".to_owned(), me, lease, metrics, running: None };
        (Events::of(site), status)
    }

    async fn next(events: &mut Events) -> Option<String> {
        let frame = events.frame().await?.expect("it has no error");
        let data = frame.into_data().expect("there are no trailers");
        Some(String::from_utf8(data.into()).expect("it is a text"))
    }

    #[tokio::test(start_paused = true)]
    async fn a_comment_comes_when_nothing_changes_and_the_end_with_the_keeper() {
        let (mut events, keeper) = events(None);
        let first = next(&mut events).await.expect("the state comes at once");
        assert!(first.starts_with("event: state\ndata: {") && first.ends_with("}\n\n"), "{first}");
        for _ in 0..3 {
            assert_eq!(next(&mut events).await.as_deref(), Some(":\n\n"));
        }
        keeper.send_modify(|status| status.will = Will::Retire);
        let changed = next(&mut events).await.expect("the change comes");
        assert!(changed.contains(r#""leaving":true"#), "{changed}");
        drop(keeper);
        assert_eq!(next(&mut events).await, None);
    }

    #[tokio::test]
    async fn the_end_of_a_lease_that_is_not_renewed_is_a_change() {
        let until = now() + Duration::from_millis(200);
        let holding = Holding { epoch: 7, until, ends: until, expires: until };
        let (mut events, _keeper) = events(Some(holding));
        let active = next(&mut events).await.expect("the state comes at once");
        assert!(active.contains(r#""epoch":7"#), "{active}");
        let passive = next(&mut events).await.expect("the change comes");
        assert!(passive.contains(r#""active":false"#), "{passive}");
        assert!(until.may_have_come(now()));
    }
}

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
use tokio::sync::watch;
use tokio::time::{Instant, sleep};

use super::claim::Moment;
use super::clock::sleep_until;
use super::held::Wishes;
use super::site::Site;
use super::status::{Running, Status};

/// The type of a stream of events.
pub(super) const EVENTS: &str = "text/event-stream";
/// After this long without an event comes a comment, so that both sides notice a connection that is gone.
const QUIET: Duration = Duration::from_secs(15);
/// How often it is looked whether the claim is blocked, which nothing reports.
const LOOK: Duration = Duration::from_secs(1);
const COMMENT: &[u8] = b":\n\n";

/// The body of an answer that lasts as long as its connection: an event for the state now, and one for each change.
///
/// An event is made when there is room for it: a caller that reads slowly misses changes, but not the last one.
pub(super) struct Events(Pin<Box<dyn Future<Output = Next> + Send>>);

/// The next event or comment, and what the ones after it are about; `None` when the keeper has ended.
type Next = Option<(Bytes, Watched)>;

/// What the events are about, and what was reported last.
struct Watched {
    site: Site,
    claim: watch::Receiver<Status>,
    wishes: watch::Receiver<Wishes>,
    running: Option<watch::Receiver<Running>>,
    reported: Option<Reported>,
}

/// What an event reported that changes without the claim.
struct Reported {
    until: Option<Moment>,
    silence: (bool, Option<Running>),
    /// When it was, or a comment after it.
    at: Instant,
}

/// Whether the caller wants events.
pub(super) fn are_wanted(headers: &HeaderMap) -> bool {
    let accepted = headers.get_all(ACCEPT).iter().filter_map(|kinds| kinds.to_str().ok());
    let mut kinds = accepted.flat_map(|kinds| kinds.split(','));
    kinds.any(|kind| kind.split(';').next().is_some_and(|kind| kind.trim().eq_ignore_ascii_case(EVENTS)))
}

// === impl Events ===

impl Events {
    pub(super) fn of(site: Site) -> Self {
        let ((claim, wishes), running) = (site.lease.changes(), site.running.clone());
        Self(Box::pin(Watched { site, claim, wishes, running, reported: None }.next()))
    }
}

impl Body for Events {
    type Data = Bytes;
    type Error = Infallible;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, Infallible>>> {
        self.0.as_mut().poll(context).map(|next| {
            let (event, watched) = next?;
            self.0 = Box::pin(watched.next());
            Some(Ok(Frame::data(event)))
        })
    }
}

// === impl Watched ===

impl Watched {
    /// Waits until the next one is due.
    async fn next(mut self) -> Next {
        if let Some(reported) = &mut self.reported {
            loop {
                select! {
                    changed = self.claim.changed() => match changed {
                        Ok(()) => break,
                        Err(_) => return None,
                    },
                    Ok(()) = self.wishes.changed() => break,
                    () = changed(&mut self.running) => break,
                    () = sleep_until(reported.until.unwrap_or_default()), if reported.until.is_some() => break,
                    () = sleep(LOOK) => {
                        if self.site.silence() != reported.silence {
                            break;
                        }
                        if reported.at.elapsed() >= QUIET {
                            reported.at = Instant::now();
                            return Some((Bytes::from_static(COMMENT), self));
                        }
                    },
                }
            }
        }
        self.claim.mark_unchanged();
        self.wishes.mark_unchanged();
        let status = self.site.lease.status();
        // Before the event: if the lease runs out in between, it is reported twice rather than never.
        let until = status.active().map(|holding| holding.until);
        self.reported = Some(Reported { until, silence: self.site.silence(), at: Instant::now() });
        let event = format!("event: state\ndata: {}\n\n", self.site.state(&status));
        Some((event.into(), self))
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

    #[tokio::test]
    async fn a_caller_that_did_not_read_does_not_get_a_state_that_is_over() {
        let until = now() + Duration::from_mins(1);
        let holding = Holding { epoch: 7, until, ends: until, expires: until };
        let (mut events, keeper) = events(Some(holding));
        next(&mut events).await.expect("the state comes at once");
        keeper.send_modify(|status| status.failing = Some("this was over long ago".to_owned()));
        tokio::task::yield_now().await;
        keeper.send_modify(|status| (status.holding, status.failing) = (None, None));
        let event = next(&mut events).await.expect("the change comes");
        assert!(event.contains(r#""active":false"#) && !event.contains("long ago"), "{event}");
        assert!(event.contains(r#""time":1"#), "{event}");
    }
}

//! An S3 on loopback that speaks the wire protocol of buckets and objects: REST, path style, errors in XML, any
//! number of buckets in several Regions on one port. It keeps state, enforces the API's rules, verifies every
//! signature, knows who may do what, has a clock of its own, remembers every call, and follows a fault script.
//!
//! Serves `HeadObject`, `GetObject`, `PutObject`, `DeleteObject`, `ListObjectsV2`, `GetBucketLocation`,
//! `GetBucketVersioning`, `GetBucketLifecycleConfiguration` and `GetBucketPolicy`.
//!
//! Layout: `access` decides whether a call is let in, `bucket` what becomes of it, `wire` reads requests and writes
//! answers. The rules, with the page of AWS's documentation that each rests on, are in `tests/latch/s3.rs`.

mod access;
mod bucket;
mod call;
mod clock;
mod fault;
mod wire;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::{Duration, SystemTime};

use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper::{Method, Request, Response};
use hyper_util::rt::TokioIo;
use tokio::net::{TcpListener, TcpStream};
use tokio::sync::Notify;
use tokio::task::{JoinHandle, JoinSet};
use tokio::time::sleep;

use self::access::admit;
#[allow(unused_imports, reason = "each test program uses its own part")]
pub use self::access::{ANONYMOUS, CONTROL, OWNER, PERSON, WATCHER};
use self::bucket::Bucket;
pub use self::bucket::Version;
pub use self::call::Call;
use self::clock::Clock;
pub use self::fault::{Down, Fault};
use self::wire::{Asked, Done, Dribble, Failed};
use super::script::{Held, Script};

/// A running stand-in; it ends with the runtime that it was started on.
#[derive(Clone)]
pub struct S3 {
    /// The address on which it listens.
    pub address: SocketAddr,
    state: Arc<Mutex<State>>,
    changed: Arc<Notify>,
}

#[derive(Default)]
struct State {
    clock: Clock,
    buckets: BTreeMap<String, Bucket>,
    calls: Vec<Call>,
    script: Script<(String, String), Fault>,
    admitted: Script<(String, String), Fault>,
    connections: usize,
    callers: usize,
    listening: Option<JoinHandle<()>>,
}

// === impl S3 ===

impl S3 {
    /// One with these buckets, each in its Region: versioned, empty, and with the rights of the latch's roles.
    pub async fn start(buckets: &[(&str, &str)]) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let s3 = Self { address, state: Arc::default(), changed: Arc::default() };
        for (region, bucket) in buckets {
            s3.state().buckets.insert((*bucket).to_owned(), Bucket::new(region));
        }
        s3.listen(listener);
        s3
    }

    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    // --- What the buckets hold ---

    /// Puts an object there, past all rules.
    pub fn put(&self, bucket: &str, key: &str, body: &str) -> Version {
        self.put_aged(bucket, key, body, Duration::ZERO)
    }

    /// The same, as if it had been put this long ago.
    pub fn put_aged(&self, bucket: &str, key: &str, body: &str, age: Duration) -> Version {
        let mut state = self.state();
        let modified = state.now(bucket) - age;
        state.bucket(bucket).put(key, Version::new(body.to_owned().into(), modified))
    }

    /// The same, encrypted with this algorithm, for example `aws:kms`, which no anonymous caller can read.
    pub fn put_encrypted(&self, bucket: &str, key: &str, body: &str, algorithm: &str) -> Version {
        let mut state = self.state();
        let version = Version::new(body.to_owned().into(), state.now(bucket));
        state.bucket(bucket).put(key, Version { encryption: algorithm.to_owned(), ..version })
    }

    /// Removes an object, past all rules.
    pub fn remove(&self, bucket: &str, key: &str) {
        let mut state = self.state();
        let now = state.now(bucket);
        state.bucket(bucket).delete(key, now, "test");
    }

    pub fn object(&self, bucket: &str, key: &str) -> Option<Version> {
        self.state().bucket(bucket).object(key).cloned()
    }

    /// Every version of the key, the oldest first, with what deleted it in between.
    pub fn history(&self, bucket: &str, key: &str) -> Vec<Version> {
        self.state().bucket(bucket).history(key).to_vec()
    }

    /// The keys of the objects that exist.
    pub fn keys(&self, bucket: &str) -> Vec<String> {
        self.state().bucket(bucket).keys().map(str::to_owned).collect()
    }

    // --- How the buckets are set up ---

    /// Sets whether versioning is on.
    pub fn set_versioned(&self, bucket: &str, versioned: bool) {
        self.state().bucket(bucket).versioned = versioned;
    }

    /// Sets whether its Object Lock gives each object a default retention.
    pub fn set_retains(&self, bucket: &str, retains: bool) {
        self.state().bucket(bucket).retains = retains;
    }

    /// Sets the rules of `GetBucketLifecycleConfiguration`, in XML. The stand-in reports them and expires nothing.
    pub fn set_lifecycle(&self, bucket: &str, rules: Option<&str>) {
        self.state().bucket(bucket).lifecycle = rules.map(str::to_owned);
    }

    /// Sets whether a policy that is public is refused.
    pub fn set_blocks_public_access(&self, bucket: &str, blocks: bool) {
        self.state().bucket(bucket).blocks_public_access = blocks;
    }

    /// Sets the document of `GetBucketPolicy`. The stand-in reports it and enforces the latch's rules all the same.
    pub fn set_policy(&self, bucket: &str, policy: Option<&str>) {
        self.state().bucket(bucket).policy = policy.map(str::to_owned);
    }

    /// Gives a role an action, for example `s3:ListBucket`, on the keys that begin with `prefix`. With a prefix,
    /// `s3:ListBucket` covers lists below that prefix alone, as with the condition key `s3:prefix`.
    pub fn grant(&self, bucket: &str, role: &'static str, action: &'static str, prefix: &'static str) {
        self.state().bucket(bucket).rights.grant(role, action, prefix);
    }

    /// Takes an action away from a role.
    pub fn revoke(&self, bucket: &str, role: &str, action: &str) {
        self.state().bucket(bucket).rights.revoke(role, action);
    }

    // --- The clock ---

    /// The time by S3's clock.
    pub fn now(&self) -> SystemTime {
        self.state().clock.now()
    }

    /// Sets the clock forward.
    pub fn advance(&self, by: Duration) {
        self.state().clock.advance(by);
    }

    /// Sets the clock back.
    pub fn set_back(&self, by: Duration) {
        self.state().clock.set_back(by);
    }

    /// Lets this much time pass on the clock while one second passes: 1 unless set.
    pub fn run_at(&self, rate: f64) {
        self.state().clock.run_at(rate);
    }

    /// Lets the clock of one bucket be ahead of the others by so many seconds, or behind.
    pub fn set_ahead(&self, bucket: &str, seconds: i64) {
        self.state().bucket(bucket).ahead = seconds;
    }

    // --- What was called ---

    /// The calls so far.
    pub fn calls(&self) -> Vec<Call> {
        self.state().calls.clone()
    }

    /// The calls so far of a role, as text.
    pub fn calls_by(&self, role: &str) -> Vec<String> {
        let calls = self.calls();
        calls.iter().filter(|call| access::role(&call.by) == role).map(Call::to_string).collect()
    }

    /// The calls with credentials that were refused for lack of a right, or by the bucket's policy.
    pub fn denied(&self) -> Vec<String> {
        let calls = self.calls();
        calls.iter().filter(|call| call.denied && call.by != ANONYMOUS).map(Call::to_string).collect()
    }

    /// How many connections were opened so far.
    pub fn connections(&self) -> usize {
        self.state().connections
    }

    /// How many connections are open.
    pub fn callers(&self) -> usize {
        self.state().callers
    }

    /// Waits until this is so. It is asked again after each answer, and when a caller has gone.
    pub async fn until(&self, is_so: impl Fn(&Self) -> bool) {
        loop {
            let mut changed = std::pin::pin!(self.changed.notified());
            changed.as_mut().enable();
            if is_so(self) {
                return;
            }
            changed.await;
        }
    }

    // --- Faults ---
    // An operation is named as in the API. Anonymous calls are an operation of their own, `Anonymous`, so that a
    // fault that is meant for a watcher does not happen to a checker.

    /// Lets this happen to the next call of the operation on the bucket that has no fault yet.
    pub fn fail(&self, operation: &str, bucket: &str, fault: Fault) {
        self.state().script.fail(on(operation, bucket), fault);
    }

    /// Lets this happen to every call of the operation on the bucket.
    pub fn fail_always(&self, operation: &str, bucket: &str, fault: Fault) {
        self.state().script.fail_always(on(operation, bucket), fault);
    }

    /// Lets nothing more happen to the operation on the bucket.
    pub fn fail_never(&self, operation: &str, bucket: &str) {
        self.state().script.fail_never(&on(operation, bucket));
    }

    /// Holds the next call of the operation on the bucket back on its way, before S3 has looked at its signature.
    /// It goes on when it is released, also without its caller.
    pub fn hold(&self, operation: &str, bucket: &str) -> Held {
        self.state().script.hold(on(operation, bucket))
    }

    /// Holds the next call of the operation on the bucket back that S3 has let in, before it is done. It is done
    /// when it is released, also without its caller.
    pub fn hold_admitted(&self, operation: &str, bucket: &str) -> Held {
        self.state().admitted.hold(on(operation, bucket))
    }

    /// Takes a bucket down, for everyone.
    pub fn down(&self, bucket: &str, down: Down) {
        self.state().bucket(bucket).down = Some(down);
    }

    /// Brings a bucket back. A call that it met with silence stays unanswered.
    pub fn up(&self, bucket: &str) {
        self.state().bucket(bucket).down = None;
    }

    /// Closes every connection and the port.
    pub async fn stop(&self) {
        let listening = self.state().listening.take().expect("it is running");
        listening.abort();
        let _ = listening.await;
        self.state().callers = 0;
    }

    /// Opens the port again.
    pub async fn start_again(&self) {
        let listener = TcpListener::bind(self.address).await;
        self.listen(listener.expect("no one else has taken the port"));
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the state")
    }

    fn listen(&self, listener: TcpListener) {
        let s3 = self.clone();
        let listening = tokio::spawn(async move {
            // With this set, its connections end.
            let mut connections = JoinSet::new();
            while let Ok((stream, _)) = listener.accept().await {
                connections.spawn(s3.clone().serve(stream));
            }
        });
        self.state().listening = Some(listening);
    }

    async fn serve(self, stream: TcpStream) {
        let _ = stream.set_nodelay(true);
        {
            let mut state = self.state();
            state.connections += 1;
            state.callers += 1;
        }
        let service = service_fn(|request| self.clone().answer(request));
        let _ = http1::Builder::new().serve_connection(TokioIo::new(stream), service).await;
        let callers = self.state().callers.saturating_sub(1);
        self.state().callers = callers;
        self.changed.notify_waiters();
    }

    async fn answer(self, request: Request<Incoming>) -> Result<Response<Dribble>, &'static str> {
        if request.method() == Method::HEAD && request.uri().path() == "/" {
            // A connection that is opened before it is needed.
            return Ok(Failed::not_served().response(self.now()));
        }
        let asked = Asked::read(request).await?;
        // On a task of its own: what S3 has received is done, also when the caller has gone.
        let answer = tokio::spawn(async move {
            let answer = self.handle(asked).await;
            self.changed.notify_waiters();
            answer
        });
        answer.await.map_err(|_| "the stand-in has panicked")?
    }

    async fn handle(&self, asked: Asked) -> Result<Response<Dribble>, &'static str> {
        let (number, down, held) = {
            let mut state = self.state();
            state.calls.push(asked.call());
            let down = state.buckets.get(&asked.bucket).and_then(|bucket| bucket.down);
            (state.calls.len() - 1, down, state.script.held(&asked.name()))
        };
        match down {
            Some(Down::Refused) => return Err("the bucket is down"),
            Some(Down::Silent) => return std::future::pending().await,
            None => {}
        }
        if let Some(held) = held {
            held.pass().await;
        }
        let fault = self.state().script.fault(&asked.name());
        let failed = match &fault {
            Some(Fault::Error(status, code, message)) => Some(Failed::new(*status, code, message)),
            Some(Fault::Redirect(region)) => Some(Failed::elsewhere(region)),
            Some(Fault::CloseBefore) => return Err("closed before anything was done"),
            Some(Fault::Hang) => return std::future::pending().await,
            Some(Fault::Meddle(meddle)) => {
                meddle(self);
                None
            }
            _ => None,
        };
        let done = match failed {
            Some(failed) => Err(failed),
            None => self.perform(&asked, number).await,
        };
        if matches!(fault, Some(Fault::CloseAfter)) {
            return Err("closed after it was done");
        }
        let done = match &fault {
            Some(Fault::ErrorAfter(status, code, message)) => Err(Failed::new(*status, code, message)),
            _ => done,
        };
        let now = self.state().now(&asked.bucket);
        let mut response = done.map_or_else(|failed| failed.response(now), |done| done.response(now));
        self.state().calls[number].status = Some(response.status().as_u16());
        match fault {
            Some(Fault::Late(late)) => sleep(late).await,
            Some(Fault::SlowBody(pace)) => response.body_mut().slow_down(pace),
            _ => {}
        }
        Ok(response)
    }

    /// Lets the call in, or not, and does it.
    async fn perform(&self, asked: &Asked, number: usize) -> Result<Done, Failed> {
        let held = {
            let mut state = self.state();
            let now = state.now(&asked.bucket);
            let admitted = admit(asked, state.buckets.get(&asked.bucket), now);
            state.calls[number].denied = admitted.as_ref().is_err_and(|failed| failed.denied);
            admitted?;
            state.admitted.held(&asked.name())
        };
        if let Some(held) = held {
            held.pass().await;
        }
        let mut state = self.state();
        let now = state.now(&asked.bucket);
        let done = state.bucket(&asked.bucket).perform(asked, now);
        state.calls[number].denied = done.as_ref().is_err_and(|failed| failed.denied);
        done
    }
}

fn on(operation: &str, bucket: &str) -> (String, String) {
    (operation.to_owned(), bucket.to_owned())
}

// === impl State ===

impl State {
    fn bucket(&mut self, name: &str) -> &mut Bucket {
        self.buckets.get_mut(name).unwrap_or_else(|| panic!("{name} is not one of the buckets"))
    }

    /// The time by the bucket's clock.
    fn now(&self, bucket: &str) -> SystemTime {
        let ahead = self.buckets.get(bucket).map_or(0, |bucket| bucket.ahead);
        let seconds = Duration::from_secs(ahead.unsigned_abs());
        if ahead < 0 { self.clock.now() - seconds } else { self.clock.now() + seconds }
    }
}

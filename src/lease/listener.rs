//! Listens on an address or a Unix socket, and keeps its limits whatever callers do.
//!
//! A connection has one request and one answer, and five seconds for both. The request's body is not read. If there
//! are too many connections, the oldest is ended, so that a new caller always gets its turn.

use std::convert::Infallible;
use std::fmt;
use std::fs;
use std::future::{pending, ready};
use std::io::{self, ErrorKind};
use std::net::SocketAddr;
use std::os::unix::fs::{FileTypeExt as _, MetadataExt as _, PermissionsExt as _};
use std::path::{Path, PathBuf};
use std::pin::pin;
use std::str::FromStr;
use std::sync::mpsc;
use std::thread;
use std::time::Duration;

use http_body_util::Either;
use hyper::Request;
use hyper::body::Incoming;
use hyper::server::conn::http1;
use hyper::service::service_fn;
use hyper_util::rt::TokioIo;
use thiserror::Error;
use tokio::net::{TcpListener, TcpSocket, UnixListener, UnixSocket, UnixStream};
use tokio::select;
use tokio::sync::oneshot;
use tokio::task::yield_now;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep};
use tracing::{debug, warn};

use super::held::Obstacle;
use super::places::{Place, Places};
use super::server::Callers;
use super::site::Site;
use crate::remote::http::Stream;

/// How long a connection lasts that is not a stream of events.
const CONNECTION: Duration = Duration::from_secs(5);
/// The size of a connection's buffer, and so of a request's head: the least that hyper accepts.
const HEAD: usize = 8 * 1024;
/// The size of each of the kernel's buffers for a TCP connection, which count towards a container's memory.
const KERNEL: u32 = 16 * 1024;
/// How many callers the kernel holds until they are accepted.
const BACKLOG: u32 = 1024;
/// The owner and the group may connect.
const MODE: u32 = 0o660;
/// How often the file of a Unix socket is looked for.
const LOOK: Duration = Duration::from_secs(1);
/// After so many looks in a row without it the service cannot ask this candidate, which must not be the active one then.
const MISSED: u32 = 5;
/// How soon a message about connections may be logged again.
const REPEATED: Duration = Duration::from_mins(1);

/// Where to listen.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// An address and a port.
    Tcp(SocketAddr),
    /// The path of a Unix socket.
    Unix(PathBuf),
}

/// The text is no address.
#[derive(Clone, Debug, PartialEq, Eq, Error)]
#[error(
    "{0:?} is not an address. Use ADDRESS:PORT, for example 127.0.0.1:8095, or unix: and an absolute path"
)]
pub struct InvalidAddress(String);

/// An open listener. Dropped, it removes the file of its Unix socket.
#[derive(Debug)]
pub struct Listener {
    address: Address,
    socket: Socket,
    /// At the file of a Unix socket.
    looks: Option<Looks>,
}

#[derive(Debug)]
enum Socket {
    Tcp(TcpListener),
    /// With its file: a file that another process put in its place is not removed.
    Unix(UnixListener, PathBuf, Identity),
}

/// The device and the inode of a file.
type Identity = (u64, u64);

/// Looks at a file once a second, on a thread of its own: a file system may not answer. The thread is started with the
/// listener, because later there may be no room for one; Tokio's would panic then, and the listener with it.
#[derive(Debug)]
struct Looks {
    every: Interval,
    thread: mpsc::Sender<oneshot::Sender<Option<Identity>>>,
    /// The answer that has not come yet.
    answer: Option<oneshot::Receiver<Option<Identity>>>,
    /// So many in a row have not found the listener's file.
    missed: u32,
}

/// A look had no answer within its second.
#[derive(Debug)]
struct Silent;

/// A message that is logged at most once a minute, whatever callers do.
#[derive(Debug, Default)]
struct Seldom(Option<Instant>);

/// Answers these callers' requests until the process ends.
pub async fn serve(mut listener: Listener, site: Site, callers: Callers) -> Infallible {
    let places = Places::new();
    let (mut failing, mut crowded) = (Seldom::default(), Seldom::default());
    loop {
        places.vacant().await;
        let Listener { address, socket, looks } = &mut listener;
        let accepted = select! {
            accepted = socket.accept() => accepted,
            (found, missed) = look(looks) => {
                let able = match found {
                    Ok(found) if socket.is_file(found) => Ok(()),
                    Ok(_) => match Socket::open(address).await {
                        Ok(anew) => {
                            warn!(listener = callers.name(), "the file of the Unix socket was gone: listening on a new one");
                            *socket = anew;
                            Ok(())
                        }
                        Err(error) => Err(format!("the file of its Unix socket is gone, and cannot be created: {error}")),
                    },
                    Err(Silent) => Err("the file of its Unix socket cannot be looked at: the file system does not answer".to_owned()),
                };
                match able {
                    Ok(()) => {
                        *missed = 0;
                        site.lease.able(Obstacle::Listener, Ok(()));
                    }
                    Err(why) => {
                        if failing.is_due() {
                            warn!(listener = callers.name(), "{why}");
                        }
                        *missed += 1;
                        if *missed >= MISSED {
                            site.lease.able(Obstacle::Listener, Err(why));
                        }
                    }
                }
                continue;
            }
        };
        let mut ended = 0;
        match accepted {
            Ok(stream) => {
                let site = site.clone();
                ended += usize::from(
                    places.admit(|place| tokio::spawn(attend(stream, site, callers, place)).abort_handle()),
                );
            }
            // The caller has left already.
            Err(error) if error.kind() == ErrorKind::ConnectionAborted => {}
            Err(error) => {
                // The likely cause is too many open files.
                ended += places.shed();
                if failing.is_due() {
                    warn!(%error, listener = callers.name(), "a connection could not be accepted");
                }
                if ended == 0 {
                    sleep(Duration::from_millis(100)).await;
                }
            }
        }
        site.metrics.ended(callers.name(), ended as u64);
        if ended > 0 && crowded.is_due() {
            warn!(listener = callers.name(), "too many connections: the oldest are ended");
        }
        // Everything that is ready gets its turn before the next caller: the connections, and the claim to the lease.
        yield_now().await;
    }
}

/// Serves one connection.
async fn attend(stream: Box<dyn Stream>, site: Site, callers: Callers, place: Place) {
    let answered = service_fn(|request: Request<Incoming>| {
        let answer = site.answer(&request, callers);
        if matches!(answer.body(), Either::Right(_)) && place.becomes_stream() {
            site.metrics.ended(callers.name(), 1);
        }
        ready(Ok::<_, Infallible>(answer))
    });
    let mut server = http1::Builder::new();
    // With one request a connection, a caller that pipelines requests has the effect of any other.
    server.keep_alive(false).max_buf_size(HEAD).header_read_timeout(None::<Duration>);
    let mut connection = pin!(server.serve_connection(TokioIo::new(stream), answered));
    let ended = select! {
        ended = &mut connection => ended,
        () = sleep(CONNECTION) => {
            if !place.is_stream() {
                return;
            }
            connection.await
        }
    };
    if let Err(error) = ended {
        debug!(%error, "a connection broke");
    }
}

// === impl Seldom ===

impl Seldom {
    fn is_due(&mut self) -> bool {
        let is_due = self.0.is_none_or(|logged| logged.elapsed() >= REPEATED);
        if is_due {
            self.0 = Some(Instant::now());
        }
        is_due
    }
}

// === impl Address ===

impl FromStr for Address {
    type Err = InvalidAddress;

    fn from_str(text: &str) -> Result<Self, InvalidAddress> {
        let address = match text.strip_prefix("unix:") {
            Some(path) => Some(path).filter(|path| path.starts_with('/')).map(|path| Self::Unix(path.into())),
            None => text.parse().ok().map(Self::Tcp),
        };
        address.ok_or_else(|| InvalidAddress(text.to_owned()))
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Tcp(address) => address.fmt(f),
            Self::Unix(path) => write!(f, "unix:{}", path.display()),
        }
    }
}

// === impl Listener ===

impl Listener {
    /// Opens a listener. A Unix socket is created with mode 0660. The file that an ended process left there is
    /// replaced.
    ///
    /// # Errors
    /// The address is in use, or not this machine's; the Unix socket's folder cannot be written; its path is that of
    /// another file.
    pub async fn open(address: &Address) -> io::Result<Self> {
        let socket = Socket::open(address).await?;
        let (address, looks) = match &socket {
            Socket::Tcp(listener) => (Address::Tcp(listener.local_addr()?), None),
            Socket::Unix(_, path, _) => (address.clone(), Some(Looks::at(path.clone())?)),
        };
        Ok(Self { address, socket, looks })
    }

    /// The address, with the port that the system chose if that was 0.
    #[must_use]
    pub fn address(&self) -> &Address {
        &self.address
    }
}

// === impl Socket ===

impl Socket {
    async fn open(address: &Address) -> io::Result<Self> {
        match address {
            Address::Tcp(address) => {
                let socket = if address.is_ipv4() { TcpSocket::new_v4() } else { TcpSocket::new_v6() }?;
                socket.set_reuseaddr(true)?;
                // Its connections have these sizes as well.
                socket.set_recv_buffer_size(KERNEL)?;
                socket.set_send_buffer_size(KERNEL)?;
                socket.bind(*address)?;
                Ok(Self::Tcp(socket.listen(BACKLOG)?))
            }
            Address::Unix(path) => {
                remove_stale(path).await?;
                let socket = UnixSocket::new_stream()?;
                socket.bind(path)?;
                // Before it listens: until then no one can connect.
                fs::set_permissions(path, fs::Permissions::from_mode(MODE))?;
                let file = identity(path)?;
                Ok(Self::Unix(socket.listen(BACKLOG)?, path.clone(), file))
            }
        }
    }

    async fn accept(&self) -> io::Result<Box<dyn Stream>> {
        match self {
            Self::Tcp(listener) => {
                let (stream, _) = listener.accept().await?;
                // An event must not wait for the confirmation of the one before.
                let _ = stream.set_nodelay(true);
                Ok(Box::new(stream))
            }
            Self::Unix(listener, ..) => Ok(Box::new(listener.accept().await?.0)),
        }
    }

    /// Whether callers that find this file find this socket.
    fn is_file(&self, found: Option<Identity>) -> bool {
        matches!(self, Self::Unix(_, _, file) if found == Some(*file))
    }
}

impl Drop for Socket {
    fn drop(&mut self) {
        if let Self::Unix(_, path, file) = self
            && identity(path).is_ok_and(|present| present == *file)
        {
            // A file that cannot be removed is replaced at the next start.
            let _ = fs::remove_file(path);
        }
    }
}

// === impl Looks ===

impl Looks {
    fn at(path: PathBuf) -> io::Result<Self> {
        let (thread, asked) = mpsc::channel::<oneshot::Sender<_>>();
        let started = thread::Builder::new().spawn(move || {
            for answer in asked {
                let _ = answer.send(identity(&path).ok());
            }
        });
        started
            .map_err(|error| io::Error::new(error.kind(), format!("no thread can be started: {error}")))?;
        let mut every = interval(LOOK);
        // After a pause, looks that were missed have missed nothing.
        every.set_missed_tick_behavior(MissedTickBehavior::Delay);
        Ok(Self { every, thread, answer: None, missed: 0 })
    }

    /// The next look: the file that is there. It may be dropped and called again.
    async fn next(&mut self) -> Result<Option<Identity>, Silent> {
        if self.answer.is_none() {
            self.every.tick().await;
            let (sender, answer) = oneshot::channel();
            let _ = self.thread.send(sender);
            self.answer = Some(answer);
        }
        let answer = self.answer.as_mut().expect("it was asked for");
        select! {
            biased;
            found = answer => {
                self.answer = None;
                found.map_err(|_| Silent)
            }
            _ = self.every.tick() => Err(Silent),
        }
    }
}

/// The next look at the file of a Unix socket, if it is one, and the count of those that have missed it.
async fn look(looks: &mut Option<Looks>) -> (Result<Option<Identity>, Silent>, &mut u32) {
    let Some(looks) = looks else { return pending().await };
    let found = looks.next().await;
    (found, &mut looks.missed)
}

fn identity(path: &Path) -> io::Result<Identity> {
    fs::symlink_metadata(path).map(|file| (file.dev(), file.ino()))
}

/// Removes the socket's file that a process left there which has ended.
async fn remove_stale(path: &Path) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Ok(file) if file.file_type().is_socket() => {}
        Ok(_) => {
            let message = "there is a file that is not a socket. Remove it, or name another path";
            return Err(io::Error::new(ErrorKind::AlreadyExists, message));
        }
        Err(error) if error.kind() == ErrorKind::NotFound => return Ok(()),
        Err(error) => return Err(error),
    }
    match UnixStream::connect(path).await {
        Ok(_) => {
            let message = "another process listens there. End that process, or name another path";
            Err(io::Error::new(ErrorKind::AddrInUse, message))
        }
        Err(error) if error.kind() == ErrorKind::ConnectionRefused => fs::remove_file(path),
        Err(error) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_address_has_a_port_or_is_the_path_of_a_socket() {
        for text in ["127.0.0.1:8095", "[::1]:80", "unix:/run/lease/keeper.sock"] {
            assert_eq!(text.parse::<Address>().map(|address| address.to_string()).as_deref(), Ok(text));
        }
        for text in ["", "8095", "localhost", "127.0.0.1", "unix:", "unix:keeper.sock"] {
            assert_eq!(text.parse::<Address>(), Err(InvalidAddress(text.to_owned())));
        }
    }
}

//! The health of the service beside the keeper: a candidate whose service is dead holds no lease.

use std::ffi::OsString;
use std::fmt;
use std::os::unix::ffi::OsStrExt as _;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use http_body_util::Empty;
use hyper::body::Bytes;
use hyper::header::{HOST, USER_AGENT};
use hyper::{Request, Uri};
use rustls::pki_types::ServerName;
use thiserror::Error;
use tokio::io::{AsyncReadExt as _, join, split};
use tokio::net::TcpStream;
use tokio::sync::watch;
use tokio::time::{sleep, timeout};
use tokio_rustls::TlsConnector;
use tracing::{info, warn};

use super::command;
use super::held::{Lease, Obstacle};
use super::status::Running;
use crate::program::text::Quoted;
use crate::remote::http::{self, Stream};
use crate::remote::resolve;

/// How to find out whether the service is healthy.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Check {
    /// A GET request to this URL, answered with a status of 2xx or 3xx. Its certificate is not verified.
    Url(Uri),
    /// A program and its arguments, which exits with status 0. It is not interpreted by a shell. A
    /// [guard](command::guard) runs it.
    Command(Vec<String>),
}

/// The head of an answer is shorter, in bytes.
const MOST_READ: u64 = 64 * 1024;

/// How often it is checked, and how many results in a row count.
#[derive(Clone, Copy, Debug)]
pub struct Rhythm {
    /// The time between two checks, and the longest that one may take.
    pub every: Duration,
    /// So many failures in a row make the service unhealthy.
    pub failures: u32,
    /// So many successes in a row make it healthy again.
    pub successes: u32,
    /// Failures count from so long after the command has started, or from its first success.
    pub start: Duration,
    /// How long a candidate whose command was unhealthy waits before it takes the lease again, so that another one
    /// can.
    pub rest: Duration,
}

/// A text that is no check.
#[derive(Debug, PartialEq, Eq, Error)]
#[error("{} is neither a URL with http:// or https://, a host and a path, nor a program with arguments", Quoted(.0))]
pub struct NoCheck(String);

/// Checks until the keeper has ended. While the service is unhealthy, the lease is released and not taken. `running` is
/// the state of a command that only runs while the lease is held: the command is checked while it runs. An unhealthy
/// command is ended, and started again after a rest.
pub async fn watch(check: Check, rhythm: Rhythm, lease: Lease, running: Option<watch::Receiver<Running>>) {
    match running {
        None => beside(&check, rhythm, &lease).await,
        Some(running) => own(&check, rhythm, &lease, running).await,
    }
}

/// The service runs whether or not the lease is held.
async fn beside(check: &Check, rhythm: Rhythm, lease: &Lease) {
    let able = |able| lease.able(Obstacle::Health, able);
    able(Err("the service has not been seen healthy yet".to_owned()));
    let (mut healthy, mut was_healthy) = (false, false);
    // At the start the first success counts.
    let first = rhythm.successes.saturating_sub(1);
    let (mut failures, mut successes) = (0, first);
    loop {
        match check.result(rhythm.every).await {
            Ok(()) => {
                (failures, successes) = (0, successes + 1);
                if !healthy && successes >= rhythm.successes {
                    info!(%check, "the service is healthy");
                    (healthy, was_healthy) = (true, true);
                    able(Ok(()));
                }
            }
            Err(why) => {
                (failures, successes) = (failures + 1, if was_healthy { 0 } else { first });
                if failures == rhythm.failures {
                    let said = if was_healthy { "is unhealthy" } else { "has not been seen healthy yet" };
                    warn!(%check, why, "the service {said}");
                    healthy = false;
                    able(Err(format!("the service {said}: {why}")));
                }
            }
        }
        sleep(rhythm.every).await;
    }
}

/// The service is the command, which runs while the lease is held.
async fn own(check: &Check, rhythm: Rhythm, lease: &Lease, mut running: watch::Receiver<Running>) {
    let runs = |running: &Running| matches!(running, Running::Since(_));
    while reaches(&mut running, runs).await.is_ok() {
        let mut ends = running.clone();
        let unhealthy = async {
            let started = tokio::time::Instant::now();
            let (mut failures, mut was_healthy) = (0, false);
            loop {
                match check.result(rhythm.every).await {
                    Ok(()) => (failures, was_healthy) = (0, true),
                    Err(_) if !was_healthy && started.elapsed() < rhythm.start => {}
                    Err(why) => {
                        failures += 1;
                        if failures >= rhythm.failures {
                            return why;
                        }
                    }
                }
                sleep(rhythm.every).await;
            }
        };
        tokio::select! {
            ended = reaches(&mut ends, |running| !runs(running)) => if ended.is_err() { return },
            why = unhealthy => {
                warn!(%check, why, "the command is unhealthy");
                lease.able(Obstacle::Health, Err(format!("its command was unhealthy: {why}")));
                if reaches(&mut running, |running| *running == Running::No).await.is_err() {
                    return;
                }
                sleep(rhythm.rest).await;
                lease.able(Obstacle::Health, Ok(()));
            }
        }
    }
}

/// Waits until the command is in such a state.
async fn reaches(
    running: &mut watch::Receiver<Running>,
    state: impl FnMut(&Running) -> bool,
) -> Result<(), watch::error::RecvError> {
    running.wait_for(state).await.map(|_| ())
}

// === impl Check ===

impl Check {
    /// Checks that its program exists: a candidate that is passive for months must not find out only when it becomes active.
    ///
    /// # Errors
    /// It does not, or cannot be executed, in words.
    pub fn exists(&self) -> Result<(), String> {
        let Self::Command(command) = self else { return Ok(()) };
        let words: Vec<_> = command.iter().map(OsString::from).collect();
        if words.iter().any(|word| word.as_bytes().iter().any(|byte| b"'\"".contains(byte))) {
            return Err(format!(
                "--check: quotes are not interpreted in {self}: name a script that has them"
            ));
        }
        let hint = if command[0].contains(':') { ". A URL begins with http:// or https://" } else { "" };
        command::check(&words).map_err(|error| format!("--check: {error}{hint}"))
    }

    /// Whether it is a URL with a user, which would be in the log.
    #[must_use]
    pub fn has_user(&self) -> bool {
        let Self::Url(url) = self else { return false };
        url.authority().is_some_and(|authority| authority.as_str().contains('@'))
    }

    async fn result(&self, time: Duration) -> Result<(), String> {
        let result = async {
            match self {
                Self::Url(url) => get(url).await,
                Self::Command(command) => run(command, time).await,
            }
        };
        timeout(time, result).await.unwrap_or_else(|_| Err(format!("no result within {time:?}")))
    }
}

async fn get(url: &Uri) -> Result<(), String> {
    let is_https = url.scheme_str() == Some("https");
    let host = url.host().unwrap_or_default();
    let port = url.port_u16().unwrap_or(if is_https { 443 } else { 80 });
    // A literal IPv6 address is in brackets.
    let name = host.trim_start_matches('[').trim_end_matches(']');
    let addresses = resolve::addresses(name, port).await.map_err(|error| error.to_string())?;
    let stream = TcpStream::connect(&addresses[..]).await.map_err(|error| error.to_string())?;
    let stream: Box<dyn Stream> = if is_https {
        let server = ServerName::try_from(name.to_owned()).map_err(|error| error.to_string())?;
        let tls = TlsConnector::from(Arc::new(http::tls_of_any_certificate()));
        Box::new(tls.connect(server, stream).await.map_err(|error| error.to_string())?)
    } else {
        Box::new(stream)
    };
    // Answers before the answer may come without end.
    let (read, write) = split(stream);
    let stream = Box::new(join(read.take(MOST_READ), write));
    let path = url.path_and_query().map_or("/", |path| path.as_str());
    let request =
        Request::get(path).header(HOST, url.authority().map_or(host, |authority| authority.as_str()));
    let request = request.header(USER_AGENT, "lease-keeper").body(Empty::<Bytes>::new());
    let request = request.map_err(|error| error.to_string())?;
    let (response, _connection) = http::send(stream, request).await.map_err(|error| error.to_string())?;
    let status = response.status();
    if status.is_success() || status.is_redirection() {
        Ok(())
    } else {
        Err(format!("status {}", status.as_u16()))
    }
}

/// Dropped, it kills the program, and the processes that the program has started.
async fn run(command: &[String], longest: Duration) -> Result<(), String> {
    let program = command.first().expect("a check's command is not empty");
    match command::once(command, longest).await {
        Ok(0) => Ok(()),
        Ok(status) => Err(format!("{program} ended with status {status}")),
        Err(cause) => Err(format!("{program} cannot be run: {cause}")),
    }
}

impl FromStr for Check {
    type Err = NoCheck;

    fn from_str(text: &str) -> Result<Self, NoCheck> {
        let none = || NoCheck(text.to_owned());
        if text.starts_with("http://") || text.starts_with("https://") {
            let url: Uri = text.parse().map_err(|_| none())?;
            return if url.host().is_some_and(|host| !host.is_empty()) {
                Ok(Self::Url(url))
            } else {
                Err(none())
            };
        }
        let command: Vec<_> = text.split_whitespace().map(str::to_owned).collect();
        let has_program = command.first().is_some_and(|program| !program.contains("://"));
        if has_program { Ok(Self::Command(command)) } else { Err(none()) }
    }
}

impl fmt::Display for Check {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Url(url) => write!(f, "{url}"),
            Self::Command(command) => f.write_str(&command.join(" ")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_url_with_a_user_is_told_from_others() {
        for (text, has_user) in
            [("http://me:secret@host/", true), ("http://host/@", false), ("sh me@host", false)]
        {
            assert_eq!(text.parse::<Check>().unwrap().has_user(), has_user, "{text}");
        }
    }

    #[test]
    fn a_check_whose_program_does_not_exist_is_told_at_the_start() {
        for (text, said) in [
            ("sh -c true", None),
            ("http://127.0.0.1:8080/healthz", None),
            ("127.0.0.1:8080/healthz", Some("A URL begins with http:// or https://")),
            ("/no/such -q", Some("there is no such program")),
            ("sh -c 'exit 1'", Some("quotes are not interpreted")),
        ] {
            let exists = text.parse::<Check>().unwrap().exists();
            let is_said =
                exists.as_ref().err().is_some_and(|error| said.is_some_and(|said| error.contains(said)));
            assert!(is_said || said.is_none() && exists.is_ok(), "{text}: {exists:?}");
        }
    }

    #[test]
    fn a_check_is_a_url_or_a_program() {
        for (text, is) in [
            ("http://127.0.0.1:8080/healthz", Some("http://127.0.0.1:8080/healthz")),
            ("pg_isready -q  -h localhost", Some("pg_isready -q -h localhost")),
            ("", None),
            ("http://", None),
            ("http:///path", None),
            ("ftp://host/path", None),
        ] {
            let check = text.parse::<Check>();
            assert_eq!(check.as_ref().map(ToString::to_string).ok().as_deref(), is, "{text}: {check:?}");
        }
    }
}

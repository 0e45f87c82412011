//! The zone's own name servers: what each of them answers about the sentinels.
//!
//! A question is asked with a random id from a connected socket with a random port. An answer counts if it has that id
//! and repeats the question, says that it is authoritative and has no error, and has one TXT record of one string that
//! is one of the sentinel's two.

use std::collections::{BTreeMap, VecDeque};
use std::io;
use std::net::{Ipv4Addr, Ipv6Addr, SocketAddr};
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::future::join_all;
use hickory_proto::op::{Message, MessageType, OpCode, Query, ResponseCode};
use hickory_proto::rr::{DNSClass, Name, RData, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::{Instant, timeout, timeout_at};
use tracing::debug;

use super::config::{Latch, NameServer};
use super::seen::{Record, Verdict, Verdicts};
use crate::remote::resolve;

/// How long a name server has for an answer over UDP.
const UDP: Duration = Duration::from_secs(1);
/// How long a name server has for all answers over UDP: some answers may be lost.
const ALL_UDP: Duration = Duration::from_secs(2);
/// How long a name server has for all answers over TCP.
const TCP: Duration = Duration::from_secs(2);
/// How many questions wait for their answers at a time: so many fit the kernel's buffer of a socket.
const WINDOW: usize = 128;
/// The largest answer over UDP without EDNS, and more.
const DATAGRAM: usize = 1500;
/// How often a question is asked that every name server has to answer.
const TRIES: u32 = 4;
/// How often addresses are looked up anew.
const LOOKED_UP: Duration = Duration::from_mins(10);

/// A question about a sentinel.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Question {
    /// The sentinel.
    pub name: Name,
    /// The texts of its PRIMARY and its SECONDARY record.
    pub texts: [&'static str; 2],
}

/// The transport of a question.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Transport {
    /// UDP, and TCP for a truncated answer.
    Udp,
    /// TCP.
    Tcp,
}

/// The zone's name servers, with the addresses that are used now.
#[derive(Clone, Debug)]
pub struct NameServers {
    servers: Arc<[NameServer]>,
    known: Arc<Mutex<Known>>,
}

#[derive(Debug)]
struct Known {
    addresses: Vec<SocketAddr>,
    looked_up: Option<Instant>,
}

/// A message that answers a question.
enum Reply {
    Answer(Option<Record>),
    Truncated,
}

// === impl Question ===

impl Question {
    /// Which site Route 53 answers.
    #[must_use]
    pub fn serving(latch: &Latch) -> Self {
        Self { name: latch.serving.clone(), texts: ["primary", "standby"] }
    }

    /// Whether the check of this sentinel is healthy.
    #[must_use]
    pub fn healthy(sentinel: &Name) -> Self {
        Self { name: sentinel.clone(), texts: ["healthy", "unhealthy"] }
    }
}

// === impl NameServers ===

impl NameServers {
    /// The name servers at their last known addresses.
    #[must_use]
    pub fn new(servers: &[NameServer]) -> Self {
        let addresses = servers.iter().map(|server| server.address).collect();
        let known = Known { addresses, looked_up: None };
        Self { servers: servers.into(), known: Arc::new(Mutex::new(known)) }
    }

    /// Asks every name server all of these questions. Returns the valid answers to each question.
    pub async fn ask(&self, questions: &[Question], transport: Transport) -> Vec<Vec<Record>> {
        if questions.is_empty() {
            return Vec::new();
        }
        let addresses = self.addresses();
        let answers = addresses.into_iter().map(|address| async move {
            match transport {
                Transport::Udp => over_udp(address, questions).await,
                Transport::Tcp => over_tcp(address, questions).await,
            }
        });
        let answers = join_all(answers).await;
        let to = |question: usize| answers.iter().filter_map(|of_server| of_server[question]).collect();
        (0..questions.len()).map(to).collect()
    }

    /// Asks about the two sentinels of each of these latches that decide. The primary's own is not asked about: blind.
    pub async fn deciding(&self, latches: &[&Latch], transport: Transport) -> Vec<Verdicts> {
        let questions = |latch: &&Latch| [Question::serving(latch), Question::healthy(&latch.standby)];
        let questions: Vec<_> = latches.iter().flat_map(questions).collect();
        let said = self.verdicts(&questions, transport).await;
        let of = |said: &[Verdict]| Verdicts { serving: said[0], primary: Verdict::Blind, standby: said[1] };
        said.chunks(2).map(of).collect()
    }

    /// Asks over UDP whether the primary of each of these latches is healthy.
    pub async fn primaries(&self, latches: &[&Latch]) -> Vec<Verdict> {
        let questions: Vec<_> = latches.iter().map(|latch| Question::healthy(&latch.primary)).collect();
        self.verdicts(&questions, Transport::Udp).await
    }

    /// Whether every name server answers, and with this record.
    pub async fn all_answer(&self, question: Question, record: Record) -> bool {
        // A datagram may be lost.
        for _ in 0..TRIES {
            let answers = self.ask(std::slice::from_ref(&question), Transport::Udp).await.remove(0);
            if answers.iter().any(|answer| *answer != record) {
                return false;
            }
            if answers.len() == self.servers.len() {
                return true;
            }
        }
        false
    }

    async fn verdicts(&self, questions: &[Question], transport: Transport) -> Vec<Verdict> {
        let answers = self.ask(questions, transport).await;
        answers.into_iter().map(Verdict::of).collect()
    }

    /// Looks the addresses up in the background, if that is due.
    pub fn look_up(&self) {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if known.looked_up.is_some_and(|last| last.elapsed() < LOOKED_UP) {
            return;
        }
        known.looked_up = Some(Instant::now());
        drop(known);
        let this = self.clone();
        tokio::spawn(async move { this.look_up_now().await });
    }

    /// Looks the addresses up, within 2 s. Where it fails, the known address is kept.
    pub async fn look_up_now(&self) {
        let found = join_all(self.servers.iter().map(address)).await;
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        let new: Vec<_> = known.addresses.iter().zip(found).map(|(old, new)| new.unwrap_or(*old)).collect();
        let differ = |at: usize| !new[..at].contains(&new[at]);
        // Two servers at one address would count as two answers.
        if (0..new.len()).all(differ) {
            known.addresses = new;
        }
    }

    fn addresses(&self) -> Vec<SocketAddr> {
        self.known.lock().unwrap_or_else(PoisonError::into_inner).addresses.clone()
    }
}

/// Looks up a name server's address.
async fn address(server: &NameServer) -> Option<SocketAddr> {
    let name = server.name.as_deref()?;
    let found = timeout(TCP, resolve::addresses(name, server.address.port())).await;
    let found = match found {
        Ok(Ok(found)) => found,
        Ok(Err(error)) => {
            debug!(name, %error, "the name server's address cannot be looked up: the known one is used");
            return None;
        }
        Err(_) => return None,
    };
    found.into_iter().find(|found| found.is_ipv4() == server.address.is_ipv4())
}

async fn over_udp(server: SocketAddr, questions: &[Question]) -> Vec<Option<Record>> {
    let mut answers = vec![None; questions.len()];
    let mut truncated = Vec::new();
    // What it has answered until then counts.
    match timeout(ALL_UDP, exchange(server, questions, &mut answers, &mut truncated)).await {
        Ok(Err(error)) => debug!(%server, %error, "the name server cannot be asked over UDP"),
        Err(_) => debug!(%server, "the name server has not answered everything over UDP in time"),
        Ok(Ok(())) => {}
    }
    if !truncated.is_empty() {
        let again: Vec<_> = truncated.iter().map(|at: &usize| questions[*at].clone()).collect();
        for (at, answer) in truncated.into_iter().zip(over_tcp(server, &again).await) {
            answers[at] = answer;
        }
    }
    answers
}

async fn exchange(
    server: SocketAddr,
    questions: &[Question],
    answers: &mut [Option<Record>],
    truncated: &mut Vec<usize>,
) -> io::Result<()> {
    let any =
        if server.is_ipv4() { (Ipv4Addr::UNSPECIFIED, 0).into() } else { (Ipv6Addr::UNSPECIFIED, 0).into() };
    let socket = UdpSocket::bind::<SocketAddr>(any).await?;
    socket.connect(server).await?;
    let mut waiting = BTreeMap::new();
    let mut sent = VecDeque::new();
    let mut next = 0;
    // Those that it does not answer are not all among the first ones of each look.
    let mut order: Vec<_> = (0..questions.len()).collect();
    fastrand::shuffle(&mut order);
    let mut heard = false;
    let mut datagram = [0; DATAGRAM];
    loop {
        while waiting.len() < WINDOW && next < questions.len() {
            let at = order[next];
            let query = query(&questions[at]);
            let id = query.metadata.id;
            if waiting.contains_key(&id) {
                continue;
            }
            socket.send(&encoded(&query)?).await?;
            waiting.insert(id, at);
            sent.push_back((id, Instant::now() + UDP));
            next += 1;
        }
        let Some((oldest, until)) = sent.front().copied() else { return Ok(()) };
        if !waiting.contains_key(&oldest) {
            sent.pop_front();
            continue;
        }
        match timeout_at(until, socket.recv(&mut datagram)).await {
            Ok(Ok(length)) => {
                let Ok(message) = Message::from_vec(&datagram[..length]) else { continue };
                let id = message.metadata.id;
                let Some(at) = waiting.get(&id).copied() else { continue };
                match reply(&message, &questions[at]) {
                    Some(Reply::Answer(answer)) => answers[at] = answer,
                    Some(Reply::Truncated) => truncated.push(at),
                    // It answers another question: another machine sent it.
                    None => continue,
                }
                waiting.remove(&id);
                heard = true;
            }
            // The port is closed; or another machine says so.
            Ok(Err(_)) => {}
            Err(_) if heard => drop(waiting.remove(&oldest)),
            Err(_) => return Err(io::ErrorKind::TimedOut.into()),
        }
    }
}

async fn over_tcp(server: SocketAddr, questions: &[Question]) -> Vec<Option<Record>> {
    let mut answers = vec![None; questions.len()];
    let mut open: Vec<usize> = (0..questions.len()).collect();
    let until = Instant::now() + TCP;
    // A server may close a connection before it has answered everything.
    loop {
        let before = open.len();
        let conversed = timeout_at(until, converse(server, questions, &mut answers, &mut open)).await;
        match conversed {
            Ok(Err(error)) => debug!(%server, %error, "the connection to the name server broke off"),
            Err(_) => debug!(%server, "the name server has not answered over TCP in time"),
            Ok(Ok(())) => {}
        }
        if open.is_empty() || open.len() == before || Instant::now() >= until {
            return answers;
        }
    }
}

async fn converse(
    server: SocketAddr,
    questions: &[Question],
    answers: &mut [Option<Record>],
    open: &mut Vec<usize>,
) -> io::Result<()> {
    let stream = TcpStream::connect(server).await?;
    stream.set_nodelay(true)?;
    let (mut from, mut to) = stream.into_split();
    let mut waiting = BTreeMap::new();
    let mut all = Vec::new();
    for at in open.iter().copied() {
        let mut query = query(&questions[at]);
        while waiting.contains_key(&query.metadata.id) {
            query = self::query(&questions[at]);
        }
        let message = encoded(&query)?;
        all.extend(u16::try_from(message.len()).expect("a question is short").to_be_bytes());
        all.extend(message);
        waiting.insert(query.metadata.id, at);
    }
    let write = async {
        to.write_all(&all).await?;
        to.flush().await
    };
    let read = async {
        while !waiting.is_empty() {
            let mut message = vec![0; usize::from(from.read_u16().await?)];
            from.read_exact(&mut message).await?;
            let Ok(message) = Message::from_vec(&message) else { continue };
            let Some(at) = waiting.get(&message.metadata.id).copied() else { continue };
            // A truncated answer over TCP is no answer.
            let Some(reply) = reply(&message, &questions[at]) else { continue };
            answers[at] = match reply {
                Reply::Answer(answer) => answer,
                Reply::Truncated => None,
            };
            waiting.remove(&message.metadata.id);
            open.retain(|open| *open != at);
        }
        Ok::<_, io::Error>(())
    };
    let (written, read) = futures_util::future::join(write, read).await;
    read.and(written)
}

fn query(question: &Question) -> Message {
    let mut message = Message::query();
    message.add_query(Query::query(question.name.clone(), RecordType::TXT));
    message
}

fn encoded(message: &Message) -> io::Result<Vec<u8>> {
    message.to_vec().map_err(io::Error::other)
}

/// Reads a message with the id of this question; `None` if it answers another question.
fn reply(message: &Message, question: &Question) -> Option<Reply> {
    let [asked] = message.queries.as_slice() else { return None };
    let is_answer = message.metadata.message_type == MessageType::Response
        && message.metadata.op_code == OpCode::Query
        && asked.name() == &question.name
        && asked.query_type() == RecordType::TXT
        && asked.query_class() == DNSClass::IN;
    if !is_answer {
        return None;
    }
    Some(if message.metadata.truncation {
        Reply::Truncated
    } else {
        Reply::Answer(answer(message, question))
    })
}

/// Reads the answer; `None` if it is not valid.
fn answer(message: &Message, question: &Question) -> Option<Record> {
    if message.metadata.response_code != ResponseCode::NoError || !message.metadata.authoritative {
        return None;
    }
    let [record] = message.answers.as_slice() else { return None };
    let RData::TXT(text) = &record.data else { return None };
    let [text] = &*text.txt_data else { return None };
    if record.name != question.name || record.dns_class != DNSClass::IN {
        return None;
    }
    let [primary, secondary] = question.texts.map(str::as_bytes);
    match &**text {
        text if text == primary => Some(Record::Primary),
        text if text == secondary => Some(Record::Secondary),
        _ => None,
    }
}

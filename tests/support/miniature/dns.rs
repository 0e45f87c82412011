//! Four authoritative name servers on loopback that answer from a world, each with its own lag and faults.

use std::collections::BTreeMap;
use std::io::{Error, Result};
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use hickory_proto::op::{Message, OpCode, Query, ResponseCode};
use hickory_proto::rr::rdata::{A, TXT};
use hickory_proto::rr::{DNSClass, Name, RData, Record, RecordType};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream, UdpSocket};
use tokio::task::JoinHandle;
use tokio::time::sleep;

use super::Shared;
use super::records::{Answer, Kind, SERVERS, ZONE, normal};

/// The zone's name servers; they end with the runtime that they were started on.
#[derive(Clone)]
pub struct NameServers([Arc<Server>; SERVERS]);

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Transport {
    Udp,
    Tcp,
}

/// What a name server does instead of its answer.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fault {
    #[default]
    None,
    /// It reads the query, and never answers.
    Silent,
    /// The answer comes this much later.
    Slow(Duration),
    /// It answers with this code, and with no record.
    Code(ResponseCode),
    /// The answer is not authoritative.
    Lame,
    /// The answer has TC set, and no record.
    Truncated,
    /// A datagram with another id and this text comes first, then the answer.
    Forged(&'static str),
    /// The id of the answer is not the query's.
    WrongId,
    /// The question in the answer has another name.
    WrongQuestion,
    /// The record in the answer has another name.
    WrongName,
    /// The record in the answer has another type.
    WrongType,
    /// The record in the answer has another class.
    WrongClass,
    /// A second record, `second`, is in the answer.
    TwoRecords,
    /// The text comes in two halves, as two strings of one record.
    TwoStrings,
    /// The record has this text.
    Text(&'static str),
    /// The answer is not a DNS message.
    Garbage,
    /// The connection is reset after the query; over UDP, there is no answer.
    Reset,
}

struct Server {
    number: usize,
    address: SocketAddr,
    world: Shared,
    state: Mutex<State>,
}

#[derive(Default)]
struct State {
    faults: BTreeMap<Transport, Fault>,
    /// Those of one name alone.
    faults_about: BTreeMap<(String, Transport), Fault>,
    queries: BTreeMap<(String, Transport), usize>,
    /// The task that accepts connections, while the TCP port is open.
    accepting: Option<JoinHandle<()>>,
}

// === impl NameServers ===

impl NameServers {
    pub async fn start(world: &Shared) -> Self {
        let mut servers = Vec::new();
        for number in 0..SERVERS {
            servers.push(Server::start(number, world.clone()).await);
        }
        Self(servers.try_into().unwrap_or_else(|_| unreachable!("there are {SERVERS}")))
    }

    /// Where a server listens, over UDP and TCP.
    pub fn address(&self, server: usize) -> SocketAddr {
        self.0[server].address
    }

    /// All of them, as the variable `NAME_SERVERS` has them.
    pub fn variable(&self) -> String {
        let names = self.0.iter().zip(super::records::NAMES);
        names.map(|(server, name)| format!("{name}={}", server.address)).collect::<Vec<_>>().join(",")
    }

    /// Sets what a server does over UDP and TCP, from the next query on.
    pub fn set_fault(&self, server: usize, fault: Fault) {
        for transport in [Transport::Udp, Transport::Tcp] {
            self.set_fault_over(server, transport, fault);
        }
    }

    /// The same for one transport.
    pub fn set_fault_over(&self, server: usize, transport: Transport, fault: Fault) {
        self.0[server].state().faults.insert(transport, fault);
    }

    /// The same for the queries for one name, over UDP and TCP; other queries keep the server's fault.
    pub fn set_fault_about(&self, server: usize, name: &str, fault: Fault) {
        for transport in [Transport::Udp, Transport::Tcp] {
            self.set_fault_about_over(server, name, transport, fault);
        }
    }

    /// The same for the queries for one name over one transport.
    pub fn set_fault_about_over(&self, server: usize, name: &str, transport: Transport, fault: Fault) {
        self.0[server].state().faults_about.insert((normal(name), transport), fault);
    }

    /// Closes a server's TCP port: a connection is refused.
    pub async fn close_tcp(&self, server: usize) {
        let accepting = self.0[server].state().accepting.take();
        if let Some(accepting) = accepting {
            accepting.abort();
            // The listener is gone when the task is.
            let _ = accepting.await;
        }
    }

    /// Opens the port again.
    pub async fn open_tcp(&self, server: usize) {
        let server = &self.0[server];
        let listener = TcpListener::bind(server.address).await.expect("the port was this server's");
        server.accept(listener);
    }

    /// How many queries for the name have come to a server.
    pub fn queries(&self, server: usize, name: &str, transport: Transport) -> usize {
        self.0[server].state().queries.get(&(normal(name), transport)).copied().unwrap_or(0)
    }
}

// === impl Server ===

impl Server {
    async fn start(number: usize, world: Shared) -> Arc<Self> {
        let (listener, socket) = loop {
            let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
            let address = listener.local_addr().expect("a bound socket has an address");
            // Another program can have the same port over UDP.
            if let Ok(socket) = UdpSocket::bind(address).await {
                break (listener, socket);
            }
        };
        let address = listener.local_addr().expect("a bound socket has an address");
        let server = Arc::new(Self { number, address, world, state: Mutex::default() });
        server.accept(listener);
        tokio::spawn(Arc::clone(&server).receive(socket));
        server
    }

    fn state(&self) -> MutexGuard<'_, State> {
        self.state.lock().expect("no test panics while it holds the state")
    }

    fn accept(self: &Arc<Self>, listener: TcpListener) {
        let server = Arc::clone(self);
        let accepting = tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let server = Arc::clone(&server);
                // Whichever side breaks off ends the connection.
                tokio::spawn(async move { server.converse(stream).await.ok() });
            }
        });
        self.state().accepting = Some(accepting);
    }

    async fn receive(self: Arc<Self>, socket: UdpSocket) {
        let socket = Arc::new(socket);
        let mut datagram = [0; 4096];
        while let Ok((length, from)) = socket.recv_from(&mut datagram).await {
            let query = datagram[..length].to_vec();
            let (server, socket) = (Arc::clone(&self), Arc::clone(&socket));
            tokio::spawn(async move {
                for answer in server.answer(&query, Transport::Udp).await.unwrap_or_default() {
                    // If the client is gone, no one misses the answer.
                    let _ = socket.send_to(&answer, from).await;
                }
            });
        }
    }

    async fn converse(&self, mut stream: TcpStream) -> Result<()> {
        loop {
            let mut query = vec![0; stream.read_u16().await?.into()];
            stream.read_exact(&mut query).await?;
            let Some(answers) = self.answer(&query, Transport::Tcp).await else {
                return stream.set_zero_linger();
            };
            for answer in answers {
                let length = u16::try_from(answer.len()).map_err(Error::other)?;
                stream.write_all(&[&length.to_be_bytes(), answer.as_slice()].concat()).await?;
            }
        }
    }

    /// Counts a query, and returns the fault that it meets.
    fn count(&self, name: &str, transport: Transport) -> Fault {
        let (mut state, about) = (self.state(), (normal(name), transport));
        *state.queries.entry(about.clone()).or_default() += 1;
        let fault = state.faults_about.get(&about).or_else(|| state.faults.get(&transport));
        fault.copied().unwrap_or_default()
    }

    /// The messages that answer a query, in their order; none at all if the connection is to be reset.
    async fn answer(&self, query: &[u8], transport: Transport) -> Option<Vec<Vec<u8>>> {
        let Ok(query) = Message::from_vec(query) else { return Some(Vec::new()) };
        let [question] = query.queries.as_slice() else { return Some(Vec::new()) };
        let fault = self.count(&question.name().to_ascii(), transport);
        match fault {
            Fault::Silent => return Some(Vec::new()),
            Fault::Garbage => return Some(vec![b"no DNS".to_vec()]),
            Fault::Reset => return None,
            Fault::Slow(delay) => sleep(delay).await,
            _ => {}
        }
        let right = self.right(&query, question);
        let messages = if let Fault::Forged(text) = fault {
            let mut forged = spoil(&right, Fault::Text(text));
            forged.metadata.id = !forged.metadata.id;
            vec![forged, right]
        } else {
            vec![spoil(&right, fault)]
        };
        Some(messages.iter().map(|message| message.to_vec().expect("the message can be encoded")).collect())
    }

    /// The answer of a server without faults.
    fn right(&self, query: &Message, question: &Query) -> Message {
        let mut message = Message::response(query.metadata.id, OpCode::Query);
        message.metadata.recursion_desired = query.metadata.recursion_desired;
        message.add_query(question.clone());
        let name = normal(&question.name().to_ascii());
        if name != ZONE && !name.ends_with(&format!(".{ZONE}")) {
            message.metadata.response_code = ResponseCode::Refused;
            return message;
        }
        message.metadata.authoritative = true;
        let kind = Kind::parse(&question.query_type().to_string());
        let answer = kind.map(|kind| self.world.lock().answer(self.number, &name, kind));
        match answer {
            Some(Answer::Values { ttl, values }) => {
                let data = values.iter().filter_map(|value| data(question.query_type(), value));
                let record = |data| Record::from_rdata(question.name().clone(), ttl, data);
                message.add_answers(data.map(record).collect::<Vec<_>>());
            }
            Some(Answer::NoName) => message.metadata.response_code = ResponseCode::NXDomain,
            Some(Answer::NoData) | None => {}
        }
        message
    }
}

/// A record's data from its value in the zone.
fn data(kind: RecordType, value: &str) -> Option<RData> {
    match kind {
        RecordType::A => value.parse().ok().map(|address| RData::A(A(address))),
        RecordType::TXT => {
            let strings = value.split('"').skip(1).step_by(2).map(str::to_owned);
            Some(RData::TXT(TXT::new(strings.collect())))
        }
        _ => None,
    }
}

/// The answer with a fault in it.
fn spoil(right: &Message, fault: Fault) -> Message {
    let mut message = right.clone();
    let other = || Name::from_ascii(format!("other.{ZONE}.")).expect("a valid name");
    let text = |strings: &[&str]| RData::TXT(TXT::new(strings.iter().map(ToString::to_string).collect()));
    let first = message.answers.first().cloned();
    match (fault, message.answers.first_mut()) {
        (Fault::Code(code), _) => {
            message.metadata.response_code = code;
            message.answers.clear();
        }
        (Fault::Lame, _) => message.metadata.authoritative = false,
        (Fault::Truncated, _) => {
            message.metadata.truncation = true;
            message.answers.clear();
        }
        (Fault::WrongId, _) => message.metadata.id = !message.metadata.id,
        (Fault::WrongQuestion, _) => {
            message.queries[0].set_name(other());
        }
        (Fault::WrongName, Some(record)) => record.name = other(),
        (Fault::WrongType, Some(record)) => record.data = RData::A(A::new(192, 0, 2, 1)),
        (Fault::WrongClass, Some(record)) => record.dns_class = DNSClass::CH,
        (Fault::TwoRecords, Some(_)) => {
            let mut second = first.expect("there is a first");
            second.data = text(&["second"]);
            message.answers.push(second);
        }
        (Fault::TwoStrings, Some(record)) => {
            if let RData::TXT(whole) = &record.data {
                let whole = String::from_utf8_lossy(&whole.txt_data.concat()).into_owned();
                let (one, two) = whole.split_at(whole.len() / 2);
                record.data = text(&[one, two]);
            }
        }
        (Fault::Text(other), Some(record)) => record.data = text(&[other]),
        // The answer has no record to spoil, or the fault is not in the message.
        _ => {}
    }
    message
}

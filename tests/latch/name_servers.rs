//! The miniature's name servers, byte by byte: the client here shares no code with them.

use std::io::ErrorKind;
use std::net::SocketAddr;
use std::time::Duration;

use crate::support::miniature::Shared;
use crate::support::miniature::dns::{Fault, NameServers, Transport};
use crate::support::miniature::records::{Record, SERVERS};
use crate::support::miniature::world::World;
use hickory_proto::op::ResponseCode;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::task::JoinSet;
use tokio::time::{Instant, timeout};

const NAME: &str = "_serving.app.example.com";
const ID: u16 = 0x1234;
const TXT: u16 = 16;
/// The bits of the flags.
const RESPONSE: u16 = 0x8000;
const AUTHORITATIVE: u16 = 0x0400;
const TRUNCATED: u16 = 0x0200;
/// No answer comes for so long.
const SILENCE: Duration = Duration::from_millis(300);

/// A message as it came.
#[derive(Clone, Debug, PartialEq, Eq)]
struct Reply {
    id: u16,
    flags: u16,
    question: (String, u16, u16),
    /// Name, type, class, TTL and data of each record.
    records: Vec<(String, u16, u16, u32, Vec<u8>)>,
}

#[tokio::test]
async fn each_server_answers_over_udp_and_tcp_and_counts() {
    let servers = servers().await;
    for server in 0..SERVERS {
        for transport in [Transport::Udp, Transport::Tcp] {
            assert_eq!(ask(&servers, server, transport).await, [right("primary")]);
            assert_eq!(servers.queries(server, NAME, transport), 1);
        }
    }
    assert_eq!(servers.queries(0, "other.example.com", Transport::Udp), 0);
}

#[tokio::test]
async fn a_connection_serves_several_queries() {
    let servers = servers().await;
    let mut stream = TcpStream::connect(servers.address(0)).await.unwrap();
    for _ in 0..2 {
        assert_eq!(exchange(&mut stream, NAME, TXT).await.unwrap(), right("primary"));
    }
}

#[tokio::test]
async fn a_name_that_does_not_exist_and_a_name_of_another_zone_have_their_codes() {
    let servers = servers().await;
    for (name, flags) in [
        ("none.example.com", RESPONSE | AUTHORITATIVE | 3),
        ("app.example.com", RESPONSE | AUTHORITATIVE),
        ("www.example.org", RESPONSE | 5),
    ] {
        let mut stream = TcpStream::connect(servers.address(0)).await.unwrap();
        let reply = exchange(&mut stream, name, TXT).await.unwrap();
        assert_eq!((reply.flags, reply.records), (flags, Vec::new()), "{name}");
    }
}

#[tokio::test]
async fn each_fault_is_seen_on_the_wire() {
    let code = |code: u16| Reply { flags: right("").flags | code, records: Vec::new(), ..right("") };
    let spoilt = |spoil: fn(&mut Reply)| {
        let mut reply = right("primary");
        spoil(&mut reply);
        vec![reply]
    };
    let cases = [
        (Fault::None, vec![right("primary")]),
        (Fault::Silent, Vec::new()),
        (Fault::Code(ResponseCode::Refused), vec![code(5)]),
        (Fault::Code(ResponseCode::ServFail), vec![code(2)]),
        (Fault::Code(ResponseCode::NXDomain), vec![code(3)]),
        (Fault::Code(ResponseCode::NoError), vec![code(0)]),
        (Fault::Lame, spoilt(|reply| reply.flags = RESPONSE)),
        (Fault::Truncated, vec![code(TRUNCATED)]),
        (Fault::WrongId, spoilt(|reply| reply.id = !ID)),
        (Fault::Forged("standby"), vec![Reply { id: !ID, ..right("standby") }, right("primary")]),
        (Fault::WrongQuestion, spoilt(|reply| reply.question.0 = "other.example.com".to_owned())),
        (Fault::WrongName, spoilt(|reply| reply.records[0].0 = "other.example.com".to_owned())),
        (
            Fault::WrongType,
            spoilt(|reply| (reply.records[0].1, reply.records[0].4) = (1, vec![192, 0, 2, 1])),
        ),
        (Fault::WrongClass, spoilt(|reply| reply.records[0].2 = 3)),
        (Fault::TwoRecords, spoilt(|reply| reply.records.push(right("second").records.remove(0)))),
        (Fault::TwoStrings, spoilt(|reply| reply.records[0].4 = b"\x03pri\x04mary".to_vec())),
        (Fault::Text("yes"), vec![right("yes")]),
    ];
    // All at once, since each waits for what must not come.
    let mut asking = JoinSet::new();
    for (fault, expected) in cases {
        asking.spawn(async move {
            let servers = servers().await;
            servers.set_fault(0, fault);
            for transport in [Transport::Udp, Transport::Tcp] {
                assert_eq!(ask(&servers, 0, transport).await, expected, "{fault:?} over {transport:?}");
            }
            assert_eq!(
                ask(&servers, 1, Transport::Udp).await,
                [right("primary")],
                "{fault:?} of another server"
            );
        });
    }
    asking.join_all().await;
}

#[tokio::test]
async fn a_slow_server_answers_later() {
    let servers = servers().await;
    servers.set_fault(0, Fault::Slow(Duration::from_millis(100)));
    for transport in [Transport::Udp, Transport::Tcp] {
        let asked = Instant::now();
        assert_eq!(ask(&servers, 0, transport).await, [right("primary")]);
        assert!(asked.elapsed() >= Duration::from_millis(100));
    }
}

#[tokio::test]
async fn a_server_can_differ_over_tcp_and_send_what_is_no_message() {
    let servers = servers().await;
    servers.set_fault_over(0, Transport::Udp, Fault::Truncated);
    servers.set_fault_over(0, Transport::Tcp, Fault::Text("standby"));
    assert_eq!(ask(&servers, 0, Transport::Udp).await[0].flags & TRUNCATED, TRUNCATED);
    assert_eq!(ask(&servers, 0, Transport::Tcp).await, [right("standby")]);

    servers.set_fault_over(0, Transport::Udp, Fault::Garbage);
    let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
    socket.send_to(&query(NAME, TXT), servers.address(0)).await.unwrap();
    let mut datagram = [0; 512];
    let length = timeout(Duration::from_secs(5), socket.recv(&mut datagram)).await.unwrap().unwrap();
    assert_eq!(&datagram[..length], b"no DNS");
}

#[tokio::test]
async fn a_fault_can_concern_one_name_alone() {
    let servers = servers().await;
    servers.set_fault_about(0, "other.example.com", Fault::Text("standby"));
    assert_eq!(ask(&servers, 0, Transport::Udp).await, [right("primary")]);
    servers.set_fault_about(0, NAME, Fault::Text("standby"));
    for transport in [Transport::Udp, Transport::Tcp] {
        assert_eq!(ask(&servers, 0, transport).await, [right("standby")]);
    }
}

#[tokio::test]
async fn a_connection_is_reset_or_refused_until_the_port_is_open_again() {
    let servers = servers().await;
    servers.set_fault_over(0, Transport::Tcp, Fault::Reset);
    let mut stream = TcpStream::connect(servers.address(0)).await.unwrap();
    assert_eq!(exchange(&mut stream, NAME, TXT).await.unwrap_err(), ErrorKind::ConnectionReset);

    servers.set_fault_over(0, Transport::Tcp, Fault::None);
    servers.close_tcp(0).await;
    let refused = TcpStream::connect(servers.address(0)).await.unwrap_err();
    assert_eq!(refused.kind(), ErrorKind::ConnectionRefused);
    assert_eq!(ask(&servers, 0, Transport::Udp).await, [right("primary")]);

    servers.open_tcp(0).await;
    assert_eq!(ask(&servers, 0, Transport::Tcp).await, [right("primary")]);
}

// --- A client

async fn servers() -> NameServers {
    let mut world = World::new(1);
    world.put([Record::txt(NAME, "primary")]);
    NameServers::start(&Shared::new(world)).await
}

/// The answer of a server without faults.
fn right(text: &str) -> Reply {
    let length = u8::try_from(text.len()).unwrap();
    let data = [&[length], text.as_bytes()].concat();
    Reply {
        id: ID,
        flags: RESPONSE | AUTHORITATIVE,
        question: (NAME.to_owned(), TXT, 1),
        records: vec![(NAME.to_owned(), TXT, 1, 10, data)],
    }
}

/// Every message that answers a query, until there is silence where a further one is possible.
async fn ask(servers: &NameServers, server: usize, transport: Transport) -> Vec<Reply> {
    let address = servers.address(server);
    let mut replies = Vec::new();
    match transport {
        Transport::Udp => {
            let socket = UdpSocket::bind("127.0.0.1:0").await.unwrap();
            socket.send_to(&query(NAME, TXT), address).await.unwrap();
            let mut datagram = [0; 512];
            while let Ok(received) = timeout(SILENCE, socket.recv(&mut datagram)).await {
                replies.push(parse(&datagram[..received.unwrap()]));
            }
        }
        Transport::Tcp => replies = converse(address).await,
    }
    replies
}

async fn converse(address: SocketAddr) -> Vec<Reply> {
    let mut stream = TcpStream::connect(address).await.unwrap();
    send(&mut stream, NAME, TXT).await;
    let mut replies = Vec::new();
    while let Ok(reply) = timeout(SILENCE, receive(&mut stream)).await {
        replies.push(reply.unwrap());
    }
    replies
}

async fn exchange(stream: &mut TcpStream, name: &str, kind: u16) -> Result<Reply, ErrorKind> {
    send(stream, name, kind).await;
    timeout(Duration::from_secs(5), receive(stream)).await.expect("an answer or an error comes")
}

async fn send(stream: &mut TcpStream, name: &str, kind: u16) {
    let query = query(name, kind);
    let length = u16::try_from(query.len()).unwrap().to_be_bytes();
    stream.write_all(&[&length, query.as_slice()].concat()).await.unwrap();
}

async fn receive(stream: &mut TcpStream) -> Result<Reply, ErrorKind> {
    let length = stream.read_u16().await.map_err(|error| error.kind())?;
    let mut message = vec![0; length.into()];
    stream.read_exact(&mut message).await.map_err(|error| error.kind())?;
    Ok(parse(&message))
}

fn query(name: &str, kind: u16) -> Vec<u8> {
    let mut query = Vec::new();
    for word in [ID, 0, 1, 0, 0, 0] {
        query.extend(word.to_be_bytes());
    }
    for label in name.split('.') {
        query.push(u8::try_from(label.len()).unwrap());
        query.extend(label.as_bytes());
    }
    query.push(0);
    for word in [kind, 1] {
        query.extend(word.to_be_bytes());
    }
    query
}

fn parse(message: &[u8]) -> Reply {
    let word = |at: usize| u16::from_be_bytes([message[at], message[at + 1]]);
    assert_eq!((word(4), word(8), word(10)), (1, 0, 0), "one question, and nothing but answers");
    let (name, mut at) = read_name(message, 12);
    let question = (name, word(at), word(at + 2));
    at += 4;
    let mut records = Vec::new();
    for _ in 0..word(6) {
        let (name, fixed) = read_name(message, at);
        let ttl = u32::from(word(fixed + 4)) << 16 | u32::from(word(fixed + 6));
        let data = fixed + 10;
        at = data + usize::from(word(fixed + 8));
        records.push((name, word(fixed), word(fixed + 2), ttl, message[data..at].to_vec()));
    }
    assert_eq!(at, message.len(), "nothing follows the last record");
    Reply { id: word(0), flags: word(2), question, records }
}

/// A name, and where the message goes on after it.
fn read_name(message: &[u8], mut at: usize) -> (String, usize) {
    let mut labels = Vec::new();
    loop {
        let length = usize::from(message[at]);
        if length >= 0xc0 {
            let pointed = (length & 0x3f) << 8 | usize::from(message[at + 1]);
            labels.push(read_name(message, pointed).0);
            return (labels.join("."), at + 2);
        }
        at += 1;
        if length == 0 {
            return (labels.join("."), at);
        }
        labels.push(String::from_utf8(message[at..at + length].to_vec()).unwrap());
        at += length;
    }
}

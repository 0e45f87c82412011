//! A proxy that breaks connections where a script says so: what happens below HTTP.

use std::collections::VecDeque;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex};
use std::time::Duration;

use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, TcpStream};
use tokio::time::sleep;

/// What happens to an exchange.
#[derive(Clone, Copy, Debug)]
pub enum Break {
    /// Reset before the request was passed on.
    ResetBefore,
    /// Passed on, and reset instead of the answer.
    ResetAfter,
    /// Passed on, half of the answer, then closed.
    Half,
    /// Passed on, and the answer comes byte by byte, far too slowly.
    Drip,
    /// A working TCP connection on which no data ever arrives.
    Silence,
}

/// A running proxy.
pub struct Wire {
    pub address: SocketAddr,
    script: Arc<Mutex<VecDeque<Break>>>,
}

impl Wire {
    /// Breaks the exchanges whose request line starts with `line`, in the script's order; passes on
    /// all others.
    pub async fn start(to: SocketAddr, line: &'static str, script: Vec<Break>) -> Self {
        let listener = TcpListener::bind("127.0.0.1:0").await.expect("loopback has a free port");
        let address = listener.local_addr().expect("a bound socket has an address");
        let script = Arc::new(Mutex::new(VecDeque::from(script)));
        let running = Arc::clone(&script);
        tokio::spawn(async move {
            while let Ok((stream, _)) = listener.accept().await {
                let script = Arc::clone(&running);
                // Whichever side breaks off ends the connection.
                tokio::spawn(async move { relay(stream, to, line, &script).await.ok() });
            }
        });
        Self { address, script }
    }

    /// Lets this happen to the next exchange that has no break yet.
    pub fn then(&self, broken: Break) {
        self.script.lock().expect("no test panics while it holds the script").push_back(broken);
    }

    /// From here on nothing happens to any exchange.
    pub fn recover(&self) {
        self.script.lock().expect("no test panics while it holds the script").clear();
    }

    /// How much of the script has not happened yet.
    pub fn left(&self) -> usize {
        self.script.lock().expect("no test panics while it holds the script").len()
    }
}

async fn relay(
    mut client: TcpStream,
    to: SocketAddr,
    line: &str,
    script: &Mutex<VecDeque<Break>>,
) -> std::io::Result<()> {
    let mut server = TcpStream::connect(to).await?;
    loop {
        let request = message(&mut client).await?;
        let broken = request
            .starts_with(line.as_bytes())
            .then(|| script.lock().expect("no test panics while it holds the script").pop_front());
        let broken = broken.flatten();
        if matches!(broken, Some(Break::ResetBefore)) {
            return client.set_zero_linger();
        }
        if matches!(broken, Some(Break::Silence)) {
            return std::future::pending().await;
        }
        server.write_all(&request).await?;
        let answer = message(&mut server).await?;
        match broken {
            Some(Break::ResetAfter) => return client.set_zero_linger(),
            Some(Break::Half) => return client.write_all(&answer[..answer.len() / 2]).await,
            Some(Break::Drip) => {
                for byte in answer {
                    client.write_all(&[byte]).await?;
                    sleep(Duration::from_millis(100)).await;
                }
            }
            _ => client.write_all(&answer).await?,
        }
    }
}

/// A whole request or answer: its head, and as much body as the head says.
async fn message(stream: &mut TcpStream) -> std::io::Result<Vec<u8>> {
    let mut bytes = Vec::new();
    while !bytes.ends_with(b"\r\n\r\n") {
        bytes.push(stream.read_u8().await?);
    }
    let head = String::from_utf8_lossy(&bytes).to_lowercase();
    let length = head.lines().find_map(|line| line.strip_prefix("content-length:")?.trim().parse().ok());
    let mut body = vec![0; length.unwrap_or(0)];
    stream.read_exact(&mut body).await?;
    bytes.extend(body);
    Ok(bytes)
}

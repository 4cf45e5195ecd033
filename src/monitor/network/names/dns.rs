//! Asks name servers for the addresses of one name, as a stub does: they do the work.
//!
//! `domain` reads and writes the messages. IPv4 and IPv6 addresses are asked for at the same time,
//! each of one server after the other. What does not answer the question is not looked at: a socket
//! of its own and a random number for each question keep others from answering.

use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::pin::pin;
use std::time::Duration;

use domain::base::iana::{Rcode, Rtype};
use domain::base::{Message, MessageBuilder, Name};
use domain::rdata::{A, Aaaa};
use rustix::rand::{GetRandomFlags, getrandom};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpStream, UdpSocket};
use tokio::time::timeout;

use super::super::limit::{Limit, said};

/// The longest answer by UDP to a question that does not say that more would do.
const UDP_MAX: usize = 512;
/// How long the second answer is waited for once the first one has addresses.
const SECOND_ANSWER: Duration = Duration::from_millis(100);

/// Whom to ask, resolv.conf(5).
#[derive(Clone, Debug)]
pub struct Servers {
    /// In this order.
    pub addresses: Vec<SocketAddr>,
    /// How often each is asked.
    pub attempts: u32,
    /// How long each is given at most.
    pub timeout: Duration,
}

/// What the servers say of a name.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Answer {
    /// At least one, IPv6 first.
    Addresses(Vec<IpAddr>),
    /// There is no such name, or it has no address.
    None,
    /// No server could tell; why the last one could not.
    Unknown(String),
}

/// Asks for all addresses of `name`.
pub async fn ask(servers: &Servers, name: &Name<Vec<u8>>, limit: &Limit) -> Answer {
    let mut v6 = pin!(ask_for(Rtype::AAAA, servers, name, limit));
    let mut v4 = pin!(ask_for(Rtype::A, servers, name, limit));
    let (v6, v4) = tokio::select! {
        first = &mut v6 => { let second = second(&first, v4).await; (first, second) }
        first = &mut v4 => (second(&first, v6).await, first),
    };
    match (v6, v4) {
        (Answer::Addresses(mut v6), Answer::Addresses(v4)) => {
            v6.extend(v4);
            Answer::Addresses(v6)
        }
        (found @ Answer::Addresses(_), _) | (_, found @ Answer::Addresses(_)) => found,
        (unknown @ Answer::Unknown(_), _) | (_, unknown @ Answer::Unknown(_)) => unknown,
        (Answer::None, Answer::None) => Answer::None,
    }
}

/// Some servers never answer one of the two questions: who has addresses need not wait for long.
async fn second(first: &Answer, other: impl Future<Output = Answer>) -> Answer {
    match first {
        Answer::Addresses(_) => timeout(SECOND_ANSWER, other).await.unwrap_or(Answer::None),
        Answer::None | Answer::Unknown(_) => other.await,
    }
}

async fn ask_for(kind: Rtype, servers: &Servers, name: &Name<Vec<u8>>, limit: &Limit) -> Answer {
    let mut tries = u32::try_from(servers.addresses.len()).unwrap_or(u32::MAX);
    tries = tries.saturating_mul(servers.attempts);
    let mut reason = "no name server is configured".to_owned();
    for _ in 0..servers.attempts {
        for server in &servers.addresses {
            // None may use up the time of the others, nor that of what comes after them.
            let share = servers.timeout.min(limit.left() / tries.saturating_add(1));
            tries -= 1;
            match timeout(share, ask_one(kind, *server, name)).await {
                Ok(Ok(Answer::Unknown(said))) => {
                    reason = format!("name server {}: {said}", server.ip());
                }
                Ok(Ok(answer)) => return answer,
                Ok(Err(error)) => reason = format!("name server {}: {}", server.ip(), said(&error)),
                Err(_) => reason = format!("name server {} does not answer", server.ip()),
            }
        }
    }
    Answer::Unknown(reason)
}

async fn ask_one(kind: Rtype, server: SocketAddr, name: &Name<Vec<u8>>) -> io::Result<Answer> {
    let query = question(kind, name)?;
    let any: IpAddr = match server {
        SocketAddr::V4(_) => Ipv4Addr::UNSPECIFIED.into(),
        SocketAddr::V6(_) => Ipv6Addr::UNSPECIFIED.into(),
    };
    let socket = UdpSocket::bind((any, 0)).await?;
    // From then on nobody else's datagrams come in.
    socket.connect(server).await?;
    socket.send(query.as_slice()).await?;
    let mut bytes = [0; UDP_MAX];
    loop {
        let length = socket.recv(&mut bytes).await?;
        let Ok(message) = Message::from_slice(&bytes[..length]) else { continue };
        if !message.is_answer(&query) {
            continue;
        }
        if message.header().tc() {
            return by_tcp(&query, server).await;
        }
        return Ok(answer(message));
    }
}

/// The answer was too long for a datagram.
async fn by_tcp(query: &Message<Vec<u8>>, server: SocketAddr) -> io::Result<Answer> {
    let mut stream = TcpStream::connect(server).await?;
    let length = u16::try_from(query.as_slice().len()).map_err(io::Error::other)?;
    stream.write_all(&[&length.to_be_bytes(), query.as_slice()].concat()).await?;
    let mut bytes = vec![0; usize::from(stream.read_u16().await?)];
    stream.read_exact(&mut bytes).await?;
    match Message::from_slice(&bytes) {
        Ok(message) if message.is_answer(query) => Ok(answer(message)),
        _ => Err(io::Error::other("answers something else")),
    }
}

fn question(kind: Rtype, name: &Name<Vec<u8>>) -> io::Result<Message<Vec<u8>>> {
    let mut number = [0; 2];
    getrandom(&mut number, GetRandomFlags::empty())?;
    let mut message = MessageBuilder::new_vec();
    message.header_mut().set_id(u16::from_ne_bytes(number));
    message.header_mut().set_rd(true);
    let mut message = message.question();
    message.push((name, kind)).map_err(io::Error::other)?;
    Ok(message.into_message())
}

/// What an answer says. Addresses of aliases are in it too, whoever's they are.
fn answer(message: &Message<[u8]>) -> Answer {
    match message.header().rcode() {
        Rcode::NOERROR => {}
        Rcode::NXDOMAIN => return Answer::None,
        code => return Answer::Unknown(format!("says {code}")),
    }
    let Ok(records) = message.answer() else { return Answer::Unknown("says nonsense".into()) };
    let v4 = records.limit_to::<A>().flatten().map(|record| IpAddr::from(record.data().addr()));
    let v6 = records.limit_to::<Aaaa>().flatten().map(|record| IpAddr::from(record.data().addr()));
    let addresses: Vec<_> = v6.chain(v4).collect();
    if addresses.is_empty() { Answer::None } else { Answer::Addresses(addresses) }
}

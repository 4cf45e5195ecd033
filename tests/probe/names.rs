//! Names, as files and name servers have them.

use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::str::FromStr;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

use domain::base::iana::{Rcode, Rtype};
use domain::base::{Message, MessageBuilder, Name, ToName};
use domain::rdata::{A, Aaaa, Cname};
use healer::monitor::network::health::Outcome;
use healer::monitor::network::names::Names;
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::{TcpListener, UdpSocket};

use super::server::{answering, response};
use super::{failed, outcome_by};

/// What the name server knows of a name.
#[derive(Clone)]
enum Entry {
    Has(Vec<IpAddr>),
    IsReally(&'static str, Vec<IpAddr>),
    /// Too long for a datagram.
    Truncated(Vec<IpAddr>),
    Refuses(Rcode),
    /// IPv6 addresses are never answered for.
    AnswersOnlyV4(Ipv4Addr),
}

/// A name server for these names, and files that lead to it.
struct Site {
    directory: TempDir,
    port: u16,
}

impl Site {
    async fn new(known: Vec<(&'static str, Entry)>) -> Self {
        Self::with(move |name| {
            known.iter().find(|(known, _)| *known == name).map(|(_, entry)| entry.clone())
        })
        .await
    }

    async fn with(known: impl Fn(&str) -> Option<Entry> + Send + Sync + 'static) -> Self {
        let (tcp, udp) = sockets().await;
        let port = udp.local_addr().unwrap().port();
        let known = Arc::new(known);
        let known_by_tcp = Arc::clone(&known);
        tokio::spawn(async move {
            let mut bytes = [0; 512];
            while let Ok((length, from)) = udp.recv_from(&mut bytes).await {
                let query = Message::from_slice(&bytes[..length]).unwrap();
                // Somebody else's answer comes first.
                let mut other = bytes;
                other[0] ^= 0xff;
                other[2] |= 0x80;
                let _ = udp.send_to(&other[..length], from).await;
                if let Some(answer) = answer(query, known.as_ref(), true) {
                    let _ = udp.send_to(&answer, from).await;
                }
            }
        });
        tokio::spawn(async move {
            while let Ok((mut stream, _)) = tcp.accept().await {
                let mut bytes = vec![0; usize::from(stream.read_u16().await.unwrap())];
                stream.read_exact(&mut bytes).await.unwrap();
                let query = Message::from_slice(&bytes).unwrap();
                if let Some(answer) = answer(query, known_by_tcp.as_ref(), false) {
                    let length = u16::try_from(answer.len()).unwrap();
                    stream.write_all(&length.to_be_bytes()).await.unwrap();
                    stream.write_all(&answer).await.unwrap();
                }
            }
        });
        let site = Self { directory: tempfile::tempdir().unwrap(), port };
        site.resolv_conf("nameserver 127.0.0.1\n");
        site.hosts("");
        site
    }

    fn hosts(&self, text: &str) {
        std::fs::write(self.directory.path().join("hosts"), text).unwrap();
    }

    fn resolv_conf(&self, text: &str) {
        std::fs::write(self.directory.path().join("resolv.conf"), text).unwrap();
    }

    fn names(&self) -> Names {
        let file = |name: &str| self.directory.path().join(name);
        Names::of(file("hosts"), file("resolv.conf"), self.port)
    }

    /// What comes of asking the server at 127.0.0.1 and this port by this name.
    async fn ask(&self, name: &str, port: u16) -> Outcome {
        outcome_by(&format!("target_url: 'http://{name}:{port}/'"), &self.names()).await
    }
}

/// Both kinds of socket at one port.
async fn sockets() -> (TcpListener, UdpSocket) {
    loop {
        let tcp = TcpListener::bind((Ipv4Addr::LOCALHOST, 0)).await.unwrap();
        if let Ok(udp) = UdpSocket::bind(tcp.local_addr().unwrap()).await {
            return (tcp, udp);
        }
    }
}

fn answer(
    query: &Message<[u8]>,
    known: &dyn Fn(&str) -> Option<Entry>,
    by_udp: bool,
) -> Option<Vec<u8>> {
    let question = query.sole_question().unwrap();
    let entry = known(&question.qname().to_string());
    let code = match &entry {
        None => Rcode::NXDOMAIN,
        Some(Entry::Refuses(code)) => *code,
        Some(_) => Rcode::NOERROR,
    };
    let mut message = MessageBuilder::new_vec().start_answer(query, code).unwrap();
    let mut owner: Name<Vec<u8>> = question.qname().to_name();
    let addresses = match entry {
        None | Some(Entry::Refuses(_)) => vec![],
        Some(Entry::IsReally(name, addresses)) => {
            let real = Name::from_str(name).unwrap();
            message.push((owner, 60, Cname::new(real.clone()))).unwrap();
            owner = real;
            addresses
        }
        Some(Entry::Truncated(_)) if by_udp => {
            message.header_mut().set_tc(true);
            vec![]
        }
        Some(Entry::Has(addresses) | Entry::Truncated(addresses)) => addresses,
        Some(Entry::AnswersOnlyV4(_)) if question.qtype() == Rtype::AAAA => return None,
        Some(Entry::AnswersOnlyV4(ip)) => vec![ip.into()],
    };
    for address in addresses {
        match (address, question.qtype()) {
            (IpAddr::V4(ip), Rtype::A) => message.push((&owner, 60, A::new(ip))).unwrap(),
            (IpAddr::V6(ip), Rtype::AAAA) => message.push((&owner, 60, Aaaa::new(ip))).unwrap(),
            _ => {}
        }
    }
    Some(message.finish())
}

fn here() -> Vec<IpAddr> {
    vec![Ipv4Addr::LOCALHOST.into()]
}

/// A web server on 127.0.0.1.
async fn web() -> SocketAddr {
    answering(response("200 OK", "")).await
}

#[tokio::test]
async fn a_name_server_is_asked() {
    let site = Site::new(vec![("web.example", Entry::Has(here()))]).await;
    let port = web().await.port();
    assert_eq!(site.ask("web.example", port).await, Outcome::Passed);
    assert_eq!(site.ask("WEB.example.", port).await, Outcome::Passed);
}

#[tokio::test]
async fn an_alias_leads_to_its_addresses() {
    let alias = Entry::IsReally("host-1.example", here());
    let site = Site::new(vec![("web.example", alias)]).await;
    assert_eq!(site.ask("web.example", web().await.port()).await, Outcome::Passed);
}

#[tokio::test]
async fn a_long_answer_comes_by_tcp() {
    let site = Site::new(vec![("web.example", Entry::Truncated(here()))]).await;
    assert_eq!(site.ask("web.example", web().await.port()).await, Outcome::Passed);
}

#[tokio::test]
async fn all_addresses_are_tried() {
    let everywhere = vec![
        Ipv6Addr::LOCALHOST.into(),
        Ipv4Addr::new(127, 0, 0, 2).into(),
        Ipv4Addr::LOCALHOST.into(),
    ];
    let site = Site::new(vec![("web.example", Entry::Has(everywhere))]).await;
    assert_eq!(site.ask("web.example", web().await.port()).await, Outcome::Passed);
}

#[tokio::test]
async fn each_address_has_its_reason() {
    let two = vec![Ipv4Addr::new(127, 0, 0, 2).into(), Ipv4Addr::new(127, 0, 0, 3).into()];
    let site = Site::new(vec![("web.example", Entry::Has(two))]).await;
    let reason = "127.0.0.2: connection refused, 127.0.0.3: connection refused";
    assert_eq!(site.ask("web.example", web().await.port()).await, failed(reason));
}

#[tokio::test]
async fn a_name_that_stops_resolving_is_a_failure() {
    let gone = Arc::new(AtomicBool::new(false));
    let is_gone = Arc::clone(&gone);
    let site = Site::with(move |name| {
        let known = name == "web.example" && !is_gone.load(Ordering::Relaxed);
        known.then(|| Entry::Has(here()))
    })
    .await;
    let port = web().await.port();
    assert_eq!(site.ask("web.example", port).await, Outcome::Passed);
    gone.store(true, Ordering::Relaxed);
    let reason = "web.example is not resolved: no such name";
    assert_eq!(site.ask("web.example", port).await, failed(reason));
    gone.store(false, Ordering::Relaxed);
    assert_eq!(site.ask("web.example", port).await, Outcome::Passed);
}

#[tokio::test]
async fn a_name_without_addresses_is_no_name() {
    let site = Site::new(vec![("web.example", Entry::Has(vec![]))]).await;
    let reason = "web.example is not resolved: no such name";
    assert_eq!(site.ask("web.example", 1).await, failed(reason));
}

#[tokio::test]
async fn a_server_that_cannot_tell_is_named() {
    let site = Site::new(vec![("web.example", Entry::Refuses(Rcode::SERVFAIL))]).await;
    let reason = "web.example is not resolved: name server 127.0.0.1: says SERVFAIL";
    assert_eq!(site.ask("web.example", 1).await, failed(reason));
}

#[tokio::test]
async fn the_next_server_is_asked_where_one_is_down() {
    let site = Site::new(vec![("web.example", Entry::Has(here()))]).await;
    site.resolv_conf("nameserver 127.0.0.9\nnameserver 127.0.0.1\n");
    assert_eq!(site.ask("web.example", web().await.port()).await, Outcome::Passed);
}

#[tokio::test]
async fn the_next_server_is_asked_where_one_is_silent() {
    let site = Site::new(vec![("web.example", Entry::Has(here()))]).await;
    let silent = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 8), site.port)).await.unwrap();
    site.resolv_conf("nameserver 127.0.0.8\nnameserver 127.0.0.1\n");
    assert_eq!(site.ask("web.example", web().await.port()).await, Outcome::Passed);
    drop(silent);
}

#[tokio::test]
async fn servers_that_are_all_silent_run_out_of_time() {
    let site = Site::new(vec![]).await;
    let silent = UdpSocket::bind((Ipv4Addr::new(127, 0, 0, 8), site.port)).await.unwrap();
    site.resolv_conf("nameserver 127.0.0.8\n");
    let keys = "target_url: 'http://web.example/', timeout_secs: 0.6";
    let outcome = outcome_by(keys, &site.names()).await;
    let reason = "web.example is not resolved: name server 127.0.0.8 does not answer";
    assert_eq!(outcome, failed(reason));
    drop(silent);
}

#[tokio::test]
async fn a_server_that_answers_for_ipv4_only_holds_nobody_up() {
    let site = Site::new(vec![("web.example", Entry::AnswersOnlyV4(Ipv4Addr::LOCALHOST))]).await;
    let port = web().await.port();
    let keys = format!("target_url: 'http://web.example:{port}/', timeout_secs: 20");
    let begun = std::time::Instant::now();
    assert_eq!(outcome_by(&keys, &site.names()).await, Outcome::Passed);
    assert!(begun.elapsed() < super::SLACK, "{:?}", begun.elapsed());
}

#[tokio::test]
async fn search_domains_are_tried() {
    let site = Site::new(vec![
        ("web.second.example", Entry::Has(here())),
        ("db.web", Entry::Has(here())),
        ("db.web.second.example", Entry::Has(vec![Ipv4Addr::new(127, 0, 0, 2).into()])),
    ])
    .await;
    site.resolv_conf("nameserver 127.0.0.1\nsearch first.example second.example\n");
    let port = web().await.port();
    assert_eq!(site.ask("web", port).await, Outcome::Passed);
    // With a dot in it, it is asked for as it is first; with a dot at its end, only so.
    assert_eq!(site.ask("db.web", port).await, Outcome::Passed);
    let reason = "web. is not resolved: no such name";
    assert_eq!(site.ask("web.", port).await, failed(reason));
    site.resolv_conf("nameserver 127.0.0.1\nsearch second.example\noptions ndots:2\n");
    let reason = "127.0.0.2: connection refused";
    assert_eq!(site.ask("db.web", port).await, failed(reason));
}

#[tokio::test]
async fn hosts_come_first_and_count_at_once() {
    let site = Site::new(vec![("web.example", Entry::Has(here()))]).await;
    let port = web().await.port();
    site.hosts("# web.example 127.0.0.1\n127.0.0.2 Web.Example web # comment\n");
    let reason = "127.0.0.2: connection refused";
    assert_eq!(site.ask("web.example", port).await, failed(reason));
    assert_eq!(site.ask("web", port).await, failed(reason));
    site.hosts("127.0.0.2 web\n127.0.0.1 web\nfe80::1%lo web\nnonsense\n");
    assert_eq!(site.ask("web", port).await, Outcome::Passed);
}

#[tokio::test]
async fn without_a_name_server_hosts_and_localhost_are_known() {
    let site = Site::new(vec![]).await;
    site.resolv_conf("");
    std::fs::remove_file(site.directory.path().join("hosts")).unwrap();
    let port = web().await.port();
    assert_eq!(site.ask("localhost", port).await, Outcome::Passed);
    assert_eq!(site.ask("web.localhost", port).await, Outcome::Passed);
}

//! `type: network`: what a probe connects to, what it asks there, and what it takes for an answer.
//!
//! Pure data, made by `check/network`; everything that a probe sends is ready here, checked. When
//! probes are made and what follows from them is `monitor/network`'s.

use core::net::{IpAddr, SocketAddr};
use std::ops::RangeInclusive;
use std::path::PathBuf;
use std::time::Duration;

use http::uri::PathAndQuery;
use http::{HeaderMap, Method};
use rustls::pki_types::ServerName;

/// One entry's probe.
#[derive(Clone, Debug, PartialEq)]
pub struct Probe {
    /// What it connects to.
    pub address: Address,
    /// What it asks there; `None`: that the connection is accepted is enough.
    pub request: Option<Request>,
    /// From one probe to the next.
    pub interval: Duration,
    /// The whole probe takes at most so long.
    pub timeout: Duration,
    /// So many failures in a row are called hung; ≥ 1.
    pub failure_threshold: u32,
    /// So many successes in a row are called healthy; ≥ 1.
    pub success_threshold: u32,
    /// Failures of an instance that is younger do not count, unless a probe of it succeeded.
    pub start_period: Duration,
}

/// Where a probe connects.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// By TCP, to an address that is written.
    Ip(SocketAddr),
    /// By TCP, to an address that a name has at the time.
    Name {
        /// Of ASCII letters, digits, `-`, `_` and dots.
        name: String,
        /// Not 0.
        port: u16,
    },
    /// To this Unix socket; absolute.
    Socket(PathBuf),
}

/// An HTTP/1.1 request, and the answer that it should get.
#[derive(Clone, Debug, PartialEq)]
pub struct Request {
    /// `None`: without TLS.
    pub tls: Option<Tls>,
    /// GET, HEAD, POST or OPTIONS.
    pub method: Method,
    /// What follows the host in the URL.
    pub path: PathAndQuery,
    /// All headers that are sent.
    pub headers: HeaderMap,
    /// Which status is a success.
    pub expect_status: Statuses,
    /// What the body must contain.
    pub expect_body: Option<String>,
}

/// `tls`: whom a probe by https believes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Tls {
    /// The name that the certificate must be for.
    pub server_name: ServerName<'static>,
    /// Who vouches for the certificate.
    pub trust: Trust,
}

/// Who vouches for a server's certificate.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Trust {
    /// The certificate authorities of this machine.
    Machine,
    /// Those of this PEM file, or a certificate that is in it; absolute.
    File(PathBuf),
    /// Nobody: any certificate will do (`insecure: true`).
    Anyone,
}

/// A set of HTTP statuses.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Statuses(pub Vec<RangeInclusive<u16>>);

impl Statuses {
    /// Whether a status is one of them.
    #[must_use]
    pub fn contain(&self, status: u16) -> bool {
        self.0.iter().any(|range| range.contains(&status))
    }
}

impl Address {
    /// An address for a host that is written as a number.
    #[must_use]
    pub fn ip(ip: IpAddr, port: u16) -> Self {
        Self::Ip(SocketAddr::new(ip, port))
    }
}

impl Probe {
    /// Who vouches for the certificate that it gets to see; `None`: it sees none.
    #[must_use]
    pub fn trust(&self) -> Option<&Trust> {
        Some(&self.request.as_ref()?.tls.as_ref()?.trust)
    }

    /// Whether it believes any certificate.
    #[must_use]
    pub fn is_insecure(&self) -> bool {
        self.trust() == Some(&Trust::Anyone)
    }
}

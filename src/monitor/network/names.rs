//! The addresses of a name: as `/etc/hosts` and the name servers of `/etc/resolv.conf` have them.
//!
//! The C library's look-up would block a thread for as long as it likes, and in a static program it
//! loads itself a second time (docs/architecture.md, "Names"). Both files are read for each look-up:
//! they are small, and a change counts at once. `dns` asks the servers.

use std::fs::File;
use std::io::Read;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr, SocketAddrV6};
use std::path::{Path, PathBuf};
use std::str::FromStr;
use std::time::Duration;

use domain::base::Name;
use nix::net::if_::if_nametoindex;
use resolv_conf::{Config, ScopedIp};

use self::dns::{Answer, Servers};
use super::limit::{Fault, Limit};

mod dns;

/// Lists of what is not to be reached have a hundred thousand lines.
const LARGEST_FILE: u64 = 16 << 20;
const DNS_PORT: u16 = 53;

/// Where names are looked up.
#[derive(Clone, Debug)]
pub struct Names {
    hosts: PathBuf,
    resolv_conf: PathBuf,
    port: u16,
}

impl Default for Names {
    fn default() -> Self {
        Self { hosts: "/etc/hosts".into(), resolv_conf: "/etc/resolv.conf".into(), port: DNS_PORT }
    }
}

impl Names {
    /// With files of one's own, and name servers at this port.
    #[must_use]
    pub fn of(hosts: PathBuf, resolv_conf: PathBuf, port: u16) -> Self {
        Self { hosts, resolv_conf, port }
    }

    /// The addresses of a name within the limit, at least one, in the order in which to try them.
    pub(super) async fn addresses(&self, name: &str, limit: &Limit) -> Result<Vec<IpAddr>, Fault> {
        let (files, asked) = (self.clone(), name.to_owned());
        let (found, config) = limit.reading(move || files.read(&asked)).await?;
        if !found.is_empty() {
            return Ok(found);
        }
        if is_localhost(name) {
            return Ok(vec![Ipv6Addr::LOCALHOST.into(), Ipv4Addr::LOCALHOST.into()]);
        }
        let servers = servers(&config, self.port);
        for candidate in candidates(name, &config) {
            let asking = dns::ask(&servers, &candidate, limit);
            match limit.within("its name was looked up", asking).await? {
                Answer::Addresses(addresses) => return Ok(addresses),
                Answer::None => {}
                Answer::Unknown(reason) => {
                    return Err(Fault::Target(format!("{name} is not resolved: {reason}")));
                }
            }
        }
        Err(Fault::Target(format!("{name} is not resolved: no such name")))
    }

    fn read(&self, name: &str) -> (Vec<IpAddr>, Config) {
        let hosts = bounded(&self.hosts);
        // What it does not understand, the C library leaves out as well.
        let (config, _) = Config::parse_with_errors(&bounded(&self.resolv_conf));
        (in_hosts(&String::from_utf8_lossy(&hosts), name), config)
    }
}

/// A file that cannot be read is as good as empty, as it is for the C library.
fn bounded(path: &Path) -> Vec<u8> {
    let mut bytes = Vec::new();
    if let Ok(file) = File::open(path) {
        let _ = file.take(LARGEST_FILE).read_to_end(&mut bytes);
    }
    bytes
}

/// The addresses that hosts(5) gives a name.
fn in_hosts(hosts: &str, name: &str) -> Vec<IpAddr> {
    let name = name.strip_suffix('.').unwrap_or(name);
    let mut found = Vec::new();
    for line in hosts.lines() {
        let line = line.split('#').next().unwrap_or_default();
        let mut words = line.split_ascii_whitespace();
        let address = words.next().and_then(|word| word.parse().ok());
        if let Some(address) = address
            && words.any(|word| word.eq_ignore_ascii_case(name))
            && !found.contains(&address)
        {
            found.push(address);
        }
    }
    found
}

/// RFC 6761: no name server needs to know it.
fn is_localhost(name: &str) -> bool {
    let name = name.strip_suffix('.').unwrap_or(name);
    name == "localhost" || name.ends_with(".localhost")
}

/// The names to ask for, in the order of resolv.conf(5).
fn candidates(name: &str, config: &Config) -> Vec<Name<Vec<u8>>> {
    let absolute = |name: &str| Name::<Vec<u8>>::from_str(name).ok();
    if name.ends_with('.') {
        return absolute(name).into_iter().collect();
    }
    let suffixes = config.get_last_search_or_domain();
    let mut names: Vec<_> =
        suffixes.filter_map(|suffix| absolute(&format!("{name}.{suffix}"))).collect();
    let has_dots = name.matches('.').count() >= usize::try_from(config.ndots).unwrap_or(usize::MAX);
    let as_it_is = if has_dots { 0 } else { names.len() };
    names.splice(as_it_is..as_it_is, absolute(name));
    names
}

fn servers(config: &Config, port: u16) -> Servers {
    let address = |server: ScopedIp| match server {
        ScopedIp::V4(ip) => Some(SocketAddr::new(ip.into(), port)),
        ScopedIp::V6(ip, None) => Some(SocketAddr::new(ip.into(), port)),
        ScopedIp::V6(ip, Some(scope)) => {
            let scope = scope.parse().ok().or_else(|| if_nametoindex(scope.as_str()).ok())?;
            Some(SocketAddrV6::new(ip, port, 0, scope).into())
        }
    };
    let mut config = config.clone();
    config.glibc_normalize();
    Servers {
        addresses: config.get_nameservers_or_local().into_iter().filter_map(address).collect(),
        attempts: config.attempts.max(1),
        timeout: Duration::from_secs(u64::from(config.timeout.max(1))),
    }
}

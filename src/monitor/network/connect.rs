//! A connection to a probe's target, and nothing more.
//!
//! Names are looked up by `names`, TLS is `tls`'s.

use std::net::{IpAddr, SocketAddr};

use tokio::io::{AsyncRead, AsyncWrite};
use tokio::net::{TcpStream, UnixStream};
use tokio::time::timeout;

use crate::config::probe::Address;

use super::limit::{Fault, Limit};
use super::names::Names;

/// So many of a name's addresses are tried.
const ADDRESSES_MAX: usize = 8;

/// A stream of bytes. One type for all, so that what HTTP does is not compiled once for each.
pub trait Stream: AsyncRead + AsyncWrite + Unpin + Send {}

impl<T: AsyncRead + AsyncWrite + Unpin + Send> Stream for T {}

/// Connects within the limit.
pub async fn connect(
    address: &Address,
    names: &Names,
    limit: &Limit,
) -> Result<Box<dyn Stream>, Fault> {
    match address {
        Address::Socket(path) => {
            let connected = limit.within("connecting", UnixStream::connect(path)).await?;
            Ok(Box::new(connected.map_err(|error| Fault::of(&error))?))
        }
        Address::Ip(address) => {
            let connected = limit.within("connecting", TcpStream::connect(address)).await?;
            Ok(Box::new(connected.map_err(|error| Fault::of(&error))?))
        }
        Address::Name { name, port } => {
            let addresses = names.addresses(name, limit).await?;
            any(&addresses, *port, limit).await
        }
    }
}

/// Tries one address after the other; none may use up the others' time.
async fn any(addresses: &[IpAddr], port: u16, limit: &Limit) -> Result<Box<dyn Stream>, Fault> {
    let addresses = &addresses[..addresses.len().min(ADDRESSES_MAX)];
    let mut faults = Vec::new();
    for (index, ip) in addresses.iter().enumerate() {
        let share = limit.left() / u32::try_from(addresses.len() - index).unwrap_or(1);
        let connecting = timeout(share, TcpStream::connect(SocketAddr::new(*ip, port)));
        let fault = match connecting.await {
            Ok(Ok(stream)) => return Ok(Box::new(stream)),
            Ok(Err(error)) => Fault::of(&error),
            Err(_) => Fault::Target("timed out while connecting".to_owned()),
        };
        faults.push((*ip, fault));
    }
    Err(together(&faults))
}

/// What came of all of a name's addresses. One that cannot be asked (of IPv6, on a machine without) does
/// not excuse another that does not answer.
fn together(faults: &[(IpAddr, Fault)]) -> Fault {
    let reasons: Vec<_> = faults
        .iter()
        .map(|(ip, Fault::Target(reason) | Fault::Healer(reason))| format!("{ip}: {reason}"))
        .collect();
    let reasons = reasons.join(", ");
    if faults.iter().any(|(_, fault)| matches!(fault, Fault::Target(_))) {
        Fault::Target(reasons)
    } else {
        Fault::Healer(reasons)
    }
}

#[cfg(test)]
mod tests {
    use std::net::{Ipv4Addr, Ipv6Addr};

    use super::*;

    #[test]
    fn an_address_that_cannot_be_asked_does_not_excuse_another() {
        let unasked = || Fault::Healer("no".to_owned());
        let v6 = (Ipv6Addr::LOCALHOST.into(), unasked());
        let both = [v6.clone(), (Ipv4Addr::LOCALHOST.into(), Fault::Target("refused".to_owned()))];
        assert_eq!(together(&both), Fault::Target("::1: no, 127.0.0.1: refused".to_owned()));
        let both = [v6, (Ipv4Addr::LOCALHOST.into(), unasked())];
        assert_eq!(together(&both), Fault::Healer("::1: no, 127.0.0.1: no".to_owned()));
    }
}

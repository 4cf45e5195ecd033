//! A connection to a probe's target, and nothing more.
//!
//! Names are looked up by `names`, TLS is `tls`'s.

use std::fmt::Write as _;
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
    let mut reasons = String::new();
    let mut is_healers = false;
    for (index, ip) in addresses.iter().enumerate() {
        let share = limit.left() / u32::try_from(addresses.len() - index).unwrap_or(1);
        let connecting = timeout(share, TcpStream::connect(SocketAddr::new(*ip, port)));
        let fault = match connecting.await {
            Ok(Ok(stream)) => return Ok(Box::new(stream)),
            Ok(Err(error)) => Fault::of(&error),
            Err(_) => Fault::Target("timed out while connecting".to_owned()),
        };
        let (Fault::Target(reason) | Fault::Healer(reason)) = &fault;
        let between = if reasons.is_empty() { "" } else { ", " };
        // Writing to a text cannot fail.
        let _ = write!(reasons, "{between}{ip}: {reason}");
        is_healers |= matches!(fault, Fault::Healer(_));
    }
    // What could not be asked might have answered.
    Err(if is_healers { Fault::Healer(reasons) } else { Fault::Target(reasons) })
}

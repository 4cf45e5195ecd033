//! TLS on a probe's connection: whom it believes, and in plain words why it does not.
//!
//! rustls does the work, with ring's cryptography. The certificate authorities are read by
//! `crate::trust`, once, and again when their file has changed: a new authority counts at once, as
//! else all that it vouches for would look hung.

use std::io;
use std::os::unix::fs::MetadataExt;
use std::path::PathBuf;
use std::sync::Arc;

use rustls::client::danger::ServerCertVerifier;
use rustls::client::{Resumption, WebPkiServerVerifier};
use rustls::crypto::{CryptoProvider, ring};
use rustls::{CertificateError, ClientConfig, Error};
use tokio_rustls::TlsConnector;

use crate::config::probe::{Tls, Trust};
use crate::trust::{self, Authorities, TrustError};

use super::connect::Stream;
use super::limit::{Fault, Limit, said};
use verifier::{Anyone, OwnCertificates};

mod verifier;

/// What was read for a [`Trust`], and in which state its file was.
#[derive(Clone, Debug)]
pub struct Known {
    stamp: Stamp,
    config: Arc<ClientConfig>,
}

/// Which file, and its state.
type Stamp = Option<(PathBuf, u64, u64, u64, i64, i64)>;

/// What was `known`, or what is read anew if the files have changed.
pub async fn known(trust: &Trust, known: Option<Known>, limit: &Limit) -> Result<Known, Fault> {
    let trust = trust.clone();
    limit.reading(move || renewed(&trust, known)).await?.map_err(|error| unreadable(&error))
}

/// Agrees on TLS with the server.
pub async fn agree(
    stream: Box<dyn Stream>,
    tls: &Tls,
    known: Known,
    limit: &Limit,
) -> Result<Box<dyn Stream>, Fault> {
    let agreeing = TlsConnector::from(known.config).connect(tls.server_name.clone(), stream);
    let agreed = limit.within("agreeing on TLS", agreeing).await?;
    Ok(Box::new(agreed.map_err(|error| refusal(&error))?))
}

fn unreadable(error: &TrustError) -> Fault {
    let cause = std::error::Error::source(error).map(|cause| format!(": {cause}"));
    Fault::Healer(format!("{error}{}", cause.unwrap_or_default()))
}

fn renewed(trust: &Trust, known: Option<Known>) -> Result<Known, TrustError> {
    // The stamp first: what changes while it is read is read again.
    let stamp = stamp(trust);
    match known {
        Some(known) if known.stamp == stamp => Ok(known),
        _ => Ok(Known { stamp, config: Arc::new(config(trust)?) }),
    }
}

fn stamp(trust: &Trust) -> Stamp {
    let path = match trust {
        Trust::Machine => trust::machine_store()?,
        Trust::File(path) => path.clone(),
        Trust::Anyone => return None,
    };
    let found = std::fs::metadata(&path).ok()?;
    Some((path, found.dev(), found.ino(), found.size(), found.ctime(), found.ctime_nsec()))
}

fn config(trust: &Trust) -> Result<ClientConfig, TrustError> {
    let provider = Arc::new(ring::default_provider());
    let verifier: Arc<dyn ServerCertVerifier> = match trust {
        Trust::Machine => usual(trust::of_machine()?, &provider),
        Trust::File(path) => {
            let authorities = trust::of_file(path)?;
            let own = authorities.certificates.clone();
            Arc::new(OwnCertificates { usual: usual(authorities, &provider), own })
        }
        Trust::Anyone => Arc::new(Anyone(Arc::clone(&provider))),
    };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .expect("ring has what the default versions need")
        .dangerous()
        .with_custom_certificate_verifier(verifier)
        .with_no_client_auth();
    // Each probe is a connection of its own: what a server forgot is seen.
    config.resumption = Resumption::disabled();
    Ok(config)
}

fn usual(authorities: Authorities, provider: &Arc<CryptoProvider>) -> Arc<WebPkiServerVerifier> {
    WebPkiServerVerifier::builder_with_provider(Arc::new(authorities.roots), Arc::clone(provider))
        .build()
        .expect("there is at least one authority, and no list of revoked certificates")
}

/// Why TLS came to nothing.
fn refusal(error: &io::Error) -> Fault {
    let inner = error.get_ref().and_then(|inner| inner.downcast_ref::<Error>());
    let reason = match inner {
        Some(Error::InvalidCertificate(wrong)) => certificate(wrong),
        Some(Error::InvalidMessage(_)) => "the server does not speak TLS".to_owned(),
        Some(Error::AlertReceived(alert)) => format!("the server refused TLS: {alert:?}"),
        Some(Error::PeerIncompatible(why)) => {
            format!("the server's TLS is of another kind: {why:?}")
        }
        Some(other) => format!("TLS failed: {other}"),
        None if error.kind() == io::ErrorKind::UnexpectedEof => {
            "the connection was closed while agreeing on TLS".to_owned()
        }
        None => said(error),
    };
    Fault::Target(reason)
}

fn certificate(wrong: &CertificateError) -> String {
    let days = |secs: u64| secs / 86_400;
    match wrong {
        CertificateError::UnknownIssuer => {
            "nobody who is trusted vouches for the certificate".to_owned()
        }
        CertificateError::BadSignature => {
            "the certificate is not signed by whom it says it is".to_owned()
        }
        CertificateError::ExpiredContext { time, not_after } => {
            let ago = days(time.as_secs().saturating_sub(not_after.as_secs()));
            format!("the certificate expired {ago} days ago")
        }
        CertificateError::NotValidYetContext { time, not_before } => {
            let to_come = days(not_before.as_secs().saturating_sub(time.as_secs()));
            format!("the certificate is not valid yet, for {to_come} days")
        }
        other => other.to_string(),
    }
}

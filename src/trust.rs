//! Certificate authorities: those of this machine, or those of a PEM file.
//!
//! Reads files, so not for the thread that decides. Called by `preflight`, which says at once what is
//! missing, and by `monitor/network`, whose probes need them. What a certificate is checked for is
//! rustls's, and `monitor/network/tls`'s.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use rustls::RootCertStore;
use rustls::pki_types::CertificateDer;
use rustls::pki_types::pem::{self, PemObject as _};
use rustls_native_certs::load_certs_from_paths;

/// A bundle of all public authorities has a twentieth of this.
const LARGEST_FILE: u64 = 4 << 20;

/// Certificate authorities, ready for use.
#[derive(Clone, Debug)]
pub struct Authorities {
    /// As rustls wants them.
    pub roots: RootCertStore,
    /// The certificates as they were read.
    pub certificates: Vec<CertificateDer<'static>>,
}

/// Why there are none.
#[derive(Debug, thiserror::Error)]
pub enum TrustError {
    /// The file is missing or not to be read.
    #[error("{}", path.display())]
    Unreadable {
        /// Which one.
        path: PathBuf,
        /// What the system said.
        source: io::Error,
    },
    /// A directory, a device, a FIFO.
    #[error("{} is not a file", _0.display())]
    NoFile(PathBuf),
    /// Not meant for this.
    #[error("{} is larger than {LARGEST_FILE} bytes", _0.display())]
    TooLarge(PathBuf),
    /// Text of another kind, or none.
    #[error("{} holds no certificate in PEM format (-----BEGIN CERTIFICATE-----)", _0.display())]
    NoCertificate(PathBuf),
    /// Something between the marks of a certificate that is none.
    #[error("{} holds a certificate that is damaged: {reason}", path.display())]
    Damaged {
        /// Which file.
        path: PathBuf,
        /// What the parser said.
        reason: String,
    },
    /// None where they are usually kept.
    #[error(
        "this machine has no certificate authorities where they are usually kept, such as \
         /etc/ssl/certs: install ca-certificates, or say tls.ca_file"
    )]
    NoneHere,
}

/// Where this machine keeps its certificate authorities: a file, else a directory; `SSL_CERT_FILE`
/// and `SSL_CERT_DIR` come first.
#[must_use]
pub fn machine_store() -> Option<PathBuf> {
    let openssl_probe::ProbeResult { cert_file, cert_dir } = openssl_probe::probe();
    // The file holds what is in the directory.
    cert_file.or_else(|| cert_dir.into_iter().next())
}

/// Reads the authorities of this machine. A damaged one is left out.
///
/// # Errors
///
/// There is none.
pub fn of_machine() -> Result<Authorities, TrustError> {
    let store = machine_store().ok_or(TrustError::NoneHere)?;
    let (file, directory) = if store.is_dir() { (None, Some(store)) } else { (Some(store), None) };
    let certificates = load_certs_from_paths(file.as_deref(), directory.as_deref()).certs;
    let mut roots = RootCertStore::empty();
    let (usable, _) = roots.add_parsable_certificates(certificates.iter().cloned());
    if usable == 0 { Err(TrustError::NoneHere) } else { Ok(Authorities { roots, certificates }) }
}

/// Reads the authorities of a PEM file.
///
/// # Errors
///
/// The file cannot be read, or one of its certificates is damaged, or it has none.
pub fn of_file(path: &Path) -> Result<Authorities, TrustError> {
    let unreadable = |source| TrustError::Unreadable { path: path.to_owned(), source };
    let found = fs::metadata(path).map_err(unreadable)?;
    // Others may be opened for ever.
    if !found.is_file() {
        return Err(TrustError::NoFile(path.to_owned()));
    }
    if found.len() > LARGEST_FILE {
        return Err(TrustError::TooLarge(path.to_owned()));
    }
    let mut authorities = Authorities { roots: RootCertStore::empty(), certificates: Vec::new() };
    let damaged = |reason: String| TrustError::Damaged { path: path.to_owned(), reason };
    let certificates = CertificateDer::pem_file_iter(path).map_err(|error| match error {
        pem::Error::Io(error) => unreadable(error),
        other => damaged(other.to_string()),
    })?;
    for certificate in certificates {
        let certificate = certificate.map_err(|error| damaged(error.to_string()))?;
        let rooted = authorities.roots.add(certificate.clone());
        rooted.map_err(|error| damaged(error.to_string()))?;
        authorities.certificates.push(certificate);
    }
    if authorities.certificates.is_empty() {
        return Err(TrustError::NoCertificate(path.to_owned()));
    }
    Ok(authorities)
}

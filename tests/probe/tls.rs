//! Certificates: whom a probe by https believes, and why not.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

use healer::monitor::network::health::Outcome;
use healer::monitor::network::names::Names;
use healer::monitor::network::probe::make;
use rcgen::{BasicConstraints, CertificateParams, DnType, IsCa, Issuer, KeyPair, date_time_ymd};
use rstest::rstest;
use rustls::ServerConfig;
use rustls::pki_types::{CertificateDer, PrivateKeyDer, PrivatePkcs8KeyDer};
use tempfile::TempDir;
use tokio::time::sleep;
use tokio_rustls::TlsAcceptor;

use super::server::{answering, give, response, server};
use super::{failed, outcome, probe};

/// A certificate authority of the test's own, and its file.
struct Authority {
    directory: TempDir,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    fn new(name: &str) -> Self {
        let mut params = CertificateParams::new(Vec::new()).unwrap();
        params.distinguished_name.push(DnType::CommonName, name);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let key = KeyPair::generate().unwrap();
        let own = params.self_signed(&key).unwrap();
        let directory = tempfile::tempdir().unwrap();
        std::fs::write(directory.path().join("ca.pem"), own.pem()).unwrap();
        Self { directory, issuer: Issuer::new(params, key) }
    }

    fn file(&self) -> PathBuf {
        self.directory.path().join("ca.pem")
    }

    /// `tls` of a probe that believes it.
    fn tls(&self) -> String {
        format!("tls: {{ca_file: '{}'}}", self.file().display())
    }

    /// A certificate for this name.
    fn vouch(&self, params: &CertificateParams) -> Own {
        let key = KeyPair::generate().unwrap();
        let certificate = params.signed_by(&key, &self.issuer).unwrap();
        Own { certificate: certificate.der().clone(), key }
    }
}

/// A server's certificate and its key.
struct Own {
    certificate: CertificateDer<'static>,
    key: KeyPair,
}

fn for_name(name: &str) -> CertificateParams {
    CertificateParams::new(vec![name.to_owned()]).unwrap()
}

/// A server that answers 200 over TLS.
async fn tls_server(own: Own) -> SocketAddr {
    tls_server_of(own, rustls::ALL_VERSIONS).await
}

async fn tls_server_of(
    own: Own,
    versions: &[&'static rustls::SupportedProtocolVersion],
) -> SocketAddr {
    let key = PrivateKeyDer::from(PrivatePkcs8KeyDer::from(own.key.serialize_der()));
    let config = ServerConfig::builder_with_protocol_versions(versions)
        .with_no_client_auth()
        .with_single_cert(vec![own.certificate], key)
        .unwrap();
    let acceptor = TlsAcceptor::from(Arc::new(config));
    server(move |stream| {
        let acceptor = acceptor.clone();
        async move {
            if let Ok(stream) = acceptor.accept(stream).await {
                give(stream, response("200 OK", "well").into()).await;
            }
        }
    })
    .await
}

#[rstest]
#[case::name("localhost", "localhost")]
#[case::address("127.0.0.1", "127.0.0.1")]
#[tokio::test]
async fn whom_ones_own_authority_vouches_for_is_believed(#[case] host: &str, #[case] name: &str) {
    let authority = Authority::new("ours");
    let address = tls_server(authority.vouch(&for_name(name))).await;
    let url = format!("https://{host}:{}/", address.port());
    let keys = format!("target_url: '{url}', expect_body: well, {}", authority.tls());
    assert_eq!(outcome(&keys).await, Outcome::Passed);
}

#[rstest]
#[case::old(&[&rustls::version::TLS12])]
#[case::new(&[&rustls::version::TLS13])]
#[tokio::test]
async fn both_versions_of_tls_will_do(
    #[case] versions: &[&'static rustls::SupportedProtocolVersion],
) {
    let authority = Authority::new("ours");
    let address = tls_server_of(authority.vouch(&for_name("127.0.0.1")), versions).await;
    let url = format!("https://{address}/");
    let keys = format!("target_url: '{url}', {}", authority.tls());
    assert_eq!(outcome(&keys).await, Outcome::Passed);
    let keys = format!("target_url: '{url}', tls: {{insecure: true}}");
    assert_eq!(outcome(&keys).await, Outcome::Passed);
}

#[tokio::test]
async fn a_certificate_for_another_name_is_not_believed() {
    let authority = Authority::new("ours");
    let address = tls_server(authority.vouch(&for_name("web.example"))).await;
    let url = format!("https://localhost:{}/", address.port());
    let keys = format!("target_url: '{url}', {}", authority.tls());
    let reason = "certificate not valid for name \"localhost\"; certificate is only valid for \
                  DnsName(\"web.example\")";
    assert_eq!(outcome(&keys).await, failed(reason));
    let named = authority.tls().replace('}', ", server_name: web.example}");
    assert_eq!(outcome(&format!("target_url: '{url}', {named}")).await, Outcome::Passed);
}

#[tokio::test]
async fn a_stranger_is_not_believed_unless_everyone_is() {
    let (authority, stranger) = (Authority::new("ours"), Authority::new("theirs"));
    let address = tls_server(stranger.vouch(&for_name("127.0.0.1"))).await;
    let url = format!("https://{address}/");
    let reason = "nobody who is trusted vouches for the certificate";
    let keys = format!("target_url: '{url}', {}", authority.tls());
    assert_eq!(outcome(&keys).await, failed(reason));
    let keys = format!("target_url: '{url}', tls: {{insecure: true}}");
    assert_eq!(outcome(&keys).await, Outcome::Passed);
}

#[tokio::test]
async fn an_impostor_of_an_authority_is_not_believed() {
    let (authority, impostor) = (Authority::new("ours"), Authority::new("ours"));
    let address = tls_server(impostor.vouch(&for_name("127.0.0.1"))).await;
    let keys = format!("target_url: 'https://{address}/', {}", authority.tls());
    let reason = "the certificate is not signed by whom it says it is";
    assert_eq!(outcome(&keys).await, failed(reason));
}

#[tokio::test]
async fn the_authorities_of_this_machine_do_not_know_the_tests() {
    let authority = Authority::new("ours");
    let address = tls_server(authority.vouch(&for_name("127.0.0.1"))).await;
    match outcome(&format!("target_url: 'https://{address}/'")).await {
        Outcome::Failed(reason) => {
            assert_eq!(reason, "nobody who is trusted vouches for the certificate");
        }
        // Some machines have none at all.
        Outcome::Impossible(reason) => assert!(reason.contains("ca-certificates"), "{reason}"),
        Outcome::Passed => panic!("it is believed"),
    }
}

#[rstest]
#[case::expired(2000, 2001, "the certificate expired ")]
#[case::to_come(2900, 2901, "the certificate is not valid yet, for ")]
#[tokio::test]
async fn a_certificate_has_its_time(#[case] from: i32, #[case] to: i32, #[case] said: &str) {
    let authority = Authority::new("ours");
    let mut params = for_name("127.0.0.1");
    params.not_before = date_time_ymd(from, 1, 1);
    params.not_after = date_time_ymd(to, 1, 1);
    let address = tls_server(authority.vouch(&params)).await;
    let outcome = outcome(&format!("target_url: 'https://{address}/', {}", authority.tls())).await;
    let Outcome::Failed(reason) = outcome else { panic!("{outcome:?}") };
    assert!(reason.starts_with(said), "{reason}");
}

/// As `openssl req -x509` makes it: marked as an authority's. And as it ought to be.
#[rstest]
#[case::as_openssl_makes_it(IsCa::Ca(BasicConstraints::Unconstrained))]
#[case::marked_as_none(IsCa::ExplicitNoCa)]
#[case::unmarked(IsCa::NoCa)]
#[tokio::test]
async fn a_certificate_that_vouches_for_itself_is_believed_if_it_is_in_the_file(
    #[case] is_ca: IsCa,
) {
    let mut params = for_name("127.0.0.1");
    params.is_ca = is_ca;
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("own.pem");
    std::fs::write(&file, certificate.pem()).unwrap();
    let address = tls_server(Own { certificate: certificate.der().clone(), key }).await;
    let tls = format!("tls: {{ca_file: '{}'}}", file.display());
    let keys = format!("target_url: 'https://{address}/', {tls}");
    assert_eq!(outcome(&keys).await, Outcome::Passed);
    // Its name is checked all the same.
    let keys = format!("target_url: 'https://localhost:{}/', {tls}", address.port());
    let outcome = outcome(&keys).await;
    let Outcome::Failed(reason) = outcome else { panic!("{outcome:?}") };
    assert!(reason.starts_with("certificate not valid for name \"localhost\""), "{reason}");
}

#[tokio::test]
async fn ones_own_certificate_that_has_expired_is_not_believed() {
    let mut params = for_name("127.0.0.1");
    params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
    params.not_before = date_time_ymd(2000, 1, 1);
    params.not_after = date_time_ymd(2001, 1, 1);
    let key = KeyPair::generate().unwrap();
    let certificate = params.self_signed(&key).unwrap();
    let directory = tempfile::tempdir().unwrap();
    let file = directory.path().join("own.pem");
    std::fs::write(&file, certificate.pem()).unwrap();
    let address = tls_server(Own { certificate: certificate.der().clone(), key }).await;
    let keys = format!("target_url: 'https://{address}/', tls: {{ca_file: '{}'}}", file.display());
    let outcome = outcome(&keys).await;
    let Outcome::Failed(reason) = outcome else { panic!("{outcome:?}") };
    assert!(reason.starts_with("the certificate expired "), "{reason}");
}

#[tokio::test]
async fn a_new_authority_counts_at_once() {
    let (before, after) = (Authority::new("ours"), Authority::new("theirs"));
    let address = tls_server(after.vouch(&for_name("127.0.0.1"))).await;
    let probe = probe(&format!("target_url: 'https://{address}/', {}", before.tls()));
    let report = make(&probe, &Names::default(), None).await;
    assert_eq!(report.outcome, failed("nobody who is trusted vouches for the certificate"));
    let (_, known) = report.known.unwrap();
    std::fs::rename(after.file(), before.file()).unwrap();
    let report = make(&probe, &Names::default(), Some(known)).await;
    assert_eq!(report.outcome, Outcome::Passed);
    let (_, known) = report.known.unwrap();
    // What is gone cannot vouch, and whether the server is fine cannot be known.
    std::fs::remove_file(before.file()).unwrap();
    let outcome = make(&probe, &Names::default(), Some(known)).await.outcome;
    let reason = format!("{}: No such file or directory (os error 2)", before.file().display());
    assert_eq!(outcome, Outcome::Impossible(reason));
}

#[tokio::test]
async fn what_does_not_speak_tls_is_a_failure() {
    let address = answering(response("200 OK", "")).await;
    let keys = format!("target_url: 'https://{address}/', tls: {{insecure: true}}");
    // The server waits for the end of a request that it does not understand.
    let keys = format!("{keys}, timeout_secs: 0.3");
    let silent = outcome(&keys).await;
    assert_eq!(silent, failed("timed out after 0.3 s while agreeing on TLS"));

    let talkative = server(|stream| give_at_once(stream, response("400 Bad Request", ""))).await;
    let keys = format!("target_url: 'https://{talkative}/', tls: {{insecure: true}}");
    assert_eq!(outcome(&keys).await, failed("the server does not speak TLS"));

    let closing = server(|stream| async move { drop(stream) }).await;
    let keys = format!("target_url: 'https://{closing}/', tls: {{insecure: true}}");
    let outcome = outcome(&keys).await;
    // What was sent may not have been read.
    let closed = failed("the connection was closed while agreeing on TLS");
    assert!([closed, failed("connection reset by peer")].contains(&outcome), "{outcome:?}");
}

async fn give_at_once(mut stream: tokio::net::TcpStream, answer: String) {
    use tokio::io::AsyncWriteExt;
    let _ = stream.write_all(answer.as_bytes()).await;
    sleep(Duration::from_secs(3600)).await;
}

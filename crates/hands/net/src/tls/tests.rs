use super::*;
use crate::{Stream, Verification, memory};
use mail::{Host, UnixMillis};
use rcgen::{BasicConstraints, CertificateParams, CertifiedIssuer, IsCa, KeyPair};
use std::fs;
use std::path::PathBuf;
use std::time::{Duration, SystemTime};
use tempfile::TempDir;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::time::Instant;

/// A folder of PEM files, and the authority that signs them.
struct Folder {
    dir: TempDir,
    authority: CertifiedIssuer<'static, KeyPair>,
}

impl Folder {
    fn new() -> Self {
        Self::of("authority.test")
    }

    fn of(authority: &str) -> Self {
        let mut params = CertificateParams::new(vec![]).unwrap();
        params.distinguished_name.push(rcgen::DnType::CommonName, authority);
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        let authority = CertifiedIssuer::self_signed(params, KeyPair::generate().unwrap()).unwrap();
        let dir = TempDir::new().unwrap();
        fs::write(dir.path().join("ca.pem"), authority.pem()).unwrap();
        Self { dir, authority }
    }

    fn path(&self, file: &str) -> PathBuf {
        self.dir.path().join(file)
    }

    /// Files for a certificate that the authority signs.
    fn certificate(&self, name: &str, change: impl FnOnce(&mut CertificateParams)) -> CertificateFiles {
        let key = KeyPair::generate().unwrap();
        let mut params = CertificateParams::new(vec![name.to_owned()]).unwrap();
        change(&mut params);
        let certificate = params.signed_by(&key, &self.authority).unwrap();
        let files = CertificateFiles {
            chain: self.path(&format!("{name}.pem")),
            key: self.path(&format!("{name}.key")),
            stand_in: Vec::new(),
        };
        fs::write(&files.chain, certificate.pem()).unwrap();
        fs::write(&files.key, key.serialize_pem()).unwrap();
        files
    }

    fn connector(&self) -> Connector {
        Connector::new(&ConnectorConfig { ca_file: Some(self.path("ca.pem")), ..ConnectorConfig::default() })
            .unwrap()
    }
}

fn acceptor(files: &[CertificateFiles]) -> Acceptor {
    Acceptor::new(Certificates::load(files).unwrap(), &AcceptorConfig::default()).unwrap()
}

fn soon() -> Instant {
    Instant::now() + Duration::from_secs(10)
}

fn host(text: &str) -> Host {
    Host::parse(text).unwrap()
}

fn pair() -> (Stream, Stream) {
    memory::pair("192.0.2.1:40000".parse().unwrap(), "192.0.2.2:25".parse().unwrap())
}

/// Both ends of one handshake, and an octet each way, so that tickets arrive.
async fn shake(
    acceptor: &Acceptor,
    connector: &Connector,
    name: &str,
    policy: Policy,
) -> Result<(Stream, Stream), TlsError> {
    let (near, far) = pair();
    let name = host(name);
    let (client, server) =
        tokio::join!(connector.starttls(near, &name, &policy, b"", soon()), acceptor.accept(far));
    let (mut client, mut server) = (client?, server?);
    server.write_all(b"s").await.unwrap();
    client.write_all(b"c").await.unwrap();
    assert_eq!((client.read_u8().await.unwrap(), server.read_u8().await.unwrap()), (b's', b'c'));
    Ok((client, server))
}

#[tokio::test]
async fn an_upgrade_both_ways() {
    let folder = Folder::new();
    let acceptor = acceptor(&[folder.certificate("mx.test", |_| {})]);
    let connector = folder.connector();
    let (near, far) = pair();
    assert_eq!((near.is_tls(), near.tls_info(), near.verification()), (false, None, Verification::None));
    drop((near, far));

    let (mut client, mut server) = shake(&acceptor, &connector, "mx.test", Policy::Verified).await.unwrap();
    for stream in [&client, &server] {
        let info = stream.tls_info().unwrap();
        assert_eq!((&*info.protocol, &*info.cipher), ("TLSv1.3", "TLS_AES_256_GCM_SHA384"));
        assert_eq!(stream.key_exchange().as_deref(), Some("X25519MLKEM768"));
        assert!(!stream.is_resumed());
    }
    assert_eq!(client.verification(), Verification::Verified);
    assert_eq!(server.server_name(), Some("mx.test"));
    assert_eq!(server.peer_addr().unwrap().to_string(), "192.0.2.1:40000");

    // More than the buffers hold, both ways at once.
    let long = vec![b'x'; 1 << 20];
    let (mut client_reads, mut server_reads) = (vec![0; long.len()], vec![0; long.len()]);
    let (mut client_half, mut server_half) = (tokio::io::split(client), tokio::io::split(server));
    tokio::try_join!(
        async {
            client_half.1.write_all(&long).await?;
            client_half.1.flush().await
        },
        async {
            server_half.1.write_all(&long).await?;
            server_half.1.flush().await
        },
        async { client_half.0.read_exact(&mut client_reads).await.map(drop) },
        async { server_half.0.read_exact(&mut server_reads).await.map(drop) },
    )
    .unwrap();
    assert!(client_reads == long && server_reads == long);
    client = client_half.0.unsplit(client_half.1);
    server = server_half.0.unsplit(server_half.1);

    // Readiness: nothing yet, then octets, then more of the same record, then the end.
    let mut octets = [0; 2];
    assert_eq!(server.try_read(&mut octets).unwrap_err().kind(), io::ErrorKind::WouldBlock);
    client.write_all(b"abc").await.unwrap();
    for expected in [&b"ab"[..], b"c"] {
        server.readable().await.unwrap();
        let read = server.try_read(&mut octets).unwrap();
        assert_eq!(&octets[..read], expected);
    }
    client.shutdown().await.unwrap();
    server.readable().await.unwrap();
    assert_eq!(server.try_read(&mut octets).unwrap(), 0);

    // TLS within TLS is refused.
    let again = connector.connect(client, &host("mx.test"), &Policy::Required, soon()).await;
    assert!(matches!(again, Err(TlsError::Io(_))));
    assert!(matches!(acceptor.accept(server).await, Err(TlsError::Io(_))));
}

#[tokio::test]
async fn certificates_that_are_not_good() {
    let folder = Folder::new();
    let other = Folder::of("other-authority.test");
    let expired = |params: &mut CertificateParams| params.not_after = rcgen::date_time_ymd(2020, 1, 1);
    let future = |params: &mut CertificateParams| params.not_before = rcgen::date_time_ymd(2090, 1, 1);
    let self_signed = Certificates::self_signed(&["mx.test"]).unwrap();
    let self_signed = Acceptor::new(self_signed, &AcceptorConfig::default()).unwrap();
    for (what, server, why) in [
        ("wrong name", acceptor(&[folder.certificate("other.test", |_| {})]), "not valid for name"),
        ("expired", acceptor(&[folder.certificate("mx.test", expired)]), "expired"),
        ("not yet", acceptor(&[folder.certificate("mx.test", future)]), "not valid yet"),
        ("self-signed", self_signed, "UnknownIssuer"),
        ("another authority", acceptor(&[other.certificate("mx.test", |_| {})]), "UnknownIssuer"),
    ] {
        let connector = folder.connector();
        let error = shake(&server, &connector, "mx.test", Policy::Verified).await.unwrap_err();
        let TlsError::NotVerified(_, text) = &error else { panic!("{what}: {error}") };
        assert!(text.contains(why), "{what}: {text}");
        assert_eq!(error.reply().enhanced.unwrap().to_string(), "4.7.5");
        for policy in [Policy::Opportunistic, Policy::Required] {
            let (client, _server) = shake(&server, &connector, "mx.test", policy).await.unwrap();
            let Verification::NotVerified(_, text) = client.verification() else { panic!("{what}") };
            assert!(text.contains(why), "{what}: {text}");
        }
    }
    let good = acceptor(&[folder.certificate("mx.test", |_| {})]);
    let (client, _server) =
        shake(&good, &folder.connector(), "mx.test", Policy::Opportunistic).await.unwrap();
    assert_eq!(client.verification(), Verification::Verified);
}

#[tokio::test]
async fn plain_text_after_the_reply_to_starttls_is_an_injection() {
    let folder = Folder::new();
    let connector = folder.connector();
    let (near, _far) = pair();
    let leftover = b"250 injected\r\n";
    let result = connector.starttls(near, &host("mx.test"), &Policy::Opportunistic, leftover, soon()).await;
    assert!(matches!(result, Err(TlsError::Injected)));
    // The same, when it arrives later than the caller has read.
    let (near, mut far) = pair();
    far.write_all(leftover).await.unwrap();
    let result = connector.starttls(near, &host("mx.test"), &Policy::Opportunistic, b"", soon()).await;
    assert!(matches!(result, Err(TlsError::Failed(_))));
}

#[tokio::test]
async fn sessions_are_resumed_only_where_they_belong() {
    let folder = Folder::new();
    let files = [folder.certificate("mx.test", |_| {}), folder.certificate("two.test", |_| {})];
    let (one, other) = (acceptor(&files), acceptor(&files));
    let connector = folder.connector();
    let is_resumed = async |acceptor, name, policy| {
        let (client, server) = shake(acceptor, &connector, name, policy).await.unwrap();
        assert_eq!(client.is_resumed(), server.is_resumed());
        client.is_resumed()
    };
    assert!(!is_resumed(&one, "mx.test", Policy::Verified).await);
    assert!(is_resumed(&one, "mx.test", Policy::Verified).await);
    assert!(is_resumed(&one, "mx.test", Policy::Verified).await);
    // Another name, another listener, and a session that nobody verified.
    assert!(!is_resumed(&one, "two.test", Policy::Verified).await);
    assert!(!is_resumed(&other, "mx.test", Policy::Verified).await);
    assert!(!is_resumed(&one, "mx.test", Policy::Opportunistic).await);
    assert!(is_resumed(&one, "mx.test", Policy::Opportunistic).await);
    let config = AcceptorConfig { resumption: false, ..AcceptorConfig::default() };
    let without = Acceptor::new(Certificates::load(&files).unwrap(), &config).unwrap();
    for _ in 0..2 {
        assert!(!is_resumed(&without, "mx.test", Policy::Required).await);
    }
}

#[tokio::test]
async fn the_certificate_is_chosen_by_name_and_swapped_while_running() {
    let folder = Folder::new();
    let wild = folder.certificate("*.wild.test", |_| {});
    let files = [folder.certificate("first.test", |_| {}), folder.certificate("second.test", |_| {}), wild];
    let certificates = Certificates::load(&files).unwrap();
    let acceptor = Acceptor::new(certificates.clone(), &AcceptorConfig::default()).unwrap();
    let verification = async |name| {
        // A connector of its own, so that nothing is resumed.
        shake(&acceptor, &folder.connector(), name, Policy::Required).await.unwrap().0.verification()
    };
    for name in ["first.test", "second.test", "a.wild.test"] {
        assert_eq!(verification(name).await, Verification::Verified, "{name}");
    }
    // Whoever asks for another name, or none, is shown the first.
    for name in ["third.test", "[192.0.2.2]"] {
        let Verification::NotVerified(_, why) = verification(name).await else { panic!("{name}") };
        assert!(why.contains("first.test"), "{why}");
    }

    let third = folder.certificate("third.test", |p| p.not_after = rcgen::date_time_ymd(2060, 1, 1));
    certificates.reload(std::slice::from_ref(&third)).unwrap();
    assert_eq!(verification("third.test").await, Verification::Verified);
    let expiry = certificates.expiry();
    assert_eq!((expiry.len(), &expiry[0].chain), (1, &third.chain));
    assert_eq!(expiry[0].days_left(UnixMillis(expiry[0].not_after.0 - 86_400_000 * 30)), 30);
    assert_eq!(expiry[0].days_left(UnixMillis(expiry[0].not_after.0 + 1)), -1);
    assert!(expiry[0].days_left(SystemTime::now().into()) > 12_000);
}

#[tokio::test]
async fn a_bad_reload_names_the_file_and_keeps_the_old() {
    let folder = Folder::new();
    let good = folder.certificate("mx.test", |_| {});
    let other = folder.certificate("other.test", |_| {});
    let certificates = Certificates::load(std::slice::from_ref(&good)).unwrap();
    let acceptor = Acceptor::new(certificates.clone(), &AcceptorConfig::default()).unwrap();
    let file = |name: &str, text: &str| {
        fs::write(folder.path(name), text).unwrap();
        folder.path(name)
    };
    let garbage = file("garbage.pem", "-----BEGIN CERTIFICATE-----\nAAAA\n-----END CERTIFICATE-----\n");
    let broken = file("broken.pem", "-----BEGIN CERTIFICATE-----\n!!!!\n");
    let empty = file("empty.pem", "");
    let missing = folder.path("missing.pem");
    let files = |chain: &PathBuf, key: &PathBuf| CertificateFiles {
        chain: chain.clone(),
        key: key.clone(),
        ..CertificateFiles::default()
    };
    let cases = [
        (files(&missing, &good.key), &missing, "cannot be read: No such file"),
        (files(&good.chain, &missing), &missing, "cannot be read: No such file"),
        (files(&empty, &good.key), &empty, "holds no certificate"),
        (files(&good.chain, &empty), &empty, "holds no private key"),
        (files(&good.chain, &good.chain), &good.chain, "holds no private key"),
        (files(&good.key, &good.key), &good.key, "holds no certificate"),
        (files(&broken, &good.key), &broken, "is not PEM"),
        (files(&garbage, &good.key), &garbage, "is malformed"),
        (files(&good.chain, &other.key), &other.key, "does not belong to the certificate in"),
    ];
    for (case, at_fault, problem) in cases {
        let error = certificates.reload(&[good.clone(), case]).unwrap_err();
        assert_eq!(error.file.as_ref(), Some(at_fault), "{error}");
        assert!(error.to_string().contains(problem), "{error}");
    }
    assert!(certificates.reload(&[]).is_err());
    let (client, _server) = shake(&acceptor, &folder.connector(), "mx.test", Policy::Verified).await.unwrap();
    assert!(client.is_tls());

    let bad_ca = ConnectorConfig { ca_file: Some(empty.clone()), ..ConnectorConfig::default() };
    assert_eq!(Connector::new(&bad_ca).unwrap_err().file, Some(empty));
}

#[tokio::test(start_paused = true)]
async fn handshakes_have_deadlines() {
    let folder = Folder::new();
    let acceptor = acceptor(&[folder.certificate("mx.test", |_| {})]);
    // Slowloris: the beginning of a handshake, an octet at a time.
    let (mut near, far) = pair();
    let drip = async {
        for octet in [0x16, 3, 1, 2, 0, 1, 0] {
            let _ = near.write_all(&[octet]).await;
            tokio::time::sleep(Duration::from_secs(7)).await;
        }
    };
    let began = Instant::now();
    let (result, ()) = tokio::join!(async { (acceptor.accept(far).await, began.elapsed()) }, drip);
    assert!(matches!(result.0, Err(TlsError::TimedOut)));
    assert_eq!(result.1, AcceptorConfig::default().handshake_timeout);

    let (near, _far) = pair();
    let deadline = Instant::now() + Duration::from_secs(5);
    let error =
        folder.connector().connect(near, &host("mx.test"), &Policy::Required, deadline).await.unwrap_err();
    assert!(matches!(error, TlsError::TimedOut));
    assert_eq!(error.reply().to_string(), "451 4.4.2 TLS handshake not done in time");
}

#[tokio::test]
async fn what_is_no_handshake_ends_it() {
    let folder = Folder::new();
    let acceptor = acceptor(&[folder.certificate("mx.test", |_| {})]);
    for bytes in [&b"EHLO a.test\r\nMAIL FROM:<a@a.test>\r\n"[..], b"GET / HTTP/1.1\r\n\r\n", &[0x16; 400]] {
        let (mut near, far) = pair();
        near.write_all(bytes).await.unwrap();
        assert!(matches!(acceptor.accept(far).await, Err(TlsError::Failed(_))));
    }
    let (near, far) = pair();
    drop(near);
    assert!(matches!(acceptor.accept(far).await, Err(TlsError::Io(_))));
}

#[tokio::test]
async fn tls_1_2_is_spoken_and_nothing_older_and_no_early_data_offered() {
    let folder = Folder::new();
    let acceptor = acceptor(&[folder.certificate("mx.test", |_| {})]);
    let lax = rustls::ClientConfig::builder_with_provider(provider())
        .with_protocol_versions(&[&rustls::version::TLS12])
        .unwrap()
        .with_root_certificates(rustls::RootCertStore { roots: vec![webpki_root(&folder)] })
        .with_no_client_auth();
    let (near, far) = pair();
    let client = tokio_rustls::TlsConnector::from(Arc::new(lax));
    let name = rustls::pki_types::ServerName::try_from("mx.test").unwrap();
    let (client, server) = tokio::join!(client.connect(name, near), acceptor.accept(far));
    client.unwrap();
    let info = server.unwrap().tls_info().unwrap();
    assert_eq!(&*info.protocol, "TLSv1.2");
    assert!(info.cipher.starts_with("TLS_ECDHE_ECDSA_WITH_"), "{}", info.cipher);

    // A hello of TLS 1.1: version 3.2, and no extension that names a newer one.
    let mut hello = vec![0x16, 3, 1, 0, 45, 1, 0, 0, 41, 3, 2];
    hello.extend([7; 32]);
    hello.extend([0, 0, 2, 0xC0, 0x13, 1, 0]);
    let (mut near, far) = pair();
    near.write_all(&hello).await.unwrap();
    assert!(matches!(acceptor.accept(far).await, Err(TlsError::Failed(_))));
}

fn webpki_root(folder: &Folder) -> rustls::pki_types::TrustAnchor<'static> {
    let mut roots = rustls::RootCertStore::empty();
    roots.add(folder.authority.der().clone()).unwrap();
    roots.roots.remove(0)
}

fn sha256(octets: &[u8]) -> Box<[u8]> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA256, octets).as_ref().into()
}

fn sha512(octets: &[u8]) -> Box<[u8]> {
    aws_lc_rs::digest::digest(&aws_lc_rs::digest::SHA512, octets).as_ref().into()
}

#[tokio::test]
async fn tlsa_records_decide_and_nobody_else() {
    use rustls::pki_types::CertificateDer;
    use rustls::pki_types::pem::PemObject;
    let folder = Folder::new();
    // It is over, and for another name: the server's own certificate may be both (RFC 7672 §3.1.1).
    let over = folder.certificate("other.test", |p| p.not_after = rcgen::date_time_ymd(2020, 1, 1));
    let good = folder.certificate("mx.test", |_| {});
    let der = |path: &PathBuf| CertificateDer::from_pem_file(path).unwrap();
    let key_of = |certificate: &CertificateDer<'_>| {
        rustls::server::ParsedCertificate::try_from(certificate).unwrap().subject_public_key_info().to_vec()
    };
    let ca = folder.authority.der().clone();
    let chain_with_ca = |files: &CertificateFiles| {
        let chain = folder.path("chain.pem");
        let text = fs::read_to_string(&files.chain).unwrap() + &folder.authority.pem();
        fs::write(&chain, text).unwrap();
        CertificateFiles { chain, key: files.key.clone(), ..CertificateFiles::default() }
    };
    let record = |usage, selector, matching, data: Box<[u8]>| Tlsa { usage, selector, matching, data };
    let (own, own_key) = (der(&over.chain).to_vec(), key_of(&der(&over.chain)));
    let over_with_ca = acceptor(&[chain_with_ca(&over)]);
    let good_with_ca = acceptor(&[chain_with_ca(&good)]);
    let good_alone = acceptor(std::slice::from_ref(&good));
    let fits = Ok(());
    let tlsa = Err(CertificateFault::Tlsa);
    for (what, server, records, outcome) in [
        ("3 0 0", &over_with_ca, vec![record(3, 0, 0, own.clone().into())], fits),
        ("3 0 1", &over_with_ca, vec![record(3, 0, 1, sha256(&own))], fits),
        ("3 1 1", &over_with_ca, vec![record(3, 1, 1, sha256(&own_key))], fits),
        ("3 1 2", &over_with_ca, vec![record(3, 1, 2, sha512(&own_key))], fits),
        ("another's key", &good_alone, vec![record(3, 1, 1, sha256(&own_key))], tlsa),
        (
            "one of two",
            &over_with_ca,
            vec![record(3, 1, 1, [7; 32].into()), record(3, 0, 1, sha256(&own))],
            fits,
        ),
        ("2 0 1", &good_with_ca, vec![record(2, 0, 1, sha256(&ca))], fits),
        ("2 1 1", &good_with_ca, vec![record(2, 1, 1, sha256(&key_of(&ca)))], fits),
        ("an authority that is not shown", &good_alone, vec![record(2, 0, 1, sha256(&ca))], tlsa),
        ("one that the record holds", &good_alone, vec![record(2, 0, 0, ca.to_vec().into())], fits),
        (
            "dates matter there",
            &over_with_ca,
            vec![record(2, 0, 1, sha256(&ca))],
            Err(CertificateFault::Dates),
        ),
        (
            "the server as its own authority",
            &good_alone,
            vec![record(2, 0, 1, sha256(&der(&good.chain)))],
            tlsa,
        ),
    ] {
        assert!(records.iter().all(Tlsa::is_usable), "{what}");
        let dane = Dane { records, names: vec!["domain.test".into(), "mx.test".into()] };
        let shaken = shake(server, &folder.connector(), "mx.test", Policy::Dane(Arc::new(dane))).await;
        match (shaken, outcome) {
            (Ok((client, _)), Ok(())) => assert_eq!(client.verification(), Verification::Dane, "{what}"),
            (Err(TlsError::NotVerified(fault, _)), Err(expected)) => assert_eq!(fault, expected, "{what}"),
            (shaken, _) => panic!("{what}: {shaken:?}"),
        }
    }
    let wrong_name = Dane { records: vec![record(2, 0, 1, sha256(&ca))], names: vec!["mx2.test".into()] };
    let shaken =
        shake(&good_with_ca, &folder.connector(), "mx.test", Policy::Dane(Arc::new(wrong_name))).await;
    assert!(matches!(shaken, Err(TlsError::NotVerified(CertificateFault::Name, _))), "{shaken:?}");
    for (usage, selector, matching, octets) in [
        (0, 1, 1, 32),
        (1, 1, 1, 32),
        (3, 2, 1, 32),
        (3, 1, 3, 32),
        (3, 1, 1, 31),
        (3, 1, 2, 32),
        (4, 0, 1, 32),
        (3, 0, 0, 0),
    ] {
        let record = record(usage, selector, matching, vec![0; octets].into());
        assert!(!record.is_usable(), "{record:?}");
    }
}

#[tokio::test]
async fn a_certificate_may_be_asked_for_another_name_than_the_exchangers() {
    let folder = Folder::new();
    let server = acceptor(&[folder.certificate("mail.bank.test", |_| {})]);
    let named = |names: &[&str]| Policy::Named(names.iter().map(|&name| name.into()).collect());
    let (client, _server) =
        shake(&server, &folder.connector(), "mx.test", named(&["bank.test", "mail.bank.test"]))
            .await
            .unwrap();
    assert_eq!(client.verification(), Verification::Verified);
    let error = shake(&server, &folder.connector(), "mx.test", named(&["bank.test"])).await.unwrap_err();
    assert!(matches!(error, TlsError::NotVerified(CertificateFault::Name, _)), "{error}");
    let stranger = Folder::of("stranger.test");
    let error =
        shake(&server, &stranger.connector(), "mx.test", named(&["mail.bank.test"])).await.unwrap_err();
    assert!(matches!(error, TlsError::NotVerified(CertificateFault::Untrusted, _)), "{error}");
}

#[tokio::test]
async fn a_client_that_must_be_vouched_for() {
    let (folder, stranger) = (Folder::new(), Folder::of("stranger.test"));
    let config = AcceptorConfig { client_ca_file: Some(folder.path("ca.pem")), ..AcceptorConfig::default() };
    let certificates = Certificates::load(&[folder.certificate("mx.test", |_| {})]).unwrap();
    let acceptor = Acceptor::new(certificates.clone(), &config).unwrap();
    let with = |files: Option<CertificateFiles>| {
        let client = files.map(|files| (files.chain, files.key));
        let ca_file = Some(folder.path("ca.pem"));
        Connector::new(&ConnectorConfig { ca_file, client, ..ConnectorConfig::default() }).unwrap()
    };
    let good = with(Some(folder.certificate("client.test", |_| {})));
    for _ in 0..2 {
        shake(&acceptor, &good, "mx.test", Policy::Verified).await.unwrap();
    }
    for connector in [with(None), with(Some(stranger.certificate("client.test", |_| {})))] {
        let (near, far) = pair();
        let name = host("mx.test");
        let client = connector.starttls(near, &name, &Policy::Verified, b"", soon());
        let (_client, server) = tokio::join!(client, acceptor.accept(far));
        assert!(matches!(server, Err(TlsError::Failed(_) | TlsError::NotVerified(..))), "{server:?}");
    }
    let missing = AcceptorConfig { client_ca_file: Some(folder.path("no.pem")), ..AcceptorConfig::default() };
    let error = Acceptor::new(certificates, &missing).unwrap_err().to_string();
    assert!(error.contains("no.pem"), "{error}");
}

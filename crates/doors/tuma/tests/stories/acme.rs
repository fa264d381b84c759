//! Certificates got and renewed by ACME, with Pebble as the authority: a server made to be hard on clients.

use crate::harness::authority::{Authority, over};
use crate::harness::dns::NameServer;
use crate::harness::web::WebServer;
use crate::harness::{Process, Setup, Tuma, fixed_address, has_program, nobody, wait_until};
use rustls::pki_types::{CertificateDer, ServerName};
use std::io::{Read as _, Write as _};
use std::net::{SocketAddr, TcpStream};
use std::os::unix::fs::PermissionsExt as _;
use std::path::{Path, PathBuf};
use std::process::{Command, Stdio};
use std::sync::Arc;

/// An authority that checks names at a port of ours.
struct Pebble {
    config: PathBuf,
    dns: SocketAddr,
    at: SocketAddr,
    /// Where names are checked.
    http: SocketAddr,
    /// Who vouches for its own server.
    roots: PathBuf,
}

fn has_pebble() -> bool {
    has_program("pebble", Command::new("sh").args(["-c", "command -v pebble"]))
}

impl Pebble {
    /// Certificates live so long.
    fn new(folder: &Path, dns: &NameServer, lifetime_s: u32) -> Self {
        let authority = Authority::new("pebble.test");
        let (chain, key) = authority.certify(&["localhost", "127.0.0.1"], |_| {}).files(folder, "pebble");
        let (at, http) = (fixed_address(), fixed_address());
        let config = serde_json::json!({ "pebble": {
            "listenAddress": at.to_string(),
            "managementListenAddress": fixed_address().to_string(),
            "certificate": chain,
            "privateKey": key,
            "httpPort": http.port(),
            "tlsPort": nobody().port(),
            "ocspResponderURL": "",
            "externalAccountBindingRequired": false,
            "certificateValidityPeriod": lifetime_s,
        }});
        let file = folder.join("pebble.json");
        std::fs::write(&file, config.to_string()).expect("write Pebble's configuration");
        Self { config: file, dns: dns.at, at, http, roots: authority.file(folder) }
    }

    fn start(&self) -> Process {
        let mut command = Command::new("pebble");
        command.arg("-config").arg(&self.config).arg("-dnsserver").arg(self.dns.to_string());
        // Names are checked without dawdling, and anew for each order. Nonces are refused at times, as Pebble likes to.
        command.env("PEBBLE_VA_NOSLEEP", "1").env("PEBBLE_AUTHZREUSE", "0");
        command.stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null());
        let process = Process(command.spawn().expect("start pebble"));
        wait_until("Pebble answers", || TcpStream::connect(self.at).is_ok());
        process
    }

    fn settings(&self) -> String {
        format!(
            "[acme]\ndirectory = \"https://{}/dir\"\nterms_agreed = true\nca_file = \"{}\"\nlisten = \"{}\"\n\
             contact = [\"postmaster@tuma.test\"]\nretry_min = \"1s\"\nretry_max = \"1s\"\n\
             [server]\ncertificates_check_every = \"1s\"\n[listener.smtp]\ntls = \"starttls\"\n",
            self.at,
            self.roots.display(),
            self.http,
        )
    }
}

/// Takes whatever is shown, to look at it.
#[derive(Debug)]
struct Anything(Arc<rustls::crypto::CryptoProvider>);

impl rustls::client::danger::ServerCertVerifier for Anything {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: rustls::pki_types::UnixTime,
    ) -> Result<rustls::client::danger::ServerCertVerified, rustls::Error> {
        Ok(rustls::client::danger::ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &rustls::DigitallySignedStruct,
    ) -> Result<rustls::client::danger::HandshakeSignatureValid, rustls::Error> {
        let algorithms = &self.0.signature_verification_algorithms;
        rustls::crypto::verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<rustls::SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}

/// The chain that is shown for a name, after STARTTLS if it is SMTP.
fn shown(address: SocketAddr, is_smtp: bool, name: &str) -> Vec<CertificateDer<'static>> {
    let provider = Arc::new(rustls::crypto::aws_lc_rs::default_provider());
    let config = rustls::ClientConfig::builder_with_provider(provider.clone())
        .with_safe_default_protocol_versions()
        .expect("the usual versions")
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(Anything(provider)))
        .with_no_client_auth();
    let mut stream = TcpStream::connect(address).expect("connect");
    if is_smtp {
        let mut reply = [0; 1024];
        for (line, wanted) in [("", "220"), ("EHLO client.test\r\n", "250"), ("STARTTLS\r\n", "220")] {
            stream.write_all(line.as_bytes()).expect("send");
            let count = stream.read(&mut reply).expect("a reply");
            assert!(reply[..count].starts_with(wanted.as_bytes()), "{line}");
        }
    }
    let name = ServerName::try_from(name.to_owned()).expect("a name");
    let mut session = rustls::ClientConnection::new(Arc::new(config), name).expect("a session");
    while session.is_handshaking() {
        session.complete_io(&mut stream).expect("a handshake");
    }
    session.peer_certificates().expect("certificates").iter().map(|c| c.clone().into_owned()).collect()
}

fn is_for(chain: &[CertificateDer<'_>], name: &str) -> bool {
    let parsed = rustls::server::ParsedCertificate::try_from(&chain[0]).expect("a certificate");
    let name = ServerName::try_from(name).expect("a name");
    rustls::client::verify_server_name(&parsed, &name).is_ok()
}

/// The certificate's part of the status.
fn state(tuma: &Tuma, certificate: &str) -> serde_json::Value {
    let status = tuma.status();
    let all = status["acme"].as_array().expect("a list").clone();
    all.into_iter().find(|one| one["certificate"] == certificate).unwrap_or_default()
}

fn wait_until_obtained(tuma: &Tuma, certificate: &str) {
    wait_until("there is a certificate", || state(tuma, certificate)["not_after_ms"].is_u64());
}

#[test]
fn certificates_are_got_shown_by_name_and_kept() {
    if !has_pebble() {
        return;
    }
    let (folder, dns) = (tempfile::tempdir().unwrap(), NameServer::start());
    for name in ["mail.tuma.test", "smtp.tuma.test", "api.tuma.test"] {
        dns.a(name, [127, 0, 0, 1]);
    }
    let pebble = Pebble::new(folder.path(), &dns, 90 * 86_400);
    let authority = pebble.start();
    let more = pebble.settings()
        + "[tls.default]\nacme = [\"mail.tuma.test\", \"smtp.tuma.test\"]\n[tls.api]\nacme = [\"api.tuma.test\"]\n\
           [http]\ntls = \"api\"\n";
    let setup = Setup::direct(folder.path(), &dns, 25, &more);
    let tuma = setup.start();
    // There is something to show from the first moment on.
    assert!(is_for(&shown(tuma.smtp(), true, "mail.tuma.test"), "mail.tuma.test"));
    wait_until("both are shown", || {
        shown(tuma.smtp(), true, "mail.tuma.test").len() > 1
            && shown(tuma.http, false, "api.tuma.test").len() > 1
    });
    for (name, other) in [
        ("mail.tuma.test", "api.tuma.test"),
        ("smtp.tuma.test", "api.tuma.test"),
        ("api.tuma.test", "mail.tuma.test"),
    ] {
        let chain = shown(tuma.smtp(), true, name);
        assert!(is_for(&chain, name) && !is_for(&chain, other), "{name}");
    }
    assert!(is_for(&shown(tuma.http, false, "x.test"), "api.tuma.test"));
    let state = folder.path().join("state/acme");
    let mode = |path: &Path| std::fs::metadata(path).unwrap().permissions().mode() & 0o777;
    assert_eq!(mode(&state), 0o700);
    let files: Vec<PathBuf> = std::fs::read_dir(&state).unwrap().map(|entry| entry.unwrap().path()).collect();
    assert_eq!(files.len(), 5, "{files:?}");
    assert!(files.iter().all(|file| mode(file) == 0o600));
    // A restart asks for nothing; the authority need not even be there.
    let chain = shown(tuma.smtp(), true, "mail.tuma.test");
    tuma.stop();
    drop(authority);
    let tuma = setup.start();
    assert!(shown(tuma.smtp(), true, "mail.tuma.test") == chain);
    let log = tuma.stop();
    assert!(!log.contains("asking for a certificate"), "{log}");
}

#[test]
fn a_certificate_is_renewed_and_the_old_one_goes_on_while_the_authority_is_away() {
    if !has_pebble() {
        return;
    }
    let (folder, dns) = (tempfile::tempdir().unwrap(), NameServer::start());
    dns.a("mail.tuma.test", [127, 0, 0, 1]);
    // Renewed when a third of it is left.
    let pebble = Pebble::new(folder.path(), &dns, 9);
    let authority = pebble.start();
    let more = pebble.settings() + "[tls.default]\nacme = [\"mail.tuma.test\"]\n";
    let tuma = Setup::direct(folder.path(), &dns, 25, &more).start();
    wait_until_obtained(&tuma, "default");
    let first = shown(tuma.smtp(), true, "mail.tuma.test");
    assert!(
        tuma.says(&["status"]).contains("certificate default (mail.tuma.test): 0 h left, renewed in 0 h")
    );
    wait_until("it is renewed", || shown(tuma.smtp(), true, "mail.tuma.test") != first);
    wait_until("it is counted", || tuma.metric("tuma_acme_orders_total") >= 2.0);
    drop(authority);
    wait_until("its renewal fails", || state(&tuma, "default")["failures"].as_u64() >= Some(2));
    let old = shown(tuma.smtp(), true, "mail.tuma.test");
    assert!(old.len() > 1 && is_for(&old, "mail.tuma.test"));
    let status = tuma.says(&["status"]);
    assert!(status.contains("failures, tried again in 0 min: the authority cannot be asked: "), "{status}");
    assert!(tuma.log().contains("the old one stays in use"), "{}", tuma.log());
    assert!(tuma.metric("tuma_acme_failures") >= 2.0);
    // Pebble forgets everything when it ends, our account too.
    let _authority = pebble.start();
    wait_until("it is renewed again", || shown(tuma.smtp(), true, "mail.tuma.test") != old);
    wait_until("the failures are over", || state(&tuma, "default")["failures"] == 0);
}

#[test]
fn a_name_that_is_not_ours_is_refused_and_said_why() {
    if !has_pebble() {
        return;
    }
    let (folder, dns) = (tempfile::tempdir().unwrap(), NameServer::start());
    dns.a("mail.tuma.test", [127, 0, 0, 1]);
    let pebble = Pebble::new(folder.path(), &dns, 90 * 86_400);
    let _authority = pebble.start();
    let more = pebble.settings() + "[tls.default]\nacme = [\"mail.tuma.test\", \"elsewhere.test\"]\n";
    let tuma = Setup::direct(folder.path(), &dns, 25, &more).start();
    wait_until("it is refused", || state(&tuma, "default")["error"].is_string());
    let error = state(&tuma, "default")["error"].as_str().expect("a text").to_owned();
    assert!(error.starts_with("the authority refuses: ") && error.contains("elsewhere.test"), "{error}");
    assert!(is_for(&shown(tuma.smtp(), true, "mail.tuma.test"), "mail.tuma.test"));
    assert!(!folder.path().join("state/acme/default.pem").exists());
    // Answers stand only while they are asked for.
    let mut stream = TcpStream::connect(pebble.http).expect("connect");
    stream
        .write_all(b"GET /.well-known/acme-challenge/x HTTP/1.1\r\nHost: mail.tuma.test\r\n\r\n")
        .expect("send");
    let mut answer = String::new();
    stream.read_to_string(&mut answer).expect("receive");
    assert!(answer.starts_with("HTTP/1.1 404 "), "{answer}");
}

#[test]
fn an_authority_that_makes_no_sense_is_an_error_and_no_more() {
    let (folder, dns) = (tempfile::tempdir().unwrap(), NameServer::start());
    let authority = Authority::new("authority.test");
    let web = WebServer::start(authority.server("localhost"));
    let json = |text: &str| format!("200 OK\r\nContent-Length: {}\r\n\r\n{text}", text.len());
    let more = format!(
        "[acme]\ndirectory = \"https://localhost:{}/dir\"\nterms_agreed = true\nca_file = \"{}\"\nretry_min = \"1s\"\n\
         retry_max = \"1s\"\n[server]\ncertificates_check_every = \"1s\"\n[listener.smtp]\ntls = \"starttls\"\n\
         [tls.default]\nacme = [\"mail.tuma.test\"]\n",
        web.at.port(),
        authority.file(folder.path()).display(),
    );
    let tuma = Setup::direct(folder.path(), &dns, 25, &more).start();
    let says = |wanted: &str| {
        wait_until(wanted, || {
            state(&tuma, "default")["error"].as_str().is_some_and(|error| error.contains(wanted))
        });
    };
    says("the authority's answer cannot be understood");
    web.answer("localhost", &json("{\"newNonce\": 7}"));
    says("the authority's answer cannot be understood");
    let clear =
        "{\"newNonce\":\"http://a.test/\",\"newAccount\":\"http://a.test/\",\"newOrder\":\"http://a.test/\"}";
    web.answer("localhost", &json(clear));
    says("which is not HTTPS");
    web.answer("localhost", &json(&"x".repeat(300_000)));
    says("the authority cannot be asked");
    web.show(authority.certify(&["localhost"], over).server());
    says("expired");
    web.show(authority.server("other.test"));
    says("not valid for name");
    // Mail goes on all the while.
    tuma.greeted().say("NOOP", "250");
}

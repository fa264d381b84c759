//! The vectors of RFC 8463, and that what is signed is verified and nothing else.

use super::*;
use mail::Domain;
use std::sync::Arc;

/// RFC 8463 appendix A.2.
pub(crate) const ED25519_RECORD: &str = "v=DKIM1; k=ed25519; p=11qYAYKxCrfVS/7TyWQHOg7hcvPapiMlrwIaaPcHURo=";
pub(crate) const RSA_RECORD: &str = "v=DKIM1; k=rsa; p=MIGfMA0GCSqGSIb3DQEBAQUAA4GNADCBiQKBgQDkHlOQoBTzWR\
    iGs5V6NpP3idY6Wk08a5qhdR6wy5bdOKb2jLQiY/J16JYi0Qvx/byYzCNb3W91y3FutAC\
    DfzwQ/BC/e/8uBsCR+yz1Lxj+PL6lHvqMKrM3rG4hstT5QjvHO9PzoxZyVYLzBfO2EeC3\
    Ip3G+2kryOTIKT+l/K4w3QIDAQAB";

/// RFC 8463 appendix A.3.
const MESSAGE: &str = "DKIM-Signature: v=1; a=ed25519-sha256; c=relaxed/relaxed;\r\n \
    d=football.example.com; i=@football.example.com;\r\n \
    q=dns/txt; s=brisbane; t=1528637909; h=from : to :\r\n \
    subject : date : message-id : from : subject : date;\r\n \
    bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n \
    b=/gCrinpcQOoIfuHNQIbq4pgh9kyIK3AQUdt9OdqQehSwhEIug4D11Bus\r\n \
    Fa3bT3FY5OsU7ZbnKELq+eXdp1Q1Dw==\r\n\
    DKIM-Signature: v=1; a=rsa-sha256; c=relaxed/relaxed;\r\n \
    d=football.example.com; i=@football.example.com;\r\n \
    q=dns/txt; s=test; t=1528637909; h=from : to : subject :\r\n \
    date : message-id : from : subject : date;\r\n \
    bh=2jUSOH9NhtVGCQWNr9BrIAPreKQjO6Sn7XIkfJVOzv8=;\r\n \
    b=F45dVWDfMbQDGHJFlXUNB2HKfbCeLRyhDXgFpEL8GwpsRe0IeIixNTe3\r\n \
    DhCVlUrSjV4BwcVcOF6+FF3Zo9Rpo1tFOeS9mPYQTnGdaSGsgeefOsk2Jz\r\n \
    dA+L10TeYt9BgDfQNZtKdN1WO//KgIqXP7OdEFE4LjFYNcUxZQ4FADY+8=\r\n\
    From: Joe SixPack <joe@football.example.com>\r\n\
    To: Suzie Q <suzie@shopping.example.net>\r\n\
    Subject: Is dinner ready?\r\n\
    Date: Fri, 11 Jul 2003 21:00:37 -0700 (PDT)\r\n\
    Message-ID: <20030712040037.46341.5F8J@football.example.com>\r\n\
    \r\n\
    Hi.\r\n\
    \r\n\
    We lost the game.  Are you hungry yet?\r\n\
    \r\n\
    Joe.\r\n";

const NOW: u64 = 1_600_000_000;

/// The verdicts on a content, with one zone for all.
fn verify(content: &[u8], policy: &VerifyPolicy, now: u64, zone: &[(&str, &str)]) -> Vec<Verified> {
    let mut machine = Verifier::of(content, policy, now);
    for name in machine.questions() {
        let records: Vec<Vec<u8>> = zone
            .iter()
            .filter(|(known, _)| *known == name)
            .map(|(_, text)| text.as_bytes().to_vec())
            .collect();
        let answer = if records.is_empty() { KeyAnswer::Absent } else { KeyAnswer::Records(records) };
        machine.answer(&name, &answer);
    }
    machine.finish()
}

fn zone() -> [(&'static str, &'static str); 2] {
    [
        ("brisbane._domainkey.football.example.com", ED25519_RECORD),
        ("test._domainkey.football.example.com", RSA_RECORD),
    ]
}

/// What became of each signature, in one line.
fn told(verified: &[Verified]) -> String {
    let each = verified.iter().map(|v| match v.reason {
        Some(reason) => format!("{} ({reason})", v.verdict),
        None => v.verdict.to_string(),
    });
    each.collect::<Vec<_>>().join(", ")
}

#[test]
fn the_message_of_rfc_8463() {
    let policy = VerifyPolicy::default();
    let verified = verify(MESSAGE.as_bytes(), &policy, NOW, &zone());
    assert_eq!(told(&verified), "pass, pass");
    assert_eq!([verified[0].key_bits, verified[1].key_bits], [Some(256), Some(1_024)]);
    let cases: [(&str, &str, &str); 7] = [
        ("dinner", "lunch", "fail (signature did not verify), fail (signature did not verify)"),
        ("hungry", "thirsty", "fail (body hash did not verify), fail (body hash did not verify)"),
        // A field added below one that is signed once more than it is there.
        (
            "\r\n\r\nHi",
            "\r\nsubject: x\r\n\r\nHi",
            "fail (signature did not verify), fail (signature did not verify)",
        ),
        (
            "To: Suzie",
            "From: z@b.test\r\nTo: Suzie",
            "fail (signature did not verify), fail (signature did not verify)",
        ),
        // What relaxed canonicalization lets pass.
        ("Subject: Is dinner", "SUBJECT :\r\n\tIs  dinner", "pass, pass"),
        ("game.  Are", "game. \t Are", "pass, pass"),
        ("Joe.\r\n", "Joe. \r\n \r\n\r\n", "pass, pass"),
    ];
    for (from, to, expected) in cases {
        let changed = MESSAGE.replacen(from, to, 1);
        assert_eq!(told(&verify(changed.as_bytes(), &policy, NOW, &zone())), expected, "{to:?}");
    }
}

#[test]
fn keys_that_do_not_fit() {
    let policy = VerifyPolicy::default();
    let judged = |ed: Option<&str>, policy: &VerifyPolicy| {
        let zone: Vec<(&str, &str)> = ed
            .map(|text| ("brisbane._domainkey.football.example.com", text))
            .into_iter()
            .chain([zone()[1]])
            .collect();
        told(&verify(MESSAGE.as_bytes(), policy, NOW, &zone))
    };
    let key = ED25519_RECORD.split_once("p=").unwrap().1;
    assert_eq!(judged(None, &policy), "permerror (no key for signature), pass");
    assert_eq!(judged(Some("v=DKIM1; k=ed25519; p="), &policy), "permerror (key revoked), pass");
    assert_eq!(judged(Some(RSA_RECORD), &policy), "permerror (key not of the kind that a= says), pass");
    assert_eq!(judged(Some("v=spf1 -all"), &policy), "permerror (key record of an unknown version), pass");
    assert_eq!(judged(Some(&format!("k=ed25519; t=s; p={key}")), &policy), "pass, pass");
    let strict = VerifyPolicy { rsa_bits_min: 2_048, ..policy.clone() };
    assert_eq!(judged(Some(ED25519_RECORD), &strict), "pass, policy (key of 1024 bits is too short)");
    let small = VerifyPolicy { rsa_bits_max: 512, ..policy.clone() };
    assert_eq!(judged(Some(ED25519_RECORD), &small), "pass, policy (key of 1024 bits is too long)");
    // Of several records the one that is a key counts.
    let two = [("brisbane._domainkey.football.example.com", "v=spf1 -all"), zone()[0], zone()[1]];
    assert_eq!(told(&verify(MESSAGE.as_bytes(), &policy, NOW, &two)), "pass, pass");
}

#[test]
fn no_answer_is_an_error_for_now() {
    let policy = VerifyPolicy::default();
    let mut machine = Verifier::of(MESSAGE.as_bytes(), &policy, NOW);
    let names = machine.questions();
    assert_eq!(names, [zone()[0].0, zone()[1].0]);
    machine.answer(&names[0], &KeyAnswer::Temporary);
    assert_eq!(told(&machine.finish()), "temperror (key not available), temperror (key not available)");
}

#[test]
fn what_the_body_decides_asks_no_question() {
    let changed = MESSAGE.replace("hungry", "thirsty");
    assert!(Verifier::of(changed.as_bytes(), &VerifyPolicy::default(), NOW).questions().is_empty());
}

/// Attack 33: a thousand signatures, and a long list of names in each.
#[test]
fn signatures_beyond_the_limit_cost_nothing() {
    let signature = MESSAGE.split_once("DKIM-Signature: v=1; a=rsa").unwrap().0.replace("brisbane", "x");
    let many = signature.repeat(1_000) + MESSAGE;
    let machine = Verifier::of(many.as_bytes(), &VerifyPolicy::default(), NOW);
    assert_eq!((machine.questions().len(), machine.left_out()), (1, 996));
    assert_eq!(machine.finish().len(), 5);
    let long = MESSAGE.replace("h=from", &format!("h={}from", "to:".repeat(500)));
    assert_eq!(
        told(&verify(long.as_bytes(), &VerifyPolicy::default(), NOW, &zone())),
        "neutral (signature too long), neutral (signature too long)"
    );
}

fn identity(key: &Arc<SigningKey>) -> Identity {
    Identity {
        domain: Domain::parse("a.test").unwrap(),
        selector: Domain::parse("s1").unwrap(),
        key: key.clone(),
        canonicalization: Canonicalization::RELAXED,
        headers: SignedName::usual(),
        expires_after: 0,
        identity: None,
    }
}

fn keys() -> &'static [Arc<SigningKey>; 2] {
    static KEYS: std::sync::LazyLock<[Arc<SigningKey>; 2]> = std::sync::LazyLock::new(|| {
        [SigningKey::generate_rsa(2_048).unwrap(), SigningKey::generate_ed25519().unwrap()].map(Arc::new)
    });
    &KEYS
}

/// The verdict on a message with its signature in front.
fn checked(key: &SigningKey, field: &[u8], content: &[u8], now: u64) -> String {
    let record = key.record();
    let zone = [("s1._domainkey.a.test", record.as_str())];
    told(&verify(&[field, content].concat(), &VerifyPolicy::default(), now, &zone))
}

#[test]
fn what_is_signed_is_verified() {
    let content =
        b"Received: x\r\nFrom: x@a.test\r\nTo: y@b.test\r\nsubject: s\r\nTo: second\r\n\r\nbody \r\n\r\n";
    for key in keys() {
        for canonicalization in ["relaxed/relaxed", "relaxed/simple", "simple/relaxed", "simple/simple"] {
            let canonicalization = canonicalization.parse().unwrap();
            let identity = Identity { canonicalization, ..identity(key) };
            let field = sign(&identity, content, NOW).unwrap();
            assert_eq!(checked(key, &field, content, NOW), "pass");
            assert!(
                field.split(|b| *b == b'\n').all(|line| line.len() <= 79),
                "{}",
                String::from_utf8_lossy(&field)
            );
            let mut changed = content.to_vec();
            changed[30] = b'Z';
            assert!(checked(key, &field, &changed, NOW).starts_with("fail"));
        }
    }
}

#[test]
fn names_are_signed_as_often_as_they_are_there_and_once_more() {
    let key = &keys()[1];
    let content = b"From: x@a.test\r\nTo: y@b.test\r\nTo: second\r\nSubject: s\r\n\r\n";
    let names = ["From", "To", "Subject", "Cc", "Sender"];
    let headers = names.map(|name| SignedName::new(name, ["From", "Cc", "To"].contains(&name))).to_vec();
    let field = sign(&Identity { headers, ..identity(key) }, content, NOW).unwrap();
    let text = String::from_utf8(field.clone()).unwrap().replace("\r\n\t", "");
    assert!(text.contains("h=From:From:To:To:To:Subject:Cc;"), "{text}");
    for added in ["From: z@b.test\r\n", "To: z\r\n", "Cc: z\r\n"] {
        let changed = [added.as_bytes(), content].concat();
        assert_eq!(checked(key, &field, &changed, NOW), "fail (signature did not verify)", "{added}");
    }
    let changed = [b"Sender: z\r\n".as_slice(), content].concat();
    assert_eq!(checked(key, &field, &changed, NOW), "pass");
}

#[test]
fn identities_and_expiry() {
    let key = &keys()[1];
    let content = b"From: x@a.test\r\n\r\n";
    let identity =
        Identity { expires_after: 3_600, identity: Some("b\u{fc};r=o @news.a.test".into()), ..identity(key) };
    let field = sign(&identity, content, NOW).unwrap();
    assert!(String::from_utf8_lossy(&field).contains("i=b=C3=BC=3Br=3Do=20@news.a.test;"));
    assert_eq!(checked(key, &field, content, NOW + 3_900), "pass");
    assert_eq!(checked(key, &field, content, NOW + 3_901), "permerror (signature expired)");
    assert_eq!(checked(key, &field, content, NOW - 90_000), "permerror (signature made in the future)");
    let record = key.record().replacen("k=", "t=s:y; k=", 1);
    let zone = [("s1._domainkey.a.test", record.as_str())];
    let verified = verify(&[&field, &content[..]].concat(), &VerifyPolicy::default(), NOW, &zone);
    assert_eq!(told(&verified), "permerror (key not for subdomains)");
    assert_eq!(&*verified[0].signature.as_ref().unwrap().identity, "b\u{fc};r=o @news.a.test");
}

#[test]
fn what_is_not_signed() {
    let key = &keys()[1];
    let refused = |content: &str| sign(&identity(key), content.as_bytes(), NOW).unwrap_err();
    assert_eq!(refused("To: y@b.test\r\n\r\n"), SignError::From);
    assert_eq!(refused("From: x@a.test\r\nFROM: y@b.test\r\n\r\n"), SignError::From);
    assert_eq!(refused("From: x@a.test\r\nno field\r\n\r\nbody"), SignError::Header);
    assert_eq!(
        refused(&format!("From: x@a.test\r\n{}\r\n", "To: y\r\n".repeat(33))),
        SignError::TooManyFields
    );
    assert!(sign(&identity(key), b"From: x@a.test\r\n", NOW).is_ok(), "no body is an empty one");
}

/// Attack 33: `l=0` covers nothing, so anybody's text could follow.
#[test]
fn a_partial_body_is_not_believed() {
    let key = &keys()[1];
    let content = b"From: x@a.test\r\n\r\n";
    let field = String::from_utf8(sign(&identity(key), content, NOW).unwrap()).unwrap();
    // The body of the signed message is empty, so a signature of no octets of it is the same but for the tag.
    let with_length = |length: &str, body: &str| {
        let text = field.replace(" a=", &format!(" l={length}; a="));
        // Signed again with the tag in it, as a signer that writes one does.
        let bare = text[..text.rfind("b=").unwrap() + 2].to_owned();
        let index = HeaderIndex::new(content);
        let signature = Signature::parse(
            text.split_once(':').unwrap().1.trim_end().as_bytes(),
            SignatureKind::Dkim,
            &FieldLimits::default(),
        )
        .unwrap();
        let own = message::Fields::new(bare.as_bytes()).next().unwrap();
        let mut hash = aws_lc_rs::digest::Context::new(&aws_lc_rs::digest::SHA256);
        index.hash_named(Canon::Relaxed, signature.headers.iter().map(|name| &**name), &mut hash);
        hash_without_signature(Canonicalization::RELAXED, &own, bare.as_bytes(), &mut hash);
        let made = key.sign(&hash.finish()).unwrap();
        let signed = format!("{bare}{}\r\n", crate::base64_encode(&made));
        [signed.as_bytes(), content, body.as_bytes()].concat()
    };
    let record = key.record();
    let zone = [("s1._domainkey.a.test", record.as_str())];
    let judged = |content: &[u8], partial_bodies| {
        told(&verify(content, &VerifyPolicy { partial_bodies, ..VerifyPolicy::default() }, NOW, &zone))
    };
    assert_eq!(judged(&with_length("0", ""), false), "pass");
    let added = with_length("0", "buy this\r\n");
    assert_eq!(judged(&added, false), "policy (l= leaves part of the body unsigned)");
    assert_eq!(judged(&added, true), "pass");
    assert_eq!(judged(&with_length("5", ""), true), "fail (l= is more than the body)");
}

#[test]
fn keys_are_read_as_tools_write_them() {
    for key in keys() {
        let pem = key.to_pem().unwrap();
        let read = SigningKey::parse(pem.as_bytes()).unwrap();
        assert_eq!(read.public(), key.public());
        assert_eq!(
            SigningKey::parse(format!("comment\n{}", pem.replace('\n', "\r\n")).as_bytes()).unwrap().public(),
            key.public()
        );
        let digits: String = pem.lines().filter(|line| !line.starts_with('-')).collect();
        assert_eq!(SigningKey::parse(digits.as_bytes()).unwrap().public(), key.public());
        let record = KeyRecord::parse(key.record().as_bytes()).unwrap();
        assert_eq!(record.key.unwrap(), key.public());
    }
    // RFC 8463 appendix A.2: the 32 octets alone.
    let key = SigningKey::parse(b"nWGxne/9WmC6hEr0kuwsxERJxWl7MmkZcDusAxyuf2A=").unwrap();
    assert_eq!(key.record(), ED25519_RECORD);
}

#[test]
fn what_is_no_key_to_sign_with() {
    let refused = |text: &str| SigningKey::parse(text.as_bytes()).unwrap_err();
    let pem =
        |label: &str, digits: &str| format!("-----BEGIN {label}-----\n{digits}\n-----END {label}-----\n");
    assert_eq!(refused(" \n"), SigningKeyError::Empty);
    assert_eq!(refused("hunter2!"), SigningKeyError::Text);
    assert_eq!(refused("-----BEGIN PRIVATE KEY-----\nAAAA"), SigningKeyError::Text);
    assert_eq!(refused(&pem("PUBLIC KEY", "AAAA")), SigningKeyError::Public);
    assert_eq!(refused(&pem("CERTIFICATE", "AAAA")), SigningKeyError::Public);
    assert_eq!(refused(&pem("ENCRYPTED PRIVATE KEY", "AAAA")), SigningKeyError::Encrypted);
    assert_eq!(
        refused(&pem("RSA PRIVATE KEY", "Proc-Type: 4,ENCRYPTED\n\nAAAA")),
        SigningKeyError::Encrypted
    );
    assert_eq!(refused(&pem("EC PRIVATE KEY", "AAAA")), SigningKeyError::Kind);
    assert_eq!(refused(&pem("PRIVATE KEY", "AAAA")), SigningKeyError::Damaged);
    assert_eq!(refused(&pem("PRIVATE KEY", "!")), SigningKeyError::Damaged);
    let whole = keys()[0].to_pem().unwrap();
    let digits: String = whole.lines().filter(|line| !line.starts_with('-')).collect();
    assert_eq!(refused(&pem("PRIVATE KEY", &digits[..digits.len() / 2])), SigningKeyError::Damaged);
    assert_eq!(refused(&pem("PRIVATE KEY", SHORT_KEY)), SigningKeyError::Short(1_024));
}

/// An RSA key of 1,024 bits in PKCS #8, made for this test.
const SHORT_KEY: &str = include_str!("short_key.txt");

/// Whatever a message holds, it is verified with its signature, and fails once an octet that counts is changed.
#[test]
fn random_messages_are_signed_and_verified() {
    let mut random = crate::tests::Random(17);
    let pieces: [&[u8]; 12] =
        [b"a", b"word", b" ", b"\t", b"\r\n", b"\r", b"\n", b"\r\n\r\n", b"b: c\r\n", b"\xff", b"=", b";"];
    let key = &keys()[1];
    for _ in 0..2_000 {
        let mut content = b"From: x@a.test\r\nSubject: ".to_vec();
        for _ in 0..random.below(6) {
            content.extend_from_slice([&b"s"[..], b" ", b"\t", b"\r\n ", b"\xe9", b"b=;"][random.below(6)]);
        }
        content.extend_from_slice(b"\r\n\r\n");
        for _ in 0..random.below(24) {
            content.extend_from_slice(pieces[random.below(pieces.len())]);
        }
        let canonicalization: Canonicalization =
            ["relaxed/relaxed", "simple/simple", "relaxed/simple"][random.below(3)].parse().unwrap();
        let identity = Identity { canonicalization, ..identity(key) };
        let field = sign(&identity, &content, NOW).unwrap();
        assert_eq!(checked(key, &field, &content, NOW), "pass");
        // Cut at the end of the header's first field, as our own trace fields are.
        let mut pieces = Unsigned::new([&content[..16], &content[16..]]).unwrap();
        let again = pieces.prepare(&identity, NOW).unwrap().sign().unwrap();
        assert_eq!(again, field, "Ed25519 signs the same the same way");
        let mut changed = content.clone();
        let at = random.below(14);
        changed[at] ^= 0x20;
        if at < 4 && canonicalization.header == Canon::Relaxed {
            // A letter of the name in the other case.
            continue;
        }
        assert!(!checked(key, &field, &changed, NOW).starts_with("pass"), "{at}");
    }
}

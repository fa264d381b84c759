//! Digests and signatures, for `crypto`.

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{self as lc, Ed25519KeyPair, KeyPair, RsaKeyPair, UnparsedPublicKey};
use aws_lc_rs::{digest, hmac};

/// The digest of octets; `None` for an algorithm that is not known.
pub(super) fn digested(algorithm: &str, octets: &[u8]) -> Option<Vec<u8>> {
    let known = match algorithm {
        "md5" => return Some(md5(octets).to_vec()),
        "sha1" => &digest::SHA1_FOR_LEGACY_USE_ONLY,
        "sha224" => &digest::SHA224,
        "sha256" => &digest::SHA256,
        "sha384" => &digest::SHA384,
        "sha512" => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(known, octets).as_ref().to_vec())
}

/// The HMAC of octets by a key (RFC 2104).
pub(super) fn keyed(algorithm: &str, key: &[u8], octets: &[u8]) -> Option<Vec<u8>> {
    let known = match algorithm {
        "md5" => return Some(hmac_md5(key, octets)),
        "sha1" => hmac::HMAC_SHA1_FOR_LEGACY_USE_ONLY,
        "sha224" => hmac::HMAC_SHA224,
        "sha256" => hmac::HMAC_SHA256,
        "sha384" => hmac::HMAC_SHA384,
        "sha512" => hmac::HMAC_SHA512,
        _ => return None,
    };
    Some(hmac::sign(&hmac::Key::new(known, key), octets).as_ref().to_vec())
}

/// Octets of a block of MD5.
const BLOCK: usize = 64;

fn hmac_md5(key: &[u8], octets: &[u8]) -> Vec<u8> {
    let mut block = [0; BLOCK];
    if key.len() > BLOCK {
        block[..16].copy_from_slice(&md5(key));
    } else {
        block[..key.len()].copy_from_slice(key);
    }
    let inner: Vec<u8> = block.iter().map(|octet| octet ^ 0x36).chain(octets.iter().copied()).collect();
    let outer: Vec<u8> = block.iter().map(|octet| octet ^ 0x5c).chain(md5(&inner)).collect();
    md5(&outer).to_vec()
}

/// MD5 (RFC 1321), which secures nothing any more, and which plugins use to tell files and addresses apart.
fn md5(octets: &[u8]) -> [u8; 16] {
    const SHIFTS: [[u32; 4]; 4] = [[7, 12, 17, 22], [5, 9, 14, 20], [4, 11, 16, 23], [6, 10, 15, 21]];
    let sine = |n: u32| (f64::from(n + 1).sin().abs() * 4_294_967_296.0) as u32;
    let table: Vec<u32> = (0..64).map(sine).collect();
    let mut padded = octets.to_vec();
    padded.push(0x80);
    padded.resize(padded.len().next_multiple_of(BLOCK), 0);
    if padded.len() - octets.len() < 9 {
        padded.resize(padded.len() + BLOCK, 0);
    }
    let bits = (octets.len() as u64).wrapping_mul(8).to_le_bytes();
    let end = padded.len() - 8;
    padded[end..].copy_from_slice(&bits);
    let mut state = [0x6745_2301_u32, 0xefcd_ab89, 0x98ba_dcfe, 0x1032_5476];
    for block in padded.chunks_exact(BLOCK) {
        let words: Vec<u32> = block
            .chunks_exact(4)
            .map(|word| u32::from_le_bytes([word[0], word[1], word[2], word[3]]))
            .collect();
        let [mut a, mut b, mut c, mut d] = state;
        for n in 0..BLOCK {
            let (mixed, word) = match n / 16 {
                0 => ((b & c) | (!b & d), n),
                1 => ((d & b) | (!d & c), (5 * n + 1) % 16),
                2 => (b ^ c ^ d, (3 * n + 5) % 16),
                _ => (c ^ (b | !d), 7 * n % 16),
            };
            let sum = mixed.wrapping_add(a).wrapping_add(table[n]).wrapping_add(words[word]);
            (a, d, c) = (d, c, b);
            b = b.wrapping_add(sum.rotate_left(SHIFTS[n / 16][n % 4]));
        }
        for (word, add) in state.iter_mut().zip([a, b, c, d]) {
            *word = word.wrapping_add(add);
        }
    }
    let mut out = [0; 16];
    for (place, word) in out.chunks_exact_mut(4).zip(state) {
        place.copy_from_slice(&word.to_le_bytes());
    }
    out
}

/// A key out of PEM, or as it is: its octets, and what the armour calls it.
fn opened(key: &[u8]) -> Option<(Vec<u8>, String)> {
    let Some(text) = std::str::from_utf8(key).ok().filter(|text| text.contains("-----BEGIN ")) else {
        return Some((key.to_vec(), String::new()));
    };
    let (_, rest) = text.split_once("-----BEGIN ")?;
    let (label, rest) = rest.split_once("-----")?;
    let (body, _) = rest.split_once("-----END ")?;
    Some((base64(body)?, label.to_owned()))
}

fn base64(text: &str) -> Option<Vec<u8>> {
    let mut out = Vec::with_capacity(text.len() * 3 / 4);
    let (mut word, mut bits) = (0_u32, 0);
    for octet in text.bytes().filter(|octet| !octet.is_ascii_whitespace() && *octet != b'=') {
        let value = match octet {
            b'A'..=b'Z' => octet - b'A',
            b'a'..=b'z' => octet - b'a' + 26,
            b'0'..=b'9' => octet - b'0' + 52,
            b'+' => 62,
            b'/' => 63,
            _ => return None,
        };
        word = word << 6 | u32::from(value);
        bits += 6;
        if bits >= 8 {
            bits -= 8;
            out.push((word >> bits) as u8);
        }
    }
    Some(out)
}

/// A private key that can sign.
enum Signer {
    Rsa(RsaKeyPair),
    Ed25519(Ed25519KeyPair),
}

fn signer(key: &[u8]) -> Option<Signer> {
    let (der, label) = opened(key)?;
    if label == "RSA PRIVATE KEY" {
        return RsaKeyPair::from_der(&der).ok().map(Signer::Rsa);
    }
    RsaKeyPair::from_pkcs8(&der)
        .map(Signer::Rsa)
        .ok()
        .or_else(|| Ed25519KeyPair::from_pkcs8_maybe_unchecked(&der).map(Signer::Ed25519).ok())
}

/// The octets of the object identifiers in a public key that say what it is (RFC 8410 §3, RFC 8017 §A.1).
const OID_ED25519: &[u8] = &[0x06, 0x03, 0x2b, 0x65, 0x70];
const OID_RSA: &[u8] = &[0x06, 0x09, 0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 0x01, 0x01, 0x01];

/// What a key is, in Node's words; `None` if it is none that can be used.
pub(super) fn kind(key: &[u8]) -> Option<&'static str> {
    match signer(key) {
        Some(Signer::Rsa(_)) => return Some("rsa"),
        Some(Signer::Ed25519(_)) => return Some("ed25519"),
        None => {}
    }
    let (der, label) = opened(key)?;
    let holds = |oid: &[u8]| der.windows(oid.len()).take(64).any(|window| window == oid);
    if label == "RSA PUBLIC KEY" || holds(OID_RSA) {
        Some("rsa")
    } else if holds(OID_ED25519) {
        Some("ed25519")
    } else {
        None
    }
}

pub(super) fn sign(algorithm: &str, key: &[u8], octets: &[u8]) -> Result<Vec<u8>, &'static str> {
    match signer(key).ok_or("this is no private key that can be used")? {
        Signer::Ed25519(pair) => Ok(pair.sign(octets).as_ref().to_vec()),
        Signer::Rsa(pair) => {
            let padding: &dyn lc::RsaEncoding = match algorithm {
                "sha256" => &lc::RSA_PKCS1_SHA256,
                "sha384" => &lc::RSA_PKCS1_SHA384,
                "sha512" => &lc::RSA_PKCS1_SHA512,
                _ => return Err("an RSA key signs with sha256, sha384 or sha512"),
            };
            let mut out = vec![0; pair.public_modulus_len()];
            let signed = pair.sign(padding, &SystemRandom::new(), octets, &mut out);
            signed.map(|()| out).map_err(|_| "the key did not sign")
        }
    }
}

pub(super) fn verify(
    algorithm: &str,
    key: &[u8],
    signature: &[u8],
    octets: &[u8],
) -> Result<bool, &'static str> {
    let kind = kind(key).ok_or("this is no public key that can be used")?;
    let public = match signer(key) {
        Some(Signer::Rsa(pair)) => pair.public_key().as_ref().to_vec(),
        Some(Signer::Ed25519(pair)) => pair.public_key().as_ref().to_vec(),
        None => opened(key).ok_or("this is no key")?.0,
    };
    let known: &'static dyn lc::VerificationAlgorithm = match (kind, algorithm) {
        ("ed25519", _) => &lc::ED25519,
        (_, "sha1") => &lc::RSA_PKCS1_1024_8192_SHA1_FOR_LEGACY_USE_ONLY,
        (_, "sha256") => &lc::RSA_PKCS1_1024_8192_SHA256_FOR_LEGACY_USE_ONLY,
        (_, "sha384") => &lc::RSA_PKCS1_2048_8192_SHA384,
        (_, "sha512") => &lc::RSA_PKCS1_1024_8192_SHA512_FOR_LEGACY_USE_ONLY,
        _ => return Err("an RSA signature is verified with sha1, sha256, sha384 or sha512"),
    };
    Ok(UnparsedPublicKey::new(known, &public).verify(octets, signature).is_ok())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn md5_is_that_of_its_rfc() {
        let shown = |octets: &[u8]| octets.iter().map(|octet| format!("{octet:02x}")).collect::<String>();
        // RFC 1321 §A.5.
        for (text, digest) in [
            ("", "d41d8cd98f00b204e9800998ecf8427e"),
            ("abc", "900150983cd24fb0d6963f7d28e17f72"),
            (
                "12345678901234567890123456789012345678901234567890123456789012345678901234567890",
                "57edf4a22be3c955ac49da2e2107b67a",
            ),
        ] {
            assert_eq!(shown(&md5(text.as_bytes())), digest);
        }
        // RFC 2202 §2.
        assert_eq!(
            shown(&hmac_md5(b"Jefe", b"what do ya want for nothing?")),
            "750c783e6ab0b503eaa86e310a5db738"
        );
        assert_eq!(
            shown(&hmac_md5(&[0xaa; 80], b"Test Using Larger Than Block-Size Key - Hash Key First")),
            "6b1ab7fe4bd7bf8f0b62e6ce61b9d0cd"
        );
    }
}

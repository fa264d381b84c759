//! What an operator may set about signing.

use mail::{Domain, FieldName};
use mailauth::dkim::{Canonicalization, HEADERS, OVERSIGN, SigningKey};
use routing::{DomainPattern, HeaderCondition};
use settings::{Node, Problems, Text};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;
use vault::SecretPath;

/// The name of a key below `_domainkey` of its domain: labels of a domain name (RFC 6376 §3.1).
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Selector(pub Domain);

impl FromStr for Selector {
    type Err = mail::DomainError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        Domain::parse(text).map(Self)
    }
}

impl fmt::Display for Selector {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

fn names(list: &[&str]) -> Vec<Text<FieldName>> {
    list.iter().filter_map(|name| name.parse().ok().map(Text)).collect()
}

settings::table! {
    /// A DKIM identity: a key, and the domain that it signs for.
    #[check(DkimConfig::check)]
    pub struct DkimConfig {
        /// The domain that takes responsibility (`d=`). Receivers that ask for DMARC want that of the From field.
        pub domain: Text<Domain>,
        /// The key's name in DNS (`s=`): its record stands at `SELECTOR._domainkey.DOMAIN`.
        pub selector: Text<Selector>,
        /// File of the private key, RSA of 2,048 to 4,096 bits or Ed25519, in PEM as `tuma dkim new` and openssl write
        /// it. It is read again at a reload, and when it changes.
        pub key: Option<PathBuf> = None,
        /// The private key itself, in PEM or base64. `"${NAME}"` takes it from the environment.
        #[secret]
        pub key_text: Option<String> = None,
        /// Where Vault has the private key: `MOUNT/PATH#FIELD` of a KV engine of version 2. It is fetched at the start, at
        /// a reload and from time to time; while Vault is away, the key that was fetched last stays in use.
        pub key_vault: Option<Text<SecretPath>> = None,
        /// How header and body are written before they are signed.
        pub canonicalization: Text<Canonicalization> = Text(Canonicalization::RELAXED),
        /// Fields that are signed where they are there.
        pub headers: Vec<Text<FieldName>> = names(HEADERS),
        /// Fields that are named once more than they are there, so that nobody can add one on the way.
        pub oversign: Vec<Text<FieldName>> = names(OVERSIGN),
        /// How long a signature holds (`x=`); 0s is for ever. It must outlast the queues of receivers.
        #[in(0s..=365d)]
        pub expires_after: Duration = Duration::ZERO,
        /// On whose behalf it signs (`i=`): `user@domain` or `@domain`, within the domain.
        pub identity: Option<String> = None,
        /// Sign for From fields of domains below the domain too, if those have no identity of their own.
        pub subdomains: bool = false,
        /// The key that takes over next. It is published and looked at by `tuma dkim check`, and signs nothing yet.
        pub next: Option<NextKey> = None,
        /// Selectors of former keys, which `tuma dkim check` looks at until they are taken out of DNS.
        pub former: Vec<Text<Selector>> = Vec::new(),
    }
}

settings::table! {
    /// The key that takes over from an identity's own.
    pub struct NextKey {
        /// Its name in DNS, another one than the present key's.
        pub selector: Text<Selector>,
        /// File of the private key.
        pub key: PathBuf,
    }
}

/// Names in `headers` and `oversign` at most.
const NAMES_MAX: usize = 100;

impl DkimConfig {
    /// Its key as configured. The error says which setting is at fault and why.
    pub fn read(&self) -> Result<SigningKey, (&'static str, String)> {
        match (&self.key, &self.key_text) {
            (Some(path), _) => match super::read_key(path) {
                Ok(file) => Ok(file.key),
                Err(error) => Err(("key", format!("{}: {error}", path.display()))),
            },
            (None, Some(text)) => {
                SigningKey::parse(text.as_bytes()).map_err(|error| ("key_text", error.to_string()))
            }
            (None, None) => Err(("key_vault", "the key is kept in Vault".into())),
        }
    }

    fn check(&self, node: &Node, problems: &mut Problems) {
        let given = [
            ("key", self.key.is_some()),
            ("key_text", self.key_text.is_some()),
            ("key_vault", self.key_vault.is_some()),
        ];
        let given: Vec<&str> = given.into_iter().filter(|(_, given)| *given).map(|(name, _)| name).collect();
        match given[..] {
            [_] => {}
            [] => {
                problems.error(node.place, "this identity has no key").hint(
                    "add `key`, the file of the private key, `key_text` or `key_vault`; `tuma dkim new` makes one",
                );
            }
            [first, second, ..] => {
                problems.error(node.at(second), format!("`{first}` and `{second}` cannot both be set"));
            }
        }
        let known = |selector: &Text<Selector>| *selector == self.selector;
        if self.next.as_ref().is_some_and(|next| known(&next.selector)) {
            problems
                .error(node.at("next.selector"), "the next key needs a selector of its own")
                .hint("receivers must find the old key and the new one beside each other for some days");
        }
        if self.former.iter().any(known) {
            problems.error(node.at("former"), "a selector that is in use is not a former one");
        }
        if let Some(text) = &self.key_text
            && let Err(error) = SigningKey::parse(text.as_bytes())
        {
            problems.error(node.at("key_text"), format!("`key_text` is no key to sign with: {error}"));
        }
        if !self.headers.iter().any(|name| name.as_str().eq_ignore_ascii_case("from")) {
            problems
                .error(node.at("headers"), "`headers` must name From (RFC 6376 §5.4)")
                .hint("without it no receiver takes the signature");
        }
        if self.headers.len() > NAMES_MAX || self.oversign.len() > NAMES_MAX {
            problems.error(node.at("headers"), format!("at most {NAMES_MAX} fields can be signed"));
        }
        if self.headers.iter().any(|name| name.as_str().eq_ignore_ascii_case("dkim-signature")) {
            problems.error(node.at("headers"), "a signature cannot sign itself: leave out DKIM-Signature");
        }
        if let Some(identity) = &self.identity {
            let domain = identity.rsplit_once('@').and_then(|(_, domain)| Domain::parse(domain).ok());
            if !domain.is_some_and(|domain| domain.is_within(&self.domain))
                || identity.chars().any(char::is_control)
            {
                problems
                    .error(
                        node.at("identity"),
                        format!("`identity` must be an address within {}", *self.domain),
                    )
                    .hint(format!("write `user@{0}`, `@{0}` or `@sub.{0}`", *self.domain));
            }
        }
        if mail::Domain::parse(&format!("{}._domainkey.{}", *self.selector, *self.domain)).is_err() {
            problems.error(node.at("selector"), "selector and domain are too long together for DNS");
        }
    }
}

settings::table! {
    /// A rule that says who signs a message. It holds for a message if all its conditions do. The first rule that holds
    /// decides; where none holds, the identities of the From field's domain sign.
    #[derive(Eq)]
    #[check(SignRule::check)]
    pub struct SignRule {
        /// Condition: the domain of the From field; `*.domain` is those below. A message with several From fields, or
        /// one that can be read in two ways, has none.
        pub from_domains: Vec<Text<DomainPattern>> = Vec::new(),
        /// Condition: it is mail of one of these tenants; `*` is any.
        pub tenants: Vec<String> = Vec::new(),
        /// Condition: it leaves by one of these sources.
        pub sources: Vec<String> = Vec::new(),
        /// Condition: it leaves by one of these pools.
        pub pools: Vec<String> = Vec::new(),
        /// Condition: a field of the message's header.
        pub header: Option<HeaderCondition> = None,
        /// The identities that sign, by their names in `dkim`, the topmost signature first. Empty, and without `author`:
        /// nobody.
        pub identities: Vec<String> = Vec::new(),
        /// The identities of the From field's domain sign as well.
        pub author: bool = false,
    }
}

/// Identities of one rule at most.
const IDENTITIES_MAX: usize = 8;

impl SignRule {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.identities.len() > IDENTITIES_MAX {
            problems
                .error(
                    node.at("identities"),
                    format!("at most {IDENTITIES_MAX} identities can sign one message"),
                )
                .hint("receivers check only a few signatures");
        }
    }
}

settings::words! {
    /// What becomes of a message that is not signed.
    pub enum Unsigned {
        /// It waits, and is tried again as after any deferral.
        Defer,
        /// It is bounced.
        Bounce,
        /// It is sent without a signature.
        Send,
    }
}

settings::table! {
    /// How messages are signed on their way out, and what if they cannot be.
    #[derive(Eq)]
    pub struct SigningConfig {
        /// A message that should be signed and cannot be: its key is gone, or its header is broken.
        pub failed: Unsigned = Unsigned::Defer,
        /// A message that nobody signs for: no rule holds, and its From field's domain has no identity.
        pub unmatched: Unsigned = Unsigned::Send,
        /// How long a signature is used again while the same message goes to other sites.
        #[in(0s..=1h)]
        pub fresh: Duration = Duration::from_secs(300),
        /// Threads that sign at once with RSA, which would hold up everything else; 0 is one for each core.
        #[in(0..=1024)]
        pub threads: usize = 0,
        /// How often files of keys are looked at, and keys kept in Vault are fetched again.
        #[in(1s..=1d)]
        pub key_check: Duration = Duration::from_secs(60),
        /// Listeners whose mail may say itself who signs it, before any rule is asked: in `options_field`, as
        /// `d=a.example; s=s2026; i=@news.a.example`. Who may send there can have anything signed by any identity, so
        /// name no listener that takes mail of strangers.
        pub options_from: Vec<String> = Vec::new(),
        /// That field. It is taken out of mail of those listeners before it is sent.
        pub options_field: Text<FieldName> = Text("X-DKIM-Options".parse().expect("a field's name")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::Setting;

    #[test]
    fn the_tables_are_sound() {
        for schema in [DkimConfig::schema(), NextKey::schema(), SignRule::schema(), SigningConfig::schema()] {
            assert_eq!(settings::mistakes(&schema), Vec::<String>::new());
        }
        assert_eq!(names(HEADERS).len(), HEADERS.len());
        assert_eq!(names(OVERSIGN).len(), OVERSIGN.len());
    }
}

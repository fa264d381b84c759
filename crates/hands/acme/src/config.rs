//! What an operator may set about ACME.

use hyper::Uri;
use settings::{Node, Problems, Text};
use std::fmt;
use std::net::SocketAddr;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Octets of a URL at most.
const URL_MAX_OCTETS: usize = 500;

/// Where an authority's directory is (RFC 8555 §7.1.1): an `https` URL.
#[derive(Clone, PartialEq, Eq)]
pub struct DirectoryUrl(Box<str>);

/// A text is no such URL.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct DirectoryUrlError;

impl fmt::Display for DirectoryUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write `https://HOST/PATH`, as the authority's documentation says")
    }
}

impl std::error::Error for DirectoryUrlError {}

impl FromStr for DirectoryUrl {
    type Err = DirectoryUrlError;

    fn from_str(text: &str) -> Result<Self, DirectoryUrlError> {
        let uri: Uri = text.parse().map_err(|_| DirectoryUrlError)?;
        let authority = uri.authority().ok_or(DirectoryUrlError)?;
        let named = !authority.host().is_empty() && !authority.as_str().contains('@');
        let sound = named && uri.scheme_str() == Some("https") && text.len() <= URL_MAX_OCTETS;
        if sound { Ok(Self(text.into())) } else { Err(DirectoryUrlError) }
    }
}

impl fmt::Display for DirectoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for DirectoryUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl DirectoryUrl {
    /// As it was written.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// Let's Encrypt's.
    fn lets_encrypt() -> Self {
        Self("https://acme-v02.api.letsencrypt.org/directory".into())
    }
}

settings::table! {
    /// The authority that certificates are got from, for tables under `tls` that say `acme`.
    #[derive(Eq)]
    #[check(Config::check)]
    pub struct Config {
        /// The authority's directory. Let's Encrypt's unless another is named.
        pub directory: Text<DirectoryUrl> = Text(DirectoryUrl::lets_encrypt()),
        /// Say `true` once you have read the authority's terms of service and agree. Nothing is asked of it before.
        pub terms_agreed: bool = false,
        /// Where the authority may reach you: addresses, without `mailto:`.
        pub contact: Vec<String> = Vec::new(),
        /// Where the authority's requests are answered: it comes to port 80 of each name (RFC 8555 §8.3). Left out, only
        /// the HTTP listener answers them, behind whatever passes port 80 on to it.
        pub listen: Option<SocketAddr> = None,
        /// PEM file of the certificates that may vouch for the authority's own server; left out, the machine's.
        pub ca_file: Option<PathBuf> = None,
        /// How long before its end a certificate is renewed; at most a third of its lifetime, for short-lived ones.
        #[in(1m..=365d)]
        pub renew_before: Duration = Duration::from_secs(30 * 86_400),
        /// How long to wait after a failure; doubled with each further one. Authorities count failures.
        #[in(1s..=1d)]
        pub retry_min: Duration = Duration::from_secs(600),
        /// What that doubling ends at.
        #[in(1s..=7d)]
        pub retry_max: Duration = Duration::from_secs(86_400),
        /// The longest one request may take, from the connection to the answer.
        #[in(100ms..=5m)]
        pub timeout: Duration = Duration::from_secs(30),
        /// The longest it may take to get one certificate, the authority's checks with it.
        #[in(1s..=1h)]
        pub order_timeout: Duration = Duration::from_secs(300),
    }
}

impl Config {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.retry_max < self.retry_min {
            problems.error(node.at("retry_max"), "`acme.retry_max` is less than `acme.retry_min`");
        }
        for (n, contact) in self.contact.iter().enumerate() {
            let plain = contact.len() <= 254
                && contact.bytes().all(|b| b.is_ascii_graphic() && !b",?:".contains(&b))
                && contact.split_once('@').is_some_and(|(local, host)| !local.is_empty() && !host.is_empty());
            if !plain {
                problems
                    .error(
                        node.at(&format!("contact.{n}")),
                        format!("{} is not an address to be reached at", settings::quote(contact)),
                    )
                    .hint("write one as `postmaster@example.com`");
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::Setting;

    #[test]
    fn the_table_is_sound() {
        assert_eq!(settings::mistakes(&Config::schema()), Vec::<String>::new());
    }

    #[test]
    fn directories() {
        for text in ["https://acme.test/directory", "https://[::1]:14000/dir"] {
            assert_eq!(text.parse::<DirectoryUrl>().unwrap().as_str(), text);
        }
        for text in
            ["", "acme.test", "http://acme.test/dir", "https://u@acme.test/dir", "https:///dir", "/dir"]
        {
            assert_eq!(text.parse::<DirectoryUrl>(), Err(DirectoryUrlError), "{text}");
        }
    }
}

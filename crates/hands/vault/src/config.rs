//! What an operator may set about Vault.

use hyper::Uri;
use settings::{Node, Problems, Text};
use std::fmt;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

/// Octets of an address at most.
const ADDRESS_MAX_OCTETS: usize = 500;

/// `http` or `https`, a host and perhaps a port; nothing else.
#[derive(Clone, PartialEq, Eq)]
pub struct Address(Uri);

/// A text is no such address.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct AddressError;

impl fmt::Display for AddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("write `https://HOST:PORT`, without a path or a user")
    }
}

impl std::error::Error for AddressError {}

impl FromStr for Address {
    type Err = AddressError;

    fn from_str(text: &str) -> Result<Self, AddressError> {
        if text.len() > ADDRESS_MAX_OCTETS || text.contains('#') {
            return Err(AddressError);
        }
        let uri: Uri = text.parse().map_err(|_| AddressError)?;
        let authority = uri.authority().ok_or(AddressError)?;
        let named = !authority.host().is_empty() && !authority.as_str().contains('@');
        let port = authority.port().is_none() || authority.port_u16().is_some_and(|port| port > 0);
        let bare = uri.path_and_query().is_none_or(|path| path.as_str() == "/");
        let known = matches!(uri.scheme_str(), Some("http" | "https"));
        if named && port && bare && known { Ok(Self(uri)) } else { Err(AddressError) }
    }
}

impl fmt::Display for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}://{}", self.0.scheme_str().unwrap_or_default(), self.authority())
    }
}

impl fmt::Debug for Address {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl Address {
    pub(crate) fn is_secure(&self) -> bool {
        self.0.scheme_str() == Some("https")
    }

    pub(crate) fn authority(&self) -> &str {
        self.0.authority().map_or("", |authority| authority.as_str())
    }

    /// The host, without the brackets of an IPv6 address.
    pub(crate) fn host(&self) -> &str {
        self.0.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    pub(crate) fn port(&self) -> u16 {
        self.0.port_u16().unwrap_or(if self.is_secure() { 443 } else { 80 })
    }
}

settings::table! {
    /// A HashiCorp Vault, for keys that name a path in it.
    #[derive(Eq)]
    #[check(Config::check)]
    pub struct Config {
        /// Where it is: `https://vault.example:8200`. Left out, there is none.
        pub address: Option<Text<Address>> = None,
        /// The token it is asked with. `"${VAULT_TOKEN}"` takes it from the environment.
        #[secret]
        pub token: Option<String> = None,
        /// File of the token, read at each request, as Vault's agent writes it.
        pub token_file: Option<PathBuf> = None,
        /// The namespace, where there are some.
        pub namespace: Option<String> = None,
        /// PEM file of the certificates that may vouch for its server; left out, the machine's own.
        pub ca_file: Option<PathBuf> = None,
        /// The longest one request may take, from the connection to the answer.
        #[in(100ms..=1m)]
        pub timeout: Duration = Duration::from_secs(5),
    }
}

impl Config {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.address.is_some() && self.token.is_none() == self.token_file.is_none() {
            problems
                .error(node.place, "Vault is asked with a token: either `token` or `token_file`")
                .hint("a token that Vault's agent renews is best kept in a file");
        }
        let printable = |text: &str| !text.is_empty() && text.bytes().all(|b| b.is_ascii_graphic());
        if self.token.as_deref().is_some_and(|text| !printable(text)) {
            problems.error(node.at("token"), "`token` holds octets that no token has");
        }
        if self.namespace.as_deref().is_some_and(|text| !printable(text)) {
            problems.error(node.at("namespace"), "`namespace` holds octets that no namespace has");
        }
    }

    /// True if its server is asked over TLS.
    pub fn is_secure(&self) -> bool {
        self.address.as_ref().is_some_and(|address| address.is_secure())
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
    fn addresses() {
        let address: Address = "https://vault.test:8200/".parse().unwrap();
        assert_eq!((address.host(), address.port(), address.is_secure()), ("vault.test", 8_200, true));
        let address: Address = "http://[::1]:8200".parse().unwrap();
        assert_eq!((address.host(), address.authority()), ("::1", "[::1]:8200"));
        for text in
            ["", "vault.test", "ftp://a.test", "https://u@a.test", "https://a.test/v1", "https://a.test:0"]
        {
            assert_eq!(text.parse::<Address>(), Err(AddressError), "{text}");
        }
    }
}

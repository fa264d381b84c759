//! The URL of a webhook.

use hyper::Uri;
use std::fmt;
use std::str::FromStr;

/// Octets of a URL at most.
const URL_MAX_OCTETS: usize = 2_000;

/// An absolute `http` or `https` URL with a host and no user. Its path is often a secret, so [`fmt::Debug`] does not
/// show it.
#[derive(Clone, PartialEq, Eq)]
pub struct WebhookUrl {
    uri: Uri,
    text: Box<str>,
}

/// Why a text is no URL of a webhook.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WebhookUrlError {
    /// It cannot be read as a URL.
    Syntax,
    /// It is longer than 2,000 octets.
    TooLong,
    /// It is neither `http` nor `https`.
    Scheme,
    /// It names no host.
    Host,
    /// It holds a user or a password, which would be sent to nobody.
    User,
}

impl fmt::Display for WebhookUrlError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Syntax => "it is not a URL",
            Self::TooLong => "it is longer than 2,000 octets",
            Self::Scheme => "it must begin with https:// or http://",
            Self::Host => "it names no host",
            Self::User => "a user name in it is not supported",
        })
    }
}

impl std::error::Error for WebhookUrlError {}

impl FromStr for WebhookUrl {
    type Err = WebhookUrlError;

    fn from_str(text: &str) -> Result<Self, WebhookUrlError> {
        if text.len() > URL_MAX_OCTETS {
            return Err(WebhookUrlError::TooLong);
        }
        // A fragment is for readers, and a mistake here: what follows it would be left out without a word.
        if text.contains('#') {
            return Err(WebhookUrlError::Syntax);
        }
        let uri: Uri = text.parse().map_err(|_| WebhookUrlError::Syntax)?;
        if !matches!(uri.scheme_str(), Some("http" | "https")) {
            return Err(WebhookUrlError::Scheme);
        }
        let authority = uri.authority().ok_or(WebhookUrlError::Host)?;
        if authority.as_str().contains('@') {
            return Err(WebhookUrlError::User);
        }
        if authority.host().is_empty()
            || (authority.port().is_some() && authority.port_u16().is_none_or(|p| p == 0))
        {
            return Err(WebhookUrlError::Host);
        }
        Ok(Self { uri, text: text.into() })
    }
}

impl fmt::Display for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.text)
    }
}

impl fmt::Debug for WebhookUrl {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.shown())
    }
}

impl WebhookUrl {
    /// True for `https`.
    pub fn is_secure(&self) -> bool {
        self.uri.scheme_str() == Some("https")
    }

    /// Scheme and host, without the path that may be a secret: for logs.
    pub fn shown(&self) -> String {
        format!("{}://{}/…", self.uri.scheme_str().unwrap_or_default(), self.authority())
    }

    /// Host and port as the Host field wants them.
    pub(crate) fn authority(&self) -> &str {
        self.uri.authority().map_or("", |authority| authority.as_str())
    }

    /// The host, without the brackets of an IPv6 address.
    pub(crate) fn host(&self) -> &str {
        self.uri.host().unwrap_or_default().trim_start_matches('[').trim_end_matches(']')
    }

    /// The port, by default that of the scheme.
    pub(crate) fn port(&self) -> u16 {
        self.uri.port_u16().unwrap_or(if self.is_secure() { 443 } else { 80 })
    }

    /// What the request line asks for.
    pub(crate) fn path(&self) -> &str {
        self.uri.path_and_query().map_or("/", |path| path.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn urls_are_taken_apart() {
        let url: WebhookUrl = "https://hooks.example:8443/T0/secret?x=1".parse().unwrap();
        assert_eq!((url.host(), url.port(), url.path()), ("hooks.example", 8443, "/T0/secret?x=1"));
        assert!(url.is_secure());
        assert_eq!(format!("{url:?}"), "https://hooks.example:8443/…");
        assert_eq!(url.to_string(), "https://hooks.example:8443/T0/secret?x=1");
        let url: WebhookUrl = "http://[::1]".parse().unwrap();
        assert_eq!((url.host(), url.port(), url.path(), url.authority()), ("::1", 80, "/", "[::1]"));
    }

    #[test]
    fn what_is_no_url_of_a_webhook_is_refused() {
        let long = format!("http://a.test/{}", "x".repeat(2_000));
        for (text, why) in [
            ("", WebhookUrlError::Syntax),
            ("ops@example.com", WebhookUrlError::Scheme),
            ("/hook", WebhookUrlError::Scheme),
            ("ftp://a.test/", WebhookUrlError::Scheme),
            ("file:///etc/passwd", WebhookUrlError::Syntax),
            ("https://user:secret@a.test/", WebhookUrlError::User),
            ("https://a.test:0/", WebhookUrlError::Host),
            ("https://a.test/#part", WebhookUrlError::Syntax),
            ("https://a.test/\r\nX: y", WebhookUrlError::Syntax),
            ("https://a.test/ b", WebhookUrlError::Syntax),
            (&long, WebhookUrlError::TooLong),
        ] {
            assert_eq!(text.parse::<WebhookUrl>().unwrap_err(), why, "{text}");
        }
    }
}

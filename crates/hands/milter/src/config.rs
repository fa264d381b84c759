//! What an operator may set about milters and sidecars.

use crate::Address;
use policy::OnError;
use settings::{Size, Text};
use std::time::Duration;

settings::words! {
    /// What is done with a message that a milter quarantines.
    pub enum OnQuarantine {
        /// The client is told to try again later.
        Defer,
        /// The client is refused.
        Reject,
        /// It is taken and thrown away, with a record.
        Discard,
        /// It goes on, with a header field `X-Quarantine` that holds the reason.
        Mark,
    }
}

settings::table! {
    /// A milter: a filter that speaks Sendmail's milter protocol. Several are asked in the order in which they stand.
    #[derive(Eq)]
    pub struct MilterConfig {
        /// Where it listens: `127.0.0.1:8891`, `inet:8891@127.0.0.1`, or `unix:/run/opendkim/opendkim.sock`.
        pub address: Text<Address>,
        /// Its name in logs; left out, its address.
        pub name: Option<String> = None,
        /// The longest that connecting to it may take, with the negotiation.
        #[in(10ms..=5m)]
        pub connect_timeout: Duration = Duration::from_secs(10),
        /// The longest it may take to answer one command.
        #[in(10ms..=10m)]
        pub command_timeout: Duration = Duration::from_secs(30),
        /// The longest it may take to answer the end of a message; each sign of progress gives it as long again.
        #[in(10ms..=30m)]
        pub message_timeout: Duration = Duration::from_secs(120),
        /// The longest it may take over the end of a message in all, whatever its progress.
        #[in(10ms..=1h)]
        pub message_timeout_max: Duration = Duration::from_secs(600),
        /// Octets that a body it puts in the place of another may have.
        #[in(64KiB..=4GiB)]
        pub body_max: Size = Size::mib(50),
        /// What the client is told when the milter cannot be reached, is late, or breaks the protocol.
        pub on_error: OnError = OnError::Defer,
        /// What is done with a message that it quarantines.
        pub on_quarantine: OnQuarantine = OnQuarantine::Defer,
    }
}

settings::table! {
    /// A sidecar: a program that answers questions posted to it as JSON. Several are asked in the order in which they
    /// stand.
    #[derive(Eq)]
    pub struct SidecarConfig {
        /// Where it listens: `127.0.0.1:8080`, or `unix:/run/sidecar.sock`. The connection is not encrypted.
        pub address: Text<Address>,
        /// The path of its URL.
        pub path: String = "/".into(),
        /// Its name in logs; left out, its address.
        pub name: Option<String> = None,
        /// When it is asked: `connect`, `hello`, `auth`, `mail`, `rcpt`, `data` and `message`.
        pub phases: Vec<Text<Asked>> = vec![Text(Asked(policy::Phase::Rcpt))],
        /// The longest one question may take, with the connection.
        #[in(10ms..=5m)]
        pub timeout: Duration = Duration::from_secs(10),
        /// Octets of the body that are sent with a message, from its beginning; 0 sends none.
        #[in(0..=64MiB)]
        pub body_max: Size = Size(0),
        /// Connections that are kept open between questions.
        #[in(0..=1_000)]
        pub idle_max: usize = 32,
        /// What the client is told when the sidecar cannot be reached, is late, or answers nonsense.
        pub on_error: OnError = OnError::Defer,
    }
}

/// A phase, as a setting.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Asked(pub policy::Phase);

impl std::str::FromStr for Asked {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        policy::Phase::of_word(text)
            .map(Self)
            .ok_or_else(|| format!("there are {}", policy::Phase::ALL.map(policy::Phase::word).join(", ")))
    }
}

impl std::fmt::Display for Asked {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        self.0.fmt(f)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_tables_are_sound() {
        assert_eq!(settings::mistakes(&<MilterConfig as settings::Setting>::schema()), Vec::<String>::new());
        assert_eq!(settings::mistakes(&<SidecarConfig as settings::Setting>::schema()), Vec::<String>::new());
    }

    #[test]
    fn addresses_are_read() {
        for (text, shown) in [
            ("127.0.0.1:8891", "127.0.0.1:8891"),
            ("inet:8891@127.0.0.1", "127.0.0.1:8891"),
            ("inet6:8891@[::1]", "[::1]:8891"),
            ("unix:/run/x.sock", "unix:/run/x.sock"),
            ("local:/run/x.sock", "unix:/run/x.sock"),
        ] {
            assert_eq!(
                text.parse::<Address>().map(|address| address.to_string()),
                Ok(shown.into()),
                "{text}"
            );
        }
        for text in
            ["", "8891", "localhost:8891", "unix:run/x.sock", "inet:8891@localhost", "inet:x@127.0.0.1"]
        {
            assert!(text.parse::<Address>().is_err(), "{text}");
        }
    }
}

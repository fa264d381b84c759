//! What a server offers in its EHLO reply (RFC 5321 §4.1.1.1).

use mail::Reply;

/// Extensions offered, those this client can use.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Extensions {
    /// RFC 2920.
    pub pipelining: bool,
    /// RFC 3030.
    pub chunking: bool,
    /// RFC 3030 §3.
    pub binarymime: bool,
    /// RFC 6152.
    pub eight_bit_mime: bool,
    /// RFC 6531.
    pub smtputf8: bool,
    /// RFC 3461.
    pub dsn: bool,
    /// RFC 3207.
    pub starttls: bool,
    /// RFC 8689.
    pub require_tls: bool,
    /// RFC 1870: offered, with the limit in octets or 0 if none was said.
    pub size: Option<u64>,
    /// RFC 4954: mechanisms PLAIN and LOGIN.
    pub auth_plain: bool,
    /// See `auth_plain`.
    pub auth_login: bool,
    /// RFC 9422 RCPTMAX, 0 if none was said.
    pub rcpt_max: u32,
    /// RFC 9422 MAILMAX, 0 if none was said.
    pub mail_max: u32,
}

impl Extensions {
    /// Reads an EHLO reply; its first line is the server's name.
    pub fn from_reply(reply: &Reply) -> Self {
        let mut offered = Self::default();
        for line in reply.text.split('\n').skip(1) {
            // Old servers wrote `AUTH=PLAIN`.
            let mut words = line.split([' ', '\t', '=']).filter(|word| !word.is_empty());
            let Some(keyword) = words.next() else { continue };
            match keyword.to_ascii_uppercase().as_str() {
                "PIPELINING" => offered.pipelining = true,
                "CHUNKING" => offered.chunking = true,
                "BINARYMIME" => offered.binarymime = true,
                "8BITMIME" => offered.eight_bit_mime = true,
                "SMTPUTF8" => offered.smtputf8 = true,
                "DSN" => offered.dsn = true,
                "STARTTLS" => offered.starttls = true,
                "REQUIRETLS" => offered.require_tls = true,
                "SIZE" => offered.size = Some(words.next().and_then(|n| n.parse().ok()).unwrap_or(0)),
                "AUTH" => {
                    for mechanism in words {
                        offered.auth_plain |= mechanism.eq_ignore_ascii_case("PLAIN");
                        offered.auth_login |= mechanism.eq_ignore_ascii_case("LOGIN");
                    }
                }
                "LIMITS" => {
                    let words: Vec<&str> = words.collect();
                    for pair in words.windows(2) {
                        let value = pair[1].parse().unwrap_or(0);
                        match pair[0].to_ascii_uppercase().as_str() {
                            "RCPTMAX" => offered.rcpt_max = value,
                            "MAILMAX" => offered.mail_max = value,
                            _ => {}
                        }
                    }
                }
                _ => {}
            }
        }
        // Without CHUNKING there is no way to send binary content.
        offered.binarymime &= offered.chunking;
        offered
    }

    /// Comma-separated keywords, as accounting writes them.
    pub fn list(&self) -> String {
        let words = [
            (self.pipelining, "PIPELINING"),
            (self.size.is_some(), "SIZE"),
            (self.eight_bit_mime, "8BITMIME"),
            (self.dsn, "DSN"),
            (self.starttls, "STARTTLS"),
            (self.chunking, "CHUNKING"),
            (self.binarymime, "BINARYMIME"),
            (self.smtputf8, "SMTPUTF8"),
            (self.require_tls, "REQUIRETLS"),
            (self.auth_plain || self.auth_login, "AUTH"),
            (self.rcpt_max > 0 || self.mail_max > 0, "LIMITS"),
        ];
        words.iter().filter(|(offered, _)| *offered).map(|(_, word)| *word).collect::<Vec<_>>().join(",")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn keywords_of_a_usual_server() {
        let reply = Reply::bare(
            250,
            "mx.test at your service\nSIZE 35882577\n8bitmime\nSTARTTLS\nAUTH LOGIN PLAIN XOAUTH2\nPIPELINING\n\
             CHUNKING\nSMTPUTF8\nLIMITS RCPTMAX=20 MAILMAX=3\nDSN extra",
        );
        let offered = Extensions::from_reply(&reply);
        assert_eq!(offered.size, Some(35_882_577));
        assert!(offered.eight_bit_mime && offered.starttls && offered.auth_plain && offered.auth_login);
        assert!(offered.dsn && !offered.binarymime && !offered.require_tls);
        assert_eq!((offered.rcpt_max, offered.mail_max), (20, 3));
        assert_eq!(offered.list(), "PIPELINING,SIZE,8BITMIME,DSN,STARTTLS,CHUNKING,SMTPUTF8,AUTH,LIMITS");
    }

    #[test]
    fn the_server_name_is_no_keyword() {
        assert_eq!(Extensions::from_reply(&Reply::bare(250, "STARTTLS")), Extensions::default());
    }
}

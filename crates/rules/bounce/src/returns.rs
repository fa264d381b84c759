//! What a message carries on its way out, so that reports about it find it again, as an operator configures it.

use crate::reference::{Purpose, Reference, SECRET_MIN_OCTETS, Secrets, VerpForm, write_verp};
use mail::{FieldName, Host, Mailbox, Message, ReversePath};
use settings::{Node, Problems, Text};
use std::fmt;
use std::str::FromStr;
use std::time::Duration;

/// Octets of the text of the field on one line.
const LINE_OCTETS: usize = 64;

fn field_name() -> Text<FieldName> {
    Text("X-Tuma-Ref".parse().expect("it is a field name"))
}

settings::table! {
    /// What mail carries so that reports about it find it again: a signed header field, and where `verp` says so a
    /// reverse-path of its own for each recipient. Without a secret there is neither, and nothing that comes back is
    /// proven. Mail that carries either leaves in one transaction for each recipient.
    #[derive(Eq)]
    #[check(ReturnsConfig::check)]
    pub struct ReturnsConfig {
        /// What is signed with: at least 32 octets that nobody can guess.
        #[secret]
        pub secret: Option<String> = None,
        /// Former secrets, which are still good for what comes back.
        #[secret]
        pub former_secrets: Vec<String> = Vec::new(),
        /// Put the field into mail that leaves.
        pub field: bool = true,
        /// The field's name.
        pub field_name: Text<FieldName> = field_name(),
        /// How long after a message was accepted a report about it proves anything.
        #[in(1h..=3660d)]
        pub believed_for: Duration = Duration::from_secs(60 * 86_400),
    }
}

impl ReturnsConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        let short = |text: &str| text.len() < SECRET_MIN_OCTETS;
        if self.secret.as_deref().is_some_and(short) {
            problems
                .error(node.at("secret"), format!("`secret` has fewer than {SECRET_MIN_OCTETS} octets"))
                .hint("openssl rand -hex 32 makes one");
        }
        if self.former_secrets.iter().any(|text| short(text)) || self.former_secrets.len() > 8 {
            let text = format!("`former_secrets` are at most 8, each of at least {SECRET_MIN_OCTETS} octets");
            problems.error(node.at("former_secrets"), text);
        }
        if self.secret.is_none() && !self.former_secrets.is_empty() {
            problems.error(node.at("former_secrets"), "`former_secrets` need a `secret`");
        }
    }
}

settings::words! {
    /// How a reverse-path carries its recipient.
    pub enum VerpUse {
        /// Not at all.
        Off,
        /// `a-u=x.test@s.test`, as PowerMTA writes it. What comes back to it proves nothing: anybody can write one.
        Plain,
        /// The same with the message's id and a signature behind it, and where there is no room the signature alone.
        Signed,
    }
}

settings::table! {
    /// Whose mail leaves with a reverse-path for each recipient (VERP). The first rule that holds decides.
    #[derive(Eq)]
    pub struct VerpRule {
        /// Only mail of these tenants; empty is all mail.
        pub tenants: Vec<String> = Vec::new(),
        /// Only mail that leaves by these pools; empty is all.
        pub pools: Vec<String> = Vec::new(),
        /// Only reverse-paths at these domains; empty is all.
        pub from: Vec<String> = Vec::new(),
        /// How the reverse-path is written.
        pub form: VerpUse = VerpUse::Signed,
    }
}

settings::table! {
    /// Fields with which readers unsubscribe by one click (RFC 8058). They are put into mail that has none of its own, and
    /// DKIM signs them. Needs `secret` of `returns`.
    #[derive(Eq)]
    #[check(UnsubscribeConfig::check)]
    pub struct UnsubscribeConfig {
        /// Where the HTTP listener's `/unsubscribe` can be reached from everywhere, such as
        /// `https://u.example/unsubscribe`; left out, no fields are put in.
        pub url: Option<String> = None,
        /// Only mail of these tenants; empty is all mail.
        pub tenants: Vec<String> = Vec::new(),
        /// Only mail that leaves by these pools; empty is all.
        pub pools: Vec<String> = Vec::new(),
    }
}

/// Octets of the URL at most: with the token it stands on one line.
const URL_MAX_OCTETS: usize = 120;

impl UnsubscribeConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        let Some(url) = &self.url else { return };
        let host = url.strip_prefix("https://").unwrap_or("");
        let plain = |b: u8| b.is_ascii_alphanumeric() || b"-._~/:".contains(&b);
        if host.is_empty() || url.len() > URL_MAX_OCTETS || !host.bytes().all(plain) {
            problems
                .error(node.at("url"), "`unsubscribe.url` is not the URL of a page to unsubscribe at")
                .hint(format!(
                    "RFC 8058 wants https; write https://host/unsubscribe, at most {URL_MAX_OCTETS} octets, without a query"
                ));
        }
    }
}

/// An address whose mail is read as reports: one, or all of a domain.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum ReportAddress {
    /// `local@domain`, and what VERP makes of it.
    Mailbox(Mailbox),
    /// `@domain`.
    Domain(Host),
}

impl ReportAddress {
    /// True if mail to a mailbox is meant.
    pub fn takes(&self, to: &Mailbox) -> bool {
        match self {
            Self::Domain(host) => host == to.host(),
            Self::Mailbox(own) => {
                own.host() == to.host() && {
                    let (own, local) = (own.local_part(), to.local_part());
                    let head = local.get(..own.len());
                    head.is_some_and(|head| head.eq_ignore_ascii_case(own))
                        && matches!(local.as_bytes().get(own.len()), None | Some(b'-'))
                }
            }
        }
    }

    /// The local part in front of what VERP adds, where it is known.
    pub fn base(&self) -> Option<&str> {
        match self {
            Self::Domain(_) => None,
            Self::Mailbox(own) => Some(own.local_part()),
        }
    }
}

impl FromStr for ReportAddress {
    type Err = ReportAddressError;

    fn from_str(text: &str) -> Result<Self, ReportAddressError> {
        match text.strip_prefix('@') {
            Some(host) => Host::parse(host).map(Self::Domain).map_err(|_| ReportAddressError),
            None => Mailbox::parse(text).map(Self::Mailbox).map_err(|_| ReportAddressError),
        }
    }
}

impl fmt::Display for ReportAddress {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Domain(host) => write!(f, "@{host}"),
            Self::Mailbox(own) => f.write_str(own.as_str()),
        }
    }
}

/// Neither an address nor `@domain`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct ReportAddressError;

impl fmt::Display for ReportAddressError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("it must be an address, or a domain such as @bounces.example")
    }
}

impl std::error::Error for ReportAddressError {}

/// The settings, ready to be used.
#[derive(Clone, Debug)]
pub struct Returns {
    secrets: Secrets,
    field: Option<FieldName>,
    field_name: FieldName,
    believed_for: Duration,
    rules: Vec<VerpRule>,
    /// Without a URL, or a secret, nobody is told how to unsubscribe.
    unsubscribe: UnsubscribeConfig,
}

fn any(list: &[String], text: &str) -> bool {
    list.is_empty() || list.iter().any(|own| own.eq_ignore_ascii_case(text))
}

impl Returns {
    /// Of the configuration.
    pub fn new(config: &ReturnsConfig, rules: &[VerpRule], unsubscribe: &UnsubscribeConfig) -> Self {
        let texts = config.secret.iter().chain(&config.former_secrets).map(String::as_str);
        let secrets = Secrets::new(texts);
        let field = (config.field && !secrets.is_empty()).then(|| config.field_name.0.clone());
        let url = unsubscribe.url.clone().filter(|_| !secrets.is_empty());
        let url = url.map(|url| url.trim_end_matches('/').to_owned());
        Self {
            unsubscribe: UnsubscribeConfig { url, ..unsubscribe.clone() },
            secrets,
            field,
            field_name: config.field_name.0.clone(),
            believed_for: config.believed_for,
            rules: rules.to_vec(),
        }
    }

    /// The secrets.
    pub fn secrets(&self) -> &Secrets {
        &self.secrets
    }

    /// The name of the field.
    pub fn field_name(&self) -> &FieldName {
        &self.field_name
    }

    /// How long a report proves anything.
    pub fn believed_for(&self) -> Duration {
        self.believed_for
    }

    /// True if mail carries nothing of the kind.
    pub fn is_idle(&self) -> bool {
        self.field.is_none() && self.rules.is_empty() && self.unsubscribe.url.is_none()
    }

    /// True if each recipient of a message gets another message, or another reverse-path. Never for mail about mail.
    pub fn is_personal(&self, message: &Message, pool: &str) -> bool {
        message.envelope.reverse_path != ReversePath::Null
            && (self.field.is_some()
                || self.form(message, pool).is_some()
                || self.unsubscribes(message, pool).is_some())
    }

    /// The URL to unsubscribe at, if the mail says so.
    fn unsubscribes(&self, message: &Message, pool: &str) -> Option<&str> {
        let UnsubscribeConfig { url, tenants, pools } = &self.unsubscribe;
        let tenant = message.tags.tenant.as_deref().unwrap_or("");
        url.as_deref().filter(|_| any(tenants, tenant) && any(pools, pool))
    }

    fn form(&self, message: &Message, pool: &str) -> Option<VerpForm> {
        let tenant = message.tags.tenant.as_deref().unwrap_or("");
        let host = message.envelope.reverse_path.mailbox()?.host().to_string();
        let holds =
            |rule: &&VerpRule| any(&rule.tenants, tenant) && any(&rule.pools, pool) && any(&rule.from, &host);
        match self.rules.iter().find(holds)?.form {
            VerpUse::Off => None,
            VerpUse::Plain => Some(VerpForm::Plain),
            VerpUse::Signed => Some(VerpForm::Signed),
        }
    }

    /// The reverse-path of a message for one of its recipients, if it is not its own.
    pub fn reverse_path(&self, message: &Message, pool: &str, index: u32) -> Option<ReversePath> {
        let form = self.form(message, pool)?;
        let sender = message.envelope.reverse_path.mailbox()?;
        let recipient = message.envelope.recipients.get(index as usize)?;
        let tenant = message.tags.tenant.is_some();
        let made = write_verp(form, &self.secrets, sender, &recipient.path.0, message.id, tenant)?;
        Some(ReversePath::Mailbox(made))
    }

    /// What is signed for one recipient of a message.
    pub fn reference(&self, message: &Message, index: u32) -> Option<Reference> {
        let recipient = message.envelope.recipients.get(index as usize)?;
        Some(Reference {
            id: message.id,
            index,
            sender: message.envelope.reverse_path.clone(),
            recipient: recipient.path.0.clone(),
            tenant: message.tags.tenant.clone(),
            campaign: message.tags.campaign.clone(),
            job: message.tags.job.clone(),
        })
    }

    /// The fields that go in front of a message for one of its recipients. `content` is what it holds, for what it
    /// says of its own.
    pub fn write_fields(&self, message: &Message, pool: &str, index: u32, content: &[u8], out: &mut Vec<u8>) {
        let Some(reference) = self.reference(message, index) else { return };
        let own = |field: message::Field<'_>| field.is("list-unsubscribe");
        if let Some(url) =
            self.unsubscribes(message, pool).filter(|_| !message::Fields::new(content).any(own))
        {
            // Only what is needed: the line has an end.
            let sender = ReversePath::Null;
            let short = Reference { sender, campaign: None, job: None, ..reference.clone() };
            let token = self.secrets.sign(Purpose::Unsubscribe, &short);
            out.extend_from_slice(b"List-Unsubscribe: <");
            out.extend_from_slice(url.as_bytes());
            out.extend_from_slice(b"/");
            out.extend_from_slice(token.as_bytes());
            out.extend_from_slice(b">\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n");
        }
        let Some(name) = &self.field else { return };
        let text = self.secrets.sign(Purpose::Field, &reference);
        out.extend_from_slice(name.as_str().as_bytes());
        out.extend_from_slice(b":");
        for line in text.as_bytes().chunks(LINE_OCTETS) {
            if line.as_ptr() != text.as_ptr() {
                out.extend_from_slice(b"\r\n");
            }
            out.extend_from_slice(b" ");
            out.extend_from_slice(line);
        }
        out.extend_from_slice(b"\r\n");
    }
}

impl Default for Returns {
    fn default() -> Self {
        Self::new(&ReturnsConfig::default(), &[], &UnsubscribeConfig::default())
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::report::field_texts;
    use mail::{Envelope, Origin, Recipient, SpoolId, Tags, UnixMillis};
    use settings::Setting;

    #[test]
    fn the_tables_are_sound() {
        assert_eq!(settings::mistakes(&ReturnsConfig::schema()), Vec::<String>::new());
        assert_eq!(settings::mistakes(&VerpRule::schema()), Vec::<String>::new());
        assert_eq!(settings::mistakes(&UnsubscribeConfig::schema()), Vec::<String>::new());
    }

    fn mailbox(text: &str) -> Mailbox {
        Mailbox::parse(text).unwrap()
    }

    fn message(from: ReversePath) -> Message {
        Message {
            id: SpoolId(1_790_000_000_000_000),
            received_at: UnixMillis(0),
            size: 1,
            envelope: Envelope::new(
                from,
                vec![Recipient::new(mailbox("u@x.test")), Recipient::new(mailbox("v@x.test"))],
            ),
            origin: Origin::default(),
            tags: Tags { tenant: Some("acme".into()), job: Some("j".repeat(200).into()), ..Tags::default() },
            headers: Vec::new(),
            extras: None,
        }
    }

    #[test]
    fn what_goes_out_is_found_in_what_comes_back() {
        let config = ReturnsConfig {
            secret: Some("0123456789abcdef0123456789abcdef".into()),
            ..ReturnsConfig::default()
        };
        let rule = |tenant: &str, form| VerpRule {
            tenants: vec![tenant.into()],
            pools: Vec::new(),
            from: Vec::new(),
            form,
        };
        let rules = [rule("other", VerpUse::Off), rule("acme", VerpUse::Plain)];
        let returns = Returns::new(&config, &rules, &UnsubscribeConfig::default());
        let sent = message(ReversePath::Mailbox(mailbox("a@s.test")));
        let mut fields = Vec::new();
        returns.write_fields(&sent, "pool", 1, b"", &mut fields);
        assert!(fields.split(|octet| *octet == b'\n').all(|line| line.len() < 79));
        let report = [b"Subject: returned\r\n\r\n".as_slice(), &fields, b"From: a@s.test\r\n"].concat();
        let texts = field_texts(&report, "x-tuma-ref");
        let read = returns.secrets().verify(Purpose::Field, &texts[0]).unwrap();
        assert_eq!(
            (read.recipient.as_str(), read.index, read.tenant.as_deref()),
            ("v@x.test", 1, Some("acme"))
        );
        let path = returns.reverse_path(&sent, "pool", 0).unwrap();
        assert_eq!(path.as_str(), "a-u=x.test@s.test");
        assert!(!returns.is_personal(&message(ReversePath::Null), "pool"));
        assert!(returns.is_personal(&sent, "pool") && Returns::default().is_idle());
    }

    #[test]
    fn mail_without_a_way_to_unsubscribe_gets_one() {
        let secret = Some("0123456789abcdef0123456789abcdef".into());
        let config = ReturnsConfig { secret, field: false, ..ReturnsConfig::default() };
        let unsubscribe = UnsubscribeConfig {
            url: Some("https://u.test/unsubscribe/".into()),
            tenants: vec!["acme".into()],
            pools: Vec::new(),
        };
        let returns = Returns::new(&config, &[], &unsubscribe);
        let mut sent = message(ReversePath::Mailbox(mailbox("a@s.test")));
        let fields = |message: &Message, content: &[u8]| {
            let mut fields = Vec::new();
            returns.write_fields(message, "pool", 0, content, &mut fields);
            String::from_utf8(fields).unwrap()
        };
        let written = fields(&sent, b"Subject: x\r\n\r\nList-Unsubscribe: no field\r\n");
        let token = written.strip_prefix("List-Unsubscribe: <https://u.test/unsubscribe/").unwrap();
        let (token, rest) = token.split_once('>').unwrap();
        assert_eq!(rest, "\r\nList-Unsubscribe-Post: List-Unsubscribe=One-Click\r\n");
        assert!(written.split("\r\n").all(|line| line.len() <= 998));
        let read = returns.secrets().verify(Purpose::Unsubscribe, token).unwrap();
        assert_eq!((read.recipient.as_str(), read.tenant.as_deref()), ("u@x.test", Some("acme")));
        assert_eq!(fields(&sent, b"list-unsubscribe: <mailto:a@s.test>\r\n\r\n"), "");
        sent.tags.tenant = None;
        assert_eq!(fields(&sent, b""), "");
        assert!(!returns.is_personal(&sent, "pool"));
    }

    #[test]
    fn addresses_take_their_own_and_what_verp_makes_of_them() {
        let takes = |own: &str, to: &str| own.parse::<ReportAddress>().unwrap().takes(&mailbox(to));
        for to in ["a@s.test", "A@S.test", "a-u=x.test@s.test"] {
            assert!(takes("a@s.test", to) && takes("@s.test", to), "{to}");
        }
        for to in ["ab@s.test", "a@x.test", "a-u=s.test@x.test", "b-a@s.test"] {
            assert!(!takes("a@s.test", to), "{to}");
        }
        for wrong in ["", "a", "@", "a@b@c"] {
            assert!(wrong.parse::<ReportAddress>().is_err(), "{wrong}");
        }
    }
}

//! The classes of failures.

use std::fmt;
use std::str::FromStr;

macro_rules! classes {
    ($($(#[doc = $doc:literal])+ $variant:ident $word:literal $category:literal $kumo:literal,)*) => {
        /// Why a recipient was not reached, in one word: one taxonomy, from which those of PowerMTA (`bounceCat`) and
        /// KumoMTA (`bounce_classification`) follow.
        #[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
        pub enum BounceClass { $($(#[doc = $doc])+ $variant,)* }

        impl BounceClass {
            /// Every class, in the order of their declaration.
            pub const ALL: &'static [Self] = &[$(Self::$variant,)*];

            /// The word for it, as configuration, records and the API have it.
            pub const fn as_str(self) -> &'static str {
                match self { $(Self::$variant => $word,)* }
            }

            /// PowerMTA's word for it, as its accounting files have it in the column `bounceCat`.
            pub const fn category(self) -> &'static str {
                match self { $(Self::$variant => $category,)* }
            }

            /// KumoMTA's word for it, as its records have it in `bounce_classification`.
            pub const fn kumo(self) -> &'static str {
                match self { $(Self::$variant => $kumo,)* }
            }

            /// What it means, in one sentence.
            pub const fn meaning(self) -> &'static str {
                match self { $(Self::$variant => concat!($($doc),+).trim_ascii(),)* }
            }
        }
    };
}

classes! {
    /// There is no such mailbox.
    BadMailbox "bad-mailbox" "bad-mailbox" "InvalidRecipient",
    /// The domain does not exist, or takes no mail.
    BadDomain "bad-domain" "bad-domain" "BadDomain",
    /// The mailbox exists, but is disabled, closed or abandoned.
    InactiveMailbox "inactive-mailbox" "inactive-mailbox" "InactiveMailbox",
    /// The mailbox is full.
    QuotaIssues "quota-issues" "quota-issues" "QuotaIssues",
    /// The reverse-path is not one that the receiver takes mail from.
    InvalidSender "invalid-sender" "invalid-sender" "InvalidSender",
    /// Who sends is blocked: the address, its network or the domain has a bad name.
    SpamBlock "spam-block" "spam-related" "SpamBlock",
    /// What is sent is taken for spam.
    SpamContent "spam-content" "spam-related" "SpamContent",
    /// What is sent is taken for a virus.
    VirusRelated "virus-related" "virus-related" "VirusRelated",
    /// The message itself is at fault: too large, malformed, or of a kind that is not taken.
    ContentRelated "content-related" "content-related" "ContentRelated",
    /// It carries an attachment that is not taken.
    ProhibitedAttachment "prohibited-attachment" "content-related" "ProhibitedAttachment",
    /// SPF, DKIM or DMARC did not pass, or AUTH failed.
    AuthenticationFailed "authentication-failed" "policy-related" "AuthenticationFailed",
    /// The receiver's rules do not allow it, and no other class says why.
    PolicyRelated "policy-related" "policy-related" "PolicyRelated",
    /// Too much, too fast, or over too many connections.
    RateLimited "rate-limited" "policy-related" "TransientFailure",
    /// Greylisted: another attempt is all that is wanted.
    Greylisted "greylisted" "other" "TransientFailure",
    /// More recipients than one transaction may have.
    TooManyRecipients "too-many-recipients" "policy-related" "TooManyRecipients",
    /// The receiver takes us for a stranger who wants it to relay.
    RelayingIssues "relaying-issues" "relaying-issues" "RelayingIssues",
    /// There is no way to the receiver, or mail goes round in a loop.
    RoutingErrors "routing-errors" "routing-errors" "RoutingErrors",
    /// The receiver's own configuration is at fault.
    BadConfiguration "bad-configuration" "bad-configuration" "BadConfiguration",
    /// A connection was made and lost.
    BadConnection "bad-connection" "bad-connection" "BadConnection",
    /// No connection was made.
    NoAnswerFromHost "no-answer-from-host" "no-answer-from-host" "NoAnswerFromHost",
    /// A name that was needed could not be looked up: ours by the receiver, or the receiver's by us.
    DnsFailure "dns-failure" "routing-errors" "DNSFailure",
    /// One side took the other's commands or replies for wrong.
    ProtocolErrors "protocol-errors" "protocol-errors" "ProtocolErrors",
    /// It was not delivered in time.
    MessageExpired "message-expired" "message-expired" "MessageExpired",
    /// The receiver is at fault for now, and says no more than that.
    TransientFailure "transient-failure" "other" "TransientFailure",
    /// An automatic answer of a person's mailbox, which is no failure.
    AutoReply "auto-reply" "other" "AutoReply",
    /// A request to prove that a person sent it.
    ChallengeResponse "challenge-response" "policy-related" "ChallengeResponse",
    /// Nothing that is known.
    Other "other" "other" "Uncategorized",
}

impl BounceClass {
    /// True if the address itself is at fault for good, so that mail to it need not be tried again.
    pub const fn is_hard(self) -> bool {
        matches!(self, Self::BadMailbox | Self::BadDomain | Self::InactiveMailbox)
    }

    /// The class of a word, ours or PowerMTA's.
    pub fn parse(word: &str) -> Option<Self> {
        Self::ALL.iter().copied().find(|class| class.as_str() == word)
    }
}

/// Not the word of a class.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BounceClassError(Box<str>);

impl fmt::Display for BounceClassError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let words: Vec<&str> = BounceClass::ALL.iter().map(|class| class.as_str()).collect();
        write!(f, "no class is called {:?}; there is {}", self.0, words.join(", "))
    }
}

impl std::error::Error for BounceClassError {}

impl FromStr for BounceClass {
    type Err = BounceClassError;

    fn from_str(word: &str) -> Result<Self, BounceClassError> {
        Self::parse(word).ok_or_else(|| BounceClassError(word.chars().take(60).collect()))
    }
}

impl fmt::Display for BounceClass {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.as_str())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn words_are_read_back_and_map_to_those_of_others() {
        /// What PowerMTA's accounting files hold.
        const CATEGORIES: [&str; 17] = [
            "bad-configuration",
            "bad-connection",
            "bad-domain",
            "bad-mailbox",
            "content-related",
            "inactive-mailbox",
            "invalid-sender",
            "message-expired",
            "no-answer-from-host",
            "other",
            "policy-related",
            "protocol-errors",
            "quota-issues",
            "relaying-issues",
            "routing-errors",
            "spam-related",
            "virus-related",
        ];
        for class in BounceClass::ALL {
            assert_eq!(class.as_str().parse(), Ok(*class));
            assert!(CATEGORIES.contains(&class.category()), "{class}");
            assert!(class.meaning().ends_with('.'), "{class}: {}", class.meaning());
        }
        // Each category of PowerMTA's that is no sum of several has a class of the same word.
        for category in CATEGORIES.iter().filter(|category| **category != "spam-related") {
            assert_eq!(BounceClass::parse(category).map(BounceClass::category), Some(*category));
        }
        let error = "bad-mailbx".parse::<BounceClass>().unwrap_err().to_string();
        assert!(error.starts_with("no class is called \"bad-mailbx\"; there is bad-mailbox, "), "{error}");
    }
}

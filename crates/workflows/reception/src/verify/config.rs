//! What an operator may set about the verification of incoming mail.

use mail::{Domain, FieldName};
use mailauth::dkim::VerifyPolicy;
use mailauth::dmarc::Organization;
use settings::{Cidr, Text};
use std::time::Duration;

settings::words! {
    /// What to do with mail of a client that the sender's domain disowns by SPF (`-all`).
    pub enum SpfFail {
        /// Take it and say so.
        Accept,
        /// Refuse it with 550 5.7.23, unless DMARC passes by a signature: forwarders break SPF and leave signatures whole.
        Reject,
        /// Refuse it whatever else passes.
        RejectAlways,
    }
}

settings::words! {
    /// What to do with mail that fails DMARC.
    pub enum DmarcFail {
        /// Take it and say so.
        Accept,
        /// Mark it where its owner wants it quarantined or rejected.
        Quarantine,
        /// What its owner wants: mark it, or refuse it with 550 5.7.1.
        Follow,
    }
}

settings::words! {
    /// What to do with mail whose author cannot be told: no From field, several, authors of several domains, or one
    /// that readers could read in two ways.
    pub enum BadFrom {
        /// Take it and say so.
        Accept,
        /// Refuse it with 550 5.7.1.
        Reject,
    }
}

settings::words! {
    /// What to do when DNS gives no answer that a refusal may depend on.
    pub enum OnTemporary {
        /// Take the mail and say so.
        Accept,
        /// Answer 451, so that the client tries again.
        Defer,
    }
}

settings::words! {
    /// How it is found out where an organization's names begin.
    pub enum OrganizationBy {
        /// From the policy records themselves (RFC 9989 §4.10).
        TreeWalk,
        /// From the public suffix list, the way of RFC 7489.
        PublicSuffixList,
    }
}

settings::table! {
    /// How mail is verified that comes in by listeners with `verify`. Mail of authenticated users and of
    /// `relay.networks` is ours and is not verified.
    pub struct VerifyConfig {
        /// SPF (RFC 7208): may the client send for the sender's domain?
        pub spf: bool = true,
        /// DKIM (RFC 6376): who signed the message, and is it what was signed?
        pub dkim: bool = true,
        /// DMARC (RFC 9989): does any of that belong to the author that readers see? Without it neither policies nor
        /// From fields are judged.
        pub dmarc: bool = true,
        /// ARC (RFC 8617): what did earlier servers find before they changed the message?
        pub arc: bool = true,
        /// Does the name of the client's address lead back to it (RFC 8601 §3)?
        pub iprev: bool = true,
        /// Clients whose mail is not verified: servers of ours that have done it.
        pub except: Vec<Cidr> = Vec::new(),
        /// This server's name in Authentication-Results; left out, `hostname`. Fields that come in with it are
        /// forged, and taken out.
        pub authserv_id: Option<Text<Domain>> = None,
        /// What to do when SPF fails.
        pub spf_fail: SpfFail = SpfFail::Accept,
        /// What to do when DMARC fails.
        pub dmarc_fail: DmarcFail = DmarcFail::Follow,
        /// What to do when the author cannot be told.
        pub bad_from: BadFrom = BadFrom::Reject,
        /// What to do when DNS gives no answer.
        pub temporary: OnTemporary = OnTemporary::Accept,
        /// The header field that marks quarantined mail, with the reason; fields of this name that come in are taken
        /// out. A rule of `assign` can act on it with `quarantined`.
        pub quarantine_field: Text<FieldName> = Text(quarantine_field()),
        /// How organizations are told apart for DMARC.
        pub organization: OrganizationBy = OrganizationBy::TreeWalk,
        /// Forwarders whose word is taken: when ARC passes and the last to seal is one of these domains, mail that
        /// passed DMARC at its door is not held against it here.
        pub arc_trusted: Vec<Text<Domain>> = Vec::new(),
        /// Seal mail that was verified (RFC 8617), for the servers that it is forwarded to: the name of an identity in
        /// `dkim` whose domain and key do it.
        pub arc_seal: Option<String> = None,
        /// Write a Received-SPF field too (RFC 7208 §9.1), for what reads no Authentication-Results.
        pub received_spf: bool = false,
        /// DKIM signatures of one message that are checked; the others are only counted.
        #[in(1..=50)]
        pub signatures_max: usize = 5,
        /// Least bits of an RSA key that is believed (RFC 8301 §3.2).
        #[in(1024..=4096)]
        pub rsa_bits_min: usize = 1024,
        /// Most bits of an RSA key that is used.
        #[in(1024..=8192)]
        pub rsa_bits_max: usize = 4096,
        /// Believe signatures that leave the end of the body out (`l=`), which anybody may then have added.
        pub partial_bodies: bool = false,
        /// How long the questions to DNS for one message may take in all; then they count as not answered.
        #[in(100ms..=5m)]
        pub timeout: Duration = Duration::from_secs(20),
    }
}

fn quarantine_field() -> FieldName {
    // A constant of ours; a test reads it.
    "X-Quarantine".parse().unwrap_or_else(|_| unreachable!("it is a field name"))
}

impl VerifyConfig {
    pub(crate) fn organization(&self) -> Organization {
        match self.organization {
            OrganizationBy::TreeWalk => Organization::TreeWalk,
            OrganizationBy::PublicSuffixList => Organization::PublicSuffixList,
        }
    }

    pub(crate) fn policy(&self) -> VerifyPolicy {
        VerifyPolicy {
            signatures_max: self.signatures_max,
            rsa_bits_min: self.rsa_bits_min,
            rsa_bits_max: self.rsa_bits_max,
            partial_bodies: self.partial_bodies,
            ..VerifyPolicy::default()
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use settings::Setting;

    #[test]
    fn the_table_is_sound() {
        assert_eq!(settings::mistakes(&VerifyConfig::schema()), Vec::<String>::new());
        assert_eq!(quarantine_field().as_str(), "X-Quarantine");
    }
}

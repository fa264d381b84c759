//! Which addresses mail may be sent to: a name in somebody's DNS must not make this server talk to the
//! machine it runs on, to its neighbours, or to itself.

use ipnet::IpNet;
use std::collections::HashSet;
use std::fmt;
use std::io;
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};

/// Where mail may go, beyond the public internet.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct DestinationsConfig {
    /// Networks that MX and address records may lead to although they are private, loopback or otherwise
    /// not for everyone.
    pub allow: Vec<IpNet>,
    /// Networks that nothing may be sent to, though they are public.
    pub deny: Vec<IpNet>,
    /// Addresses by which others reach this server although no interface has them (address translation).
    pub own: Vec<IpAddr>,
}

/// Why an address is not for mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Range {
    /// `0.0.0.0/8` and `::`.
    Unspecified,
    /// `127.0.0.0/8` and `::1`.
    Loopback,
    /// RFC 1918 and `fc00::/7`.
    Private,
    /// RFC 3927, `fe80::/10` and the old site-local `fec0::/10`; cloud metadata services live here.
    LinkLocal,
    /// RFC 6598, `100.64.0.0/10`.
    SharedSpace,
    /// `224.0.0.0/4` and `ff00::/8`.
    Multicast,
    /// RFC 5737, RFC 3849, RFC 9637.
    Documentation,
    /// `240.0.0.0/4`, broadcast, benchmarks, protocol assignments and the rest nobody can be reached at.
    Reserved,
    /// Listed in `deny`.
    Denied,
}

impl fmt::Display for Range {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Self::Unspecified => "unspecified address",
            Self::Loopback => "loopback address",
            Self::Private => "private address",
            Self::LinkLocal => "link-local address",
            Self::SharedSpace => "shared address space",
            Self::Multicast => "multicast address",
            Self::Documentation => "documentation address",
            Self::Reserved => "reserved address",
            Self::Denied => "address denied by configuration",
        })
    }
}

/// What the rules say of an address.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Judgement {
    /// Mail may go there.
    Allowed,
    /// It is this server: mail would loop.
    Own,
    /// It is not for mail.
    Refused(Range),
}

/// The addresses of this machine and the sockets this server listens on.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct OwnAddresses {
    interfaces: HashSet<IpAddr>,
    listening: Vec<SocketAddr>,
}

impl OwnAddresses {
    /// The interfaces' addresses as they are now, and `listening` as bound (port 0 resolved).
    pub fn of_this_machine(listening: &[SocketAddr]) -> io::Result<Self> {
        let interfaces = nix::ifaddrs::getifaddrs()?.filter_map(|interface| {
            let address = interface.address?;
            let v4 = address.as_sockaddr_in().map(|a| IpAddr::V4(a.ip()));
            v4.or_else(|| address.as_sockaddr_in6().map(|a| IpAddr::V6(a.ip())))
        });
        Ok(Self::new(interfaces, listening))
    }

    /// These, as a test would have them.
    pub fn new(interfaces: impl IntoIterator<Item = IpAddr>, listening: &[SocketAddr]) -> Self {
        Self {
            interfaces: interfaces.into_iter().map(|ip| ip.to_canonical()).collect(),
            listening: listening.iter().copied().map(crate::stream::canonical).collect(),
        }
    }

    /// True if an interface has the address.
    pub fn has(&self, ip: IpAddr) -> bool {
        self.interfaces.contains(&ip)
    }

    /// True if this server listens at exactly this address and port, be it by a wildcard.
    pub fn listens_at(&self, address: SocketAddr) -> bool {
        // All of 127/8 is one machine, though the interface names one address of it.
        let is_ours = address.ip().is_loopback() || self.has(address.ip());
        // Nobody's address stays nobody's, though this machine's sockets answer to it.
        !address.ip().is_unspecified()
            && self.listening.iter().any(|socket| {
                socket.port() == address.port()
                    && (socket.ip() == address.ip() || (socket.ip().is_unspecified() && is_ours))
            })
    }
}

/// The rules, ready to be asked.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Destinations {
    config: DestinationsConfig,
    own: OwnAddresses,
}

impl Destinations {
    /// Rules by `config` on a machine with `own` addresses.
    pub fn new(config: DestinationsConfig, own: OwnAddresses) -> Self {
        Self { config, own }
    }

    /// Judges an address that DNS gave. A socket of ours is a loop, whatever is allowed; then `deny` and
    /// `allow` decide, the more careful first; then an address of this machine is a loop; then its range
    /// decides.
    pub fn judge(&self, address: SocketAddr) -> Judgement {
        self.each_form(address, |address| {
            let ip = address.ip();
            if self.own.listens_at(address) || self.config.own.contains(&ip) {
                return Judgement::Own;
            }
            if self.config.deny.iter().any(|net| net.contains(&ip)) {
                return Judgement::Refused(Range::Denied);
            }
            if self.config.allow.iter().any(|net| net.contains(&ip)) {
                return Judgement::Allowed;
            }
            match range(ip) {
                // An own private or loopback address is refused for what it is; a public one is a loop.
                None if self.own.has(ip) => Judgement::Own,
                None => Judgement::Allowed,
                Some(range) => Judgement::Refused(range),
            }
        })
    }

    /// Judges an address that the operator wrote into a route: naming it is allowing it, unless it is a
    /// socket of ours, is denied, or can be nobody's.
    pub fn judge_configured(&self, address: SocketAddr) -> Judgement {
        self.each_form(address, |address| {
            let ip = address.ip();
            if self.own.listens_at(address) {
                return Judgement::Own;
            }
            if self.config.deny.iter().any(|net| net.contains(&ip)) {
                return Judgement::Refused(Range::Denied);
            }
            match range(ip) {
                Some(range @ (Range::Unspecified | Range::Multicast)) => Judgement::Refused(range),
                _ => Judgement::Allowed,
            }
        })
    }

    /// The address itself, and the IPv4 address it stands for if it is a mapped or translated form: neither
    /// may be refused.
    fn each_form(&self, address: SocketAddr, judge: impl Fn(SocketAddr) -> Judgement) -> Judgement {
        let outer = judge(crate::stream::canonical(address));
        match (outer, embedded_v4(address.ip())) {
            (Judgement::Allowed, Some(v4)) => judge(SocketAddr::new(v4.into(), address.port())),
            _ => outer,
        }
    }
}

/// The IPv4 address within: NAT64 (RFC 6052), 6to4 (RFC 3056), Teredo (RFC 4380), IPv4-compatible.
fn embedded_v4(ip: IpAddr) -> Option<Ipv4Addr> {
    let IpAddr::V6(v6) = ip else { return None };
    let v4 = |high: u16, low: u16| Ipv4Addr::from((u32::from(high) << 16) | u32::from(low));
    match v6.segments() {
        [0x64, 0xff9b, 0, 0, 0, 0, high, low] => Some(v4(high, low)),
        [0x2002, high, low, ..] => Some(v4(high, low)),
        [0x2001, 0, _, _, _, _, high, low] => Some(v4(!high, !low)),
        [0, 0, 0, 0, 0, 0, high, low] if (high, low) > (0, 1) => Some(v4(high, low)),
        _ => None,
    }
}

/// The special range an address lies in (IANA's special-purpose registries).
fn range(ip: IpAddr) -> Option<Range> {
    match ip {
        IpAddr::V4(v4) => range_v4(v4),
        IpAddr::V6(v6) => range_v6(v6),
    }
}

fn range_v4(ip: Ipv4Addr) -> Option<Range> {
    Some(match ip.octets() {
        [0, ..] => Range::Unspecified,
        [127, ..] => Range::Loopback,
        [10, ..] | [172, 16..=31, ..] | [192, 168, ..] => Range::Private,
        [169, 254, ..] => Range::LinkLocal,
        [100, 64..=127, ..] => Range::SharedSpace,
        [224..=239, ..] => Range::Multicast,
        [192, 0, 2, _] | [198, 51, 100, _] | [203, 0, 113, _] => Range::Documentation,
        [240..=255, ..] | [198, 18..=19, ..] | [192, 0, 0, _] | [192, 88, 99, _] => Range::Reserved,
        _ => return None,
    })
}

fn range_v6(ip: Ipv6Addr) -> Option<Range> {
    if ip.is_loopback() {
        return Some(Range::Loopback);
    }
    Some(match ip.segments() {
        [0, 0, 0, 0, 0, 0, 0, 0] => Range::Unspecified,
        [0xfc00..=0xfdff, ..] => Range::Private,
        [0xfe80..=0xfebf, ..] | [0xfec0..=0xfeff, ..] => Range::LinkLocal,
        [0xff00..=0xffff, ..] => Range::Multicast,
        [0x2001, 0xdb8, ..] | [0x3fff, 0..=0xfff, ..] => Range::Documentation,
        // Translated for a private network (RFC 8215), discarded (RFC 6666), benchmarks, ORCHID, segment
        // routing (RFC 9602).
        [0x64, 0xff9b, 1, ..] | [0x100, 0, 0, 0..=1, ..] | [0x2001, 2, 0, ..] | [0x5f00, ..] => {
            Range::Reserved
        }
        [0x2001, 0x10..=0x3f, ..] => Range::Reserved,
        // IPv4-compatible, long gone, and translators that some kernels still know.
        [0, 0, 0, 0, 0, 0, ..] | [0, 0, 0, 0, 0xffff, 0, ..] => Range::Reserved,
        _ => return None,
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(allow: &[&str], deny: &[&str], listening: &[&str]) -> Destinations {
        let nets = |texts: &[&str]| texts.iter().map(|t| t.parse().unwrap()).collect();
        let config = DestinationsConfig {
            allow: nets(allow),
            deny: nets(deny),
            own: vec!["9.9.9.1".parse().unwrap()],
        };
        let listening: Vec<SocketAddr> = listening.iter().map(|t| t.parse().unwrap()).collect();
        let interfaces = ["127.0.0.1", "::1", "10.0.0.5", "8.8.8.1", "2600::1"].map(|t| t.parse().unwrap());
        Destinations::new(config, OwnAddresses::new(interfaces, &listening))
    }

    fn port_25(text: &str) -> SocketAddr {
        SocketAddr::new(text.parse().unwrap(), 25)
    }

    #[test]
    fn addresses_that_dns_must_not_lead_to() {
        use Range::*;
        let rules = rules(&[], &["8.8.4.0/24"], &["0.0.0.0:25"]);
        for (text, range) in [
            ("0.0.0.0", Unspecified),
            ("0.1.2.3", Unspecified),
            ("::", Unspecified),
            ("172.16.0.1", Private),
            ("172.31.255.255", Private),
            ("192.168.1.1", Private),
            ("10.0.0.6", Private),
            ("fd00::1", Private),
            ("169.254.169.254", LinkLocal),
            ("fe80::1", LinkLocal),
            ("fec0::1", LinkLocal),
            ("100.64.0.1", SharedSpace),
            ("100.127.255.255", SharedSpace),
            ("224.0.0.1", Multicast),
            ("ff02::1", Multicast),
            ("192.0.2.1", Documentation),
            ("2001:db8::1", Documentation),
            ("3fff::1", Documentation),
            ("240.0.0.1", Reserved),
            ("255.255.255.255", Reserved),
            ("198.18.0.1", Reserved),
            ("100::1", Reserved),
            ("8.8.4.4", Denied),
            ("::ffff:10.0.0.6", Private),
            ("::ffff:169.254.169.254", LinkLocal),
            ("::10.0.0.6", Reserved),
            ("64:ff9b::10.0.0.6", Private),
            ("64:ff9b:1::1", Reserved),
            ("2002:a00:6::1", Private),
            ("2001:0:4136:e378:8000:63bf:f5ff:fff9", Private),
        ] {
            assert_eq!(rules.judge(port_25(text)), Judgement::Refused(range), "{text}");
        }
    }

    #[test]
    fn own_addresses_are_a_loop() {
        let rules = rules(&["10.0.0.0/8"], &[], &["0.0.0.0:25", "[2600::1]:587"]);
        for text in
            ["127.0.0.1", "127.9.9.9", "::ffff:127.0.0.1", "10.0.0.5", "8.8.8.1", "2600::1", "9.9.9.1"]
        {
            assert_eq!(rules.judge(port_25(text)), Judgement::Own, "{text}");
        }
        assert_eq!(rules.judge(port_25("64:ff9b::8.8.8.1")), Judgement::Own);
        assert_eq!(rules.judge("[2600::1]:587".parse().unwrap()), Judgement::Own);
        assert_eq!(rules.judge("10.0.0.5:26".parse().unwrap()), Judgement::Allowed);
        assert_eq!(rules.judge("127.0.0.1:26".parse().unwrap()), Judgement::Refused(Range::Loopback));
    }

    #[test]
    fn addresses_for_everyone() {
        let rules = rules(&[], &[], &["0.0.0.0:25"]);
        for text in
            ["8.8.8.8", "172.15.0.1", "172.32.0.1", "100.63.0.1", "100.128.0.1", "2600::2", "2002:808:808::1"]
        {
            assert_eq!(rules.judge(port_25(text)), Judgement::Allowed, "{text}");
        }
    }

    #[test]
    fn allowed_networks_and_configured_routes() {
        let rules = rules(&["127.0.0.0/8"], &["10.1.0.0/16"], &["127.0.0.1:2525"]);
        assert_eq!(rules.judge("127.0.0.1:2526".parse().unwrap()), Judgement::Allowed);
        assert_eq!(rules.judge("[::ffff:127.0.0.1]:2526".parse().unwrap()), Judgement::Allowed);
        assert_eq!(rules.judge("127.0.0.1:2525".parse().unwrap()), Judgement::Own);

        assert_eq!(rules.judge_configured("10.0.0.6:25".parse().unwrap()), Judgement::Allowed);
        assert_eq!(rules.judge_configured("[::1]:2526".parse().unwrap()), Judgement::Allowed);
        assert_eq!(rules.judge_configured("127.0.0.1:2525".parse().unwrap()), Judgement::Own);
        assert_eq!(rules.judge_configured("[::ffff:127.0.0.1]:2525".parse().unwrap()), Judgement::Own);
        let denied = Judgement::Refused(Range::Denied);
        assert_eq!(rules.judge_configured("10.1.0.6:25".parse().unwrap()), denied);
        let nobody = Judgement::Refused(Range::Unspecified);
        assert_eq!(rules.judge_configured("0.0.0.0:25".parse().unwrap()), nobody);
    }

    #[test]
    fn this_machine_has_a_loopback_address() {
        let own = OwnAddresses::of_this_machine(&["0.0.0.0:2525".parse().unwrap()]).unwrap();
        assert!(own.has(IpAddr::V4(Ipv4Addr::LOCALHOST)));
        assert!(own.listens_at("127.0.0.1:2525".parse().unwrap()));
        assert!(!own.listens_at("127.0.0.1:2526".parse().unwrap()));
    }
}

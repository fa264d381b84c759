//! What an operator has ordered: that some mail waits, is given up, slows down or takes another way, with a reason
//! and an end. Orders are looked at before every attempt.
//!
//! An order names mail by what it is: tenant, campaign, domain, site, pool, source, sender, job. Not all of that is
//! known at every moment (the sender stands in the spool, the source is chosen last), so a match has three
//! answers: yes, no, and "it depends on what you have not told me".

use mail::UnixMillis;
use std::fmt;

/// Orders in force at once, at most.
pub const ORDERS_MAX: usize = 10_000;

/// Octets of a pattern or reason, at most.
pub const TEXT_MAX: usize = 500;

/// An order's name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct OrderId(pub u64);

impl fmt::Display for OrderId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// What shall become of the mail.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Action {
    /// No attempt is made; mail still grows old and expires.
    Suspend,
    /// No attempt is made, and time does not count: nothing expires.
    Hold,
    /// It is given up and reported as bounced.
    Bounce,
    /// It keeps within these rates, all that the order names together; each such as `100/h`.
    Limit(Vec<Box<str>>),
    /// It leaves by this pool.
    Reroute(Box<str>),
}

impl Action {
    /// The word for it.
    pub const fn word(&self) -> &'static str {
        match self {
            Self::Suspend => "suspend",
            Self::Hold => "hold",
            Self::Bounce => "bounce",
            Self::Limit(_) => "limit",
            Self::Reroute(_) => "reroute",
        }
    }
}

/// Which mail. What is left out holds for all; everything given must hold. A text may begin or end with `*`.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Scope {
    /// The tenant.
    pub tenant: Option<Box<str>>,
    /// The campaign.
    pub campaign: Option<Box<str>>,
    /// The recipient's domain, or `route:name`.
    pub domain: Option<Box<str>>,
    /// The site.
    pub site: Option<Box<str>>,
    /// The egress source.
    pub source: Option<Box<str>>,
    /// The pool.
    pub pool: Option<Box<str>>,
    /// The reverse-path: an address, or `*@domain`.
    pub sender: Option<Box<str>>,
    /// The job.
    pub job: Option<Box<str>>,
}

/// Names and values of what a scope says, in one order everywhere.
impl Scope {
    /// Each condition with its name.
    pub fn conditions(&self) -> [(&'static str, Option<&str>); 8] {
        [
            ("tenant", self.tenant.as_deref()),
            ("campaign", self.campaign.as_deref()),
            ("domain", self.domain.as_deref()),
            ("site", self.site.as_deref()),
            ("source", self.source.as_deref()),
            ("pool", self.pool.as_deref()),
            ("sender", self.sender.as_deref()),
            ("job", self.job.as_deref()),
        ]
    }

    /// True if it names no mail in particular.
    pub fn is_everything(&self) -> bool {
        *self == Self::default()
    }

    /// True if only the message itself can tell.
    pub fn needs_message(&self) -> bool {
        self.sender.is_some() || self.job.is_some()
    }

    /// True if it tells mail of one site apart by more than who sends it from where: by domain, sender or job.
    pub fn is_part_of_site(&self) -> bool {
        self.domain.is_some() || self.needs_message()
    }

    /// Does it name this mail?
    pub fn matches(&self, facts: &Facts<'_>) -> Match {
        let given = [
            (&self.tenant, facts.tenant),
            (&self.campaign, facts.campaign),
            (&self.domain, facts.domain),
            (&self.site, facts.site),
            (&self.source, facts.source),
            (&self.pool, facts.pool),
            (&self.sender, facts.sender),
            (&self.job, facts.job),
        ];
        let mut all = Match::Yes;
        for (wanted, fact) in given {
            match (wanted, fact) {
                (None, _) => {}
                (Some(_), Fact::Unknown) => all = Match::Depends,
                (Some(wanted), Fact::Is(text)) if covers(wanted, text) => {}
                (Some(_), Fact::Is(_) | Fact::None) => return Match::No,
            }
        }
        all
    }
}

impl fmt::Display for Scope {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut first = true;
        for (name, value) in self.conditions() {
            if let Some(value) = value {
                write!(f, "{}{name}={value}", if first { "" } else { " " })?;
                first = false;
            }
        }
        if first { f.write_str("all mail") } else { Ok(()) }
    }
}

/// A text against a pattern with a `*` at its beginning, its end, or both; letter case does not count.
fn covers(pattern: &str, text: &str) -> bool {
    let (pattern, text) = (pattern.as_bytes(), text.as_bytes());
    let same = |a: &[u8], b: &[u8]| a.eq_ignore_ascii_case(b);
    match (pattern.strip_prefix(b"*"), pattern.strip_suffix(b"*")) {
        (Some(b""), _) => true,
        (Some(_), Some(_)) => {
            let middle = &pattern[1..pattern.len() - 1];
            text.windows(middle.len().max(1)).any(|part| same(part, middle)) || middle.is_empty()
        }
        (Some(end), None) => text.len() >= end.len() && same(&text[text.len() - end.len()..], end),
        (None, Some(begin)) => text.len() >= begin.len() && same(&text[..begin.len()], begin),
        (None, None) => same(pattern, text),
    }
}

/// What is known of one fact.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Fact<'a> {
    /// Not known yet.
    #[default]
    Unknown,
    /// Known not to be there.
    None,
    /// Known.
    Is(&'a str),
}

impl<'a> From<Option<&'a str>> for Fact<'a> {
    fn from(text: Option<&'a str>) -> Self {
        text.map_or(Self::None, Self::Is)
    }
}

/// What is known of some mail.
#[derive(Clone, Copy, Debug, Default)]
pub struct Facts<'a> {
    /// The tenant.
    pub tenant: Fact<'a>,
    /// The campaign.
    pub campaign: Fact<'a>,
    /// The recipient's domain, or `route:name`.
    pub domain: Fact<'a>,
    /// The site.
    pub site: Fact<'a>,
    /// The egress source.
    pub source: Fact<'a>,
    /// The pool.
    pub pool: Fact<'a>,
    /// The reverse-path.
    pub sender: Fact<'a>,
    /// The job.
    pub job: Fact<'a>,
}

/// Whether an order names some mail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Match {
    /// It does.
    Yes,
    /// It does not.
    No,
    /// A fact that is not known yet decides.
    Depends,
}

/// An order.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Order {
    /// Its name.
    pub id: OrderId,
    /// What shall be done.
    pub action: Action,
    /// To which mail.
    pub scope: Scope,
    /// Why; shown wherever the order is.
    pub reason: Box<str>,
    /// When it was given.
    pub given_at: UnixMillis,
    /// When it ends; `None` is when it is cancelled.
    pub ends_at: Option<UnixMillis>,
}

/// Why an order is not taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum OrderError {
    /// Too many are in force.
    TooMany,
    /// It names no mail, and would hold for all: say so with `domain = "*"`.
    NamesNothing,
    /// A pattern, rate or reason is empty, too long, or holds control characters.
    BadText(&'static str),
    /// It ends before it begins.
    AlreadyOver,
    /// It names a pool that is not configured.
    UnknownPool(Box<str>),
}

impl fmt::Display for OrderError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooMany => write!(f, "{ORDERS_MAX} orders are in force already; cancel some first"),
            Self::NamesNothing => {
                f.write_str("an order must name its mail; for all of it write the domain `*`")
            }
            Self::BadText(name) => {
                write!(f, "`{name}` must be 1 to {TEXT_MAX} octets without control characters")
            }
            Self::UnknownPool(pool) => write!(f, "there is no pool `{pool}`"),
            Self::AlreadyOver => f.write_str("the order would be over before it begins"),
        }
    }
}

impl std::error::Error for OrderError {}

/// The orders in force.
#[derive(Clone, Debug, Default)]
pub struct Orders {
    list: Vec<Order>,
    last: u64,
    version: u64,
}

impl Orders {
    /// The orders that an earlier process wrote down, with the last name it gave.
    pub fn restore(list: Vec<Order>, last: u64) -> Self {
        let last = list.iter().map(|order| order.id.0).max().unwrap_or(0).max(last);
        Self { list, last, version: 1 }
    }

    /// Takes an order.
    pub fn add(
        &mut self,
        action: Action,
        scope: Scope,
        reason: &str,
        now: UnixMillis,
        ends_at: Option<UnixMillis>,
    ) -> Result<&Order, OrderError> {
        if self.list.len() >= ORDERS_MAX {
            return Err(OrderError::TooMany);
        }
        if scope.is_everything() {
            return Err(OrderError::NamesNothing);
        }
        let fine =
            |text: &str| !text.is_empty() && text.len() <= TEXT_MAX && !text.chars().any(char::is_control);
        for (name, value) in scope.conditions() {
            if value.is_some_and(|value| !fine(value)) {
                return Err(OrderError::BadText(name));
            }
        }
        if !reason.is_empty() && !fine(reason) {
            return Err(OrderError::BadText("reason"));
        }
        match &action {
            Action::Reroute(pool) if !fine(pool) => return Err(OrderError::BadText("pool")),
            Action::Limit(rates) if rates.is_empty() || !rates.iter().all(|rate| fine(rate)) => {
                return Err(OrderError::BadText("rate"));
            }
            _ => {}
        }
        if ends_at.is_some_and(|end| end <= now) {
            return Err(OrderError::AlreadyOver);
        }
        self.last += 1;
        self.version += 1;
        let id = OrderId(self.last);
        self.list.push(Order { id, action, scope, reason: reason.into(), given_at: now, ends_at });
        Ok(&self.list[self.list.len() - 1])
    }

    /// Ends an order; gives it back.
    pub fn cancel(&mut self, id: OrderId) -> Option<Order> {
        let at = self.list.iter().position(|order| order.id == id)?;
        self.version += 1;
        Some(self.list.remove(at))
    }

    /// Ends every order whose time is over; gives them back.
    pub fn expire(&mut self, now: UnixMillis) -> Vec<Order> {
        let over = |order: &Order| order.ends_at.is_some_and(|end| end <= now);
        if !self.list.iter().any(over) {
            return Vec::new();
        }
        self.version += 1;
        let (ended, kept) = std::mem::take(&mut self.list).into_iter().partition(over);
        self.list = kept;
        ended
    }

    /// The orders, oldest first.
    pub fn list(&self) -> &[Order] {
        &self.list
    }

    /// The last name given.
    pub fn last(&self) -> u64 {
        self.last
    }

    /// Grows with every change, so that an answer may be kept until then.
    pub fn version(&self) -> u64 {
        self.version
    }

    /// The orders that name some mail or may; none in most servers at most times.
    pub fn matching<'a>(&'a self, facts: &'a Facts<'a>) -> impl Iterator<Item = (&'a Order, Match)> + 'a {
        self.list
            .iter()
            .map(|order| (order, order.scope.matches(facts)))
            .filter(|(_, found)| *found != Match::No)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn scope(domain: &str) -> Scope {
        Scope { domain: Some(domain.into()), ..Scope::default() }
    }

    #[test]
    fn patterns() {
        for (pattern, text, expected) in [
            ("a.test", "A.TEST", true),
            ("a.test", "b.a.test", false),
            ("*.a.test", "b.a.test", true),
            ("*.a.test", "a.test", false),
            ("*", "", true),
            ("news*", "Newsletter", true),
            ("news*", "new", false),
            ("*letter*", "Newsletters", true),
            ("*letter*", "News", false),
            ("**", "x", true),
        ] {
            assert_eq!(covers(pattern, text), expected, "{pattern} {text}");
        }
    }

    #[test]
    fn a_fact_that_is_not_known_leaves_the_answer_open() {
        let scope = Scope { tenant: Some("a".into()), sender: Some("*@x.test".into()), ..Scope::default() };
        let facts = Facts { tenant: Fact::Is("a"), ..Facts::default() };
        assert_eq!(scope.matches(&facts), Match::Depends);
        assert_eq!(scope.matches(&Facts { sender: Fact::Is("n@x.test"), ..facts }), Match::Yes);
        assert_eq!(scope.matches(&Facts { sender: Fact::None, ..facts }), Match::No);
        assert_eq!(scope.matches(&Facts { tenant: Fact::None, ..facts }), Match::No);
    }

    #[test]
    fn an_order_has_bounds_and_an_end() {
        let mut orders = Orders::default();
        let now = UnixMillis(1_000);
        let add = |orders: &mut Orders, scope, reason: &str, end| {
            orders.add(Action::Suspend, scope, reason, now, end).map(|order| order.id)
        };
        assert_eq!(add(&mut orders, Scope::default(), "x", None), Err(OrderError::NamesNothing));
        assert_eq!(add(&mut orders, scope("a\nb"), "x", None), Err(OrderError::BadText("domain")));
        assert_eq!(add(&mut orders, scope(""), "x", None), Err(OrderError::BadText("domain")));
        assert_eq!(add(&mut orders, scope("a"), "x", Some(now)), Err(OrderError::AlreadyOver));
        let first = add(&mut orders, scope("a"), "x", Some(UnixMillis(2_000))).unwrap();
        let second = add(&mut orders, scope("b"), "", None).unwrap();
        let version = orders.version();
        assert_eq!(orders.expire(UnixMillis(1_999)), []);
        assert_eq!(orders.version(), version);
        assert_eq!(orders.expire(UnixMillis(2_000)).iter().map(|o| o.id).collect::<Vec<_>>(), [first]);
        assert!(orders.version() > version);
        assert!(orders.cancel(second).is_some() && orders.cancel(second).is_none());
        let again = Orders::restore(Vec::new(), orders.last());
        assert_eq!(again.last(), 2, "a name is never given twice");
    }
}

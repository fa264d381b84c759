//! The traffic file: what is sent, to whom, and how those receivers behave.

use mail::{Domain, Priority};
use settings::{Node, Placed, Problems, Size, Text};
use shaping::{ByteRate, Date, Rate};
use std::collections::BTreeMap;
use std::time::Duration;

/// Most receivers of a world, those of all tables together.
const RECEIVERS_MAX: u64 = 200_000;

/// Most messages of all campaigns together.
const MESSAGES_MAX: u64 = 100_000_000;

const fn ms(n: u64) -> Duration {
    Duration::from_millis(n)
}

const fn seconds(n: u64) -> Duration {
    Duration::from_secs(n)
}

settings::table! {
    /// A traffic file: receivers, and campaigns that are sent to them.
    #[check(Traffic::check)]
    pub struct Traffic {
        /// Time, and what all receivers share.
        pub world: WorldConfig = WorldConfig::default(),
        /// Receivers; the key is a name of your choice, which campaigns use.
        pub receiver: BTreeMap<String, ReceiverConfig> = BTreeMap::new(),
        /// Campaigns; the key is a name of your choice.
        pub campaign: BTreeMap<String, CampaignConfig> = BTreeMap::new(),
    }
}

settings::table! {
    /// Time, and what all receivers share.
    pub struct WorldConfig {
        /// The day on which it begins, for warm-ups, whose days are those of UTC.
        pub begins: Text<Date> = Text(Date(20_454)),
        /// The time of that day.
        #[in(0s..=24h)]
        pub begins_at: Duration = seconds(8 * 3_600),
        /// It ends when every message is settled, or after so long.
        #[in(1m..=400d)]
        pub lasts: Duration = seconds(10 * 86_400),
        /// How long an answer of the DNS takes.
        #[in(0s..=1m)]
        pub dns_time: Duration = ms(30),
        /// When the DNS answers nothing.
        pub dns_outages: Vec<OutageConfig> = Vec::new(),
    }
}

settings::table! {
    /// A time in which something does not work.
    pub struct OutageConfig {
        /// When it starts, counted from the beginning.
        #[in(0s..=400d)]
        pub starts: Duration,
        /// How long it lasts.
        #[in(1s..=400d)]
        pub lasts: Duration,
    }
}

settings::words! {
    /// In whose words a receiver refuses.
    pub enum Replies {
        /// As servers without a name of their own do.
        Plain,
        /// As Gmail does.
        Gmail,
        /// As Outlook.com does.
        Outlook,
        /// As Yahoo does.
        Yahoo,
    }
}

settings::words! {
    /// Where a receiver leaves its senders waiting.
    pub enum Stall {
        /// Nowhere.
        Never,
        /// Its addresses do not answer at all.
        Connect,
        /// It accepts connections and never greets.
        Greeting,
    }
}

settings::table! {
    /// A receiver, or many of the same kind. What it tolerates holds for each egress source by itself, as receivers
    /// count by address; left out, it tolerates everything.
    #[check(ReceiverConfig::check)]
    pub struct ReceiverConfig {
        /// So many receivers of this kind, each with a domain, an exchanger and counts of its own.
        #[in(1..=200_000)]
        pub count: u32 = 1,
        /// Its domains, for one receiver; left out, made of its name.
        pub domains: Vec<Text<Domain>> = Vec::new(),
        /// Its most preferred exchangers, for one receiver; left out, made of its name. Which provider of
        /// `shaping` a receiver is depends on them.
        pub exchangers: Vec<Text<Domain>> = Vec::new(),
        /// In whose words it refuses, and so which reply rules fire.
        pub replies: Replies = Replies::Plain,
        /// From the first packet to a session that is ready, TLS included.
        #[in(1ms..=10m)]
        pub connect_time: Duration = ms(120),
        /// A transaction, from MAIL to the reply to the content.
        #[in(1ms..=10m)]
        pub message_time: Duration = ms(250),
        /// By which share these times vary from one to the next.
        #[in(0.0..=1.0)]
        pub jitter: f64 = 0.4,
        /// Connections at once; 0 is no limit.
        pub connections: u32 = 0,
        /// New connections in any window of each of these.
        pub connection_rates: Vec<Text<Rate>> = Vec::new(),
        /// Messages in any window of each of these.
        pub message_rates: Vec<Text<Rate>> = Vec::new(),
        /// Octets in any window of each of these.
        pub byte_rates: Vec<Text<ByteRate>> = Vec::new(),
        /// Messages on one connection, then it says 421; 0 is no limit.
        pub messages_per_connection: u32 = 0,
        /// How long the first attempt of each message is put off; 0s is no greylisting.
        #[in(0s..=1d)]
        pub greylisting: Duration = Duration::ZERO,
        /// Share of recipients that do not exist.
        #[in(0.0..=1.0)]
        pub unknown_users: f64 = 0.0,
        /// Share of attempts that meet a full mailbox.
        #[in(0.0..=1.0)]
        pub mailboxes_full: f64 = 0.0,
        /// Messages it takes from a source on the first day it knows it; 0 is no such limit. Beyond it a source is
        /// asked to come back later.
        pub daily_first: u64 = 0,
        /// From one day on which a source sends to the next, this is multiplied by so much.
        #[in(1.0..=100.0)]
        pub daily_growth: f64 = 2.0,
        /// Attempts above a limit after which a source is refused altogether for a time; 0 is never.
        pub strikes: u32 = 0,
        /// One such attempt is forgotten each such time.
        #[in(1s..=30d)]
        pub strikes_forgotten: Duration = seconds(30),
        /// How long a source is refused.
        #[in(1s..=30d)]
        pub blocked_for: Duration = seconds(3_600),
        /// Where it leaves its senders waiting.
        pub stalls: Stall = Stall::Never,
        /// When its addresses refuse connections.
        pub outages: Vec<OutageConfig> = Vec::new(),
    }
}

settings::words! {
    /// The priority of a campaign.
    pub enum Class {
        /// Somebody waits for it.
        High,
        /// Mail as people and programs send it.
        Normal,
        /// May wait behind others.
        Low,
        /// One of very many.
        Bulk,
    }
}

impl Class {
    /// As messages are tagged.
    pub fn priority(self) -> Priority {
        match self {
            Self::High => Priority::High,
            Self::Normal => Priority::Normal,
            Self::Low => Priority::Low,
            Self::Bulk => Priority::Bulk,
        }
    }
}

settings::table! {
    /// Messages of one recipient each.
    #[check(CampaignConfig::check)]
    pub struct CampaignConfig {
        /// Whose it is.
        pub tenant: Option<String> = None,
        /// The campaign it is tagged with; left out, none.
        pub campaign: Option<String> = None,
        /// The pool it leaves by; left out, the first.
        pub pool: Option<Placed<String>> = None,
        /// Its priority.
        pub priority: Class = Class::Normal,
        /// How many messages.
        #[in(1..=100_000_000)]
        pub messages: u64,
        /// Octets of each.
        #[in(1..=1GiB)]
        pub size: Size = Size::kib(40),
        /// When the first is handed in, counted from the beginning.
        #[in(0s..=400d)]
        pub starts: Duration = Duration::ZERO,
        /// How fast they are handed in, evenly.
        pub rate: Text<Rate> = Text(Rate { count: 1_000, period: seconds(1) }),
        /// Receivers, each with its share of the messages: any numbers, of which the whole is the sum.
        #[in(0.0..)]
        pub to: BTreeMap<String, f64>,
    }
}

impl ReceiverConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        for (key, list) in [("domains", &self.domains), ("exchangers", &self.exchangers)] {
            if self.count > 1 && !list.is_empty() {
                problems
                    .error(node.at(key), format!("`{key}` cannot be named for several receivers"))
                    .hint("leave it out, or make it a receiver of its own");
            }
        }
    }
}

impl CampaignConfig {
    fn check(&self, node: &Node, problems: &mut Problems) {
        if self.to.values().sum::<f64>() <= 0.0 {
            problems.error(node.at("to"), "`to` gives no receiver a share");
        }
    }
}

impl Traffic {
    fn check(&self, node: &Node, problems: &mut Problems) {
        for (name, campaign) in &self.campaign {
            for receiver in campaign.to.keys().filter(|receiver| !self.receiver.contains_key(*receiver)) {
                let place = node.at(&format!("campaign.{name}.to.{receiver}"));
                let text = format!("no receiver is called {}", settings::quote(receiver));
                let near = settings::nearest(receiver, self.receiver.keys().map(String::as_str));
                let problem = problems.error(place, text);
                match near {
                    Some(near) => problem.hint(format!("did you mean `{near}`?")),
                    None => problem.hint(format!("add a table [receiver.{receiver}]")),
                };
            }
        }
        if self.campaign.is_empty() {
            problems.error(node.place, "there is no campaign: nothing is sent");
        }
        if self.receiver.values().map(|kind| u64::from(kind.count)).sum::<u64>() > RECEIVERS_MAX {
            problems.error(node.at("receiver"), format!("at most {RECEIVERS_MAX} receivers"));
        }
        if self.campaign.values().map(|campaign| campaign.messages).fold(0, u64::saturating_add)
            > MESSAGES_MAX
        {
            problems.error(node.at("campaign"), format!("at most {MESSAGES_MAX} messages in all"));
        }
        let mut known: BTreeMap<&Domain, &str> = BTreeMap::new();
        for (name, kind) in &self.receiver {
            for (n, domain) in kind.domains.iter().enumerate() {
                if let Some(other) = known.insert(&domain.0, name) {
                    let place = node.at(&format!("receiver.{name}.domains.{n}"));
                    problems
                        .error(place, format!("the domain {} is one of the receiver `{other}`", domain.0));
                }
            }
        }
    }
}

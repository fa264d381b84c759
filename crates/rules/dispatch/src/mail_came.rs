//! What the machine is told of mail: recipients that came, and the queue they stand in.

use crate::egress::PoolAt;
use crate::state::{Binding, Dispatch, Ending, LineName, LineState, PathAt, SiteKey, TargetKey, TargetState};
use crate::target::Target;
use queue::{LineKey, NewEntry};
use smallvec::SmallVec;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// Recipients of one message that go to one target.
#[derive(Clone, Copy, Debug)]
pub struct NewMail<'a> {
    /// The spool's handle of the message.
    pub handle: u64,
    /// The tenant.
    pub tenant: Option<&'a str>,
    /// The campaign.
    pub campaign: Option<&'a str>,
    /// The pool; one that is not configured counts as none.
    pub pool: Option<&'a str>,
    /// The priority class; 0 goes first.
    pub class: u8,
    /// Where it goes.
    pub target: &'a Target,
    /// Index of the first recipient.
    pub first: u32,
    /// How many, with consecutive indices.
    pub count: u32,
    /// Octets of the message.
    pub size: u64,
    /// Attempts already made.
    pub attempts: u16,
    /// The last one ended in doubt.
    pub ambiguous: bool,
    /// The last reply.
    pub last_reply: Option<&'a str>,
    /// When it may first be attempted; `None` is at once.
    pub due: Option<Instant>,
    /// How long ago it was accepted.
    pub age: Duration,
    /// It is not given up before this moment.
    pub kept_until: Option<Instant>,
    /// Each recipient has a message of his own, and goes in a transaction of his own.
    pub alone: bool,
}

impl<'a> NewMail<'a> {
    /// One recipient of a message accepted just now, without anything particular.
    pub fn new(handle: u64, target: &'a Target) -> Self {
        Self {
            handle,
            tenant: None,
            campaign: None,
            pool: None,
            class: 1,
            target,
            first: 0,
            count: 1,
            size: 0,
            attempts: 0,
            ambiguous: false,
            last_reply: None,
            due: None,
            age: Duration::ZERO,
            kept_until: None,
            alone: false,
        }
    }
}

impl Dispatch {
    /// Queues recipients. False if there is reason to think that they will not leave soon.
    pub fn push(&mut self, now: Instant, mail: &NewMail<'_>) -> bool {
        let line = self.line_for(now, mail);
        let last_reply = mail.last_reply.map_or(0, |text| self.replies.hold(text));
        let (key, _) = self.queue.push(
            now,
            NewEntry {
                handle: mail.handle,
                line,
                first: mail.first,
                count: mail.count,
                size: u32::try_from(mail.size).unwrap_or(u32::MAX),
                attempts: mail.attempts,
                ambiguous: mail.ambiguous,
                last_reply,
                due: mail.due,
                age: mail.age,
                kept_until: mail.kept_until,
                alone: mail.alone,
            },
        );
        // Nothing else would find it while its site is not known.
        if let Some(order) = self.line(line).and_then(LineState::bounced_by)
            && self.queue.pull(key)
        {
            let reply = Arc::new(self.order_reply(order));
            self.giving_up.push_back((key, Ending::Ordered(order, reply)));
            return true;
        }
        self.entry_came(now, line)
    }

    /// A queue has something new to send. False if it will not leave soon.
    pub(crate) fn entry_came(&mut self, now: Instant, line: LineKey) -> bool {
        let Some(target) = self.line(line).map(|line| line.name.target) else { return false };
        match self.target(target).map(|target| &target.binding) {
            Some(Binding::Bound { site, .. }) => {
                let site = *site;
                self.touch(site);
                !self.is_unreachable(site)
            }
            Some(Binding::Unknown) => {
                self.want_site(target);
                true
            }
            Some(Binding::Refused { until, .. }) if *until > now => {
                self.refuse_line(line);
                true
            }
            Some(Binding::Refused { .. }) => {
                self.want_site(target);
                true
            }
            _ => false,
        }
    }

    /// True if every path of a site waits because nobody answered.
    fn is_unreachable(&self, site: SiteKey) -> bool {
        let Some(site) = self.site(site) else { return false };
        let held = |at: &PathAt| {
            self.path(*at).and_then(|path| path.hold.as_ref()).is_some_and(|hold| hold.0.is_unreachable())
        };
        !site.paths.is_empty() && site.paths.iter().all(|(_, at)| held(at))
    }

    fn line_for(&mut self, now: Instant, mail: &NewMail<'_>) -> LineKey {
        let pool = mail.pool.and_then(|name| self.egress.pool(name)).unwrap_or(PoolAt(0));
        let class = mail.class.min(queue::CLASSES as u8 - 1);
        if let (Some(tenant), Some(campaign), Some(target)) =
            (self.tenants.find(mail.tenant), self.campaigns.find(mail.campaign), self.target_key(mail.target))
        {
            let name = LineName { tenant, campaign, target, pool, class };
            if let Some(&line) = self.line_names.get(&name) {
                return line;
            }
        }
        let target = self.target_for(mail.target);
        let name = LineName {
            tenant: self.tenants.hold(mail.tenant),
            campaign: self.campaigns.hold(mail.campaign),
            target,
            pool,
            class,
        };
        let line = self.queue.add_line(self.config.expire_after);
        if line.0 as usize >= self.lines.len() {
            self.lines.resize_with(line.0 as usize + 1, || None);
        }
        self.lines[line.0 as usize] = Some(LineState {
            name,
            aside: None,
            orders_version: 0,
            diverted: None,
            depends: false,
            listed_idle: false,
        });
        self.line_names.insert(name, line);
        let shaped = self.shaped_name(line);
        self.shaper.queue_opened(line.0, &shaped);
        if let Some(state) = self.target_mut(target) {
            state.lines.push(line);
        }
        self.look_at_orders(line);
        if let Some(site) = self.site_of_line(line) {
            self.bind_line(now, line, site);
        }
        line
    }

    /// The queue of the same mail in another pool.
    pub(crate) fn line_in_pool(&mut self, now: Instant, line: LineKey, pool: PoolAt) -> Option<LineKey> {
        let name = self.line(line)?.name;
        let target = self.target(name.target)?.target()?;
        let (tenant, campaign) =
            (self.tenants.get(name.tenant).cloned(), self.campaigns.get(name.campaign).cloned());
        let pool = self.egress.pools.get(usize::from(pool.0))?.name.clone();
        let like = NewMail {
            tenant: tenant.as_deref(),
            campaign: campaign.as_deref(),
            pool: Some(&pool),
            class: name.class,
            ..NewMail::new(0, &target)
        };
        Some(self.line_for(now, &like))
    }

    fn target_for(&mut self, target: &Target) -> TargetKey {
        if let Some(key) = self.target_key(target) {
            return key;
        }
        let name: Arc<str> = target.to_string().into();
        let state = TargetState {
            name: name.clone(),
            lines: SmallVec::new(),
            binding: Binding::Unknown,
            exchangers: 0,
            wants_site: false,
            asked: false,
            failed_before: 0,
        };
        let key = TargetKey(Self::insert(&mut self.targets, &mut self.free_targets, state));
        self.target_keys.insert(name, key);
        key
    }
}

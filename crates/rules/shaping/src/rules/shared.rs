//! Limits that several paths are charged to: shared ones, and those of tenants and campaigns, which are shared
//! ones that only look at who sends.

use std::collections::{HashMap, HashSet};
use std::sync::Arc;

use settings::{Place, Placed, Setting, Text, show_key};

use super::profile::{byte_rates, rates};
use super::traced::{Origin, SettingAt, Traced};
use super::{PathFacts, Rules};
use crate::shaper::{HoldScope, WindowKind};
use crate::{ByteRate, Dimension, HolderScope, NamePattern, PlaceScope, Rate, ShapingConfig, SharedScope};

/// Whose limit it is, which tells who must wait when it is used up.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Holder {
    /// A tenant's.
    Tenant,
    /// A campaign's.
    Campaign,
    /// Of paths together.
    Shared,
}

/// One compiled limit.
#[derive(Debug)]
pub struct Shared {
    /// Its name, unique among all.
    pub name: Arc<str>,
    /// Whose it is.
    pub holder: Holder,
    /// Connections open at once.
    pub connections: Option<Traced<u32>>,
    /// New connections.
    pub connection_rates: Option<Traced<Vec<Rate>>>,
    /// Messages.
    pub message_rates: Option<Traced<Vec<Rate>>>,
    /// Octets.
    pub byte_rates: Option<Traced<Vec<Rate>>>,
    sources: Vec<NamePattern>,
    pools: Vec<NamePattern>,
    sites: Vec<NamePattern>,
    providers: Vec<NamePattern>,
    tenants: Vec<NamePattern>,
    campaigns: Vec<NamePattern>,
    /// Of a pattern for tenants or campaigns: the names that have a table of their own.
    except: Option<Arc<HashSet<String>>>,
    each: Vec<Dimension>,
}

fn listed(patterns: &[NamePattern], name: Option<&str>) -> bool {
    patterns.is_empty() || name.is_some_and(|name| patterns.iter().any(|pattern| pattern.matches(name)))
}

impl Shared {
    /// True if the path is charged to it, whoever sends.
    pub fn holds_for(&self, facts: &PathFacts<'_>) -> bool {
        listed(&self.sources, Some(facts.source))
            && listed(&self.pools, Some(facts.pool))
            && listed(&self.sites, Some(facts.site))
            && listed(&self.providers, facts.provider)
    }

    /// True if a message is charged to it, on a path that is.
    pub fn holds_for_sender(&self, tenant: Option<&str>, campaign: Option<&str>) -> bool {
        let has_own = |name: Option<&str>| {
            self.except
                .as_ref()
                .is_some_and(|own| name.is_some_and(|name| own.contains(&name.to_ascii_lowercase())))
        };
        let excepted = match self.holder {
            Holder::Tenant => has_own(tenant),
            Holder::Campaign => has_own(campaign),
            Holder::Shared => false,
        };
        !excepted && listed(&self.tenants, tenant) && listed(&self.campaigns, campaign)
    }

    /// True if it depends on who sends.
    pub fn by_sender(&self) -> bool {
        let each = |each: &Dimension| matches!(each, Dimension::Tenant | Dimension::Campaign);
        !self.tenants.is_empty() || !self.campaigns.is_empty() || self.each.iter().any(each)
    }

    /// Who waits when it is used up.
    pub fn scope(&self) -> HoldScope {
        let by = |dimension, names: &[NamePattern]| !names.is_empty() || self.each.contains(&dimension);
        let (tenant, campaign) =
            (by(Dimension::Tenant, &self.tenants), by(Dimension::Campaign, &self.campaigns));
        match (self.holder, tenant, campaign) {
            (Holder::Tenant, ..) => HoldScope::Tenant,
            (Holder::Campaign, ..) => HoldScope::Campaign,
            (Holder::Shared, true, true) => HoldScope::Queue,
            (Holder::Shared, true, false) => HoldScope::Tenant,
            (Holder::Shared, false, true) => HoldScope::Campaign,
            (Holder::Shared, false, false) => HoldScope::Shared,
        }
    }

    /// The rates of a kind of window.
    pub fn rates(&self, kind: WindowKind) -> Option<&Traced<Vec<Rate>>> {
        match kind {
            WindowKind::Bytes => self.byte_rates.as_ref(),
            WindowKind::Connections => self.connection_rates.as_ref(),
            _ => self.message_rates.as_ref(),
        }
    }

    /// Writes what tells its count from others.
    pub fn write_key(
        &self,
        facts: &PathFacts<'_>,
        tenant: Option<&str>,
        campaign: Option<&str>,
        key: &mut String,
    ) {
        key.clear();
        key.push_str(&self.name);
        for each in &self.each {
            key.push('\0');
            key.push_str(match each {
                Dimension::Source => facts.source,
                Dimension::Pool => facts.pool,
                Dimension::Site => facts.site,
                Dimension::Provider => facts.provider.unwrap_or_default(),
                Dimension::Tenant => tenant.unwrap_or_default(),
                Dimension::Campaign => campaign.unwrap_or_default(),
            });
        }
        // Names are matched without case, so they are counted without it.
        key.make_ascii_lowercase();
    }
}

/// All of them.
#[derive(Debug, Default)]
pub struct SharedRules {
    /// In no order that matters.
    pub all: Vec<Shared>,
    /// Those that any path may be charged to.
    general: Vec<u32>,
    /// Those of one tenant.
    by_tenant: HashMap<String, Vec<u32>>,
    /// Those of one campaign.
    by_campaign: HashMap<String, Vec<u32>>,
}

impl Rules {
    /// A shared limit.
    pub(crate) fn shared(&self, index: u32) -> Option<&Shared> {
        self.shared.all.get(index as usize)
    }

    /// Limits, other than those of one tenant or campaign, that a path is charged to.
    pub(crate) fn shared_by(&self, facts: &PathFacts<'_>) -> impl Iterator<Item = u32> {
        let held = |index: &u32| self.shared(*index).is_some_and(|shared| shared.holds_for(facts));
        self.shared.general.iter().copied().filter(held)
    }

    /// Limits of this tenant and this campaign alone.
    pub(crate) fn shared_of(
        &self,
        tenant: Option<&str>,
        campaign: Option<&str>,
    ) -> impl Iterator<Item = u32> {
        let tenant = find(&self.shared.by_tenant, tenant);
        tenant.iter().chain(find(&self.shared.by_campaign, campaign)).copied()
    }

    /// True if no limit depends on the tenant or campaign alone.
    pub(crate) fn has_no_holders(&self) -> bool {
        self.shared.by_tenant.is_empty() && self.shared.by_campaign.is_empty()
    }
}

/// Names are compared without case; most have none, and cost no copy.
fn find<'a>(map: &'a HashMap<String, Vec<u32>>, name: Option<&str>) -> &'a [u32] {
    let Some(name) = name.filter(|_| !map.is_empty()) else { return &[] };
    let found = if name.bytes().any(|b| b.is_ascii_uppercase()) {
        map.get(&name.to_ascii_lowercase())
    } else {
        map.get(name)
    };
    found.map_or(&[], Vec::as_slice)
}

/// Adds what a layer says; a table of the same name in a later layer stands in place of it.
pub fn compile(config: &ShapingConfig, origin: &dyn Fn(Place) -> Origin, rules: &mut SharedRules) {
    for (name, scope) in &config.limit {
        rules.replace(shared(name, scope, origin));
    }
    holders(Holder::Tenant, &config.tenant, origin, rules);
    holders(Holder::Campaign, &config.campaign, origin, rules);
    rules.index();
}

impl SharedRules {
    fn replace(&mut self, shared: Shared) {
        self.all.retain(|known| known.name != shared.name);
        self.all.push(shared);
    }

    fn index(&mut self) {
        self.general.clear();
        self.by_tenant.clear();
        self.by_campaign.clear();
        for (n, shared) in (0..).zip(&self.all) {
            let (map, names) = match shared.holder {
                Holder::Tenant => (&mut self.by_tenant, &shared.tenants),
                Holder::Campaign => (&mut self.by_campaign, &shared.campaigns),
                Holder::Shared => (&mut self.by_tenant, &Vec::new()),
            };
            match names.first() {
                Some(name) if name.is_exact() => map.entry(name.as_str().to_string()).or_default().push(n),
                _ => self.general.push(n),
            }
        }
    }
}

fn setting(name: &str, key: &str, value: String, origin: Origin) -> Arc<SettingAt> {
    Arc::new(SettingAt { name: format!("{name}.{key}").into(), value: value.into(), origin })
}

fn shared(name: &str, scope: &SharedScope, origin: &dyn Fn(Place) -> Origin) -> Shared {
    let prefix = format!("shaping.limit.{}", show_key(name));
    let patterns = |list: &[Text<NamePattern>]| list.iter().map(|pattern| pattern.0.clone()).collect();
    Shared {
        holder: Holder::Shared,
        connections: scope.connections.map(|set| Traced {
            value: set.value,
            at: setting(&prefix, "connections", set.value.to_string(), origin(set.place)),
        }),
        connection_rates: message_windows(&prefix, "connection_rates", &scope.connection_rates, origin),
        message_rates: message_windows(&prefix, "message_rates", &scope.message_rates, origin),
        byte_rates: byte_windows(&prefix, &scope.byte_rates, origin),
        sources: patterns(&scope.sources),
        pools: patterns(&scope.pools),
        sites: patterns(&scope.sites),
        providers: patterns(&scope.providers),
        tenants: patterns(&scope.tenants),
        campaigns: patterns(&scope.campaigns),
        except: None,
        each: scope.each.clone(),
        name: prefix.into(),
    }
}

type Rates<T> = Option<Placed<Vec<Text<T>>>>;

fn message_windows(
    prefix: &str,
    key: &str,
    set: &Rates<Rate>,
    origin: &dyn Fn(Place) -> Origin,
) -> Option<Traced<Vec<Rate>>> {
    let set = set.as_ref()?;
    let at = setting(prefix, key, set.value.show().to_string(), origin(set.place));
    Some(Traced { value: rates(&set.value), at })
}

fn byte_windows(
    prefix: &str,
    set: &Rates<ByteRate>,
    origin: &dyn Fn(Place) -> Origin,
) -> Option<Traced<Vec<Rate>>> {
    let set = set.as_ref()?;
    let at = setting(prefix, "byte_rates", set.value.show().to_string(), origin(set.place));
    Some(Traced { value: byte_rates(&set.value), at })
}

fn holders(
    holder: Holder,
    scopes: &std::collections::BTreeMap<String, HolderScope>,
    origin: &dyn Fn(Place) -> Origin,
    rules: &mut SharedRules,
) {
    let exact = scopes.keys().filter(|name| !name.contains('*')).map(|name| name.to_ascii_lowercase());
    let exact: Arc<HashSet<String>> = Arc::new(exact.collect());
    let kind = if holder == Holder::Tenant { "tenant" } else { "campaign" };
    for (name, scope) in scopes {
        let Ok(pattern) = name.parse::<NamePattern>() else { continue };
        let prefix = format!("shaping.{kind}.{}", show_key(name));
        let whole =
            PlaceScope { message_rates: scope.message_rates.clone(), byte_rates: scope.byte_rates.clone() };
        let mut add =
            |prefix: String, place: &PlaceScope, sites: Vec<NamePattern>, providers: Vec<NamePattern>| {
                if place.message_rates.is_none() && place.byte_rates.is_none() {
                    return;
                }
                let mut dimensions =
                    vec![if holder == Holder::Tenant { Dimension::Tenant } else { Dimension::Campaign }];
                if !sites.is_empty() {
                    dimensions.push(Dimension::Site);
                }
                if !providers.is_empty() {
                    dimensions.push(Dimension::Provider);
                }
                let own = vec![pattern.clone()];
                let (tenants, campaigns) =
                    if holder == Holder::Tenant { (own, vec![]) } else { (vec![], own) };
                rules.replace(Shared {
                    holder,
                    connections: None,
                    connection_rates: None,
                    message_rates: message_windows(&prefix, "message_rates", &place.message_rates, origin),
                    byte_rates: byte_windows(&prefix, &place.byte_rates, origin),
                    sources: Vec::new(),
                    pools: Vec::new(),
                    sites,
                    providers,
                    tenants,
                    campaigns,
                    except: (!pattern.is_exact()).then(|| exact.clone()),
                    each: dimensions,
                    name: prefix.into(),
                });
            };
        add(prefix.clone(), &whole, Vec::new(), Vec::new());
        for (site, place) in &scope.site {
            let Ok(pattern) = site.parse() else { continue };
            add(format!("{prefix}.site.{}", show_key(site)), place, vec![pattern], Vec::new());
        }
        for (provider, place) in &scope.provider {
            let Ok(pattern) = provider.parse() else { continue };
            add(format!("{prefix}.provider.{}", show_key(provider)), place, Vec::new(), vec![pattern]);
        }
    }
}

//! Sources and pools: where mail may leave from.

use std::sync::Arc;

/// A source's place in [`Egress::sources`].
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct SourceAt(pub u16);

/// A pool's place in [`Egress::pools`]; the first by default.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct PoolAt(pub u16);

/// An egress source, as far as the rules need to know it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Source {
    /// Its name.
    pub name: Arc<str>,
    /// It may be used.
    pub enabled: bool,
}

/// Weighted sources.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Pool {
    /// Its name.
    pub name: Arc<str>,
    /// Its sources with their weights, at least 1.
    pub sources: Vec<(SourceAt, u32)>,
}

/// All sources and pools. The first pool is what mail without one leaves by.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Egress {
    /// The sources.
    pub sources: Vec<Source>,
    /// The pools; never empty.
    pub pools: Vec<Pool>,
}

impl Default for Egress {
    /// One source, one pool, both called `default`.
    fn default() -> Self {
        let source = Source { name: "default".into(), enabled: true };
        let pool = Pool { name: "default".into(), sources: vec![(SourceAt(0), 1)] };
        Self { sources: vec![source], pools: vec![pool] }
    }
}

impl Egress {
    /// A pool by its name; a source's name stands for a pool of that source alone.
    pub fn pool(&self, name: &str) -> Option<PoolAt> {
        self.pools.iter().position(|pool| &*pool.name == name).map(|at| PoolAt(at as u16))
    }

    /// A source by its name.
    pub fn source(&self, name: &str) -> Option<SourceAt> {
        self.sources.iter().position(|source| &*source.name == name).map(|at| SourceAt(at as u16))
    }

    /// The pool whose rules hold for a source: the first that has it beside others, or else the first that has it.
    pub(crate) fn home(&self, source: SourceAt) -> &str {
        let has = |pool: &&Pool| pool.sources.iter().any(|(at, _)| *at == source);
        let shared = self.pools.iter().filter(|pool| pool.sources.len() > 1).find(has);
        shared.or_else(|| self.pools.iter().find(has)).map_or("", |pool| &pool.name)
    }

    pub(crate) fn pool_name(&self, pool: PoolAt) -> Arc<str> {
        self.pools.get(usize::from(pool.0)).map_or_else(|| "default".into(), |pool| pool.name.clone())
    }

    pub(crate) fn source_name(&self, source: SourceAt) -> Arc<str> {
        self.sources.get(usize::from(source.0)).map_or_else(|| "default".into(), |source| source.name.clone())
    }
}

/// Turns a source that was busy may be behind the others and make up for; one that is always busy is tried first
/// anyway.
const BEHIND_MAX: f64 = 1_000.0;

/// Weighted turns among a pool's sources: the one that has had the least for its weight goes first. One that was
/// held by a limit has no claim to more later; one whose connections were busy for the moment has.
#[derive(Clone, Debug, Default)]
pub(crate) struct Turns {
    had: Vec<f64>,
}

impl Turns {
    /// Places in `weights` in the order of their turns.
    pub(crate) fn order(&mut self, weights: &[(SourceAt, u32)], order: &mut Vec<usize>) {
        order.clear();
        order.extend(0..weights.len());
        if weights.len() > 1 {
            self.had.resize(weights.len(), 0.0);
            order.sort_by(|&a, &b| self.had[a].total_cmp(&self.had[b]));
        }
    }

    /// The source at `at` had its turn; those at `held` could not have had it.
    pub(crate) fn had_turn(&mut self, weights: &[(SourceAt, u32)], at: usize, held: &[usize]) {
        let Some(&(_, weight)) = weights.get(at) else { return };
        if weights.len() < 2 || self.had.len() != weights.len() {
            return;
        }
        let level = self.had[at];
        for (place, had) in self.had.iter_mut().enumerate() {
            *had = had.max(if held.contains(&place) { level } else { level - BEHIND_MAX });
        }
        self.had[at] += 1.0 / f64::from(weight.max(1));
        if level > 1e9 {
            // Small steps would be lost in large sums.
            let least = self.had.iter().copied().fold(f64::INFINITY, f64::min);
            self.had.iter_mut().for_each(|had| *had -= least);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn turns_follow_the_weights_of_those_that_can() {
        let weights = [(SourceAt(0), 3), (SourceAt(1), 1), (SourceAt(2), 1)];
        let (mut turns, mut order) = (Turns::default(), Vec::new());
        let round = |turns: &mut Turns, order: &mut Vec<usize>, count: usize, without: Option<usize>| {
            let mut had = [0; 3];
            for _ in 0..count {
                turns.order(&weights, order);
                let first = *order.iter().find(|&&at| Some(at) != without).unwrap();
                turns.had_turn(&weights, first, without.as_slice());
                had[first] += 1;
            }
            had
        };
        assert_eq!(round(&mut turns, &mut order, 500, None), [300, 100, 100]);
        let without = round(&mut turns, &mut order, 400, Some(2));
        assert_eq!((without[0] + without[1], without[2]), (400, 0));
        let again = round(&mut turns, &mut order, 500, None);
        assert!(again[2] <= 101, "what it could not send is not made up for: {again:?}");
        // One that was only busy makes up for it.
        for _ in 0..100 {
            turns.order(&weights, &mut order);
            let other = *order.iter().find(|&&at| at != 1).unwrap();
            turns.had_turn(&weights, other, &[]);
        }
        let mut had = [0; 3];
        for _ in 0..100 {
            turns.order(&weights, &mut order);
            let first = order[0];
            turns.had_turn(&weights, first, &[]);
            had[first] += 1;
        }
        assert!(had[1] >= 36, "{had:?}");
    }

    #[test]
    fn a_source_takes_the_rules_of_the_pool_it_shares() {
        let pool = |name: &str, sources: &[u16]| Pool {
            name: name.into(),
            sources: sources.iter().map(|&at| (SourceAt(at), 1)).collect(),
        };
        let egress = Egress {
            sources: ["a", "b"].map(|name| Source { name: name.into(), enabled: true }).into(),
            pools: vec![pool("a", &[0]), pool("both", &[0, 1]), pool("b", &[1])],
        };
        assert_eq!((egress.home(SourceAt(0)), egress.home(SourceAt(1))), ("both", "both"));
        assert_eq!((egress.pool("b"), egress.source("c")), (Some(PoolAt(2)), None));
    }
}

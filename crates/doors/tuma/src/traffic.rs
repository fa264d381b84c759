//! The rules for traffic of a configuration: the shipped ones, the operator's over them, and the limits of orders over
//! both.

use crate::config::Loaded;
use crate::root::Root;
use crate::shipped::{self, Shipped};
use anyhow::{Context, Result, anyhow};
use delivery::MakeRules;
use delivery::orders::{Action, Order};
use settings::{Place, Placed, Text};
use shaping::{Layer, NamePattern, Origin, Rate, Rules, ShapingConfig, SharedScope};
use std::sync::Arc;

/// Compiles the rules, and gives what compiles them again together with orders that limit.
pub fn rules(loaded: &Loaded<Root>) -> Result<(Arc<Rules>, MakeRules)> {
    let shipped = Arc::new(Shipped::read().map_err(|report| anyhow!("shipped rules: {report}"))?);
    let (config, sources) = (loaded.value.shaping.clone(), loaded.warnings.sources.clone());
    let make = move |orders: &[Order]| {
        let origin = |place: Place| shipped::origin(&sources, place);
        let limits = limits_of(orders);
        let mut layers: Vec<Layer<'_>> = shipped.layers().collect();
        layers.push(Layer { config: &config, origin: &origin });
        let order_origins: Vec<_> = limits
            .iter()
            .map(|(id, _)| {
                let file: Arc<str> = format!("order {id}").into();
                move |_: Place| Origin { file: file.clone(), line: 0 }
            })
            .collect();
        let more = limits.iter().zip(&order_origins);
        layers.extend(
            more.map(|((_, config), origin)| Layer { config, origin: origin as &dyn Fn(Place) -> Origin }),
        );
        Rules::compile(&layers)
    };
    let rules = make(&[]).map_err(|wrong| {
        let lines: Vec<String> = wrong
            .iter()
            .map(|(place, text)| format!("{}: {text}", loaded.warnings.sources.short(*place)))
            .collect();
        anyhow!("{}", lines.join("\n"))
    });
    let rules = Arc::new(rules.context("shaping")?);
    let without = rules.clone();
    let again = move |orders: &[Order]| match make(orders) {
        Ok(rules) => Arc::new(rules),
        Err(wrong) => {
            // The configuration alone compiled, and an order's rates were read when it was given.
            tracing::error!(?wrong, "the limits of orders cannot be put in force");
            without.clone()
        }
    };
    Ok((rules, MakeRules(Arc::new(again))))
}

/// Rates of an order, read.
pub fn rates(texts: &[Box<str>]) -> Result<Vec<Rate>, String> {
    texts.iter().map(|text| text.parse::<Rate>().map_err(|error| format!("`{text}`: {error}"))).collect()
}

/// One table for each order that limits.
fn limits_of(orders: &[Order]) -> Vec<(u64, ShapingConfig)> {
    let names = |text: &Option<Box<str>>| -> Vec<Text<NamePattern>> {
        text.iter().filter_map(|text| text.parse().ok()).map(Text).collect()
    };
    orders
        .iter()
        .filter_map(|order| {
            let Action::Limit(texts) = &order.action else { return None };
            let scope = &order.scope;
            if scope.is_part_of_site() {
                // Connections ask for these themselves.
                return None;
            }
            let rates = rates(texts).ok()?.into_iter().map(Text).collect();
            let limit = SharedScope {
                sources: names(&scope.source),
                pools: names(&scope.pool),
                sites: names(&scope.site),
                tenants: names(&scope.tenant),
                campaigns: names(&scope.campaign),
                message_rates: Some(Placed { value: rates, place: Place::whole(0) }),
                ..SharedScope::default()
            };
            let mut config = ShapingConfig::default();
            config.limit.insert(format!("order-{}", order.id), limit);
            Some((order.id.0, config))
        })
        .collect()
}

//! The rules of classes of a configuration: the operator's own, and after them those that come with the server.
//!
//! They are a file an operator could have written, `rules/classes.toml`; `rules/classes` holds what receivers really
//! say, and the class each text falls under. `docs/outcomes.md` tells of it.

use crate::config::{self, Report};
use crate::root::Root;
use anyhow::{Result, anyhow};
use bounce::{BounceConfig, ClassRules};

/// The file that comes with the server.
pub const SHIPPED: &str = include_str!("../rules/classes.toml");

settings::table! {
    /// A file of shipped rules: nothing but the table that stands in a configuration under the same name.
    struct ShippedFile {
        /// What failures mean.
        bounce: BounceConfig = BounceConfig::default(),
    }
}

/// Reads the shipped rules. That it can is tested, so a report tells of a mistake of ours.
pub fn shipped() -> Result<BounceConfig, Box<Report>> {
    // Nothing in them comes from the environment: they mean the same on every machine.
    let loaded = config::load_text::<ShippedFile>("shipped/classes.toml", SHIPPED, &|_| None)?;
    Ok(loaded.value.bounce)
}

/// Compiles the rules of a configuration.
pub fn rules(root: &Root) -> Result<ClassRules> {
    let shipped = if root.bounce.shipped {
        shipped().map_err(|report| anyhow!("shipped rules: {report}"))?.class
    } else {
        Vec::new()
    };
    let compiled = ClassRules::compile([&root.bounce.class[..], &shipped[..]]);
    compiled.map_err(|(_, reason)| anyhow!("bounce.class: {reason}"))
}

#[cfg(test)]
mod tests;

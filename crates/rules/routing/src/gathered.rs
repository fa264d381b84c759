//! Tags while they are gathered from several places, each of which may have a say.

use mail::{Priority, TagError, Tags};
use std::fmt;
use std::str::FromStr;

settings::words! {
    /// What goes first among the mail of one destination.
    pub enum PriorityClass {
        /// Somebody waits for it: a sign-in code, a password.
        High,
        /// Mail as people and programs send it.
        Normal,
        /// May wait behind others.
        Low,
        /// One of very many.
        Bulk,
    }
}

impl From<PriorityClass> for Priority {
    fn from(class: PriorityClass) -> Self {
        match class {
            PriorityClass::High => Self::High,
            PriorityClass::Normal => Self::Normal,
            PriorityClass::Low => Self::Low,
            PriorityClass::Bulk => Self::Bulk,
        }
    }
}

/// The text of a tag in the configuration: 1 to 255 printable octets.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TagText(Box<str>);

impl TagText {
    /// The text.
    pub fn as_str(&self) -> &str {
        &self.0
    }
}

impl FromStr for TagText {
    type Err = TagError;

    fn from_str(text: &str) -> Result<Self, TagError> {
        mail::tag(text).map(Self)
    }
}

impl fmt::Display for TagText {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

/// Tags of which it is known what was said and what was not. Who is asked first is heard: what is set stays.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Gathered {
    /// Whose mail it is.
    pub tenant: Option<Box<str>>,
    /// The mailing it belongs to.
    pub campaign: Option<Box<str>>,
    /// The run of that mailing.
    pub job: Option<Box<str>>,
    /// The sender's own name for the message.
    pub envid: Option<Box<str>>,
    /// The pool of egress sources.
    pub pool: Option<Box<str>>,
    /// What goes first.
    pub priority: Option<Priority>,
}

impl Gathered {
    /// Sets a tenant and a pool that nobody has set: what a user or a listener says.
    pub fn fill(&mut self, tenant: Option<&TagText>, pool: Option<&TagText>) {
        fill(&mut self.tenant, tenant);
        fill(&mut self.pool, pool);
    }

    /// The tags; what nobody spoke of is as it is by default.
    pub fn finish(self) -> Tags {
        Tags {
            tenant: self.tenant,
            campaign: self.campaign,
            job: self.job,
            envid: self.envid,
            pool: self.pool,
            priority: self.priority.unwrap_or_default(),
        }
    }
}

/// Sets a tag that nobody has set.
pub(crate) fn fill(tag: &mut Option<Box<str>>, text: Option<&TagText>) {
    if tag.is_none() {
        *tag = text.map(|text| text.0.clone());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn classes_are_the_priorities() {
        assert_eq!(PriorityClass::ALL.len(), Priority::ALL.len());
        for (class, priority) in PriorityClass::ALL.iter().zip(Priority::ALL) {
            assert_eq!(Priority::from(*class), priority);
            assert_eq!(class.word(), priority.as_str());
        }
    }
}

//! What a reply rule does, and when: `backoff 1h`, `suspend queue 2h`; `at once`, `5/10m`, `30% of 20`.

use std::fmt;
use std::str::FromStr;
use std::sync::Arc;
use std::time::Duration;

use settings::{nearest, parse_duration, quote, show_duration};

use crate::Rate;

/// Most attempts a share may be taken of.
pub const SHARE_OF_MAX: u32 = 1_000;
/// Most firings a trigger may count.
pub const TRIGGER_COUNT_MAX: u64 = 10_000;
/// Longest time an action may last.
pub const ACTION_TIME_MAX: Duration = Duration::from_secs(366 * 86_400);
/// How long a slowed path waits before each step back, if the rule does not say.
pub const SLOW_STEP: Duration = Duration::from_secs(300);

/// What a rule suspends.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Suspended {
    /// All mail of the source to the site.
    Path,
    /// The queue the message was in.
    Queue,
    /// The message's tenant at the site.
    Tenant,
    /// The message's campaign at the site.
    Campaign,
}

impl Suspended {
    const ALL: [Self; 4] = [Self::Path, Self::Queue, Self::Tenant, Self::Campaign];

    /// As written in a rule.
    pub const fn word(self) -> &'static str {
        match self {
            Self::Path => "path",
            Self::Queue => "queue",
            Self::Tenant => "tenant",
            Self::Campaign => "campaign",
        }
    }
}

/// One thing a reply rule does.
#[derive(Clone, Debug, PartialEq)]
pub enum Action {
    /// `backoff` or `backoff 1h`: the path goes by its backoff limits, for so long or as `leave_after` says.
    Backoff(Option<Duration>),
    /// `normal`: the path leaves backoff.
    Normal,
    /// `slow 0.5` or `slow 0.5 10m`: the path's rates and connections are multiplied, and each period gives one
    /// such step back.
    Slow {
        /// Above 0 and below 1.
        factor: f64,
        /// The wait before each step back.
        step: Duration,
    },
    /// `suspend path 2h`, and the like.
    Suspend(Suspended, Duration),
    /// `disable source` or `disable source 6h`: the source sends nothing anywhere, for so long or until released.
    DisableSource(Option<Duration>),
    /// `bounce queue`: all that waits in the queue fails.
    BounceQueue,
    /// `temporary`: the reply counts as a 4yz.
    Temporary,
    /// `permanent`: the reply counts as a 5yz.
    Permanent,
    /// `skip exchanger 1h`: this exchanger is not used for so long.
    SkipExchanger(Duration),
    /// `pool NAME`: what waits in the queue moves to another pool.
    Pool(Arc<str>),
    /// `notify`: people are told.
    Notify,
}

/// A text that is no action; says what would be.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ActionError(String);

impl fmt::Display for ActionError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for ActionError {}

const ACTIONS: [&str; 11] = [
    "backoff",
    "normal",
    "slow",
    "suspend",
    "disable source",
    "bounce queue",
    "temporary",
    "permanent",
    "skip exchanger",
    "pool",
    "notify",
];

fn fail<T>(text: impl Into<String>) -> Result<T, ActionError> {
    Err(ActionError(text.into()))
}

fn unknown<T>(what: &str, wrong: &str, words: &[&'static str]) -> Result<T, ActionError> {
    match nearest(wrong, words.iter().copied()) {
        Some(near) => fail(format!("there is no {what} {}; did you mean `{near}`?", quote(wrong))),
        None => fail(format!("there is no {what} {}; it may be {}", quote(wrong), words.join(", "))),
    }
}

/// A time an action lasts.
fn lasting(text: &str) -> Result<Duration, ActionError> {
    match parse_duration(text) {
        Some(time) if !time.is_zero() && time <= ACTION_TIME_MAX => Ok(time),
        Some(_) => fail(format!("{} must be more than 0s and at most 366d", quote(text))),
        None => fail(format!("{} is no duration such as 30m or 2h", quote(text))),
    }
}

impl FromStr for Action {
    type Err = ActionError;

    fn from_str(text: &str) -> Result<Self, ActionError> {
        let words: Vec<&str> = text.split_whitespace().collect();
        let last = |rest: &[&str]| match rest {
            [] => Ok(None),
            [time] => lasting(time).map(Some),
            [_, extra, ..] => fail(format!("{} is one word too many", quote(extra))),
        };
        let needed = |rest: &[&str], example: &str| match last(rest)? {
            Some(time) => Ok(time),
            None => fail(format!("it needs a duration, as in `{example}`")),
        };
        let none = |action: Self, rest: &[&str]| match rest {
            [] => Ok(action),
            [extra, ..] => fail(format!("{} is one word too many", quote(extra))),
        };
        match words[..] {
            [] => fail(format!("an action is one of {}", ACTIONS.join(", "))),
            ["backoff", ref rest @ ..] => Ok(Self::Backoff(last(rest)?)),
            ["normal", ref rest @ ..] => none(Self::Normal, rest),
            ["temporary", ref rest @ ..] => none(Self::Temporary, rest),
            ["permanent", ref rest @ ..] => none(Self::Permanent, rest),
            ["notify", ref rest @ ..] => none(Self::Notify, rest),
            ["bounce", "queue", ref rest @ ..] => none(Self::BounceQueue, rest),
            ["slow", ref rest @ ..] => slow(rest),
            ["suspend", what, ref rest @ ..] => {
                let Some(what) = Suspended::ALL.into_iter().find(|known| known.word() == what) else {
                    return unknown("thing to suspend", what, &Suspended::ALL.map(Suspended::word));
                };
                let example = format!("suspend {} 2h", what.word());
                Ok(Self::Suspend(what, needed(rest, &example)?))
            }
            ["suspend"] => fail("it needs what and how long, as in `suspend path 2h`"),
            ["disable", "source", ref rest @ ..] => Ok(Self::DisableSource(last(rest)?)),
            ["skip", "exchanger", ref rest @ ..] => {
                Ok(Self::SkipExchanger(needed(rest, "skip exchanger 1h")?))
            }
            ["pool", name] => Ok(Self::Pool(name.into())),
            ["pool", ..] => fail("it needs one name, as in `pool slow`"),
            ["disable", wrong, ..] => unknown("thing to disable", wrong, &["source"]),
            ["bounce", wrong, ..] => unknown("thing to bounce", wrong, &["queue"]),
            ["skip", wrong, ..] => unknown("thing to skip", wrong, &["exchanger"]),
            ["disable"] => fail("it needs what, as in `disable source 6h`"),
            ["bounce"] => fail("it needs what, as in `bounce queue`"),
            ["skip"] => fail("it needs what and how long, as in `skip exchanger 1h`"),
            [wrong, ..] => unknown("action", wrong, &ACTIONS),
        }
    }
}

fn slow(rest: &[&str]) -> Result<Action, ActionError> {
    let (factor, step) = match rest {
        [factor] => (factor, SLOW_STEP),
        [factor, step] => (factor, lasting(step)?),
        _ => return fail("it needs a factor, as in `slow 0.5` or `slow 0.5 10m`"),
    };
    match factor.parse::<f64>() {
        Ok(factor) if factor > 0.0 && factor < 1.0 => Ok(Action::Slow { factor, step }),
        _ => fail(format!("{} is no factor between 0 and 1, such as 0.5", quote(factor))),
    }
}

impl fmt::Display for Action {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let time = |time: &Duration| show_duration(*time);
        match self {
            Self::Backoff(None) => f.write_str("backoff"),
            Self::Backoff(Some(length)) => write!(f, "backoff {}", time(length)),
            Self::Normal => f.write_str("normal"),
            Self::Slow { factor, step } if *step == SLOW_STEP => write!(f, "slow {factor}"),
            Self::Slow { factor, step } => write!(f, "slow {factor} {}", time(step)),
            Self::Suspend(what, length) => write!(f, "suspend {} {}", what.word(), time(length)),
            Self::DisableSource(None) => f.write_str("disable source"),
            Self::DisableSource(Some(length)) => write!(f, "disable source {}", time(length)),
            Self::BounceQueue => f.write_str("bounce queue"),
            Self::Temporary => f.write_str("temporary"),
            Self::Permanent => f.write_str("permanent"),
            Self::SkipExchanger(length) => write!(f, "skip exchanger {}", time(length)),
            Self::Pool(name) => write!(f, "pool {name}"),
            Self::Notify => f.write_str("notify"),
        }
    }
}

/// Why two actions cannot stand in one rule, if they cannot.
pub fn contradiction(actions: &[Action]) -> Option<String> {
    for (n, one) in actions.iter().enumerate() {
        for other in &actions[n + 1..] {
            let clash = match (one, other) {
                (Action::Suspend(a, _), Action::Suspend(b, _)) => a == b,
                _ if std::mem::discriminant(one) == std::mem::discriminant(other) => true,
                (Action::Backoff(_), Action::Normal) | (Action::Normal, Action::Backoff(_)) => true,
                (Action::Temporary, Action::Permanent) | (Action::Permanent, Action::Temporary) => true,
                (Action::SkipExchanger(_), Action::BounceQueue)
                | (Action::BounceQueue, Action::SkipExchanger(_)) => true,
                (Action::Pool(_), Action::BounceQueue) | (Action::BounceQueue, Action::Pool(_)) => true,
                _ => false,
            };
            if clash {
                return Some(format!("`{one}` and `{other}` cannot stand in one rule"));
            }
        }
    }
    None
}

/// When the actions of a rule that matched are taken.
#[derive(Clone, Copy, Debug, PartialEq)]
pub enum Trigger {
    /// `at once`: at each match.
    AtOnce,
    /// `5/10m`: at the fifth match within ten minutes on one path; counting then begins again.
    Count(Rate),
    /// `30% of 20`: when at least that share of the last so many attempts on the path matched; counting then
    /// begins again.
    Share {
        /// Of the attempts, 1 to 100.
        percent: u32,
        /// Attempts looked at, 2 to [`SHARE_OF_MAX`].
        of: u32,
    },
}

/// A text that is no trigger.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct TriggerError;

impl fmt::Display for TriggerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a rule acts `at once`, after so many matches in a time as `5/10m`, or at a share of the last attempts as `30% of 20` (2 to 1000 attempts)")
    }
}

impl std::error::Error for TriggerError {}

impl FromStr for Trigger {
    type Err = TriggerError;

    fn from_str(text: &str) -> Result<Self, TriggerError> {
        let text = text.trim();
        if text == "at once" {
            return Ok(Self::AtOnce);
        }
        if let Some((percent, of)) = text.split_once('%') {
            let percent = percent.trim().parse().map_err(|_| TriggerError)?;
            let of = of.trim().strip_prefix("of ").ok_or(TriggerError)?;
            let of = of.trim().parse().map_err(|_| TriggerError)?;
            let sound = (1..=100).contains(&percent) && (2..=SHARE_OF_MAX).contains(&of);
            return if sound { Ok(Self::Share { percent, of }) } else { Err(TriggerError) };
        }
        match text.parse::<Rate>() {
            Ok(rate) if rate.count <= TRIGGER_COUNT_MAX => Ok(Self::Count(rate)),
            _ => Err(TriggerError),
        }
    }
}

impl fmt::Display for Trigger {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::AtOnce => f.write_str("at once"),
            Self::Count(rate) => rate.fmt(f),
            Self::Share { percent, of } => write!(f, "{percent}% of {of}"),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn actions_read_and_print() {
        for text in [
            "backoff",
            "backoff 1h",
            "normal",
            "slow 0.5",
            "slow 0.25 10m",
            "suspend path 2h",
            "suspend queue 30m",
            "suspend tenant 1h",
            "suspend campaign 1d",
            "disable source",
            "disable source 6h",
            "bounce queue",
            "temporary",
            "permanent",
            "skip exchanger 1h",
            "pool slow",
            "notify",
        ] {
            assert_eq!(text.parse::<Action>().unwrap().to_string(), text);
        }
    }

    #[test]
    fn a_wrong_action_names_the_nearest_right_one() {
        for (text, message) in [
            ("bakoff 1h", "there is no action `bakoff`; did you mean `backoff`?"),
            ("suspend queu 1h", "there is no thing to suspend `queu`; did you mean `queue`?"),
            ("suspend path", "it needs a duration, as in `suspend path 2h`"),
            ("suspend path soon", "`soon` is no duration such as 30m or 2h"),
            ("suspend path 0s", "`0s` must be more than 0s and at most 366d"),
            ("skip exchangr 1h", "there is no thing to skip `exchangr`; did you mean `exchanger`?"),
            ("bounce quue", "there is no thing to bounce `quue`; did you mean `queue`?"),
            ("slow", "it needs a factor, as in `slow 0.5` or `slow 0.5 10m`"),
            ("slow 1.5", "`1.5` is no factor between 0 and 1, such as 0.5"),
            ("normal please", "`please` is one word too many"),
            ("backoff 1h now", "`now` is one word too many"),
        ] {
            assert_eq!(text.parse::<Action>().unwrap_err().to_string(), message, "{text}");
        }
        assert!("".parse::<Action>().is_err());
        assert!(
            "frobnicate".parse::<Action>().unwrap_err().to_string().contains("it may be backoff, normal")
        );
    }

    #[test]
    fn contradictions_are_refused() {
        let check = |texts: &[&str]| {
            let actions: Vec<Action> = texts.iter().map(|text| text.parse().unwrap()).collect();
            contradiction(&actions).is_some()
        };
        for clash in [
            ["backoff 1h", "normal"],
            ["temporary", "permanent"],
            ["bounce queue", "skip exchanger 1h"],
            ["backoff", "backoff 1h"],
            ["suspend path 1h", "suspend path 2h"],
            ["pool slow", "bounce queue"],
        ] {
            assert!(check(&clash), "{clash:?}");
        }
        assert!(!check(&["backoff", "suspend queue 1h", "suspend tenant 1h", "notify", "temporary"]));
    }

    #[test]
    fn triggers_read_and_print() {
        for text in ["at once", "5/10m", "1/s", "30% of 20", "100% of 2"] {
            assert_eq!(text.parse::<Trigger>().unwrap().to_string(), text);
        }
        for text in [
            "",
            "once",
            "0/s",
            "30%",
            "0% of 20",
            "101% of 20",
            "30% of 1",
            "30% of 1001",
            "30 of 20",
            "20k/s",
        ] {
            assert_eq!(text.parse::<Trigger>(), Err(TriggerError), "{text}");
        }
    }
}

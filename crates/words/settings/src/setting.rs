//! The trait of everything that may be a setting, and the plain types that are.

use std::collections::BTreeMap;
use std::fmt::{self, Display};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, SocketAddr};
use std::ops::Deref;
use std::path::PathBuf;
use std::str::FromStr;
use std::time::Duration;

use crate::units::{parse_duration, parse_size};
use crate::{Bounds, Cidr, Node, Place, Problems, Schema, Shown, Size, Value};

/// Something that may be a setting: it says what it may be, is read from a [`Node`] and shown again.
pub trait Setting: Sized {
    /// What it may be.
    fn schema() -> Schema;

    /// Reads it. `None` means that every reason was added to `problems`.
    fn read(node: &Node, problems: &mut Problems) -> Option<Self>;

    /// Its value, ready to print.
    fn show(&self) -> Shown;

    /// Reads it within the bounds of a field, which `schema` carries.
    fn read_within(node: &Node, schema: &Schema, problems: &mut Problems) -> Option<Self> {
        let value = Self::read(node, problems)?;
        schema.check(&value.show(), node, problems).then_some(value)
    }
}

impl Setting for bool {
    fn schema() -> Schema {
        Schema::Bool
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match (&node.value, node.filled_text()) {
            (Value::Bool(value), _) => return Some(*value),
            (_, Some("true")) => return Some(true),
            (_, Some("false")) => return Some(false),
            _ => {}
        }
        let problem = problems.mismatch(node, "true or false");
        match &node.value {
            Value::String(text) if text == "true" || text == "false" => {
                problem.hint("write it without quotes")
            }
            Value::String(text) if text == "yes" || text == "on" => problem.hint("write `true`"),
            Value::String(text) if text == "no" || text == "off" => problem.hint("write `false`"),
            _ => problem,
        };
        None
    }

    fn show(&self) -> Shown {
        Shown::Bool(*self)
    }
}

/// A whole number, whatever width the setting has.
fn read_int(node: &Node, problems: &mut Problems) -> Option<i128> {
    if let Value::Int(value) = node.value {
        return Some(value);
    }
    if let Some(value) = node.filled_text().and_then(|text| text.trim().parse().ok()) {
        return Some(value);
    }
    let problem = problems.mismatch(node, "a whole number");
    if matches!(&node.value, Value::String(text) if node.filled.is_none() && text.parse::<i128>().is_ok()) {
        problem.hint("write it without quotes");
    }
    None
}

macro_rules! integers {
    ($($int:ty)*) => {$(
        impl Setting for $int {
            fn schema() -> Schema {
                let [min, max] = [<$int>::MIN, <$int>::MAX].map(|bound| i128::try_from(bound).ok());
                Schema::Int(Bounds { min, max })
            }

            fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
                let value = read_int(node, problems)?;
                // The bounds of the type are those of the schema, and the schema has the message.
                Self::schema().check(&Shown::Int(value), node, problems).then(|| Self::try_from(value).ok()).flatten()
            }

            fn show(&self) -> Shown {
                // No integer setting is wider than 64 bits.
                Shown::Int(i128::try_from(*self).unwrap_or(i128::MAX))
            }
        }
    )*};
}

integers!(u8 u16 u32 u64 usize i32 i64);

impl Setting for f64 {
    fn schema() -> Schema {
        Schema::Float(Bounds::NONE)
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        let value = match &node.value {
            Value::Float(value) => Some(*value),
            Value::Int(value) => Some(*value as f64),
            _ => node.filled_text().and_then(|text| text.trim().parse().ok()),
        };
        match value {
            Some(value) if value.is_finite() => Some(value),
            _ => {
                problems.mismatch(node, "a number");
                None
            }
        }
    }

    fn show(&self) -> Shown {
        Shown::Float(*self)
    }
}

impl Setting for String {
    fn schema() -> Schema {
        Schema::text("a text", "")
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        read_text(node, problems, "a text").map(str::to_string)
    }

    fn show(&self) -> Shown {
        Shown::Text(self.clone())
    }
}

/// The text of a node, or a problem that says what it should be.
pub fn read_text<'a>(node: &'a Node, problems: &mut Problems, expected: &str) -> Option<&'a str> {
    if let Value::String(text) = &node.value {
        return Some(text);
    }
    let problem = problems.mismatch(node, expected);
    if matches!(node.value, Value::Int(_) | Value::Float(_) | Value::Bool(_) | Value::Date(_)) {
        problem.hint("put it in quotes");
    }
    None
}

impl Setting for PathBuf {
    fn schema() -> Schema {
        Schema::text("a path", "")
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        let text = read_text(node, problems, "a path")?;
        if text.is_empty() || text.contains('\0') {
            problems.mismatch(node, "a path");
            return None;
        }
        Some(text.into())
    }

    fn show(&self) -> Shown {
        Shown::Text(self.display().to_string())
    }
}

impl Setting for Duration {
    fn schema() -> Schema {
        Schema::Duration(Bounds::NONE)
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        if let Value::String(text) = &node.value
            && let Some(duration) = parse_duration(text)
        {
            return Some(duration);
        }
        let problem = problems.mismatch(node, &Self::schema().expected());
        match &node.value {
            Value::Int(number) => problem.hint(format!("say the unit, as in \"{number}s\"")),
            _ => problem.hint("units are w, d, h, m, s and ms, the largest first"),
        };
        None
    }

    fn show(&self) -> Shown {
        Shown::Duration(*self)
    }
}

impl Setting for Size {
    fn schema() -> Schema {
        Schema::Size(Bounds::NONE)
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        match &node.value {
            Value::Int(bytes) if u64::try_from(*bytes).is_ok() => {
                return u64::try_from(*bytes).ok().map(Self);
            }
            Value::String(text) => {
                if let Some(size) = parse_size(text) {
                    return Some(size);
                }
            }
            _ => {}
        }
        problems
            .mismatch(node, &Self::schema().expected())
            .hint("units are B, KiB, MiB, GiB, TiB and kB, MB, GB, TB; none means bytes");
        None
    }

    fn show(&self) -> Shown {
        Shown::Size(*self)
    }
}

/// Reads a text that stands for something.
fn read_parsed<T: FromStr<Err: Display>>(node: &Node, problems: &mut Problems, schema: Schema) -> Option<T> {
    let expected = schema.expected();
    let text = read_text(node, problems, &expected)?;
    match text.parse() {
        Ok(value) => Some(value),
        Err(reason) => {
            problems.unreadable(node, &expected, reason);
            None
        }
    }
}

macro_rules! parsed {
    ($($ty:ty, $what:literal, $example:literal;)*) => {$(
        impl Setting for $ty {
            fn schema() -> Schema {
                Schema::text($what, $example)
            }

            fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
                read_parsed(node, problems, Self::schema())
            }

            fn show(&self) -> Shown {
                Shown::Text(self.to_string())
            }
        }
    )*};
}

parsed! {
    SocketAddr, "an address with port", "192.0.2.1:25";
    IpAddr, "an IP address", "192.0.2.1";
    Ipv4Addr, "an IPv4 address", "192.0.2.1";
    Ipv6Addr, "an IPv6 address", "2001:db8::1";
    Cidr, "a network", "192.0.2.0/24";
}

/// A setting that is a text in the file and something better in the program: any type that parses.
///
/// For types of other rooms, which cannot implement [`Setting`] themselves: `Text<mail::Domain>`.
#[derive(Clone, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Text<T>(pub T);

impl<T> Deref for Text<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.0
    }
}

impl<T: fmt::Debug> fmt::Debug for Text<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl<T> Text<T> {
    /// What the text stood for.
    pub fn into_inner(self) -> T {
        self.0
    }
}

impl<T> From<T> for Text<T> {
    fn from(value: T) -> Self {
        Self(value)
    }
}

impl<T: FromStr<Err: Display> + Display> Setting for Text<T> {
    /// Named after the type: `mail::Domain` is "a domain".
    fn schema() -> Schema {
        let name = std::any::type_name::<T>();
        let name = name.split('<').next().unwrap_or(name);
        let words = crate::words::snake(name.rsplit("::").next().unwrap_or(name)).replace('_', " ");
        let article = if words.starts_with(['a', 'e', 'i', 'o', 'u']) { "an" } else { "a" };
        Schema::text(format!("{article} {words}"), "")
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        read_parsed(node, problems, Self::schema()).map(Self)
    }

    fn show(&self) -> Shown {
        Shown::Text(self.0.to_string())
    }
}

/// A setting that remembers where it was written, for a room that must tell the operator which line decided.
///
/// Two are equal if their values are, wherever they stand.
#[derive(Clone, Copy)]
pub struct Placed<T> {
    /// What was written.
    pub value: T,
    /// Where.
    pub place: Place,
}

impl<T> Deref for Placed<T> {
    type Target = T;

    fn deref(&self) -> &T {
        &self.value
    }
}

impl<T: fmt::Debug> fmt::Debug for Placed<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.value.fmt(f)
    }
}

impl<T: PartialEq> PartialEq for Placed<T> {
    fn eq(&self, other: &Self) -> bool {
        self.value == other.value
    }
}

impl<T: Setting> Setting for Placed<T> {
    fn schema() -> Schema {
        T::schema()
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        Self::read_within(node, &Self::schema(), problems)
    }

    fn read_within(node: &Node, schema: &Schema, problems: &mut Problems) -> Option<Self> {
        T::read_within(node, schema, problems).map(|value| Self { value, place: node.place })
    }

    fn show(&self) -> Shown {
        self.value.show()
    }
}

impl<T: Setting> Setting for Option<T> {
    fn schema() -> Schema {
        Schema::Optional(Box::new(T::schema()))
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        Self::read_within(node, &Self::schema(), problems)
    }

    /// A `${NAME:-}` that gave nothing leaves the setting out.
    fn read_within(node: &Node, schema: &Schema, problems: &mut Problems) -> Option<Self> {
        if node.filled_text() == Some("") {
            return Some(None);
        }
        T::read_within(node, schema.inner(), problems).map(Some)
    }

    fn show(&self) -> Shown {
        self.as_ref().map_or(Shown::Nothing, T::show)
    }
}

impl<T: Setting> Setting for Vec<T> {
    fn schema() -> Schema {
        Schema::List(Box::new(T::schema()))
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        Self::read_within(node, &Self::schema(), problems)
    }

    fn read_within(node: &Node, schema: &Schema, problems: &mut Problems) -> Option<Self> {
        let Value::Array(items) = &node.value else {
            let problem = problems.mismatch(node, "a list");
            match &node.value {
                Value::Table(_) => problem.hint("write its header with two brackets: `[[…]]`"),
                _ => problem.hint("put it in brackets: `[…]`"),
            };
            return None;
        };
        let read = |(index, item)| {
            problems.within_item(index, |problems| T::read_within(item, schema.inner(), problems))
        };
        // Collected in two steps, so that a bad item does not hide the mistakes of the next.
        let items: Vec<Option<T>> = items.iter().enumerate().map(read).collect();
        items.into_iter().collect()
    }

    fn show(&self) -> Shown {
        Shown::List(self.iter().map(T::show).collect())
    }
}

impl<T: Setting> Setting for BTreeMap<String, T> {
    fn schema() -> Schema {
        Schema::Map(Box::new(T::schema()))
    }

    fn read(node: &Node, problems: &mut Problems) -> Option<Self> {
        Self::read_within(node, &Self::schema(), problems)
    }

    fn read_within(node: &Node, schema: &Schema, problems: &mut Problems) -> Option<Self> {
        let Value::Table(entries) = &node.value else {
            problems.mismatch(node, "a table");
            return None;
        };
        let read = |(key, node): &(crate::Key, Node)| {
            problems.within(&key.name, |problems| {
                Some((key.name.clone(), T::read_within(node, schema.inner(), problems)?))
            })
        };
        let entries: Vec<Option<(String, T)>> = entries.iter().map(read).collect();
        entries.into_iter().collect()
    }

    fn show(&self) -> Shown {
        Shown::Table(self.iter().map(|(key, value)| (key.clone(), value.show())).collect())
    }
}

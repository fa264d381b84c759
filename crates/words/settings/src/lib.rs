//! How a setting is declared: text, default, unit, bound and the place it came from.
//!
//! One struct is one table of the configuration, beside the code that uses it. What stands on its fields is the
//! only source of the defaults, the bounds, the reference page, the JSON Schema and the messages:
//!
//! ```
//! use std::time::Duration;
//!
//! settings::table! {
//!     /// How a silent client is treated.
//!     pub struct Config {
//!         /// How long a client may say nothing before it is sent away.
//!         #[in(1s..=1h)]
//!         pub idle_timeout: Duration = Duration::from_secs(300),
//!         /// How many may be silent at once.
//!         pub idle_max: u32 = 100,
//!     }
//! }
//!
//! // What a parser made of `idle_timeout = "2h"` and a misspelt key.
//! use settings::{Key, Node, Place, Problems, Setting, Sources, Value};
//! let mut sources = Sources::default();
//! let file = sources.add("tuma.toml", "idle_timeout = \"2h\"\nidle_mx = 5\n");
//! let entry = |name: &str, at, value, from, to| {
//!     let key = Key { name: name.into(), place: Place::new(file, at, at + name.len()) };
//!     (key, Node::new(value, Place::new(file, from, to)))
//! };
//! let table = Value::Table(vec![
//!     entry("idle_timeout", 0, Value::String("2h".into()), 15, 19),
//!     entry("idle_mx", 20, Value::Int(5), 30, 31),
//! ]);
//!
//! let mut problems = Problems::new();
//! assert_eq!(Config::read(&Node::new(table, Place::whole(file)), &mut problems), None);
//! assert_eq!(problems.render(&sources, false), "\
//! tuma.toml:1:16: error: `idle_timeout` must be at most 1h, not 2h
//!  1 | idle_timeout = \"2h\"
//!    |                ^^^^
//! help: allowed is 1s to 1h
//! tuma.toml:2:1: error: unknown key `idle_mx`
//!  2 | idle_mx = 5
//!    | ^^^^^^^
//! help: did you mean `idle_max`?
//! ");
//! assert_eq!(Config::default().idle_timeout, Duration::from_secs(300));
//! ```
//!
//! This room knows no setting and no file format: the binary's configuration module parses the file into a
//! [`Node`] tree. It opens nothing and prints nothing. Every mistake is found, not only the first: reading adds
//! to [`Problems`] and goes on.
//!
//! Read first: [`table!`], [`words!`], then [`Setting`] and the types that are settings: `bool`, the integers,
//! `f64`, `String`, `PathBuf`, [`Duration`](std::time::Duration), [`Size`], `SocketAddr`, `IpAddr`, [`Cidr`],
//! [`Text`] around any type that parses, [`Placed`] around any that must say where it was written, `Option`, `Vec` and `BTreeMap<String, _>` of them, and other tables.
//! A room's own test should hold that [`mistakes`] finds nothing in its table.

mod cidr;
mod nearest;
mod node;
mod place;
mod problems;
mod schema;
mod setting;
mod table;
mod units;
mod words;

pub use cidr::{Cidr, CidrError};
pub use nearest::nearest;
pub use node::{Filled, Key, Node, Value, quote};
pub use place::{Place, Sources};
pub use problems::{PROBLEMS_MAX, Problem, Problems, Severity, show_key};
pub use schema::{Bounds, Field, Schema, Shown, Table as SchemaTable, Word, mistakes, show_text};
pub use setting::{Placed, Setting, Text};
pub use units::{Size, parse_duration, parse_size, show_duration};

/// For the macros only.
#[doc(hidden)]
pub mod private {
    pub use crate::table::{Fields, docs, field, show};
    pub use crate::words::{pick, read_word, snake_bytes, snake_len, utf8};
}

#[cfg(test)]
mod tests;

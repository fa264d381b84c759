//! Settings that are tables: the macro that declares one, and the reading of its keys.

use crate::nearest::nearest;
use crate::problems::list_names;
use crate::{Field, Node, Problems, Schema, Setting, Shown, Value};

/// Declares a table of the configuration as a struct with defaults, bounds and descriptions.
///
/// ```
/// use std::net::SocketAddr;
/// use std::time::Duration;
/// use settings::{Node, Problems, Size};
///
/// settings::table! {
///     /// How clients are listened to.
///     #[check(Listener::check)]
///     pub struct Listener {
///         /// Where to listen. It has no default, so it must be written.
///         pub bind: SocketAddr,
///         /// How long a client may say nothing.
///         #[in(1s..=1h)]
///         pub idle_timeout: Duration = Duration::from_secs(300),
///         /// Longest message taken.
///         #[in(64KiB..)]
///         pub message_max: Size = Size::mib(50),
///         /// Longest line of a message, with its CRLF.
///         #[in(1000..=1_000_000)]
///         pub line_max: usize = 1000,
///         /// Shown to the client; left out, the machine's own name is.
///         pub name: Option<String> = None,
///         /// Opens the console. Never printed.
///         #[secret]
///         pub password: Option<String> = None,
///     }
/// }
///
/// impl Listener {
///     fn check(&self, node: &Node, problems: &mut Problems) {
///         if self.line_max > self.message_max.len() {
///             problems.error(node.at("line_max"), "`line_max` must not exceed `message_max`");
///         }
///     }
/// }
/// ```
///
/// This is the struct, with `Debug` (which hides secrets), `Clone`, `PartialEq` and
/// [`Setting`](crate::Setting); and `Default` if every field has a default. More can be derived with a
/// `#[derive(…)]` after the description. In order: descriptions, then `#[derive(…)]`, then `#[check(…)]` on the
/// struct; descriptions, then `#[in(…)]`, then `#[secret]` on a field. A field that is a keyword is written
/// `r#type`, its key is `type`.
///
/// A check runs when all fields could be read. It is given the struct, the table's node (whose
/// [`at`](crate::Node::at) tells where a key stands) and the problems to add to.
#[macro_export]
macro_rules! table {
    (
        $(#[doc = $doc:literal])*
        $(#[derive($($derive:path),* $(,)?)])?
        $(#[check($check:expr)])?
        $vis:vis struct $name:ident {
            $(
                $(#[doc = $field_doc:literal])*
                $(#[in($($range:tt)+)])?
                $(#[secret $(= $secret:literal)?])?
                $field_vis:vis $field:ident: $ty:ty $(= $default:expr)?
            ),* $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Clone, PartialEq $(, $($derive),*)?)]
        $vis struct $name {
            $($(#[doc = $field_doc])* $field_vis $field: $ty,)*
        }

        impl ::std::fmt::Debug for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                let mut out = f.debug_struct(stringify!($name));
                $(
                    let secret = false $(|| true $(|| $secret)?)?;
                    match secret {
                        true => out.field(stringify!($field), &"(secret)"),
                        false => out.field(stringify!($field), &self.$field),
                    };
                )*
                out.finish()
            }
        }

        $crate::__table_default!($name $($field $(= $default)?),*);

        impl $crate::Setting for $name {
            fn schema() -> $crate::Schema {
                $crate::Schema::Table($crate::SchemaTable {
                    name: stringify!($name),
                    docs: $crate::private::docs(&[$($doc),*]),
                    fields: ::std::vec![$(
                        $crate::private::field::<$ty>(
                            stringify!($field),
                            &[$($field_doc),*],
                            ::std::option::Option::None::<$ty>$(.or_else(|| ::std::option::Option::Some($default)))?,
                            ::std::option::Option::None$(.or(::std::option::Option::Some(stringify!($($range)+))))?,
                            false $(|| true $(|| $secret)?)?,
                        )
                    ),*],
                })
            }

            fn read(
                node: &$crate::Node,
                problems: &mut $crate::Problems,
            ) -> ::std::option::Option<Self> {
                let schema = <Self as $crate::Setting>::schema();
                #[allow(unused_mut, reason = "a table may have no keys")]
                let mut fields = $crate::private::Fields::open(node, problems, &schema)?;
                $(
                    let $field = fields.read::<$ty>(
                        ::std::option::Option::None::<fn() -> $ty>
                            $(.or(::std::option::Option::Some(|| $default)))?,
                    );
                )*
                fields.close();
                let read = Self { $($field: $field?),* };
                $({
                    let errors = problems.count().0;
                    let check: fn(&Self, &$crate::Node, &mut $crate::Problems) = $check;
                    check(&read, node, problems);
                    if problems.count().0 > errors {
                        return ::std::option::Option::None;
                    }
                })?
                ::std::option::Option::Some(read)
            }

            fn show(&self) -> $crate::Shown {
                $crate::Shown::Table(::std::vec![$(
                    $crate::private::show(
                        stringify!($field),
                        &self.$field,
                        false $(|| true $(|| $secret)?)?,
                    )
                ),*])
            }
        }
    };
}

/// `Default`, if every field has one.
#[doc(hidden)]
#[macro_export]
macro_rules! __table_default {
    ($name:ident $($field:ident = $default:expr),*) => {
        impl ::std::default::Default for $name {
            fn default() -> Self {
                Self { $($field: $default),* }
            }
        }
    };
    ($name:ident $($rest:tt)*) => {};
}

/// The key of a field: `r#type` is `type`.
fn key(field: &'static str) -> &'static str {
    field.trim_start_matches("r#")
}

/// Lines of a doc comment as one text.
pub fn docs(lines: &[&str]) -> String {
    let lines: Vec<&str> =
        lines.iter().map(|line| line.strip_prefix(' ').unwrap_or(line).trim_end()).collect();
    lines.join("\n").trim().to_string()
}

/// One field of a schema.
pub fn field<T: Setting>(
    name: &'static str,
    lines: &[&str],
    default: Option<T>,
    range: Option<&str>,
    secret: bool,
) -> Field {
    let schema = match range {
        Some(range) => T::schema().bounded(range),
        None => T::schema(),
    };
    // `stringify!` may put spaces between the tokens of a bound.
    let range = range.map(|range| range.replace(' ', ""));
    let default = default.map(|default| if secret { conceal(default.show()) } else { default.show() });
    Field { key: key(name), docs: docs(lines), schema, default, range, secret }
}

/// One field's value.
pub fn show<T: Setting>(name: &'static str, value: &T, secret: bool) -> (String, Shown) {
    let shown = value.show();
    (key(name).to_string(), if secret { conceal(shown) } else { shown })
}

/// That a secret is not set may be told.
fn conceal(shown: Shown) -> Shown {
    match shown {
        Shown::Nothing => Shown::Nothing,
        Shown::Text(text) if text.is_empty() => Shown::Text(text),
        _ => Shown::Secret,
    }
}

/// The keys of a table while it is read, one [`Fields::read`] for each field in order.
#[derive(Debug)]
pub struct Fields<'a> {
    node: &'a Node,
    problems: &'a mut Problems,
    fields: &'a [Field],
    next: usize,
}

impl<'a> Fields<'a> {
    /// Begins to read a table; `None`, with a problem, if the node is none.
    pub fn open(node: &'a Node, problems: &'a mut Problems, schema: &'a Schema) -> Option<Self> {
        let Schema::Table(table) = schema else { return None };
        if !matches!(node.value, Value::Table(_)) {
            problems.mismatch(node, "a table");
            return None;
        }
        Some(Self { node, problems, fields: &table.fields, next: 0 })
    }

    /// Reads the next field: from the file, or else its default, or else a problem.
    pub fn read<T: Setting>(&mut self, default: Option<fn() -> T>) -> Option<T> {
        let field = self.fields.get(self.next)?;
        self.next += 1;
        let Some(node) = self.node.child(field.key) else {
            let Some(default) = default else {
                self.missing(field);
                return None;
            };
            return Some(default());
        };
        self.problems.within(field.key, |problems| {
            let read = |problems: &mut Problems| T::read_within(node, &field.schema, problems);
            if field.secret { problems.within_secret(node.place, read) } else { read(problems) }
        })
    }

    fn missing(&mut self, field: &Field) {
        if self.problems.expects_gaps() {
            return;
        }
        let table = self.problems.table_name();
        let expected = field.schema.expected();
        self.problems
            .error(self.node.place, format!("the key `{}` is missing{table}", field.key))
            .hint(format!("it is {expected}"));
    }

    /// Ends the table: every key that no field has is a mistake.
    pub fn close(self) {
        let table = self.problems.table_name();
        for (key, node) in self.node.entries() {
            if self.fields.iter().any(|field| field.key == key.name) {
                continue;
            }
            let names = || self.fields.iter().map(|field| field.key);
            let near = nearest(&key.name, names());
            // A slip in the name of a secret must not print the secret.
            if self.fields.iter().any(|field| field.secret && near == Some(field.key)) {
                self.problems.conceal(node.place);
            }
            let message = format!("unknown key {}{table}", crate::quote(&key.name));
            let hint = match near {
                Some(near) => format!("did you mean `{near}`?"),
                None if self.fields.is_empty() => "this table has no keys".into(),
                None => format!("here it may be {}", list_names(names())),
            };
            self.problems.error(key.place, message).hint(hint);
        }
    }
}

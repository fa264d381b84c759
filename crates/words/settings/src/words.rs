//! Settings that are one of a few words.

use crate::nearest::nearest;
use crate::setting::read_text;
use crate::{Node, Problems, Schema, Word};

/// Declares an enum whose variants are words in the file, in snake case or as `#[word("…")]` says.
///
/// ```
/// settings::words! {
///     /// When a connection is encrypted.
///     pub enum Tls {
///         /// Never.
///         Never,
///         /// When the other side offers it.
///         WhenOffered,
///         /// Always, by the records of RFC 7672.
///         #[word("dane-only")]
///         DaneOnly,
///     }
/// }
/// assert_eq!(Tls::WhenOffered.word(), "when_offered");
/// assert_eq!(Tls::DaneOnly.to_string(), "dane-only");
/// assert_eq!(Tls::ALL.len(), 3);
/// ```
///
/// The enum is `Debug`, `Clone`, `Copy`, `PartialEq`, `Eq` and `Hash`, prints its word and is a
/// [`Setting`](crate::Setting).
#[macro_export]
macro_rules! words {
    (
        $(#[doc = $doc:literal])*
        $vis:vis enum $name:ident {
            $(
                $(#[doc = $word_doc:literal])*
                $(#[word($word:literal)])?
                $variant:ident
            ),+ $(,)?
        }
    ) => {
        $(#[doc = $doc])*
        #[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
        $vis enum $name {
            $($(#[doc = $word_doc])* $variant,)+
        }

        impl $name {
            /// Every one of them.
            pub const ALL: &'static [Self] = &[$(Self::$variant),+];

            /// As written in the file.
            pub const fn word(self) -> &'static str {
                match self {
                    $(Self::$variant => {
                        const NAME: &str = stringify!($variant);
                        const SNAKE: [u8; $crate::private::snake_len(NAME)] = $crate::private::snake_bytes(NAME);
                        const WORD: &str = $crate::private::pick(&[$($word,)? $crate::private::utf8(&SNAKE)]);
                        WORD
                    })+
                }
            }
        }

        impl ::std::fmt::Display for $name {
            fn fmt(&self, f: &mut ::std::fmt::Formatter<'_>) -> ::std::fmt::Result {
                f.write_str(self.word())
            }
        }

        impl $crate::Setting for $name {
            fn schema() -> $crate::Schema {
                $crate::Schema::Words(::std::vec![$(
                    $crate::Word {
                        word: Self::$variant.word(),
                        docs: $crate::private::docs(&[$($word_doc),*]),
                    }
                ),+])
            }

            fn read(node: &$crate::Node, problems: &mut $crate::Problems) -> ::std::option::Option<Self> {
                let index = $crate::private::read_word(node, problems, &Self::schema())?;
                Self::ALL.get(index).copied()
            }

            fn show(&self) -> $crate::Shown {
                $crate::Shown::Text(self.word().into())
            }
        }
    };
}

/// Reads one of the words of a schema; its index.
pub fn read_word(node: &Node, problems: &mut Problems, schema: &Schema) -> Option<usize> {
    let Schema::Words(words) = schema else { return None };
    let expected = schema.expected();
    let text = read_text(node, problems, &expected)?;
    let index = words.iter().position(|Word { word, .. }| *word == text);
    if index.is_none() {
        let near = nearest(text, words.iter().map(|word| word.word));
        let problem = problems.mismatch(node, &expected);
        if let Some(near) = near {
            problem.hint(format!("did you mean \"{near}\"?"));
        }
    }
    index
}

/// `MailFrom` as `mail_from`.
pub(crate) fn snake(name: &str) -> String {
    let mut out = String::new();
    for (at, c) in name.char_indices() {
        if c.is_ascii_uppercase() && at > 0 {
            out.push('_');
        }
        out.push(c.to_ascii_lowercase());
    }
    out
}

/// The length of [`snake_bytes`].
pub const fn snake_len(name: &str) -> usize {
    let name = name.as_bytes();
    let (mut len, mut at) = (name.len(), 1);
    while at < name.len() {
        if name[at].is_ascii_uppercase() {
            len += 1;
        }
        at += 1;
    }
    len
}

/// [`snake`] while compiling.
pub const fn snake_bytes<const N: usize>(name: &str) -> [u8; N] {
    let name = name.as_bytes();
    let mut out = [b'_'; N];
    let (mut from, mut to) = (0, 0);
    while from < name.len() {
        if from > 0 && name[from].is_ascii_uppercase() {
            to += 1;
        }
        out[to] = name[from].to_ascii_lowercase();
        from += 1;
        to += 1;
    }
    out
}

/// The text of bytes that came from a text.
pub const fn utf8(bytes: &[u8]) -> &str {
    match std::str::from_utf8(bytes) {
        Ok(text) => text,
        Err(_) => panic!("a name is a text"),
    }
}

/// The first: what was said outright goes before what was derived.
pub const fn pick(words: &[&'static str]) -> &'static str {
    words[0]
}

//! Header fields that are meant for this server: read, and taken out before the message goes on.

use crate::header::{Field, Fields};
use mail::FieldName;

/// The text of the first field of each name, on one line; `None` where there is none. One pass, whatever the number
/// of names.
pub fn first_values(content: &[u8], names: &[&FieldName]) -> Vec<Option<String>> {
    let mut values = vec![None; names.len()];
    for field in Fields::new(content) {
        for (value, name) in values.iter_mut().zip(names) {
            if value.is_none() && field.is(name.as_str()) {
                *value = Some(field.unfolded());
            }
        }
    }
    values
}

/// Takes out every header field that `taken` says, whole with its folded lines, and gives the offset at which what
/// is left begins. What was before it is no longer of use.
///
/// What stays of the header moves towards the body, which stays where it is: the cost is that of the header alone,
/// and nothing at all is written when no field is taken.
pub fn take_out_fields(content: &mut [u8], taken: impl Fn(&Field<'_>) -> bool) -> usize {
    let fields = Fields::new(content).filter(|field| taken(field));
    let spans: Vec<(usize, usize)> = fields.map(|field| (field.start, field.end)).collect();
    let Some(&(_, mut to)) = spans.last() else { return 0 };
    for (n, &(start, _)) in spans.iter().enumerate().rev() {
        let from = n.checked_sub(1).map_or(0, |before| spans[before].1);
        to -= start - from;
        content.copy_within(from..start, to);
    }
    to
}

/// Whatever the bytes, what is left has the fields that were not taken, in their order, and the same body.
pub(crate) fn fuzz_pick(content: &[u8]) {
    let taken = |field: &Field<'_>| field.is("received") || field.is("from");
    let mut fields = Fields::new(content);
    let kept: Vec<&[u8]> =
        fields.by_ref().filter(|field| !taken(field)).map(|field| &content[field.start..field.end]).collect();
    let expected = [kept.concat(), content[fields.offset()..].to_vec()].concat();
    let mut octets = content.to_vec();
    let begins = take_out_fields(&mut octets, taken);
    assert_eq!(&octets[begins..], expected);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn names(list: &[&str]) -> Vec<FieldName> {
        list.iter().map(|name| name.parse().unwrap()).collect()
    }

    /// What is left when fields X-A and X-B are taken out.
    fn left(content: &[u8]) -> Vec<u8> {
        let mut octets = content.to_vec();
        let at = take_out_fields(&mut octets, |field| field.is("x-a") || field.is("x-b"));
        octets.split_off(at)
    }

    #[test]
    fn fields_are_taken_out_whole_and_nothing_else() {
        for (content, expected) in [
            ("Subject: s\r\nX-A: 1\r\nTo: t\r\n\r\nbody", "Subject: s\r\nTo: t\r\n\r\nbody"),
            ("X-A: 1\r\nSubject: s\r\n\r\nbody", "Subject: s\r\n\r\nbody"),
            ("Subject: s\r\nX-A: 1\r\n\r\nbody", "Subject: s\r\n\r\nbody"),
            // Folded, repeated, in any case, with blanks before the colon, with nothing behind it.
            ("X-A: 1\r\n more\r\n\tyet\r\nTo: t\r\n\r\n", "To: t\r\n\r\n"),
            ("x-a: 1\r\nTo: t\r\nX-A : 2\r\nX-B:\r\nx-A:3\r\nCc: c\r\n\r\n", "To: t\r\nCc: c\r\n\r\n"),
            // Next to names that only look like it.
            ("X-AB: 1\r\nX-: 2\r\nX-A-B: 3\r\nX-A: 4\r\n\r\n", "X-AB: 1\r\nX-: 2\r\nX-A-B: 3\r\n\r\n"),
            // Only in the header: a body may say what it likes, and so may a folded line.
            ("To: t\r\n\r\nX-A: 1\r\n", "To: t\r\n\r\nX-A: 1\r\n"),
            ("To: t\r\n X-A: 1\r\n\r\n", "To: t\r\n X-A: 1\r\n\r\n"),
            ("To: t\r\nno field\r\nX-A: 1\r\n\r\n", "To: t\r\nno field\r\nX-A: 1\r\n\r\n"),
            // A bare name is no field, and ends the header.
            ("X-A\r\nTo: t\r\n\r\n", "X-A\r\nTo: t\r\n\r\n"),
            // Nothing but such fields, with and without a body.
            ("X-A: 1\r\nX-B: 2\r\n\r\nbody", "\r\nbody"),
            ("X-A: 1\r\nX-B: 2", ""),
            ("X-A: 1\r\njust a body", "just a body"),
            ("", ""),
            ("\r\nX-A: 1\r\n", "\r\nX-A: 1\r\n"),
        ] {
            assert_eq!(String::from_utf8(left(content.as_bytes())).unwrap(), expected, "{content:?}");
        }
        assert_eq!(left(b"X-A: \xff\xfe\r\nTo: \xe9\r\n\r\n\xff"), b"To: \xe9\r\n\r\n\xff");
    }

    #[test]
    fn the_first_field_of_a_name_counts() {
        let content = b"x-a: one\r\n  two\r\nX-A: three\r\nX-B:\r\nX-C: \xe9\r\n\r\nX-D: body\r\n";
        let names = names(&["X-D", "X-C", "X-A", "X-B", "x-a"]);
        let values = first_values(content, &names.iter().collect::<Vec<_>>());
        let text = |text: &str| Some(text.to_owned());
        assert_eq!(values, [None, text("\u{fffd}"), text("one  two"), text(""), text("one  two")]);
    }

    #[test]
    fn random_headers_keep_the_rest() {
        let mut random = crate::encoding::tests::Random(11);
        let pieces: [&[u8]; 10] = [
            b"X-A",
            b"received",
            b":",
            b" ",
            b"\r\n",
            b"\n",
            b"To: t\r\n",
            b"From: 1\r\n\tz\r\n",
            b"\xff",
            b"a",
        ];
        for _ in 0..20_000 {
            let mut content = Vec::new();
            for _ in 0..random.below(24) {
                content.extend_from_slice(pieces[random.below(pieces.len())]);
            }
            fuzz_pick(&content);
        }
    }
}

//! The right name nearest to a wrong one.

/// Names longer than this are not compared.
const NAME_MAX: usize = 64;

/// The name among `names` that `wrong` was probably meant to be.
pub fn nearest<'a>(wrong: &str, names: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    if wrong.len() > NAME_MAX {
        return None;
    }
    // `max-line` for `max_line` and `Listen` for `listen` are one slip, however many letters differ.
    let fold = |text: &str| text.to_lowercase().replace(['-', ' ', '.'], "_");
    let wrong = fold(wrong);
    let allowed = (wrong.chars().count().max(3) / 3).min(4);
    names
        .into_iter()
        .map(|name| (distance(&wrong, &fold(name)), name))
        .filter(|(distance, name)| *distance <= allowed && *distance < name.chars().count())
        .min_by_key(|(distance, _)| *distance)
        .map(|(_, name)| name)
}

/// Edits (insert, delete, replace, swap of neighbours) from one text to the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut before = vec![0; b.len() + 1];
    let mut last: Vec<usize> = (0..=b.len()).collect();
    for i in 1..=a.len() {
        let mut row = vec![i; b.len() + 1];
        for j in 1..=b.len() {
            let replace = last[j - 1] + usize::from(a[i - 1] != b[j - 1]);
            row[j] = replace.min(last[j] + 1).min(row[j - 1] + 1);
            if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                row[j] = row[j].min(before[j - 2] + 1);
            }
        }
        before = std::mem::replace(&mut last, row);
    }
    last[b.len()]
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slips_of_the_finger() {
        let names = ["idle_timeout", "listen", "greeting_name", "tls"];
        for (wrong, right) in [
            ("idel_timeout", Some("idle_timeout")),
            ("idle-timeout", Some("idle_timeout")),
            ("idleTimeout", Some("idle_timeout")),
            ("Listen", Some("listen")),
            ("lisen", Some("listen")),
            ("tsl", Some("tls")),
            ("colour", None),
            ("x", None),
            ("", None),
        ] {
            assert_eq!(nearest(wrong, names), right, "{wrong}");
        }
        assert_eq!(nearest(&"listen".repeat(100), names), None);
    }

    #[test]
    fn edits() {
        for (a, b, n) in [("", "", 0), ("a", "", 1), ("ab", "ba", 1), ("kitten", "sitting", 3)] {
            assert_eq!(distance(a, b), n, "{a} {b}");
        }
    }
}

//! Replies on the wire (RFC 5321 §4.2): one line, or several of which all but the last have a hyphen after
//! the code; the enhanced status code stands on each line (RFC 2034 §4).

use mail::{EnhancedStatusCode, Reply, ReplyCode};

/// Longest text written on one line, in octets, so that code, enhanced code and CRLF fit RFC 5321
/// §4.5.3.1.5's 512. Longer text goes on in a further line.
const TEXT_MAX: usize = 480;

/// Appends `reply` to `out` as it goes over the wire. Octets a reply may not hold become `?`: text from
/// elsewhere can never end a line or begin a second reply.
pub fn write(reply: &Reply, out: &mut Vec<u8>) {
    write_with(reply, reply.enhanced, out);
}

/// [`write`] with another enhanced status code, or none.
pub(crate) fn write_with(reply: &Reply, enhanced: Option<EnhancedStatusCode>, out: &mut Vec<u8>) {
    let mut rest = reply.text.as_ref();
    loop {
        let line_end = memchr::memchr(b'\n', rest.as_bytes()).unwrap_or(rest.len());
        let cut = if line_end > TEXT_MAX { rest.floor_char_boundary(TEXT_MAX) } else { line_end };
        let (line, tail) = rest.split_at(cut);
        let last = tail.is_empty();
        write_line(reply.code, enhanced, line, last, out);
        if last {
            return;
        }
        rest = tail.strip_prefix('\n').unwrap_or(tail);
    }
}

fn write_line(
    code: ReplyCode,
    enhanced: Option<EnhancedStatusCode>,
    line: &str,
    last: bool,
    out: &mut Vec<u8>,
) {
    write_number(code.get(), out);
    out.push(if last { b' ' } else { b'-' });
    if let Some(enhanced) = enhanced {
        write_number(u16::from(enhanced.class()), out);
        out.push(b'.');
        write_number(enhanced.subject(), out);
        out.push(b'.');
        write_number(enhanced.detail(), out);
        out.push(b' ');
    }
    out.extend(line.bytes().map(|b| if matches!(b, b' '..=b'~') { b } else { b'?' }));
    out.extend_from_slice(b"\r\n");
}

fn write_number(value: u16, out: &mut Vec<u8>) {
    let mut digits = [0u8; 5];
    let mut at = digits.len();
    let mut rest = value;
    loop {
        at -= 1;
        digits[at] = b'0' + (rest % 10) as u8;
        rest /= 10;
        if rest == 0 {
            break;
        }
    }
    out.extend_from_slice(&digits[at..]);
}

#[cfg(test)]
mod tests {
    use super::*;

    fn wire(reply: Reply) -> String {
        let mut out = Vec::new();
        write(&reply, &mut out);
        String::from_utf8(out).unwrap()
    }

    #[test]
    fn replies_of_one_and_of_several_lines() {
        assert_eq!(wire(Reply::bare(354, "go on")), "354 go on\r\n");
        assert_eq!(wire(Reply::new(550, (5, 7, 12), "no")), "550 5.7.12 no\r\n");
        assert_eq!(
            wire(Reply::new(550, (5, 7, 1), "a\n\nb")),
            "550-5.7.1 a\r\n550-5.7.1 \r\n550 5.7.1 b\r\n"
        );
        assert_eq!(wire(Reply::bare(250, "")), "250 \r\n");
    }

    #[test]
    fn text_cannot_break_out_of_its_reply() {
        assert_eq!(wire(Reply::bare(250, "a\rb\0c\té")), "250 a?b?c???\r\n");
        let long = wire(Reply::bare(250, "x".repeat(1000)));
        assert!(long.lines().all(|line| line.len() <= 510) && long.lines().count() == 3);
        assert!(long.lines().rev().skip(1).all(|line| line.starts_with("250-")));
    }
}

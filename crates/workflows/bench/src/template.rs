//! A message laid out once, with the few octets that differ from one to the next patched in place:
//! no allocation and no formatting per message.

use std::ops::Range;

use crate::wire::{Random, patch_decimal};

/// Octets on a line of content, without its CRLF; what most mailers fold base64 to.
const LINE_OCTETS: usize = 76;
const SEQUENCE_DIGITS: usize = 10;
const TIME_DIGITS: usize = 16;
const DOMAIN_DIGITS: usize = 6;

/// What the template is made from; the same words as in [`crate::loader::Options`].
pub struct Plan<'a> {
    pub run: u32,
    pub size: usize,
    pub sender: &'a str,
    pub recipient: Option<&'a str>,
    pub recipient_domain: &'a str,
    pub recipient_domains: u64,
    pub recipients: u64,
    /// `BDAT` in place of `DATA` and its dot.
    pub chunking: bool,
    /// Whether the peer offered SIZE.
    pub declare_size: bool,
}

/// One connection's copy of the message.
///
/// With DATA it lies in memory as content, dot, commands of the *next* transaction, so that one write can
/// end a message and begin another; with BDAT as commands, content.
#[derive(Clone, Default)]
pub struct Template {
    wire: Vec<u8>,
    content: Range<usize>,
    commands: Range<usize>,
    sequence_places: Vec<usize>,
    time_place: usize,
    domain_places: Vec<usize>,
    domains: u64,
}

impl Template {
    /// Lays the message out: `size` octets of content, or the header alone where that is longer.
    pub fn new(plan: &Plan) -> Self {
        let content = Content::new(plan);
        let commands = Commands::new(plan, content.octets.len());
        let (first, second) = if plan.chunking {
            (commands.octets, content.octets)
        } else {
            // The content ends in CRLF, which is the first half of the end of data.
            ([&content.octets[..], b".\r\n"].concat(), commands.octets)
        };
        let wire = [&first[..], &second].concat();
        let (first, second) = (0..first.len(), first.len()..wire.len());
        let (content_range, commands_range) = if plan.chunking { (second, first) } else { (first, second) };
        let content_at = content_range.start;
        let commands_at = commands_range.start;
        Self {
            wire,
            sequence_places: content.sequence_places.iter().map(|place| place + content_at).collect(),
            time_place: content.time_place + content_at,
            domain_places: commands.domain_places.iter().map(|place| place + commands_at).collect(),
            content: content_range,
            commands: commands_range,
            domains: plan.recipient_domains.max(1),
        }
    }

    /// Makes the commands those of message `sequence`: recipient `i` lives in domain `sequence + i`.
    pub fn address(&mut self, sequence: u64) {
        for (index, place) in self.domain_places.iter().enumerate() {
            let domain = (sequence + index as u64) % self.domains;
            patch_decimal(&mut self.wire[*place..*place + DOMAIN_DIGITS], domain);
        }
    }

    /// Makes the content that of message `sequence`.
    pub fn mark(&mut self, sequence: u64, scheduled_us: u64) {
        for place in &self.sequence_places {
            patch_decimal(&mut self.wire[*place..*place + SEQUENCE_DIGITS], sequence);
        }
        patch_decimal(&mut self.wire[self.time_place..self.time_place + TIME_DIGITS], scheduled_us);
    }

    /// MAIL, RCPT and DATA or BDAT.
    pub fn commands(&self) -> &[u8] {
        &self.wire[self.commands.clone()]
    }

    /// The content with its end.
    pub fn content(&self) -> &[u8] {
        &self.wire[self.content.clone()]
    }

    /// Both, in the order in which they lie in memory.
    pub fn whole(&self) -> &[u8] {
        &self.wire
    }
}

struct Content {
    octets: Vec<u8>,
    sequence_places: Vec<usize>,
    time_place: usize,
}

impl Content {
    fn new(plan: &Plan) -> Self {
        let mut octets = Vec::with_capacity(plan.size + 512);
        let mut sequence_places = Vec::new();
        let mut number = |octets: &mut Vec<u8>| {
            sequence_places.push(octets.len());
            octets.extend_from_slice(&[b'0'; SEQUENCE_DIGITS]);
        };
        octets.extend_from_slice(crate::sequence::MARK_FIELD);
        octets.extend_from_slice(format!("{:08x}-", plan.run).as_bytes());
        number(&mut octets);
        octets.push(b'-');
        let time_place = octets.len();
        octets.extend_from_slice(&[b'0'; TIME_DIGITS]);
        if plan.recipients > 1 {
            octets.extend_from_slice(format!("-{}", plan.recipients).as_bytes());
        }
        let to = plan.recipient.map_or_else(|| format!("b0@{}", plan.recipient_domain), str::to_owned);
        let date = rfc5322_date(crate::wire::unix_us() / 1_000_000);
        let fields =
            format!("\r\nFrom: Bench <{}>\r\nTo: <{to}>\r\nDate: {date}\r\nSubject: Message ", plan.sender);
        octets.extend_from_slice(fields.as_bytes());
        number(&mut octets);
        octets.extend_from_slice(format!("\r\nMessage-ID: <{:08x}.", plan.run).as_bytes());
        number(&mut octets);
        octets.extend_from_slice(b"@loader.test>\r\nMIME-Version: 1.0\r\n");
        octets.extend_from_slice(b"Content-Type: text/plain; charset=us-ascii\r\n\r\n");
        fill_with_lines(&mut octets, plan.size);
        Self { octets, sequence_places, time_place }
    }
}

/// Appends text lines until `size`; text that a compressor cannot fold away to nothing.
fn fill_with_lines(octets: &mut Vec<u8>, size: usize) {
    const LETTERS: &[u8; 64] = b"ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/";
    let mut random = Random(1);
    while octets.len() < size {
        let left = size - octets.len();
        // The last two lines share what is left, so that neither is shorter than its CRLF and one letter.
        let line = if left <= LINE_OCTETS + 2 { left } else { (LINE_OCTETS + 2).min(left - 3) };
        let letters = line.max(3) - 2;
        for _ in 0..letters {
            octets.push(LETTERS[(random.next_u64() >> 58) as usize]);
        }
        octets.extend_from_slice(b"\r\n");
    }
}

struct Commands {
    octets: Vec<u8>,
    domain_places: Vec<usize>,
}

impl Commands {
    fn new(plan: &Plan, size: usize) -> Self {
        let mut octets = format!("MAIL FROM:<{}>", plan.sender).into_bytes();
        if plan.declare_size {
            octets.extend_from_slice(format!(" SIZE={size}").as_bytes());
        }
        octets.extend_from_slice(b"\r\n");
        let mut domain_places = Vec::new();
        let base = plan.recipient_domain;
        for index in 0..plan.recipients {
            match plan.recipient {
                Some(address) => octets.extend_from_slice(format!("RCPT TO:<{address}>\r\n").as_bytes()),
                None if plan.recipient_domains <= 1 => {
                    octets.extend_from_slice(format!("RCPT TO:<b{index}@{base}>\r\n").as_bytes());
                }
                None => {
                    octets.extend_from_slice(format!("RCPT TO:<b{index}@d").as_bytes());
                    domain_places.push(octets.len());
                    octets.extend_from_slice(&[b'0'; DOMAIN_DIGITS]);
                    octets.extend_from_slice(format!(".{base}>\r\n").as_bytes());
                }
            }
        }
        if plan.chunking {
            octets.extend_from_slice(format!("BDAT {size} LAST\r\n").as_bytes());
        } else {
            octets.extend_from_slice(b"DATA\r\n");
        }
        Self { octets, domain_places }
    }
}

/// `Thu, 01 Jan 1970 00:00:00 +0000` (RFC 5322 §3.3).
fn rfc5322_date(unix_s: u64) -> String {
    let (days, time) = (unix_s / 86_400, unix_s % 86_400);
    let weekday = ["Thu", "Fri", "Sat", "Sun", "Mon", "Tue", "Wed"][(days % 7) as usize];
    // Days to civil date, years counted from March so that the leap day comes last.
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era = (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_index = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_index + 2) / 5 + 1;
    let month = ["Mar", "Apr", "May", "Jun", "Jul", "Aug", "Sep", "Oct", "Nov", "Dec", "Jan", "Feb"];
    let year = year_of_era + era * 400 + u64::from(month_index >= 10);
    let (hour, minute, second) = (time / 3_600, time / 60 % 60, time % 60);
    format!(
        "{weekday}, {day:02} {} {year} {hour:02}:{minute:02}:{second:02} +0000",
        month[month_index as usize]
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    fn plan() -> Plan<'static> {
        Plan {
            run: 0xbe,
            size: 1000,
            sender: "a@from.test",
            recipient: None,
            recipient_domain: "to.test",
            recipient_domains: 3,
            recipients: 2,
            chunking: false,
            declare_size: true,
        }
    }

    #[test]
    fn one_write_ends_a_message_and_begins_the_next() {
        let mut template = Template::new(&plan());
        template.mark(41, 1_700_000_000_000_000);
        template.address(42);
        let whole = String::from_utf8(template.whole().to_vec()).expect("ASCII");
        assert!(whole.starts_with(
            "X-Tuma-Bench: 000000be-0000000041-1700000000000000-2\r\nFrom: Bench <a@from.test>\r\n"
        ));
        assert!(whole.ends_with(
            "\r\n.\r\nMAIL FROM:<a@from.test> SIZE=1000\r\n\
             RCPT TO:<b0@d000000.to.test>\r\nRCPT TO:<b1@d000001.to.test>\r\nDATA\r\n"
        ));
        assert_eq!(template.content().len(), 1000 + 3);
        assert!(whole.lines().all(|line| line.len() <= LINE_OCTETS && !line.starts_with("..")));
    }

    #[test]
    fn bdat_goes_first_and_states_the_size() {
        let template = Template::new(&Plan { chunking: true, recipients: 1, ..plan() });
        assert!(template.commands().ends_with(b"BDAT 1000 LAST\r\n"));
        assert_eq!(template.content().len(), 1000);
        assert_eq!(template.whole().len(), 1000 + template.commands().len());
        assert!(template.whole().starts_with(b"MAIL"));
    }

    #[test]
    fn every_size_is_met_to_the_octet() {
        for size in 400..700 {
            let template = Template::new(&Plan { size, ..plan() });
            assert_eq!(template.content().len(), size + 3, "size {size}");
            assert!(template.content().ends_with(b"\r\n.\r\n"));
        }
        assert!(Template::new(&Plan { size: 0, ..plan() }).content().ends_with(b"\r\n\r\n.\r\n"));
    }

    #[test]
    fn dates() {
        assert_eq!(rfc5322_date(0), "Thu, 01 Jan 1970 00:00:00 +0000");
        assert_eq!(rfc5322_date(951_827_696), "Tue, 29 Feb 2000 12:34:56 +0000");
        assert_eq!(rfc5322_date(1_767_225_599), "Wed, 31 Dec 2025 23:59:59 +0000");
    }
}

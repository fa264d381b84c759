//! Bounces that are only text, as hosts wrote them before RFC 3464, and as some still do.
//!
//! Hosts differ in words, and agree in that somewhere it says that mail was not delivered, then to whom and why, and
//! then what was sent. So the text is read from the first such words to the beginning of what was sent, and the
//! addresses that stand between are the ones it is about.

use crate::report::{RECIPIENTS_MAX, ReportedRecipient, address, reply_in};
use mail::Mailbox;
use message::{Action, Fields, Leaf, field_value, one_line};
use regex::Regex;
use std::sync::LazyLock;

/// Octets of text looked at.
const TEXT_MAX: usize = 128 * 1024;
/// Lines looked at behind the first words of failure.
const LINES_MAX: usize = 400;
/// Octets of a line that count.
const LINE_MAX: usize = 1_000;

fn regex(text: &str) -> Regex {
    Regex::new(&format!("(?i){text}")).expect("it is in a test")
}

/// Words that say that mail was not delivered.
static FAILED: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        "(could ?n.t|could not|cannot|can ?not|was ?n.t able to|was not able to|unable to|failed to|not be(en)?|will not be|not) \
         (be )?(been )?(deliver|reach|accept|complete|sen[dt]|forward|process)|un-?deliver(able|ed)|not delivered|did not (receive|reach)|failed (recipient|address)|\
         failed addresses|recipients? failed|(delivery|deliver).{0,60}(fail|abort|problem|error)|(fatal|permanent).{0,20}error|\
         no such user|user.{0,3} ?unknown|unknown user|(mailbox|quota).{0,20}(full|exceed|unavail)|over ?quota|\
         returned (mail|to sender)|invalid final delivery|was (automatically )?rejected|error description|\
         encountered an error|encount?ered delivery problems|does not exist|undelivered|rcpt to:|address (error|failed)|the following address|delivery report|\
         recipient address (was )?rejected|unrouteable|no mailbox|not a valid|mail service|viruswall|this is the (qmail|machine|deliver|email)|hi\\. this is",
    )
});

/// Words that say that it may yet be.
static DELAYED: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        "warning[: ]|not yet been|has been delayed|been postponed|delayed|will be retried|still trying|attempts will continue|advisory-only|do not need to resend|temporar(y|ily) (unable|not)|will keep trying|no action is required",
    )
});

/// Lines behind which the mail itself stands.
static RETURNED: LazyLock<Regex> = LazyLock::new(|| {
    regex(
        "^[-= *#>|]*((original|returned|unsent|old) (mail|message|text|headers?)|(the |a )?(copy|header|text|body|first [0-9]+ lines) of (your|the|this) |\
         included is a copy|(start|begin).{0,12}(returned|original|message|forward)|(message|mail) (text|headers?|contents?) follows?|here is (your|the) (returned|original)|\
         (below|enclosed).{0,30} (line )?is a copy|returned mail follows|transcript of (the )?session follows|your (original )?(message|mail) (is|was|reads|follows)|end of message|\
         message-id:|received:|return-path:|mime-version:|content-type:)|is a copy of|message follows|attached (is|below)|copy of the (original )?message",
    )
});

static ADDRESS: LazyLock<Regex> =
    LazyLock::new(|| regex("[^\\s<>\"'`()\\[\\]:;,|]+@[a-z0-9_](?:[a-z0-9._-]*[a-z0-9])?"));

/// Reads a message as a bounce; `None` if it is none.
pub(crate) fn read(content: &[u8], leaves: &[Leaf<'_>]) -> Option<Vec<ReportedRecipient>> {
    let ours: Vec<Mailbox> = ["to", "from", "reply-to", "sender", "errors-to", "return-path"]
        .iter()
        .filter_map(|name| field_value(content, name).and_then(|text| address(&text)))
        .collect();
    // One and the same host may tell of several.
    let listed: Vec<Mailbox> = Fields::new(content)
        .filter(|field| field.is("x-failed-recipients"))
        .flat_map(|field| field.unfolded().split(',').filter_map(address).collect::<Vec<_>>())
        .take(RECIPIENTS_MAX)
        .collect();
    let text = shown(leaves);
    let lines: Vec<&str> = text.lines().map(|line| cut(line.trim_end(), LINE_MAX)).collect();
    let subject = field_value(content, "subject").unwrap_or_default();
    let by_machine = is_by_machine(content, &subject);
    if listed.is_empty() && !by_machine {
        return None;
    }
    let start = lines.iter().position(|line| FAILED.is_match(line) || DELAYED.is_match(line));
    let start = match start {
        Some(start) => start,
        None if !listed.is_empty() => 0,
        None => return None,
    };
    let mut named: Vec<(Mailbox, usize)> = Vec::new();
    let end = lines.len().min(start + LINES_MAX);
    let mut stop = end;
    for (at, line) in lines.iter().enumerate().take(end).skip(start) {
        if at > start && !named.is_empty() && RETURNED.is_match(line) {
            stop = at;
            break;
        }
        for found in ADDRESS.find_iter(line) {
            let Some(one) = address(found.as_str().trim_start_matches(['=', '-', '*'])) else { continue };
            let known = |other: &Mailbox| other.as_str().eq_ignore_ascii_case(one.as_str());
            let is_service = ["postmaster", "mailer-daemon", "abuse", "support", "helpdesk"]
                .iter()
                .any(|name| one.local_part().eq_ignore_ascii_case(name));
            if !is_service && !ours.iter().any(known) && !named.iter().any(|(other, _)| known(other)) {
                named.push((one, at));
            }
            if named.len() == RECIPIENTS_MAX {
                break;
            }
        }
    }
    let region = &lines[start..stop];
    let failed = region.iter().any(|line| FAILED.is_match(line) && !DELAYED.is_match(line));
    let delayed = DELAYED.is_match(&subject) || region.iter().any(|line| DELAYED.is_match(line));
    let action = if delayed && !(failed && has_code(region, '5')) { Action::Delayed } else { Action::Failed };
    if !listed.is_empty() {
        named = listed.into_iter().map(|one| (one, start)).collect();
    }
    let why = |at: usize| {
        // The reason stands behind the address, or before it where there is none.
        let behind = lines[at.min(stop.max(1) - 1)..stop].iter().take(12);
        let found = behind.chain(region).find(|line| {
            let (code, status, _) = reply_in(line);
            code.is_some() || status.is_some()
        });
        let found = found.or_else(|| region.iter().find(|line| FAILED.is_match(line)));
        found.map(|line| one_line(line, 400)).filter(|line| !line.is_empty())
    };
    let reported = named.into_iter().map(|(one, at)| {
        let diagnostic = why(at);
        let status = diagnostic.as_deref().and_then(|text| reply_in(text).1);
        ReportedRecipient { address: Some(one), original: None, action, status, diagnostic, remote_mta: None }
    });
    let mut reported: Vec<ReportedRecipient> = reported.collect();
    if reported.is_empty() {
        // It is a bounce, and does not say whose: who knows whom it came back for may still use it.
        let diagnostic = why(start);
        let status = diagnostic.as_deref().and_then(|text| reply_in(text).1);
        let (address, original, remote_mta) = (None, None, None);
        reported.push(ReportedRecipient { address, original, action, status, diagnostic, remote_mta });
    }
    Some(reported)
}

fn has_code(lines: &[&str], class: char) -> bool {
    lines.iter().any(|line| {
        let (code, status, _) = reply_in(line);
        let digit = class.to_digit(10).unwrap_or(5) as u16;
        code.is_some_and(|code| code / 100 == digit)
            || status.is_some_and(|status| u16::from(status.class()) == digit)
    })
}

/// True if a host wrote it, as far as that can be seen from its header.
fn is_by_machine(content: &[u8], subject: &str) -> bool {
    static SUBJECT: LazyLock<Regex> = LazyLock::new(|| {
        regex(
            "undeliver|deliver(y|ing).{0,30}(fail|status|error|problem|report|notif|delay)|(fail|status|error|problem|report|notif).{0,20}deliver|returned (mail|message|to)|mail (system|delivery)|\
             mail.{0,12}(fail|error|warning)|failure notice|nondeliver|non-deliver|could not|rejected|not be delivered|bounce|user unknown|mail error|error.{0,12}mail|warning|over quota|message status|unable|automatically rejected|nicht|onbestelbaar|failed",
        )
    });
    static FROM: LazyLock<Regex> = LazyLock::new(|| {
        regex(
            "mailer-daemon|postmaster|mail.?(delivery|system|daemon)|delivery (sub)?system|mdaemon|bounce|daemon@|^\\s*<>|administrator|admin@|root@",
        )
    });
    let from = field_value(content, "from").unwrap_or_default();
    let path = field_value(content, "return-path").unwrap_or_default();
    SUBJECT.is_match(subject) || FROM.is_match(&from) || path.trim() == "<>"
}

/// The text that a person would be shown first.
fn shown(leaves: &[Leaf<'_>]) -> String {
    let mut out = String::new();
    let has_plain =
        leaves.iter().any(|leaf| leaf.media_type == "text/plain" && !leaf.body.trim_ascii().is_empty());
    for leaf in leaves {
        let octets = &leaf.body[..leaf.body.len().min(TEXT_MAX.saturating_sub(out.len()))];
        match &*leaf.media_type {
            "text/plain" => out.push_str(&String::from_utf8_lossy(octets)),
            "text/html" if !has_plain => without_tags(&String::from_utf8_lossy(octets), &mut out),
            // What comes behind the text is what came back.
            "message/rfc822" | "text/rfc822-headers" if !out.is_empty() => break,
            "message/delivery-status" => out.push_str(&String::from_utf8_lossy(octets)),
            _ => continue,
        }
        out.push('\n');
    }
    out
}

fn without_tags(html: &str, out: &mut String) {
    let mut rest = html;
    while let Some(at) = rest.find('<') {
        out.push_str(&rest[..at]);
        let inside = &rest[at..];
        match inside.find('>') {
            // An address in angle brackets is no tag.
            Some(end) if inside[..end].contains('@') => out.push_str(&inside[..=end]),
            Some(_) => out.push('\n'),
            None => break,
        }
        let end = inside.find('>').unwrap_or(inside.len() - 1);
        rest = &inside[end + 1..];
    }
    out.push_str(rest);
    for (code, text) in [("&lt;", "<"), ("&gt;", ">"), ("&#64;", "@"), ("&nbsp;", " "), ("&amp;", "&")] {
        if out.contains(code) {
            *out = out.replace(code, text);
        }
    }
}

fn cut(line: &str, max: usize) -> &str {
    let mut end = line.len().min(max);
    while !line.is_char_boundary(end) {
        end -= 1;
    }
    &line[..end]
}

#[cfg(test)]
mod tests {
    use crate::report::{ReportFormat, read_report};
    use message::Action;

    fn read(text: &str) -> Vec<(String, Action, String)> {
        let report = read_report(&text.replace('\n', "\r\n").into_bytes()).expect("a report");
        assert_eq!(report.format, ReportFormat::Text);
        let shown = |one: &crate::ReportedRecipient| {
            let address = one.address.as_ref().map_or(String::new(), |one| one.as_str().to_owned());
            (address, one.action, one.reply().to_string())
        };
        report.recipients.iter().map(shown).collect()
    }

    #[test]
    fn bounces_of_common_servers() {
        let qmail = "From: MAILER-DAEMON@mx.x.test\nTo: news@s.test\nSubject: failure notice\n\n\
            Hi. This is the qmail-send program at mx.x.test.\nI'm afraid I wasn't able to deliver your message to the following addresses.\n\n\
            <joe@x.test>:\nSorry, no mailbox here by that name. (#5.1.1)\n\n--- Below this line is a copy of the message.\n\n\
            Return-Path: <news@s.test>\nTo: other@x.test\n";
        assert_eq!(
            read(qmail),
            [(
                "joe@x.test".into(),
                Action::Failed,
                "550 5.1.1 Sorry, no mailbox here by that name. (#5.1.1)".into()
            )]
        );
        let exim = "From: Mail Delivery System <Mailer-Daemon@mx.x.test>\nTo: news@s.test\nX-Failed-Recipients: joe@x.test\n\
            Auto-Submitted: auto-replied\nSubject: Mail delivery failed: returning message to sender\n\n\
            This message was created automatically by mail delivery software.\n\nA message that you sent could not be delivered to one or more of its\nrecipients.\n\n\
            \x20 joe@x.test\n    SMTP error from remote mail server after RCPT TO:<joe@x.test>:\n    550 5.2.1 The email account is disabled\n\n\
            ------ This is a copy of the message ------\n\nFrom: news@s.test\n";
        assert_eq!(
            read(exim),
            [("joe@x.test".into(), Action::Failed, "550 5.2.1 The email account is disabled".into())]
        );
        let warning = "From: MAILER-DAEMON@mx.x.test\nTo: news@s.test\nSubject: Warning: message 1 delayed 24 hours\n\n\
            This message was created automatically by mail delivery software.\nA message that you sent has not yet been delivered to one or more of its\nrecipients.\n\n\
            \x20 joe@x.test\n\nNo action is required on your part.\n";
        assert_eq!(read(warning)[0].1, Action::Delayed);
        let nobody = "From: MAILER-DAEMON@mx.x.test\nTo: news@s.test\nSubject: Undeliverable\n\nYour message could not be delivered.\n";
        assert_eq!(read(nobody)[0].0, "");
    }
}

//! What the server says of its own accord, one line each, in one place.
//!
//! Texts are general on purpose: what exactly went wrong goes to the log, not to a stranger.

pub(super) const MAIL_OK: &str = "250 2.1.0 ok";
pub(super) const RCPT_OK: &str = "250 2.1.5 ok";
pub(super) const MESSAGE_OK: &str = "250 2.0.0 accepted";
pub(super) const CHUNK_OK: &str = "250 2.0.0 chunk received";
pub(super) const OK: &str = "250 2.0.0 ok";
pub(super) const HELP: &str = "214 2.0.0 see RFC 5321";
pub(super) const BYE: &str = "221 2.0.0 bye";
pub(super) const VRFY: &str = "252 2.5.0 not verified here; RCPT will tell";
pub(super) const GO_ON: &str = "354 end with <CR><LF>.<CR><LF>";
pub(super) const TLS_READY: &str = "220 2.0.0 ready to start TLS";
pub(super) const AUTHENTICATED: &str = "235 2.7.0 authenticated";

pub(super) const SHUTTING_DOWN: &str = "421 4.3.2 service shutting down";
pub(super) const TIMEOUT: &str = "421 4.4.2 timeout";
pub(super) const TOO_SLOW: &str = "421 4.4.2 too slow";
pub(super) const TOO_LONG: &str = "421 4.4.2 session too long";
pub(super) const TOO_MANY_ERRORS: &str = "421 4.7.0 too many errors";
pub(super) const TOO_MANY_REFUSALS: &str = "421 4.7.0 too many refusals";
pub(super) const TOO_MANY_IDLE_COMMANDS: &str = "421 4.7.0 too many commands without mail";
pub(super) const TOO_MANY_TRANSACTIONS: &str = "421 4.7.0 too many transactions in this session";
pub(super) const TOO_MANY_AUTH_FAILURES: &str = "421 4.7.0 too many authentication failures";
pub(super) const ENDLESS_LINE: &str = "421 4.7.0 line without end";
pub(super) const NOT_SMTP: &str = "421 4.7.0 this is SMTP";

pub(super) const TOO_MANY_RECIPIENTS: &str = "452 4.5.3 too many recipients";

pub(super) const LINE_TOO_LONG: &str = "500 5.5.2 line too long";
pub(super) const AUTH_LINE_TOO_LONG: &str = "500 5.5.6 authentication exchange line is too long";
pub(super) const BARE_LF_IN_COMMAND: &str = "500 5.5.2 a command line ends with <CR><LF>";
pub(super) const NOT_A_COMMAND: &str = "500 5.5.2 bad characters in command";
pub(super) const UNKNOWN_COMMAND: &str = "500 5.5.2 command not recognised";
pub(super) const USE_LHLO: &str = "500 5.5.1 this is LMTP: use LHLO";
pub(super) const NOT_LMTP: &str = "500 5.5.1 this is not LMTP";
pub(super) const ARGUMENT_UNWANTED: &str = "501 5.5.4 no argument allowed";
pub(super) const ARGUMENT_MISSING: &str = "501 5.5.4 argument missing";
pub(super) const BAD_HELLO: &str = "501 5.5.4 a domain name or address literal is needed";
pub(super) const MAIL_SYNTAX: &str = "501 5.5.4 syntax: MAIL FROM:<path>";
pub(super) const RCPT_SYNTAX: &str = "501 5.5.4 syntax: RCPT TO:<path>";
pub(super) const BAD_SENDER: &str = "501 5.1.7 bad sender address syntax";
pub(super) const BAD_RECIPIENT: &str = "501 5.1.3 bad recipient address syntax";
pub(super) const BAD_PARAMETER: &str = "501 5.5.4 bad parameter";
pub(super) const BAD_CHUNK_SIZE: &str = "501 5.5.4 bad chunk size; closing";
pub(super) const BAD_BASE64: &str = "501 5.5.2 cannot decode base64";
pub(super) const AUTH_CANCELLED: &str = "501 5.7.0 authentication cancelled";
pub(super) const BAD_XCLIENT: &str = "501 5.5.4 bad XCLIENT attribute";
pub(super) const NOT_SERVED: &str = "502 5.5.1 command not implemented";
pub(super) const BAD_SEQUENCE: &str = "503 5.5.1 bad sequence of commands";
pub(super) const HELLO_FIRST: &str = "503 5.5.1 send HELO or EHLO first";
pub(super) const MAIL_FIRST: &str = "503 5.5.1 send MAIL first";
pub(super) const RCPT_FIRST: &str = "503 5.5.1 send RCPT first";
pub(super) const MAIL_OPEN: &str = "503 5.5.1 a mail transaction is open";
pub(super) const CHUNKS_OPEN: &str = "503 5.5.1 chunks have begun: go on with BDAT";
pub(super) const BINARY_NEEDS_BDAT: &str = "503 5.5.1 BINARYMIME needs BDAT";
pub(super) const TLS_ON: &str = "503 5.5.1 TLS is on already";
pub(super) const AUTH_ONCE: &str = "503 5.5.1 authenticated already";
pub(super) const EHLO_FIRST: &str = "503 5.5.1 send EHLO first";
pub(super) const BAD_MECHANISM: &str = "504 5.5.4 authentication mechanism not offered";
pub(super) const TLS_REQUIRED: &str = "530 5.7.0 must issue STARTTLS first";
pub(super) const AUTH_REQUIRED: &str = "530 5.7.0 authentication required";
pub(super) const AUTH_NEEDS_TLS: &str = "538 5.7.11 encryption required for authentication";
pub(super) const NO_XCLIENT: &str = "550 5.7.0 XCLIENT is not for you";
pub(super) const SENDER_NEEDS_SMTPUTF8: &str = "550 5.6.7 SMTPUTF8 is needed for this address";
pub(super) const RCPT_NEEDS_SMTPUTF8: &str = "553 5.6.7 SMTPUTF8 is needed for this address";
pub(super) const BARE_NEWLINE: &str = "550 5.6.11 bare <CR> or <LF> in message";
pub(super) const TOO_BIG: &str = "552 5.3.4 message too big";
pub(super) const TOO_BIG_CLOSING: &str = "552 5.3.4 message too big; closing";
pub(super) const HEADER_TOO_BIG: &str = "552 5.3.4 header section too big";
pub(super) const TOO_MANY_FIELDS: &str = "554 5.6.0 too many header fields";
pub(super) const LONG_LINE: &str = "554 5.6.0 message has a line that is too long";
pub(super) const TOO_MANY_CHUNKS: &str = "554 5.5.0 too many chunks";
pub(super) const NO_VALID_RECIPIENTS: &str = "554 5.5.1 no valid recipients";
pub(super) const LMTP_NO_VALID_RECIPIENTS: &str = "503 5.5.1 no valid recipients";
pub(super) const UNKNOWN_PARAMETER: &str = "555 5.5.4 parameter not recognised";

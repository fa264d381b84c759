//! People are told: what rules ask to tell is folded, logged, mailed and posted.
//!
//! The dispatcher drops a note into a bounded channel and goes on. The task behind it waits for the spool at most,
//! never for a peer: a webhook has a queue of its own.

use crate::front_door::hand_in;
use crate::shared::{Settings, Shared};
use dispatch::Note;
use mail::{
    BodyType, Envelope, Mailbox, Message, Priority, Protocol, Recipient, ReversePath, Tags, UnixMillis,
};
use message::{Letter, one_line, write_letter};
use notify::{Book, Notice, Tally, Webhook};
use std::fmt::Write;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering::Relaxed};
use std::time::SystemTime;
use tokio::sync::mpsc;
use tokio::time::Instant;
use tracing::{info, warn};

/// Notes that may wait for the task that tells; a rule can ask for one at every reply, so most are folded there.
const NOTES_MAX: usize = 1_024;

/// Notices written out in one mail; the number of further ones is told.
const LETTER_MAX: usize = 100;

/// Octets of a notice's text.
const TEXT_MAX_OCTETS: usize = 1_000;

/// Stands where others have the listener's name.
const MAKER: &str = "notify";

/// True for a message that tells people of something.
pub(crate) fn is_notice(message: &Message) -> bool {
    message.origin.protocol == Protocol::Internal && &*message.origin.listener == MAKER
}

/// What became of notices.
#[derive(Debug, Default)]
pub struct NoticeFigures {
    told: AtomicU64,
    folded: AtomicU64,
    mailed: AtomicU64,
    mail_failed: AtomicU64,
    dropped: AtomicU64,
    webhook: Arc<Tally>,
}

impl NoticeFigures {
    /// Each figure with its word.
    pub fn list(&self) -> Vec<(String, u64)> {
        let webhook = &*self.webhook;
        [
            ("told", &self.told),
            ("folded", &self.folded),
            ("mailed", &self.mailed),
            ("mail_failed", &self.mail_failed),
            ("dropped", &self.dropped),
            ("posted", &webhook.posted),
            ("post_failed", &webhook.failed),
            ("post_dropped", &webhook.dropped),
        ]
        .map(|(name, figure)| (name.to_owned(), figure.load(Relaxed)))
        .to_vec()
    }
}

/// Where others than the dispatcher leave what is to be told. It does not keep the task that tells from ending.
#[derive(Clone)]
pub(crate) struct NoticesAside(mpsc::WeakSender<(Note, UnixMillis)>);

impl NoticesAside {
    /// Leaves a note; never waits. One that finds no room, or nobody any more, is lost.
    pub(crate) fn tell(&self, note: Note, wall: UnixMillis) {
        if let Some(notes) = self.0.upgrade() {
            let _ = notes.try_send((note, wall));
        }
    }
}

/// Where the dispatcher leaves what is to be told.
pub(crate) struct NoticesIn {
    notes: mpsc::Sender<(Note, UnixMillis)>,
    figures: Arc<NoticeFigures>,
}

impl NoticesIn {
    /// The way for others.
    pub(crate) fn aside(&self) -> NoticesAside {
        NoticesAside(self.notes.downgrade())
    }

    /// Leaves a note; never waits.
    pub(crate) fn tell(&self, note: Note, wall: UnixMillis) {
        if self.notes.try_send((note, wall)).is_err() {
            self.figures.dropped.fetch_add(1, Relaxed);
        }
    }
}

/// Both ends. To be called within the runtime.
pub(crate) fn open(shared: &Arc<Shared>) -> (NoticesIn, Notices, Arc<NoticeFigures>) {
    let (notes, inputs) = mpsc::channel(NOTES_MAX);
    let webhook = Webhook::start();
    let figures = Arc::new(NoticeFigures { webhook: webhook.tally(), ..NoticeFigures::default() });
    let book = Book::new(shared.settings().notify.every);
    let notices = Notices {
        shared: shared.clone(),
        inputs,
        book,
        webhook,
        figures: figures.clone(),
        batch: Batch::default(),
    };
    (NoticesIn { notes, figures: figures.clone() }, notices, figures)
}

/// Notices that wait to go out in one mail.
#[derive(Default)]
struct Batch {
    notices: Vec<Notice>,
    left_out: u64,
    due: Option<Instant>,
}

/// The task that tells.
pub(crate) struct Notices {
    shared: Arc<Shared>,
    inputs: mpsc::Receiver<(Note, UnixMillis)>,
    book: Book,
    webhook: Webhook,
    figures: Arc<NoticeFigures>,
    batch: Batch,
}

impl Notices {
    /// Runs until the dispatcher has ended.
    pub(crate) async fn run(mut self) {
        loop {
            let due = self.book.wake_at().map(Instant::from_std);
            let wake_at = due.into_iter().chain(self.batch.due).min();
            tokio::select! {
                note = self.inputs.recv() => match note {
                    Some((note, wall)) => self.note(note, wall),
                    None => break,
                },
                () = crate::dispatcher::sleep_until(wake_at), if wake_at.is_some() => {}
            }
            let settings = self.shared.settings();
            let now = Instant::now();
            for notice in self.book.due(now.into_std()) {
                self.tell(&settings, notice);
            }
            if self.batch.due.is_some_and(|due| due <= now) {
                self.mail(&settings).await;
            }
        }
        let settings = self.shared.settings();
        self.mail(&settings).await;
    }

    fn note(&mut self, note: Note, wall: UnixMillis) {
        let settings = self.shared.settings();
        let notice = Notice {
            time: accounting::iso_time(wall),
            about: note.about,
            text: one_line(&note.text, TEXT_MAX_OCTETS),
            source: note.source.map(|source| source.to_string()),
            site: note.site.map(|site| site.to_string()),
            rule: note.rule,
            suppressed: 0,
        };
        self.book.set_every(settings.notify.every);
        match self.book.told(Instant::now().into_std(), notice) {
            Some(notice) => self.tell(&settings, notice),
            None => {
                self.figures.folded.fetch_add(1, Relaxed);
            }
        }
    }

    fn tell(&mut self, settings: &Settings, notice: Notice) {
        self.figures.told.fetch_add(1, Relaxed);
        warn!(about = %notice.about, text = %notice.text, suppressed = notice.suppressed, "a rule asks to be told");
        if let Some(target) = &settings.webhook {
            self.webhook.post(target, notice.clone());
        }
        if settings.notify.mail.is_empty() {
            return;
        }
        let batch = &mut self.batch;
        batch.due.get_or_insert_with(|| Instant::now() + settings.notify.mail_wait);
        if batch.notices.len() < LETTER_MAX {
            batch.notices.push(notice);
        } else {
            batch.left_out += 1;
        }
    }

    /// One mail about everything that waits.
    async fn mail(&mut self, settings: &Settings) {
        let batch = std::mem::take(&mut self.batch);
        let to: Vec<&Mailbox> = settings.notify.mail.iter().map(|mailbox| &mailbox.0).collect();
        if batch.notices.is_empty() || to.is_empty() {
            return;
        }
        let wall = UnixMillis::from(SystemTime::now());
        let by = Shared::host(settings);
        let (subject, text) = (subject(&batch, settings), text(&batch, settings));
        let letter = Letter {
            by: &by,
            to: &to,
            subject: &subject,
            text: &text,
            now: wall,
            seed: self.shared.random(),
        };
        let content = write_letter(&letter);
        let recipients = to.iter().map(|mailbox| Recipient::new((*mailbox).clone())).collect();
        let mut envelope = Envelope::new(ReversePath::Null, recipients);
        envelope.smtputf8 = to.iter().any(|mailbox| !mailbox.is_ascii());
        envelope.body = if content.is_ascii() { BodyType::SevenBit } else { BodyType::EightBitMime };
        let tags = Tags { priority: Priority::High, ..Tags::default() };
        match hand_in(&self.shared, settings, MAKER, envelope, content, tags, wall).await {
            Ok(()) => {
                self.figures.mailed.fetch_add(1, Relaxed);
                info!(notices = batch.notices.len(), "people are told by mail");
            }
            Err(refusal) => {
                self.figures.mail_failed.fetch_add(1, Relaxed);
                warn!(%refusal, notices = batch.notices.len(), "a mail to people could not be spooled");
            }
        }
    }
}

fn subject(batch: &Batch, settings: &Settings) -> String {
    let total = batch.notices.len() as u64 + batch.left_out;
    match &batch.notices[..] {
        [only] => {
            format!("{}: {}", settings.hostname, if only.about.is_empty() { &only.text } else { &only.about })
        }
        _ => format!("{}: {total} notices", settings.hostname),
    }
}

fn text(batch: &Batch, settings: &Settings) -> String {
    let mut out = format!("This is the mail system at {}.\n", settings.hostname);
    // Writing to a string cannot fail.
    for notice in &batch.notices {
        let _ = write!(out, "\n{}\n  {}\n", notice.time, notice.text);
        if let Some(rule) = &notice.rule {
            let _ = writeln!(out, "  rule: {rule}");
        }
        if notice.suppressed > 0 {
            let _ =
                writeln!(out, "  {} more like it were kept back since the last notice.", notice.suppressed);
        }
    }
    if batch.left_out > 0 {
        let _ = writeln!(out, "\nFurther notices at the same time: {}. The log has them.", batch.left_out);
    }
    let every = settings::show_duration(settings.notify.every);
    let _ = writeln!(out, "\nThe same subject is told of at most once in {every} (notify.every).");
    out
}

//! From what is asked to durable messages: who may, who gets it, in which form the spool keeps it.
//!
//! One content for all makes messages of many recipients. Where each sees something of his own it is a mail merge,
//! kept once and expanded as it leaves; a single recipient's message is made at once.

use super::idempotency::Running;
use crate::http::Http;
use crate::http::access::{Access, covers, wall};
use crate::http::refusal::{Refusal, hint};
use crate::server::Server;
use bytes::Bytes;
use compose::{Content as Written, SheetWriter, Stamp, write_parts};
use mail::{
    BodyType, Envelope, Extras, Host, Mailbox, Merge, Message, Origin, Protocol, Recipient, Reply,
    ReversePath, SpoolId, UnixMillis,
};
use message::{ReceivedField, add_missing, is_seven_bit};
use reception::{Asked, Submission};
use serde_json::{Value, json};
use spool::Content;
use std::borrow::Cow;
use std::sync::Arc;

/// Messages of one request that are on their way to the disk at a time.
const UNDER_WAY_MAX: usize = 32;
/// Recipients whose fate is told one by one; of more only those are named that were refused.
const RESULTS_MAX: usize = 1_000;

/// One recipient.
#[derive(Debug)]
pub(in crate::http) struct To<'a> {
    pub(in crate::http) email: Cow<'a, str>,
    pub(in crate::http) name: Cow<'a, str>,
    /// His values as JSON, or nothing.
    pub(in crate::http) own: Cow<'a, str>,
}

/// What is to be sent, from whichever form of request it was read.
#[derive(Debug)]
pub(in crate::http) struct Injection<'a> {
    pub(in crate::http) reverse_path: ReversePath,
    pub(in crate::http) recipients: Vec<To<'a>>,
    /// Parts that were checked, or a written message in order.
    pub(in crate::http) content: Written,
    /// The texts are templates.
    pub(in crate::http) templated: bool,
    /// Everybody's values as JSON, or nothing.
    pub(in crate::http) common: Cow<'a, str>,
    pub(in crate::http) asked: Asked,
    pub(in crate::http) send_at: Option<UnixMillis>,
    pub(in crate::http) expires_at: Option<UnixMillis>,
    pub(in crate::http) metadata: Option<Box<str>>,
}

/// What became of one recipient.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(in crate::http) enum Fate {
    /// The message and his place in it.
    Queued(SpoolId, u32),
    /// Never so.
    Refused(String),
    /// Not now.
    Deferred(Reply),
}

/// What became of a request.
#[derive(Debug)]
pub(in crate::http) struct Injected {
    /// In the order of the request.
    pub(in crate::http) fates: Vec<Fate>,
    /// The messages that were made, with their numbers of recipients.
    pub(in crate::http) messages: Vec<(SpoolId, usize)>,
}

impl Injected {
    fn count(&self, is: fn(&Fate) -> bool) -> usize {
        self.fates.iter().filter(|fate| is(fate)).count()
    }

    pub(in crate::http) fn queued(&self) -> usize {
        self.count(|fate| matches!(fate, Fate::Queued(..)))
    }

    pub(in crate::http) fn refused(&self) -> usize {
        self.count(|fate| matches!(fate, Fate::Refused(_)))
    }

    pub(in crate::http) fn deferred(&self) -> usize {
        self.count(|fate| matches!(fate, Fate::Deferred(_)))
    }

    /// Why nothing was taken, if nothing was because it cannot be now.
    pub(in crate::http) fn put_off(&self) -> Option<Refusal> {
        if self.queued() > 0 {
            return None;
        }
        self.fates.iter().find_map(|fate| match fate {
            Fate::Deferred(reply) => Some(Refusal::of_reply(reply)),
            _ => None,
        })
    }

    /// The answer. `addresses` are those of the request.
    pub(in crate::http) fn to_json<'t>(&self, addresses: impl Iterator<Item = &'t str>) -> Value {
        let few = self.fates.len() <= RESULTS_MAX;
        let told = |fate: &Fate| few || !matches!(fate, Fate::Queued(..));
        let result = |(fate, email): (&Fate, &str)| match fate {
            Fate::Queued(id, index) => {
                json!({ "email": email, "status": "queued", "id": format!("{id}.{index}") })
            }
            Fate::Refused(why) => json!({ "email": email, "status": "refused", "detail": why }),
            Fate::Deferred(reply) => json!({ "email": email, "status": "deferred", "detail": &*reply.text }),
        };
        let results: Vec<Value> = self
            .fates
            .iter()
            .zip(addresses)
            .filter(|(fate, _)| told(fate))
            .take(RESULTS_MAX)
            .map(result)
            .collect();
        let messages: Vec<Value> = self
            .messages
            .iter()
            .map(|(id, recipients)| json!({ "id": id.to_string(), "recipients": recipients }))
            .collect();
        json!({
            "id": self.messages.first().map(|(id, _)| id.to_string()),
            "queued": self.queued(),
            "refused": self.refused(),
            "deferred": self.deferred(),
            "messages": messages,
            "results": results,
            "results_complete": few,
        })
    }
}

/// A recipient that may get mail, by his place in the request.
struct Fit {
    at: usize,
    mailbox: Mailbox,
}

/// Takes what is asked.
pub(in crate::http) async fn inject(
    server: &Arc<Server>,
    access: &Access,
    running: Option<&Running>,
    injection: &mut Injection<'_>,
) -> Result<Injected, Refusal> {
    let http = &server.http;
    let count = injection.recipients.len();
    if count == 0 {
        return Err(Refusal::unfit("name at least one recipient").at("/recipients"));
    }
    let most = http.config().recipients_max;
    if count > most {
        let text = format!("a request has at most {most} recipients (`http.recipients_max`)");
        return Err(Refusal::unfit(text).at("/recipients"));
    }
    settle_tenant(http, access, &mut injection.asked)?;
    check_sender(http, access, injection)?;
    if let Some(pool) = injection.asked.pool.as_deref()
        && !server.reception.has_pool(pool)
    {
        let settings = server.delivery.settings();
        let names: Vec<&str> = settings.sources.pool_names().map(|name| &**name).collect();
        return Err(
            Refusal::unfit(format!("there is no pool `{pool}`{}", hint(pool, names.into_iter()))).at("/pool")
        );
    }
    if let Some(reply) = server.reception.refusal_now(0) {
        return Err(Refusal::of_reply(&reply));
    }
    let mut fates = vec![Fate::Refused(String::new()); count];
    let mut fit = Vec::with_capacity(count);
    let now = wall();
    for (at, to) in injection.recipients.iter().enumerate() {
        let path = &injection.reverse_path;
        let tenant = injection.asked.tenant.as_deref();
        match recipient(server, to) {
            Ok(mailbox) => match server.reception.suppressed(tenant, path, &mailbox, now) {
                Some(reply) => fates[at] = Fate::Refused(reply.text.to_string()),
                None => fit.push(Fit { at, mailbox }),
            },
            Err(why) => fates[at] = Fate::Refused(why),
        }
    }
    if fit.is_empty() {
        return Ok(Injected { fates, messages: Vec::new() });
    }
    http.quotas.take(http, injection.asked.tenant.as_deref(), fit.len() as u64).await?;
    let origin = Origin {
        session: None,
        peer: Some(access.peer.address),
        local: access.peer.local,
        helo: access.peer.address.ip().to_string().into(),
        user: access.user(),
        listener: "http".into(),
        protocol: Protocol::Http,
        tls: access.peer.tls.clone(),
    };
    let job = Job { server, injection, origin, running, now: wall(), host: server.reception.host() };
    let messages = job.run(fit, &mut fates).await?;
    Ok(Injected { fates, messages })
}

/// A key's tenant is its mail's, whatever the request says.
fn settle_tenant(http: &Http, access: &Access, asked: &mut Asked) -> Result<(), Refusal> {
    match (access.tenant(), asked.tenant.as_deref()) {
        (Some(own), Some(named)) if own != named => {
            return Err(Refusal::forbidden(format!("this key sends for the tenant {own} only")).at("/tenant"));
        }
        (Some(own), _) => asked.tenant = Some(own.into()),
        (None, _) => {}
    }
    let Some(name) = asked.tenant.as_deref() else { return Ok(()) };
    let tenants = http.tenants();
    let Some(tenant) = tenants.get(name) else {
        // A key whose tenant was removed has no limits any more, so it must not send.
        return match access.tenant() {
            Some(_) if !tenants.is_empty() => Err(Refusal::forbidden(format!("there is no tenant {name}"))),
            _ => Ok(()),
        };
    };
    if tenant.suspended {
        return Err(Refusal::forbidden(format!("the tenant {name} is suspended")));
    }
    match asked.pool.as_deref() {
        None => asked.pool = tenant.pools.first().map(|pool| pool.as_str().into()),
        Some(_) if tenant.pools.is_empty() => {}
        Some(pool) if tenant.pools.iter().any(|own| own.as_str() == pool) => {}
        Some(pool) => {
            let own = tenant.pools.iter().map(|pool| pool.as_str());
            let text = format!("the tenant {name} has no pool `{pool}`{}", hint(pool, own));
            return Err(Refusal::forbidden(text).at("/pool"));
        }
    }
    Ok(())
}

/// Whose name the message is sent in: every address of From, and the reverse-path.
fn check_sender(http: &Http, access: &Access, injection: &Injection<'_>) -> Result<(), Refusal> {
    let tenants = http.tenants();
    let tenant =
        injection.asked.tenant.as_deref().and_then(|name| tenants.get(name).map(|tenant| (name, tenant)));
    let check = |host: &Host, what: &str| {
        access.check_from(host, what)?;
        match tenant {
            Some((name, tenant)) if !tenant.from_domains.is_empty() => {
                let domains = || tenant.from_domains.iter().map(|domain| domain.as_str());
                if covers(domains(), host) {
                    return Ok(());
                }
                let list: Vec<&str> = domains().collect();
                let text =
                    format!("the tenant {name} may send from {} only; {what} is at {host}", list.join(", "));
                Err(Refusal::forbidden(text))
            }
            _ => Ok(()),
        }
    };
    if let Some(mailbox) = injection.reverse_path.mailbox() {
        check(mailbox.host(), "the reverse-path").map_err(|refusal| refusal.at("/envelope/from"))?;
    }
    match &injection.content {
        Written::Parts(parts) => {
            if let Some(mailbox) = parts.from.as_ref().and_then(|from| from.mailbox().ok()) {
                check(mailbox.host(), "From").map_err(|refusal| refusal.at("/from"))?;
            }
        }
        Written::Raw(text) => {
            let fields =
                message::Fields::new(text.as_bytes()).filter(|field| field.is("From") || field.is("Sender"));
            for field in fields {
                // What cannot be read could be anybody's; that matters only where somebody is limited.
                let limited = check(&Host::Literal(std::net::Ipv4Addr::UNSPECIFIED.into()), "From").is_err();
                match compose::read_people(&field.unfolded()) {
                    Ok(people) => {
                        for person in people {
                            let mailbox =
                                person.mailbox().map_err(|error| Refusal::unfit(error).at("/content"))?;
                            check(mailbox.host(), "From").map_err(|refusal| refusal.at("/content"))?;
                        }
                    }
                    Err(error) if limited => {
                        return Err(
                            Refusal::unfit(format!("the From field cannot be read: {error}")).at("/content")
                        );
                    }
                    Err(_) => {}
                }
            }
        }
    }
    Ok(())
}

/// The mailbox of a recipient, or why he gets nothing.
fn recipient(server: &Server, to: &To<'_>) -> Result<Mailbox, String> {
    let mailbox = Mailbox::parse(&to.email).map_err(|error| error.to_string())?;
    if !server.reception.reaches(mailbox.host()) && !server.reception.reads_reports_to(&mailbox) {
        return Err("relaying to this domain is not allowed".into());
    }
    if to.name.len() > 320 || to.name.chars().any(char::is_control) {
        return Err("a name has at most 320 octets and no control characters".into());
    }
    Ok(mailbox)
}

/// A request at work.
struct Job<'j> {
    server: &'j Arc<Server>,
    injection: &'j Injection<'j>,
    origin: Origin,
    running: Option<&'j Running>,
    now: UnixMillis,
    host: Host,
}

/// A message to be handed in: its recipients by their places in the request, and what it holds.
struct Ready {
    id: SpoolId,
    part: u32,
    places: Vec<usize>,
    recipients: Vec<Recipient>,
    content: Content,
    body: BodyType,
    smtputf8: bool,
    merge: Option<Merge>,
}

impl Job<'_> {
    async fn run(&self, mut fit: Vec<Fit>, fates: &mut [Fate]) -> Result<Vec<(SpoolId, usize)>, Refusal> {
        let shared = match &self.injection.content {
            Written::Raw(_) => !self.injection.templated,
            Written::Parts(parts) => !self.injection.templated && !parts.to.is_empty(),
        };
        let per_message = self.server.http.config().recipients_per_message_max;
        if fit.len() > 1 {
            // Who goes the same way stands together, in the queue and on the disk.
            fit.sort_by(|a, b| a.mailbox.host().cmp(b.mailbox.host()));
        }
        let total = fit.len();
        let mut chunks = fit.into_iter().peekable();
        let mut made = Vec::new();
        let mut part = 0;
        if shared {
            let (body, utf8) = self.shared_content()?;
            let seven = is_seven_bit(&body);
            while chunks.peek().is_some() {
                let mut group = Vec::new();
                while chunks.peek().is_some() && group.len() < UNDER_WAY_MAX {
                    let chunk: Vec<Fit> = chunks.by_ref().take(per_message).collect();
                    group.push(self.ready_shared(part, chunk, &body, seven, utf8));
                    part += 1;
                }
                self.hand_in(group, fates, &mut made).await;
            }
            return Ok(made);
        }
        let (content, common) = (self.injection.content.clone(), &self.injection.common);
        if total == 1 && !self.injection.templated {
            let one: Vec<Fit> = chunks.collect();
            let ready = self.ready_single(one)?;
            self.hand_in(vec![ready], fates, &mut made).await;
            return Ok(made);
        }
        let writer = SheetWriter::new(content, common).map_err(|mistake| {
            let before = if mistake.pointer == "/substitutions" { "" } else { "/content" };
            Refusal::unfit(mistake.text).at(format!("{before}{}", mistake.pointer))
        })?;
        if total == 1 {
            let one: Vec<Fit> = chunks.collect();
            let ready = self.ready_filled(&writer, one)?;
            self.hand_in(vec![ready], fates, &mut made).await;
            return Ok(made);
        }
        while chunks.peek().is_some() {
            let mut group = Vec::new();
            while chunks.peek().is_some() && group.len() < UNDER_WAY_MAX {
                let chunk: Vec<Fit> = chunks.by_ref().take(per_message).collect();
                group.push(self.ready_merge(&writer, part, chunk)?);
                part += 1;
            }
            self.hand_in(group, fates, &mut made).await;
        }
        Ok(made)
    }

    fn needs_utf8(&self) -> bool {
        match &self.injection.content {
            Written::Parts(parts) => parts.needs_smtputf8(),
            Written::Raw(text) => {
                let header = message::scan(text.as_bytes()).header_len;
                !text.as_bytes()[..header].is_ascii()
            }
        }
    }

    /// One content for everybody.
    fn shared_content(&self) -> Result<(Bytes, bool), Refusal> {
        let utf8 = self.needs_utf8();
        match &self.injection.content {
            Written::Raw(text) => Ok((Bytes::copy_from_slice(text.as_bytes()), utf8)),
            Written::Parts(parts) => {
                let id = self.server.reception.next_id();
                let stamp = Stamp { id, index: 0, at: self.now };
                let nobody = compose::Person { email: String::new(), name: None };
                Ok((write_parts(parts, &nobody, &self.host, stamp).into(), utf8))
            }
        }
    }

    fn ready_shared(&self, part: u32, chunk: Vec<Fit>, body: &Bytes, seven: bool, utf8: bool) -> Ready {
        let (places, recipients) = parted(chunk);
        Ready {
            id: self.server.reception.next_id(),
            part,
            smtputf8: utf8 || !all_ascii(&recipients),
            places,
            recipients,
            content: Content { prefix: Bytes::new(), body: body.clone() },
            body: if seven { BodyType::SevenBit } else { BodyType::EightBitMime },
            merge: None,
        }
    }

    /// The message of a single recipient, without templates.
    fn ready_single(&self, one: Vec<Fit>) -> Result<Ready, Refusal> {
        let Written::Parts(parts) = &self.injection.content else {
            return Err(Refusal::bad("a written message is the same for all"));
        };
        let (places, recipients) = parted(one);
        let person = self.person(&places, &recipients);
        let id = self.server.reception.next_id();
        let stamp = Stamp { id, index: 0, at: self.now };
        let body = write_parts(parts, &person, &self.host, stamp);
        Ok(Ready {
            id,
            part: 0,
            smtputf8: self.needs_utf8() || !all_ascii(&recipients),
            places,
            recipients,
            content: Content { prefix: Bytes::new(), body: body.into() },
            body: BodyType::SevenBit,
            merge: None,
        })
    }

    fn person(&self, places: &[usize], recipients: &[Recipient]) -> compose::Person {
        let email = recipients.first().map(|one| one.path.as_str().to_owned()).unwrap_or_default();
        let name =
            places.first().and_then(|at| self.injection.recipients.get(*at)).map(|to| to.name.to_string());
        compose::Person { email, name: name.filter(|name| !name.is_empty()) }
    }

    /// The message of a single recipient, of templates.
    fn ready_filled(&self, writer: &SheetWriter, one: Vec<Fit>) -> Result<Ready, Refusal> {
        let (places, recipients) = parted(one);
        let id = self.server.reception.next_id();
        let body = self.first_of(writer, id, &places, &recipients)?;
        let seven = is_seven_bit(&body);
        Ok(Ready {
            id,
            part: 0,
            smtputf8: self.needs_utf8() || !all_ascii(&recipients),
            places,
            recipients,
            content: Content { prefix: Bytes::new(), body: body.into() },
            body: if seven { BodyType::SevenBit } else { BodyType::EightBitMime },
            merge: None,
        })
    }

    /// The message of the first of these recipients.
    fn first_of(
        &self,
        writer: &SheetWriter,
        id: SpoolId,
        places: &[usize],
        recipients: &[Recipient],
    ) -> Result<Vec<u8>, Refusal> {
        let (Some(at), Some(recipient)) = (places.first(), recipients.first()) else {
            return Err(Refusal::bad("there is no recipient"));
        };
        let to = &self.injection.recipients[*at];
        let name = Some(&*to.name).filter(|name| !name.is_empty());
        let stamp = Stamp { id, index: 0, at: self.now };
        writer.write_one(&recipient.path.0, name, &to.own, &self.host, stamp).map_err(|why| {
            let text = format!("the template cannot be filled in for {}: {why}", recipient.path);
            Refusal::unfit(text).at(format!("/recipients/{at}"))
        })
    }

    /// The messages of many recipients, made when they leave. That of the first is made now, so that a template that
    /// fails for everybody is refused here.
    fn ready_merge(&self, writer: &SheetWriter, part: u32, chunk: Vec<Fit>) -> Result<Ready, Refusal> {
        let (places, recipients) = parted(chunk);
        let id = self.server.reception.next_id();
        let first = self.first_of(writer, id, &places, &recipients)?;
        let entries = places.iter().map(|at| {
            let to = &self.injection.recipients[*at];
            (&*to.name, &*to.own)
        });
        let Some(sheet) = writer.sheet(entries) else {
            return Err(Refusal::unfit("the content is too large").at("/content"));
        };
        Ok(Ready {
            id,
            part,
            smtputf8: self.needs_utf8() || !all_ascii(&recipients),
            places,
            recipients,
            content: Content { prefix: Bytes::new(), body: sheet.into() },
            // A value may hold anything.
            body: match self.injection.content {
                Written::Raw(_) => BodyType::EightBitMime,
                Written::Parts(_) => BodyType::SevenBit,
            },
            merge: Some(Merge {
                octets_each: u32::try_from(first.len()).unwrap_or(u32::MAX),
                places: Vec::new(),
            }),
        })
    }

    /// Hands messages in together, so that they share commits, and notes what became of their recipients.
    async fn hand_in(&self, group: Vec<Ready>, fates: &mut [Fate], made: &mut Vec<(SpoolId, usize)>) {
        let mut under_way = Vec::with_capacity(group.len());
        for ready in group {
            let places = ready.places.clone();
            if let Some(id) = self.running.and_then(|running| running.made(ready.part)) {
                note(fates, &places, made, Ok(id));
                continue;
            }
            match self.server.reception.place().await {
                Ok(place) => {
                    let part = ready.part;
                    let submission = self.submission(ready);
                    let reception = self.server.reception.clone();
                    // A task of its own: a client that goes away must not leave a message half taken.
                    let task = tokio::spawn(async move { reception.submit(place, submission).await });
                    under_way.push((part, places, task));
                }
                Err(reply) => note(fates, &places, made, Err(reply)),
            }
        }
        for (part, mut places, task) in under_way {
            let taken: Result<Arc<Message>, Reply> =
                task.await.unwrap_or_else(|_| Err(Reply::new(451, (4, 3, 0), "internal error")));
            if let (Ok(message), Some(running)) = (&taken, self.running) {
                running.make(part, message.id);
            }
            if let Ok(message) = &taken {
                self.in_order_of(message, &mut places);
            }
            note(fates, &places, made, taken.map(|message| message.id));
        }
    }

    /// Puts places in the order that their recipients have in a message: those whose mail was read as a report stand last.
    fn in_order_of(&self, message: &Message, places: &mut Vec<usize>) {
        let recipients = &message.envelope.recipients;
        let email = |at: &usize| &*self.injection.recipients[*at].email;
        if places.iter().zip(recipients).all(|(at, to)| to.path.as_str() == email(at)) {
            return;
        }
        let place = |at: &usize| Some((recipients.iter().position(|to| to.path.as_str() == email(at))?, *at));
        // Who was forwarded has another address: then they stay as they are.
        if let Some(mut sorted) = places.iter().map(place).collect::<Option<Vec<_>>>() {
            sorted.sort_unstable();
            *places = sorted.into_iter().map(|(_, at)| at).collect();
        }
    }

    fn submission(&self, ready: Ready) -> Submission {
        let Ready { id, part, places: _, recipients, mut content, body, smtputf8, merge } = ready;
        let for_recipient = match &recipients[..] {
            [one] => Some(one.path.clone()),
            _ => None,
        };
        let mut envelope = Envelope::new(self.injection.reverse_path.clone(), recipients);
        envelope.body = body;
        envelope.smtputf8 = smtputf8 || !self.injection.reverse_path.as_str().is_ascii();
        if merge.is_none() {
            let mut prefix = Vec::with_capacity(320);
            let field = ReceivedField {
                origin: &self.origin,
                smtputf8: envelope.smtputf8,
                id,
                by: &self.host,
                for_recipient: for_recipient.as_ref(),
                at: self.now,
            };
            field.write(&mut prefix);
            let scan = message::scan(&content.body);
            add_missing(&mut prefix, &scan, id, &self.host, self.now);
            content.prefix = prefix.into();
        }
        let extras = Extras {
            send_at: self.injection.send_at,
            expires_at: self.injection.expires_at,
            metadata: self.injection.metadata.clone(),
            merge,
            request: self.running.map(|running| running.part(part)),
        };
        Submission {
            id,
            at: self.now,
            envelope,
            origin: self.origin.clone(),
            asked: self.injection.asked.clone(),
            extras: Some(extras),
            content,
        }
    }
}

/// What became of the recipients of one message.
fn note(
    fates: &mut [Fate],
    places: &[usize],
    made: &mut Vec<(SpoolId, usize)>,
    taken: Result<SpoolId, Reply>,
) {
    if let Ok(id) = &taken {
        made.push((*id, places.len()));
    }
    for (index, at) in places.iter().enumerate() {
        if let Some(fate) = fates.get_mut(*at) {
            *fate = match &taken {
                Ok(id) => Fate::Queued(*id, index as u32),
                Err(reply) if reply.is_transient() => Fate::Deferred(reply.clone()),
                Err(reply) => Fate::Refused(reply.text.to_string()),
            };
        }
    }
}

fn parted(chunk: Vec<Fit>) -> (Vec<usize>, Vec<Recipient>) {
    chunk.into_iter().map(|fit| (fit.at, Recipient::new(fit.mailbox))).unzip()
}

fn all_ascii(recipients: &[Recipient]) -> bool {
    recipients.iter().all(|recipient| recipient.path.as_str().is_ascii())
}

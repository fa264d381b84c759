//! The bytes: what is encoded decodes, and nothing else does harm.

use crate::codec;
use crate::index::{Index, Taken};
use crate::record::RecordHeader;
use crate::state::{Deferral, SegmentStates, StateRecord};
use crate::table::Ids;
use crate::{Fate, Handle};
use mail::{
    BodyType, Envelope, Extras, KEPT_FIELDS_MAX, KeptField, METADATA_MAX_OCTETS, Mailbox, Merge, Message,
    Notify, Origin, Priority, Protocol, Recipient, Reply, RequestPart, Ret, ReversePath, SessionId, SpoolId,
    Tags, TlsInfo, UnixMillis,
};
use proptest::prelude::*;

/// A message with all that the first version of a head holds.
fn untagged() -> Message {
    let mailbox = |text| Mailbox::parse(text).unwrap();
    let mut second = Recipient::new(mailbox("\"a b\"@[IPv6:2001:db8::1]"));
    second.notify = Notify::SUCCESS.with(Notify::DELAY);
    second.orcpt = Some("rfc822;a+20b@c.test".into());
    let mut envelope = Envelope::new(
        ReversePath::Mailbox(mailbox("δ@b\u{fc}cher.test")),
        vec![Recipient::new(mailbox("c@d.test")), second],
    );
    envelope.body = BodyType::BinaryMime;
    envelope.ret = Some(Ret::Headers);
    envelope.envid = Some("id+3D".into());
    envelope.smtputf8 = true;
    envelope.require_tls = true;
    let origin = Origin {
        session: Some(SessionId(u64::MAX)),
        peer: Some("[fe80::1%3]:25".parse().unwrap()),
        local: Some("192.0.2.1:2525".parse().unwrap()),
        helo: "client.test".into(),
        user: Some("someone".into()),
        listener: "submission".into(),
        protocol: Protocol::Lmtp,
        tls: Some(TlsInfo { protocol: "TLSv1.3".into(), cipher: "TLS_AES_256_GCM_SHA384".into() }),
    };
    Message {
        id: SpoolId(77),
        received_at: UnixMillis(1_790_000_000_000),
        size: 5,
        envelope,
        origin,
        tags: Tags::default(),
        headers: Vec::new(),
        extras: None,
    }
}

/// A message with all that a head holds.
fn full() -> Message {
    let text = |text: &str| Some(text.into());
    let tags = Tags {
        tenant: text("b\u{fc}cher"),
        campaign: text("spring sale"),
        job: text("7"),
        envid: text("a/b"),
        pool: text("p1"),
        priority: Priority::Bulk,
    };
    let headers = vec![
        KeptField { name: "Subject".into(), value: "50% off: \u{1f600}".into() },
        KeptField { name: "X-Empty".into(), value: "".into() },
    ];
    Message { tags, headers, ..untagged() }
}

/// A message with extras of every kind.
fn extra() -> Message {
    let extras = Extras {
        send_at: Some(UnixMillis(1)),
        expires_at: Some(UnixMillis(u64::MAX)),
        metadata: Some("{\"a\":\"\u{e4}\"}".into()),
        merge: Some(Merge { octets_each: u32::MAX, places: vec![7, 300, u16::MAX] }),
        request: Some(RequestPart { key: [1; 16], body: [2; 16], part: 300 }),
    };
    let mut message = Message { extras: Some(Box::new(extras)), ..full() };
    message.origin.protocol = Protocol::Http;
    message
}

#[test]
fn heads_read_back() {
    let plain = Envelope::new(ReversePath::Null, Vec::new());
    let bare = Message {
        id: SpoolId(1),
        received_at: UnixMillis(0),
        size: u64::MAX,
        envelope: plain,
        origin: Origin::default(),
        tags: Tags::default(),
        headers: Vec::new(),
        extras: None,
    };
    let empty = Message { extras: Some(Box::default()), ..untagged() };
    for message in [full(), untagged(), bare, extra(), empty] {
        let mut head = Vec::new();
        codec::encode(&message, &mut head);
        assert_eq!(codec::decode(message.id, &head), Ok(message.clone()));
        for cut in 0..head.len() {
            assert!(codec::decode(message.id, &head[..cut]).is_err());
        }
        head.push(0);
        assert!(codec::decode(message.id, &head).is_err());
        head[0] = 9;
        assert_eq!(codec::decode(message.id, &head), Err(codec::HeadError::Version(9)));
    }
}

/// The first version of a head as it stands on disks: the sum is of what the program of that time wrote.
#[test]
fn version_1_of_a_head_is_read_for_ever() {
    let message = untagged();
    let mut head = Vec::new();
    codec::encode(&message, &mut head);
    assert_eq!(head.pop(), Some(0x20), "no tags and no kept fields take one octet");
    head[0] = 1;
    assert_eq!((head.len(), crc32fast::hash(&head)), (191, 1_446_422_294));
    assert_eq!(codec::decode(message.id, &head), Ok(message));
}

/// The second version, likewise: a change that breaks it needs a third.
#[test]
fn version_2_of_a_head_is_read_for_ever() {
    let mut head = Vec::new();
    codec::encode(&full(), &mut head);
    assert_eq!((head.len(), crc32fast::hash(&head)), (253, 3_082_067_546));
}

#[test]
fn tags_and_kept_fields_that_nobody_writes_are_not_read() {
    let refused = |shape: &dyn Fn(&mut Message)| {
        let mut message = full();
        shape(&mut message);
        let mut head = Vec::new();
        codec::encode(&message, &mut head);
        assert_eq!(codec::decode(message.id, &head), Err(codec::HeadError::Malformed), "{message:?}");
    };
    for tag in ["", " a", "a\nb", &"x".repeat(256)] {
        refused(&|message| message.tags.job = Some(tag.into()));
    }
    refused(&|message| {
        let metadata = Some("x".repeat(METADATA_MAX_OCTETS + 1).into());
        message.extras = Some(Box::new(Extras { metadata, ..Extras::default() }));
    });
    refused(&|message| message.headers[0].value = "x".repeat(257).into());
    refused(&|message| message.headers = vec![message.headers[0].clone(); KEPT_FIELDS_MAX + 1]);
}

#[test]
fn state_records_read_back() {
    let reply = Reply::new(421, (4, 999, 999), "x".repeat(511) + "\u{e4}");
    let deferral = |reply| Deferral { attempts: u32::MAX, due: UnixMillis(u64::MAX), reply, ambiguous: true };
    let records = [
        StateRecord::Final { unit: u32::MAX, first: 65_534, count: 1, fate: Fate::Expired },
        StateRecord::Deferred { unit: 7, recipient: 65_534, deferral: deferral(None) },
        StateRecord::Deferred {
            unit: 7,
            recipient: 3,
            deferral: deferral(Some(Reply::bare(450, "ok".to_owned()))),
        },
        StateRecord::Moved { unit: 9, to: Handle(u64::MAX) },
        StateRecord::Sealed { end: 1 << 40 },
        StateRecord::Gone { unit: 512, end: u32::MAX },
    ];
    for record in records {
        let mut octets = Vec::new();
        record.encode(5, &mut octets);
        assert_eq!(StateRecord::decode(5, &octets), Some((record, octets.len())));
        assert_eq!(StateRecord::decode(6, &octets), None, "another life's record is believed");
    }
    let long = StateRecord::Deferred { unit: 1, recipient: 0, deferral: deferral(Some(reply)) };
    let mut octets = Vec::new();
    long.encode(5, &mut octets);
    let Some((StateRecord::Deferred { deferral, .. }, _)) = StateRecord::decode(5, &octets) else { panic!() };
    assert_eq!(deferral.reply.unwrap().text.len(), 511, "cut at a character");
}

#[test]
fn ids_never_go_back_even_if_the_clock_does() {
    let ids = Ids::default();
    assert_eq!(ids.next_at(1000), SpoolId(1000));
    assert_eq!(ids.next_at(1000), SpoolId(1001));
    assert_eq!(ids.next_at(5), SpoolId(1002));
    ids.raise(5000);
    assert_eq!(ids.next_at(3000), SpoolId(5001));
    ids.raise(10);
    assert_eq!(ids.next_at(6000), SpoolId(6000));
}

#[test]
fn the_index_counts_recipients_and_messages() {
    let mut index = Index::default();
    index.push(512, 10, 1);
    index.push(522, 10, 1);
    index.push(532, 10, 100);
    index.push(542, 10, 1);
    assert_eq!((index.live(), index.live_bytes()), (4, 320));
    assert_eq!(index.take(522, 0), Taken::Last);
    assert_eq!(index.take(522, 0), Taken::Already);
    assert_eq!(index.take(522, 1), Taken::Already, "the neighbour's bit");
    assert_eq!(index.take(523, 0), Taken::Already);
    for recipient in 0..99 {
        assert_eq!(index.take(532, recipient), Taken::More);
    }
    assert!(index.is_pending(532, 99) && !index.is_pending(532, 98) && !index.is_pending(532, 100));
    assert_eq!(index.take(532, 99), Taken::Last);
    assert!(!index.is_live(532) && index.is_live(542));
    assert_eq!(index.live_units_iter().collect::<Vec<_>>(), [512, 542]);
}

#[test]
fn a_million_live_messages_take_less_than_ten_octets_each() {
    let mut index = Index::default();
    (0..1_000_000u32).for_each(|n| index.push(n * 2, 2, 1 + (n % 2) as u16));
    index.shrink();
    assert!(index.memory() < 10_000_000, "{}", index.memory());
}

/// Deterministic noise, and noise that begins like the real thing.
#[test]
fn arbitrary_octets_do_no_harm() {
    let mut seed = 1u64;
    let mut next = || {
        seed = seed.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (seed >> 33) as usize
    };
    let mut head = Vec::new();
    codec::encode(&full(), &mut head);
    let mut states = Vec::new();
    StateRecord::Sealed { end: 3 }.encode(0, &mut states);
    StateRecord::Deferred { unit: 1, recipient: 2, deferral: Deferral::default() }.encode(0, &mut states);
    for _ in 0..20_000 {
        let mut octets = match next() % 3 {
            0 => head.clone(),
            1 => [vec![0; 32], states.clone()].concat(),
            _ => (0..next() % 300).map(|_| next() as u8).collect(),
        };
        for _ in 0..next() % 4 {
            if !octets.is_empty() {
                let at = next() % octets.len();
                octets[at] = next() as u8;
            }
        }
        octets.truncate(next() % (octets.len() + 1));
        crate::decode_arbitrary(&octets);
        let _ = RecordHeader::read(0, &octets);
        let _ = SegmentStates::parse(&octets, 1, 0);
    }
}

proptest! {
    #[test]
    fn numbers_and_texts_read_back(
        received in any::<u64>(),
        helo in "\\PC{0,40}",
        user in prop::option::of("\\PC{0,300}"),
        count in 0..200usize,
        port in any::<u16>(),
    ) {
        let mut message = full();
        message.received_at = UnixMillis(received);
        message.origin.helo = helo.into();
        message.origin.user = user.map(Into::into);
        message.origin.peer = Some(([1, 2, 3, 4], port).into());
        let one = message.envelope.recipients[1].clone();
        message.envelope.recipients = vec![one; count];
        let mut head = Vec::new();
        codec::encode(&message, &mut head);
        prop_assert_eq!(codec::decode(message.id, &head), Ok(message));
    }
}

//! Scripts that do their work, and scripts that do not.

use crate::{LoadError, LuaConfig, Script};
use bytes::Bytes;
use mail::{Envelope, Mailbox, Origin, Recipient, ReversePath, Tags};
use policy::{
    Answer, Facts, Kind, MailObject, Names, OnError, Phase, Policy, Question, Records, Surroundings, Tally,
};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;
use std::time::Duration;

fn config(file: &std::path::Path) -> LuaConfig {
    LuaConfig {
        memory_max: settings::Size::mib(4),
        context_memory_max: settings::Size::mib(32),
        contexts: 1,
        ..LuaConfig::of(file.into())
    }
}

async fn load_with(
    text: &str,
    change: impl Fn(&mut LuaConfig),
) -> Result<(Arc<Script>, Arc<Tally>), LoadError> {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.lua");
    std::fs::write(&file, text).unwrap();
    std::fs::write(folder.path().join("words.lua"), "return { blocked = 'spam.test' }").unwrap();
    let mut config = config(&file);
    change(&mut config);
    let tally = Arc::new(Tally::default());
    let surroundings =
        Surroundings { tally: tally.clone(), names: Some(Arc::new(Zone)), ..Surroundings::default() };
    Ok((Script::load(&config, 2, &surroundings).await?, tally))
}

async fn load(text: &str) -> (Arc<Script>, Arc<Tally>) {
    load_with(text, |_| ()).await.unwrap_or_else(|error| panic!("{error}"))
}

fn facts() -> Arc<Facts> {
    let origin = Origin {
        session: Some(mail::SessionId(7)),
        peer: Some("192.0.2.1:4711".parse().unwrap()),
        helo: "client.test".into(),
        listener: "smtp".into(),
        ..Origin::default()
    };
    Arc::new(Facts { origin, hostname: "mx.test".into(), trusted: true })
}

fn mailbox(text: &str) -> Mailbox {
    Mailbox::parse(text).unwrap()
}

fn envelope() -> Envelope {
    let recipients = ["a@one.test", "b@two.test"].map(|text| Recipient::new(mailbox(text)));
    Envelope::new(ReversePath::Mailbox(mailbox("me@from.test")), recipients.to_vec())
}

fn object() -> MailObject {
    let content = "Subject: hello\r\nX-Spam: yes\r\nX-Spam: no\r\n\r\nthe body\r\n";
    MailObject::new(envelope(), Tags::default(), Bytes::from(content))
}

/// A zone of one name, and one that does not answer.
struct Zone;

impl Names for Zone {
    fn records<'a>(&'a self, kind: Kind, name: &'a str) -> Records<'a> {
        Box::pin(async move {
            tokio::task::yield_now().await;
            match (kind, name) {
                (Kind::A, "one.test") => Ok(vec!["192.0.2.1".into()]),
                (Kind::Mx, "one.test") => Ok(vec!["10 mx.one.test".into()]),
                (_, "broken.test") => Err("timed out".into()),
                _ => Ok(Vec::new()),
            }
        })
    }
}

#[tokio::test]
async fn scripts_ask_for_names_and_share_a_store() {
    let body = "
        local found = tuma.dns.a('one.test')
        assert(#found == 1 and found[1] == '192.0.2.1' and tuma.dns.mx('one.test')[1] == '10 mx.one.test')
        assert(#tuma.dns.txt('one.test') == 0)
        local none, why = tuma.dns.a('broken.test')
        assert(none == nil and why == 'timed out')
        assert(tuma.store.get('k') == nil and tuma.store.set('k', 'v', 60) and tuma.store.get('k') == 'v')
        assert(tuma.store.add('n', 1, 60) == 1 and tuma.store.add('n', 2, 60) == 3)
        return tuma.accept()";
    assert_eq!(rcpt_of(body).await, Answer::Accept);
    assert_eq!(said(&rcpt_of("for _, a in ipairs(tuma.dns.a('broken.test')) do end").await), FAILED);
    assert_eq!(said(&rcpt_of("tuma.store.set('k', 'v', 1e9)").await), FAILED);
    assert_eq!(said(&rcpt_of("tuma.store.set(('k'):rep(5000), 'v', 1)").await), FAILED);
}

/// What a script answers to RCPT.
async fn rcpt(script: &Script) -> Answer {
    let (envelope, recipient) = (envelope(), Recipient::new(mailbox("x@there.test")));
    let facts = facts();
    script.open().ask(&facts, Question::Rcpt { envelope: &envelope, recipient: &recipient }).await
}

async fn rcpt_of(body: &str) -> Answer {
    rcpt(&load(&format!("tuma.on('rcpt', function(session, rcpt) {body} end)")).await.0).await
}

/// What a script makes of a message.
async fn message_of(body: &str) -> (Answer, MailObject) {
    let (script, _) = load(&format!("tuma.on('message', function(session, message) {body} end)")).await;
    let mut object = object();
    let facts = facts();
    let answer = script.open().ask(&facts, Question::Message(&mut object)).await;
    (answer, object)
}

fn refused(text: &str) -> String {
    text.to_owned()
}

fn said(answer: &Answer) -> String {
    match answer {
        Answer::Refuse(reply) => reply.to_string(),
        Answer::Disconnect(reply) => format!("disconnect {reply}"),
        Answer::Discard(why) => format!("discard {why}"),
        other => other.word().to_owned(),
    }
}

const FAILED: &str = "451 4.3.0 a local rule could not be applied, try again later";

#[tokio::test]
async fn answers_are_made_and_returned() {
    for (body, expected) in [
        ("", "continue"),
        ("return nil", "continue"),
        ("string.rep('', 1e15)", "continue"),
        ("return tuma.accept()", "accept"),
        ("return tuma.reject()", "550 5.7.1 refused by a local rule"),
        ("return tuma.reject('no')", "550 5.7.1 no"),
        ("return tuma.reject(554, 'no')", "554 5.7.1 no"),
        ("return tuma.reject(550, '5.1.1', 'no such user')", "550 5.1.1 no such user"),
        ("return tuma.defer('later\\r\\n250 ok')", "451 4.7.1 later; 250 ok"),
        ("return tuma.defer(452, '4.2.2', 'full')", "452 4.2.2 full"),
        ("return tuma.disconnect()", "disconnect 421 4.7.1 goodbye"),
        ("return tuma.disconnect(554, 'bye')", "disconnect 554 5.7.1 bye"),
        ("return tuma.discard('spam')", "discard spam"),
        (
            "return tuma.reject(rcpt.address .. rcpt.local_part .. rcpt.domain)",
            "550 5.7.1 x@there.testxthere.test",
        ),
        (
            "return tuma.reject(session.peer .. ' ' .. session.helo .. ' ' .. session.listener)",
            "550 5.7.1 192.0.2.1 client.test smtp",
        ),
    ] {
        assert_eq!(said(&rcpt_of(body).await), refused(expected), "{body}");
    }
}

#[tokio::test]
async fn what_is_no_answer_is_never_a_yes() {
    for body in [
        // Answers that are none, or are forgotten.
        "return true",
        "return 250",
        "return 'accept'",
        "return {}",
        "return tuma.reject",
        "return session",
        "tuma.reject('forgotten')",
        "return tuma.reject(250, 'ok')",
        "return tuma.reject(451, 'other class')",
        "return tuma.defer(550, 'other class')",
        "return tuma.reject(550, '4.7.1', 'other class')",
        "return tuma.reject(550, 'x', 'y', 'z')",
        "return tuma.reject({})",
        // Mistakes.
        "error('x')",
        "error()",
        "error({})",
        "error(nil)",
        "local x = nil; return x.y",
        "if rcpt.adress == 'x' then return tuma.accept() end",
        "session.nonsense = 1",
        "rcpt.address = 1",
        "nosuchfunction()",
        "return tuma.reject(session)",
    ] {
        assert_eq!(said(&rcpt_of(body).await), FAILED, "{body}");
    }
}

#[tokio::test]
async fn a_script_that_goes_on_without_end_is_ended() {
    for body in [
        "while true do end",
        "while true do pcall(function() while true do end end) end",
        "while true do pcall(error, 'x') end",
        "local function f() return f() end; return f()",
        "local function f() return pcall(f) end; while true do f() end",
        "while true do xpcall(function() while true do end end, function() while true do end end) end",
        "local t = {} for i = 1, 1000 do t[i] = -i end table.sort(t, function() while true do pcall(function() while true do end end) end end)",
        "setmetatable({}, { __index = function(t, k) while true do end end }).x = nil; local y = setmetatable({}, { __index = function() while true do end end }).x",
        "local x <close> = setmetatable({}, { __close = function() while true do end end }) while true do end",
        "local s = ('a'):rep(30000); return s:find('.-.-.-.-b')",
        "local s = ('a'):rep(3000); while true do s:find('.-.-b') end",
        "while true do string.rep('x', 1000000) end",
        "table.move({}, 1, 1e15, 2, {})",
        "table.concat(setmetatable({}, { __index = function() return '' end }), '', 1, 1e12)",
        "local t = setmetatable({}, { __len = function() return 1e15 end }); table.remove(t, 1)",
        "return (('x'):rep(1000000):gsub('x', ('y'):rep(1000)))",
        "for _ in ('x'):rep(100000):gmatch('()') do while true do end end",
        // Memory.
        "local t = {} while true do t[#t + 1] = ('x'):rep(1000) .. #t end",
        "local s = 'x' while true do s = s .. s end",
        "string.rep('x', 1e10)",
        "local t = {} for i = 1, 1e9 do t[i] = { i } end",
        "local function f(...) return f(..., ...) end f(1, 2)",
        "local function f() return 1 + f() end f()",
    ] {
        let (script, tally) =
            load(&format!("tuma.on('rcpt', function(session, rcpt) {body} end)\ntuma.on('mail', function() return tuma.accept() end)")).await;
        assert_eq!(said(&rcpt(&script).await), FAILED, "{body}");
        assert_eq!(tally.failed.load(Relaxed), 1);
        // The context is as good as before.
        let (facts, envelope) = (facts(), envelope());
        let next = script.open().ask(&facts, Question::Mail { envelope: &envelope, size: None }).await;
        assert_eq!(next, Answer::Accept, "{body}");
    }
}

#[tokio::test]
async fn others_are_served_while_one_runs_without_end() {
    let (script, _) = load_with(
        "tuma.on('rcpt', function() while true do end end)
         tuma.on('mail', function(session, mail) return tuma.accept() end)",
        |config| {
            config.instructions_max = 1_000_000_000;
            config.time_max = Duration::from_secs(1);
        },
    )
    .await
    .unwrap();
    // One thread, one context: the loop has begun when the others ask.
    let looping = rcpt(&script);
    let (facts, envelope) = (facts(), envelope());
    let others = async {
        for _ in 0..20 {
            tokio::task::yield_now().await;
            let answer = script.open().ask(&facts, Question::Mail { envelope: &envelope, size: None }).await;
            assert_eq!(answer, Answer::Accept);
        }
    };
    tokio::select! {
        biased;
        answer = looping => panic!("it ended first: {answer:?}"),
        () = others => {}
    }
}

#[tokio::test(start_paused = true)]
async fn a_script_that_waits_too_long_is_ended() {
    let (script, _) = load("tuma.on('rcpt', function() tuma.sleep(29) return tuma.accept() end)").await;
    assert_eq!(rcpt(&script).await, Answer::Accept);
    for body in
        ["tuma.sleep(31)", "while true do tuma.sleep(1) end", "while true do pcall(tuma.sleep, 1) end"]
    {
        assert_eq!(said(&rcpt_of(body).await), FAILED, "{body}");
    }
}

#[tokio::test]
async fn nothing_outside_can_be_reached() {
    for name in [
        "io",
        "debug",
        "package",
        "dofile",
        "loadfile",
        "load",
        "collectgarbage",
        "coroutine",
        "os.execute",
        "os.exit",
        "os.getenv",
        "os.remove",
        "os.rename",
        "os.tmpname",
        "string.dump",
        "loadstring",
    ] {
        let mut parts = name.split('.');
        let first = parts.next().unwrap();
        let path = parts.fold(format!("_G['{first}']"), |all, part| format!("{all}['{part}']"));
        let body = format!("return tuma.reject(type({path}))");
        assert_eq!(said(&rcpt_of(&body).await), "550 5.7.1 nil", "{name}");
    }
    assert_eq!(said(&rcpt_of("setmetatable({}, { __gc = function() end })").await), FAILED);
    for name in ["../words", "/etc/passwd", "", "a..b", "words\0", "no such"] {
        let error =
            load_with(&format!("require({name:?})"), |_| ()).await.map(|_| ()).unwrap_err().to_string();
        assert!(error.contains("is no name of a module"), "{name:?}: {error}");
    }
}

#[tokio::test]
async fn scripts_with_mistakes_are_not_taken() {
    for (text, expected) in [
        ("local x = \n", "policy.lua:2: unexpected symbol near <eof>"),
        ("\nerror('no')", "policy.lua:2: no"),
        (
            "tuma.on('rcp', function() end)",
            "policy.lua:1: tuma.on: there is no phase `rcp`; did you mean `rcpt`?",
        ),
        ("tuma.on('rcpt')", "policy.lua:1: bad argument #2"),
        ("while true do end", "policy.lua:1: `instructions_max` is spent"),
        ("require 'absent'", "absent.lua: No such file or directory"),
        ("\u{1b}Lua", "attempt to load a binary chunk"),
    ] {
        let error = load_with(text, |_| ()).await.map(|_| ()).unwrap_err().to_string();
        let near = error.replace("`time_max`", "`instructions_max`");
        assert!(near.contains(expected), "{text:?}: {error}");
    }
    let nothing = Surroundings::default();
    let error =
        Script::load(&config("/absent/policy.lua".as_ref()), 1, &nothing).await.map(|_| ()).unwrap_err();
    assert!(error.to_string().contains("/absent/policy.lua: No such file"), "{error}");
}

#[tokio::test]
async fn modules_and_notes_and_phases() {
    let (script, tally) = load(
        "local words = require 'words'
         assert(require 'words' == words)
         tuma.on('hello', function(session, hello) session.notes.name = hello.name .. tostring(hello.extended) end)
         tuma.on('rcpt', function(session, rcpt) return tuma.reject(session.notes.name .. words.blocked) end)
         tuma.on('rcpt', function(session, rcpt) error('not reached') end)",
    )
    .await;
    assert_eq!(script.phases(), [Phase::Hello, Phase::Rcpt].into_iter().collect());
    let mut talk = script.open();
    let (facts, envelope) = (facts(), envelope());
    let recipient = Recipient::new(mailbox("x@there.test"));
    let question = Question::Hello { name: "client", extended: true };
    assert_eq!(talk.ask(&facts, question).await, Answer::Continue);
    let question = Question::Rcpt { envelope: &envelope, recipient: &recipient };
    assert_eq!(said(&talk.ask(&facts, question).await), "550 5.7.1 clienttruespam.test");
    // Another session has notes of its own: none.
    assert_eq!(said(&rcpt(&script).await), FAILED);
    assert_eq!((tally.asked.load(Relaxed), tally.failed.load(Relaxed)), (3, 1));
}

#[tokio::test]
async fn messages_are_read_and_changed() {
    let (answer, object) = message_of(
        "assert(message.sender == 'me@from.test' and #message.recipients == 2 and message.recipients[1] == 'a@one.test')
         assert(message:header('subject') == 'hello' and message:header('absent') == nil)
         assert(#message:headers('x-spam') == 2 and message.body == 'the body\\r\\n')
         assert(message:fields()[1].name == 'Subject' and message:is_for('a@ONE.test') and not message:is_for('A@one.test'))
         message:remove_header('x-spam')
         message:add_header('X-Checked', 'yes')
         message:prepend_header('X-First', '1')
         message:set_header('Subject', 'changed')
         message.body = 'another\\nbody'
         message.sender = ''
         message.tenant = 'acme'
         message.pool = 'p1'
         message.priority = 'bulk'
         assert(message.tenant == 'acme' and message.job == nil)
         assert(message:remove_recipient('b@two.test') and not message:remove_recipient('c@two.test'))
         message:add_recipient('c@three.test')",
    )
    .await;
    assert_eq!(answer, Answer::Continue);
    assert_eq!(
        object.content(),
        "X-First: 1\r\nSubject: changed\r\nX-Checked: yes\r\n\r\nanother\r\nbody\r\n"
    );
    assert_eq!(object.envelope.reverse_path, ReversePath::Null);
    let recipients: Vec<&str> = object.envelope.recipients.iter().map(|r| r.path.as_str()).collect();
    assert_eq!(recipients, ["a@one.test", "c@three.test"]);
    assert_eq!((object.tags.tenant.as_deref(), object.tags.priority), (Some("acme"), mail::Priority::Bulk));
    for body in [
        "message.sender = 'no mailbox'",
        "message:add_recipient('x')",
        "message:add_header('X Y', 'z')",
        "message:add_header('X', 'a\\rb')",
        "message.tenant = 'a\\nb'",
        "message.priority = 'urgent'",
        "message.sneder = 'x'",
        "message:add_headr('x', 'y')",
        "return message",
    ] {
        assert_eq!(said(&message_of(body).await.0), FAILED, "{body}");
    }
}

#[tokio::test]
async fn half_an_edit_is_never_kept() {
    let text = "tuma.on('message', function(session, message) message:set_header('Subject', 'half') message.sender = '' error('x') end)";
    let (script, _) = load_with(text, |config| config.on_error = OnError::Continue).await.unwrap();
    let mut object = object();
    let facts = facts();
    let answer = script.open().ask(&facts, Question::Message(&mut object)).await;
    assert_eq!(answer, Answer::Continue);
    assert!(!object.is_edited() && object.envelope == envelope());
    let (script, _) = load_with(text, |config| config.on_error = OnError::Reject).await.unwrap();
    let answer = script.open().ask(&facts, Question::Message(&mut object)).await;
    assert_eq!(said(&answer), "554 5.3.0 a local rule could not be applied");
}

#[tokio::test]
async fn a_message_kept_by_a_script_is_of_no_use_later() {
    let (script, _) = load(
        "local kept
         tuma.on('message', function(session, message)
           if kept then kept:add_header('X', 'y') end
           kept = message
         end)",
    )
    .await;
    let facts = facts();
    let mut first = object();
    assert_eq!(script.open().ask(&facts, Question::Message(&mut first)).await, Answer::Continue);
    let mut second = object();
    assert_eq!(said(&script.open().ask(&facts, Question::Message(&mut second)).await), FAILED);
}

#[tokio::test]
async fn a_script_that_is_left_in_the_middle_leaves_nothing() {
    let (script, _) = load(
        "tuma.on('rcpt', function() tuma.sleep(1000) end)
         tuma.on('mail', function() return tuma.accept() end)",
    )
    .await;
    for _ in 0..200 {
        tokio::select! {
            biased;
            answer = rcpt(&script) => panic!("{answer:?}"),
            () = tokio::task::yield_now() => {}
        }
    }
    let (facts, envelope) = (facts(), envelope());
    let answer = script.open().ask(&facts, Question::Mail { envelope: &envelope, size: None }).await;
    assert_eq!(answer, Answer::Accept);
}

/// The bounded forms give what Lua's own give.
#[test]
fn patterns_are_those_of_lua() {
    let (ours, theirs) = (mlua::Lua::new(), mlua::Lua::new());
    crate::bounded::install(&ours, &Arc::default()).unwrap();
    let texts = [
        "",
        "a",
        "hello world",
        "key = value",
        "  trim me  ",
        "f(a(b)c)d",
        "THE (quick) fox",
        "2026-11-25",
        "a.b.c",
        "%d+",
        "x\\0y",
        "aaa",
        "-[]^$",
    ];
    let patterns = [
        "",
        "a",
        "l+",
        "l*",
        "l-o",
        "^h",
        "d$",
        "^$",
        ".",
        "%a+",
        "%s*(.-)%s*$",
        "^%s*(.-)%s*$",
        "(%w+) = (%w+)",
        "%b()",
        "%f[%a]%a+",
        "()l()",
        "(.)%1",
        "[a-c]",
        "[^a-c]+",
        "[%w_.-]+",
        "[]]",
        "[^]]",
        "%d%d%d%d%-(%d%d)",
        "%.",
        "%%",
        "(a*(.)%w(%s*))",
        "a?b?",
        "[%a]-e",
        "(",
        ")",
        "%",
        "[a",
        "[a%",
        "%b",
        "%f",
        "%1",
        "(()",
        "[a-]",
        "[-a]",
        "^^",
        "$$",
        "a-$",
        "%z",
        "(h)(e)(l)",
    ];
    let shown = "local ok = {...} for i = 1, select('#', ...) do ok[i] = tostring(ok[i]) end return table.concat(ok, '|', 1, select('#', ...))";
    let calls = [
        "return string.find(text, pattern)",
        "return string.find(text, pattern, 3)",
        "return string.find(text, pattern, -3)",
        "return string.find(text, pattern, 1, true)",
        "return string.match(text, pattern)",
        "return text:match(pattern, 2)",
        "return string.gsub(text, pattern, '<%0>')",
        "return string.gsub(text, pattern, '<%1>', 2)",
        "return string.gsub(text, pattern, string.upper)",
        "return string.gsub(text, pattern, { a = 1, hello = 'bye', l = false })",
        "return string.gsub(text, pattern, '%')",
        "local all = {} for a, b in string.gmatch(text, pattern) do all[#all + 1] = tostring(a) .. ',' .. tostring(b) end return table.concat(all, ';')",
    ];
    let run = |lua: &mlua::Lua, call: &str, text: &str, pattern: &str| {
        let source = format!(
            "local text, pattern = ... local function show(...) {shown} end local function call() {call} end local r = table.pack(pcall(call)) if not r[1] then return 'error' end return show(table.unpack(r, 1, r.n))"
        );
        lua.load(source).call::<String>((text, pattern)).unwrap_or_else(|error| panic!("{error}"))
    };
    for text in texts {
        for pattern in patterns {
            for call in calls {
                assert_eq!(
                    run(&ours, call, text, pattern),
                    run(&theirs, call, text, pattern),
                    "{call}: {text:?} {pattern:?}"
                );
            }
        }
    }
}

#[tokio::test]
async fn scripts_bring_tests_of_their_own() {
    let folder = tempfile::tempdir().unwrap();
    let file = folder.path().join("policy.lua");
    let text = "tuma.on('connect', function(session) session.notes.peer = session.peer end)
tuma.on('rcpt', function(session, rcpt) return tuma.reject(550, '5.1.1', session.notes.peer .. rcpt.address .. rcpt.accepted) end)
tuma.on('message', function(session, message) message:add_header('X', session.helo) end)
tuma.test('good', function(client)
  assert(client:connect { peer = '192.0.2.9' } == nil)
  client:hello('c.test')
  client:mail('')
  local reply = client:rcpt('a@b.test')
  assert(reply.answer == 'reject' and reply.code == 550 and reply.status == '5.1.1', reply.text)
  assert(reply.text == '192.0.2.9a@b.test0', reply.text)
  local answer, message = client:message('Subject: s\\r\\n\\r\\nbody')
  assert(answer == nil and message:header('X') == 'c.test')
end)
tuma.test('bad', function(client)
  assert(client:mail('a@b.test') ~= nil, 'nobody objects')
end)
tuma.test('endless', function(client) while true do client:connect() end end)
";
    std::fs::write(&file, text).unwrap();
    let tested = crate::test(&LuaConfig { timeout: Duration::from_secs(1), ..config(&file) }).await.unwrap();
    let shown: Vec<(&str, bool)> =
        tested.iter().map(|test| (test.name.as_str(), test.failure.is_none())).collect();
    assert_eq!(shown, [("good", true), ("bad", false), ("endless", false)], "{tested:?}");
    let failure = tested[1].failure.as_deref().unwrap();
    assert!(failure.contains("policy.lua:15: ") || failure.contains("nobody objects"), "{failure}");
}

#[tokio::test]
async fn editors_are_told_of_everything() {
    let (script, _) = load(
        "local names = {} for name in pairs(tuma) do names[#names + 1] = name end table.sort(names)
        tuma.on('rcpt', function() return tuma.reject(table.concat(names, ' ')) end)",
    )
    .await;
    let Answer::Refuse(reply) = rcpt(&script).await else { panic!("it answers") };
    for name in reply.text.split(' ') {
        let told = [format!("function tuma.{name}("), format!("tuma.{name} = {{}}")];
        assert!(told.iter().any(|told| crate::ANNOTATIONS.contains(told)), "{name}");
    }
}

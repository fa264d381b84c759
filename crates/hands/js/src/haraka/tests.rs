//! Plugins as they are written for Haraka, the bad ones first.

use super::*;
use mail::{Envelope, Mailbox, Origin, Recipient, ReversePath, Tags};
use policy::{Answer, Conversation, Facts, Kind, MailObject, Names, Policy, Question, Records};
use std::net::SocketAddr;
use std::time::{Duration, Instant};

/// One name has an address, another an answer that never comes.
struct Zone;

impl Names for Zone {
    fn records<'a>(&'a self, kind: Kind, name: &'a str) -> Records<'a> {
        Box::pin(async move {
            match (kind, name) {
                (Kind::A, "here.example") => Ok(vec!["192.0.2.1".into()]),
                (Kind::Mx, "here.example") => Ok(vec!["10 mx.here.example.".into()]),
                (Kind::Ptr, "192.0.2.7") => Ok(vec!["client.example.".into()]),
                (_, "never.example") => std::future::pending().await,
                _ => Ok(Vec::new()),
            }
        })
    }
}

struct House {
    folder: tempfile::TempDir,
    config: HarakaConfig,
}

impl House {
    /// A folder with these plugins, in this order, and these files of `config/`.
    fn new(plugins: &[(&str, &str)], files: &[(&str, &str)]) -> Self {
        let folder = tempfile::tempdir().unwrap();
        for name in ["config", "plugins"] {
            std::fs::create_dir(folder.path().join(name)).unwrap();
        }
        let names: Vec<&str> = plugins.iter().map(|(name, _)| *name).collect();
        std::fs::write(folder.path().join("config/plugins"), names.join("\n")).unwrap();
        for (name, source) in plugins {
            std::fs::write(folder.path().join(format!("plugins/{name}.js")), source).unwrap();
        }
        for (name, text) in files {
            let file = folder.path().join(name);
            std::fs::create_dir_all(file.parent().unwrap()).unwrap();
            std::fs::write(file, text).unwrap();
        }
        let config = HarakaConfig {
            // A busy machine may keep an innocent plugin from running for longer than the usual limit.
            time_max: Duration::from_secs(1),
            timeout: Duration::from_secs(5),
            rcpt_needs_ok: false,
            contexts: 1,
            ..HarakaConfig::of(folder.path().to_owned())
        };
        Self { folder, config }
    }

    async fn load(&self) -> Result<Arc<Script>, LoadError> {
        let surroundings = Surroundings { names: Some(Arc::new(Zone)), ..Surroundings::default() };
        Plugins::load(&self.config, 1, &surroundings).await
    }

    async fn client(&self) -> Client {
        let plugins = self.load().await.unwrap_or_else(|error| panic!("{error}"));
        Client::new(&plugins)
    }
}

/// A session.
struct Client {
    talk: Box<dyn Conversation>,
    facts: Arc<Facts>,
    envelope: Envelope,
}

fn text(answer: &Answer) -> String {
    match answer {
        Answer::Refuse(reply) => reply.to_string(),
        Answer::Disconnect(reply) => format!("bye {reply}"),
        Answer::Discard(why) => format!("discard {why}"),
        other => other.word().into(),
    }
}

const FAILED: &str = "451 4.3.0 a local rule could not be applied, try again later";

impl Client {
    fn new(plugins: &Arc<Script>) -> Self {
        let origin = Origin {
            peer: Some(SocketAddr::from(([192, 0, 2, 7], 40_000))),
            local: Some(SocketAddr::from(([192, 0, 2, 1], 25))),
            ..Origin::default()
        };
        let facts = Arc::new(Facts { hostname: "mx.test".into(), origin, ..Facts::default() });
        let envelope = Envelope::new(ReversePath::Mailbox(Mailbox::parse("from@a.example").unwrap()), vec![]);
        Self { talk: plugins.open(), facts, envelope }
    }

    async fn ask(&mut self, question: Question<'_>) -> String {
        text(&self.talk.ask(&self.facts, question).await)
    }

    async fn connect(&mut self) -> String {
        self.ask(Question::Connect).await
    }

    async fn hello(&mut self, name: &str) -> String {
        self.ask(Question::Hello { name, extended: true }).await
    }

    async fn mail(&mut self) -> String {
        self.envelope.recipients.clear();
        let envelope = self.envelope.clone();
        self.ask(Question::Mail { envelope: &envelope, size: Some(1_000) }).await
    }

    async fn rcpt(&mut self, address: &str) -> String {
        let recipient = Recipient::new(Mailbox::parse(address).unwrap());
        let envelope = self.envelope.clone();
        let said = self.ask(Question::Rcpt { envelope: &envelope, recipient: &recipient }).await;
        if said == "continue" {
            self.envelope.recipients.push(recipient);
        }
        said
    }

    /// What is answered to a message, and what became of it.
    async fn message(&mut self, content: &str) -> (String, MailObject) {
        let mut object =
            MailObject::new(self.envelope.clone(), Tags::default(), content.as_bytes().to_vec().into());
        let said = self.ask(Question::Message(&mut object)).await;
        self.talk.transaction_ended();
        (said, object)
    }
}

/// What a plugin answers at RCPT.
async fn check(plugin: &str, expected: &str) {
    let house = House::new(&[("p", plugin)], &[("config/plugin_timeout", "0.2")]);
    let mut client = house.client().await;
    client.mail().await;
    assert_eq!(client.rcpt("a@b.example").await, expected, "{plugin}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_answers_is_said() {
    for (body, expected) in [
        ("next()", "continue"),
        ("next(OK)", "continue"),
        ("next(DENY, 'no such user')", "550 5.7.1 no such user"),
        ("next(DENY, '5.1.1 no such user')", "550 5.1.1 no such user"),
        ("next(DENYSOFT, ['later', 'please'])", "450 4.7.1 later; please"),
        ("next(DENY)", "550 5.7.1 recipient denied"),
        ("next(DENYDISCONNECT, 'go')", "bye 550 5.7.1 go"),
        ("next(DENYSOFTDISCONNECT, 'go')", "bye 450 4.7.1 go"),
        ("next(DENY, { code: 552, msg: 'full', cls: 5, sub: 2, det: 2 })", "552 5.2.2 full"),
        ("setTimeout(() => next(DENY, 'after a while'), 1)", "550 5.7.1 after a while"),
        ("next(DENY, 'first'); next(OK)", "550 5.7.1 first"),
        ("next(DENY, 'x\\r\\n250 OK')", "550 5.7.1 x; 250 OK"),
    ] {
        check(&format!("exports.hook_rcpt = function (next) {{ {body} }}"), expected).await;
    }
    let promised = "exports.hook_rcpt = async () => { await Promise.resolve(); return [DENY, 'promised'] }";
    check(promised, "550 5.7.1 promised").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_plugin_does_wrong_is_never_a_yes() {
    for body in [
        "throw new Error('thrown')",
        "throw 'a text'",
        "null.x",
        "/* says nothing */",
        "next('yes')",
        "next(1)",
        "setTimeout(() => { throw new Error('later') }, 1)",
        "require('dns').resolve4('never.example', () => next(OK))",
        "require('dns').resolve4('here.example', () => { throw new Error('in a callback') })",
        "return Promise.reject(new Error('rejected'))",
        "require('child_process').exec('id', () => next(OK))",
        "require('fs').readFileSync('/etc/passwd'); next(OK)",
        "require('fs').readFileSync('../../../../etc/passwd'); next(OK)",
        "require('fs').writeFileSync('config/plugins', ''); next(OK)",
        "require('../../../../../etc/hostname'); next(OK)",
        "process.exit(0)",
    ] {
        check(&format!("exports.hook_rcpt = function (next) {{ {body} }}"), FAILED).await;
    }
}

/// Attack rows 58 to 60: a loop, a pattern and a bomb end by their limits, and the next session is served.
#[tokio::test(flavor = "multi_thread")]
async fn a_runaway_plugin_ends_and_others_are_served() {
    for body in [
        "for (;;) {}",
        "/^(a+)+$/.test('a'.repeat(40) + '!')",
        "const all = []; for (;;) all.push(new Array(1e5).fill(1))",
        "let t = 'x'; for (;;) t += t",
        "Buffer.alloc(200 * 1024 * 1024); for (;;) Buffer.alloc(100 * 1024 * 1024)",
        "const loop = () => Promise.resolve().then(loop); loop()",
        "const nest = () => nest() + 1; nest()",
        "for (;;) require('crypto').createHash('sha256').update('x'.repeat(1e6)).digest()",
        "try { for (;;) {} } finally { next(OK) }",
        "try { for (;;) {} } catch { next(OK) }",
    ] {
        let source = format!(
            "exports.hook_rcpt = function (next, c, p) {{ if (p[0].user === 'good') return next(OK); {body} }}"
        );
        let mut house = House::new(&[("p", &source)], &[("config/plugin_timeout", "0.3")]);
        house.config.time_max = Duration::from_millis(300);
        house.config.memory_max = settings::Size::mib(64);
        let plugins = house.load().await.unwrap_or_else(|error| panic!("{error}"));
        let mut bad = Client::new(&plugins);
        bad.mail().await;
        let began = Instant::now();
        assert_eq!(bad.rcpt("bad@b.example").await, FAILED, "{body}");
        assert!(began.elapsed() < house.config.timeout * 2, "{body}");
        let mut good = Client::new(&plugins);
        good.mail().await;
        assert_eq!(good.rcpt("good@b.example").await, "continue", "{body}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn plugins_are_asked_in_their_order() {
    let says = |name: &str, priority: &str| {
        format!(
            "exports.register = function () {{ this.register_hook('mail', 'm'{priority}) }}
             exports.m = function (next, connection) {{
               (connection.notes.order ??= []).push('{name}'); next()
             }}"
        )
    };
    let last = "exports.hook_rcpt = (next, c) => next(DENY, c.notes.order.join(' '))
        exports.hook_deny = (next, c, p) => next(p[1] === 'b c a' ? CONT : OK)";
    let (a, b, c) = (says("a", ", 10"), says("b", ", -10"), says("c", ""));
    let house = House::new(&[("a", &a), ("b", &b), ("c", &c), ("last", last)], &[]);
    let mut client = house.client().await;
    client.mail().await;
    assert_eq!(client.rcpt("a@b.example").await, "550 5.7.1 b c a");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_denial_can_be_overruled_and_a_plugin_skipped() {
    let first = "exports.hook_mail = (next, c) => { c.transaction.notes.skip_plugins.push('never'); next() }
        exports.hook_deny = (next, c, p) => next(p[5] === 'rcpt' && p[2] === 'no' ? OK : CONT)";
    let no = "exports.hook_rcpt = (next) => next(DENY, 'no')";
    let never = "exports.hook_rcpt = (next) => next(DENY, 'never')";
    let house = House::new(&[("first", first), ("no", no), ("never", never)], &[]);
    let mut client = house.client().await;
    client.mail().await;
    assert_eq!(client.rcpt("a@b.example").await, "continue");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_recipient_needs_an_ok_where_haraka_wants_one() {
    let plugin = "exports.hook_rcpt = (next, c, [to]) => next(to.host === 'ours.example' ? OK : CONT)";
    let mut house = House::new(&[("p", plugin)], &[]);
    house.config.rcpt_needs_ok = true;
    let mut client = house.client().await;
    client.mail().await;
    assert_eq!(client.rcpt("a@ours.example").await, "continue");
    assert_eq!(client.rcpt("a@b.example").await, "550 5.1.1 I cannot deliver mail for <a@b.example>");
    let mut facts = (*client.facts).clone();
    facts.trusted = true;
    client.facts = Arc::new(facts);
    assert_eq!(client.rcpt("a@b.example").await, "continue", "it may relay");
}

#[tokio::test(flavor = "multi_thread")]
async fn configuration_files_are_read() {
    let plugin = "
        exports.register = function () {
          const ini = this.config.get('p.ini', { booleans: ['+main.on', '-main.off', '*.any', 'sect.set'] }, () => {})
          this.seen = [ini.main.number, ini.main.float, ini.main.text, ini.main.on, ini.main.off, ini.sect.set,
            ini.sect.list.join('+'), ini.sect.long, ini.absent === undefined,
            this.config.get('value'), this.config.get('list', 'list').join('+'), this.config.get('list', 'data').length,
            this.config.get('p.json').deep.n, this.config.get('nothing') === null, this.config.get('nothing', 'list').length,
            this.config.get('nothing.ini').main !== undefined].join(' ')
        }
        exports.hook_rcpt = function (next) { next(DENY, this.seen) }";
    let files = [
        (
            "config/p.ini",
            "; comment\nnumber = 7\nfloat=1.5\ntext = a b\n[sect]\nset = yes\nlist[]=x\nlist[]=y\nlong=a \\\nb\n",
        ),
        ("config/value", "# none\n 42 \n"),
        ("config/list", "one\n\n#no\ntwo\n"),
        ("config/p.json", "{\"deep\": {\"n\": 3}}"),
    ];
    let house = House::new(&[("p", plugin)], &files);
    let mut client = house.client().await;
    client.mail().await;
    let expected = "550 5.7.1 7 1.5 a b true false true x+y a b true 42 one+two 4 3 true 0 true";
    assert_eq!(client.rcpt("a@b.example").await, expected);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_session_is_seen_as_haraka_shows_it() {
    let plugin = "
        const assert = require('node:assert')
        exports.hook_connect = function (next, connection) {
          assert.equal(connection.remote.ip, '192.0.2.7')
          assert.equal(connection.remote.host, 'client.example')
          assert.equal(connection.remote.is_private, false)
          connection.results.add(this, { pass: 'rdns', score: 2 })
          connection.notes.set('deep.er', 1)
          next()
        }
        exports.hook_ehlo = (next, connection, name) => next(name === 'bad.example' ? DENY : CONT, 'bad name')
        exports.hook_mail = (next, connection, [from, params]) => {
          assert.equal(from.address(), 'from@a.example')
          assert.equal(`${from.address}`, 'from@a.example')
          assert.equal(from.format(), '<from@a.example>')
          assert.equal(params.SIZE, '1000')
          assert.equal(connection.notes.get('deep.er'), 1)
          assert.ok(connection.results.has('p', 'pass', 'rdns') && connection.results.get('p').score === 2)
          connection.transaction.add_header('X-Early', 'yes')
          next()
        }
        exports.hook_rcpt = (next, { transaction }, [to]) => {
          if (to.user === 'list') { transaction.rcpt_to.pop(); transaction.rcpt_to.push(new to.constructor('<one@b.example>'), new to.constructor('<two@b.example>')) }
          next()
        }
        exports.hook_data_post = function (next, { transaction }) {
          assert.equal(transaction.header.get('subject'), 'old\\n')
          assert.equal(transaction.header.get_decoded('X-Coded'), 'caf\u{e9}')
          transaction.remove_header('Subject')
          transaction.add_header('Subject', 'new')
          transaction.add_leading_header('X-First', '1')
          const plugin = this
          transaction.message_stream.get_data((octets) => {
            assert.ok(Buffer.isBuffer(octets) && octets.toString().endsWith('body\\r\\n'))
            transaction.add_header('X-Size', transaction.data_bytes)
            next()
          })
        }";
    let house = House::new(&[("p", plugin)], &[]);
    let mut client = house.client().await;
    assert_eq!(client.connect().await, "continue");
    assert_eq!(client.hello("bad.example").await, "550 5.7.1 bad name");
    assert_eq!(client.hello("good.example").await, "continue");
    assert_eq!(client.mail().await, "continue");
    assert_eq!(client.rcpt("list@b.example").await, "continue");
    assert_eq!(client.rcpt("three@b.example").await, "continue");
    let (said, object) =
        client.message("Subject: old\r\nX-Coded: =?utf-8?Q?caf=C3=A9?=\r\n\r\nbody\r\n").await;
    assert_eq!(said, "continue");
    let to: Vec<&str> = object.envelope.recipients.iter().map(|to| to.path.as_str()).collect();
    assert_eq!(to, ["one@b.example", "two@b.example", "three@b.example"]);
    assert_eq!(
        String::from_utf8_lossy(&object.content()),
        "X-First: 1\r\nX-Coded: =?utf-8?Q?caf=C3=A9?=\r\nX-Early: yes\r\nSubject: new\r\nX-Size: 54\r\n\r\nbody\r\n"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_takes_a_message_has_it() {
    let plugin =
        "exports.hook_queue = (next, c) => { c.transaction.message_stream.get_data(() => next(OK, 'mine')) }";
    let house = House::new(&[("queue_it", plugin)], &[]);
    let mut client = house.client().await;
    client.mail().await;
    client.rcpt("a@b.example").await;
    assert_eq!(
        client.message("Subject: x\r\n\r\nbody\r\n").await.0,
        "discard taken by the plugin queue_it: mine"
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn modules_are_found_as_node_finds_them() {
    let plugin = "
        exports.register = function () { this.inherits('base') }
        exports.hook_rcpt = function (next) {
          const a = require('a'), sub = require('a/sub'), own = require('./lib/own'), json = require('./lib/data.json')
          const { hop } = require('esm-and-cjs')
          if (require('a') !== a) return next(DENY, 'twice')
          next(DENY, [a.name, sub, own.cycle().name, json.n, hop, this.inherited(), typeof require.resolve('a')].join(' '))
        }";
    let files = [
        ("plugins/base.js", "exports.inherited = () => 'base'"),
        (
            "plugins/lib/own.js",
            "exports.name = 'own'; const other = require('./other'); exports.cycle = () => other.own",
        ),
        ("plugins/lib/other.js", "exports.own = require('./own')"),
        ("plugins/lib/data.json", "{\"n\": 5}"),
        ("node_modules/a/package.json", "{\"main\": \"./lib\"}"),
        ("node_modules/a/lib/index.js", "undeclared = 1; module.exports = { name: 'a' }"),
        ("node_modules/a/sub/index.js", "module.exports = 'sub'"),
        (
            "node_modules/esm-and-cjs/package.json",
            "{\"exports\": {\".\": {\"import\": \"./no.mjs\", \"require\": \"./yes.cjs\"}}}",
        ),
        ("node_modules/esm-and-cjs/yes.cjs", "exports.hop = 'cjs'"),
    ];
    let house = House::new(&[("p", plugin)], &files);
    let mut client = house.client().await;
    client.mail().await;
    assert_eq!(client.rcpt("a@b.example").await, "550 5.7.1 a sub own 5 cjs base string");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_plugin_that_cannot_be_loaded_is_told_of() {
    for (source, reason) in [
        ("syntax error", "p.js"),
        ("exports.register = () => { throw new Error('not today') }", "not today"),
        ("require('nowhere')", "Cannot find module 'nowhere'"),
        ("exports.hook_init_master = (next) => next(DENY, 'no database')", "no database"),
        ("exports.register = () => { for (;;) {} }", "time_max"),
    ] {
        let house = House::new(&[("p", source)], &[]);
        let error = house.load().await.err().map(|error| error.to_string()).unwrap_or_default();
        assert!(error.contains(reason), "{source}: {error}");
    }
    let house = House::new(&[], &[("config/plugins", "absent")]);
    let error = house.load().await.err().map(|error| error.to_string()).unwrap_or_default();
    assert!(error.contains("there is no plugin `absent`"), "{error}");
}

#[tokio::test(flavor = "multi_thread")]
async fn sockets_streams_and_requests_work() {
    use tokio::io::{AsyncReadExt, AsyncWriteExt};
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let port = listener.local_addr().unwrap().port();
    // Says back what it gets as the body of an answer in chunks.
    tokio::spawn(async move {
        loop {
            let (mut stream, _) = listener.accept().await.unwrap();
            tokio::spawn(async move {
                let mut got = Vec::new();
                while !got.ends_with(b"ping") && !got.ends_with(b"PONG?\n") {
                    let mut octets = [0; 1024];
                    match stream.read(&mut octets).await {
                        Ok(0) | Err(_) => return,
                        Ok(count) => got.extend_from_slice(&octets[..count]),
                    }
                }
                let answer: &[u8] = if got.starts_with(b"POST") {
                    b"HTTP/1.1 200 OK\r\nTransfer-Encoding: chunked\r\nX-A: b\r\n\r\n4\r\npong\r\n1;x=y\r\n!\r\n0\r\n\r\n"
                } else {
                    b"PONG\n"
                };
                stream.write_all(answer).await.unwrap();
            });
        }
    });
    let plugin = format!(
        "const net = require('net'), http = require('http')
        exports.hook_rcpt = function (next) {{
          let got = ''
          const socket = net.connect({port}, '127.0.0.1')
          socket.setTimeout(5000, () => next(DENY, 'time'))
          socket.on('connect', () => socket.write('PONG?\\n'))
          socket.on('error', (error) => next(DENY, error.message))
          socket.on('data', (octets) => {{ got += octets }})
          socket.on('end', () => {{
            const request = http.request({{ method: 'POST', port: {port}, host: '127.0.0.1', path: '/x' }}, (answer) => {{
              let body = ''
              answer.setEncoding('utf8')
              answer.on('data', (part) => {{ body += part }})
              answer.on('end', () => next(DENY, [got.trim(), answer.statusCode, answer.headers['x-a'], body].join(' ')))
            }})
            request.on('error', (error) => next(DENY, error.message))
            request.end('ping')
          }})
        }}"
    );
    let house = House::new(&[("p", &plugin)], &[]);
    let mut client = house.client().await;
    client.mail().await;
    assert_eq!(client.rcpt("a@b.example").await, "550 5.7.1 PONG 200 b pong!");
}

#[tokio::test(flavor = "multi_thread")]
async fn nodes_modules_do_what_nodes_do() {
    let plugin = r#"
        const assert = require('assert'), crypto = require('crypto'), util = require('util'), path = require('path'), url = require('url'), dns = require('dns')
        const { Readable, Transform, pipeline } = require('stream'), { StringDecoder } = require('string_decoder'), qs = require('querystring')
        exports.hook_rcpt = async function (next) {
          assert.equal(Buffer.from('caf\u00e9 \ud83d\ude00').toString('hex'), '636166c3a920f09f9880')
          assert.equal(Buffer.from('aGk_', 'base64url').toString('latin1'), 'hi?')
          assert.equal(Buffer.from([0, 255, 16]).toString('base64'), 'AP8Q')
          assert.ok(Buffer.concat([Buffer.from('ab'), Buffer.from('cd')]).equals(Buffer.from('abcd')))
          assert.equal(Buffer.from('hello world').indexOf('wor'), 6)
          const numbers = Buffer.alloc(8)
          numbers.writeUInt32BE(0xdeadbeef, 0)
          numbers.writeInt16LE(-2, 4)
          assert.equal(numbers.readUInt32BE(0), 0xdeadbeef)
          assert.equal(numbers.readInt16LE(4), -2)
          assert.equal(crypto.createHash('md5').update('a').update('bc').digest('hex'), '900150983cd24fb0d6963f7d28e17f72')
          assert.equal(crypto.createHmac('sha1', 'key').update('x').digest('hex').length, 40)
          assert.equal(crypto.timingSafeEqual(Buffer.from('a'), Buffer.from('a')), true)
          assert.throws(() => crypto.createHash('nothing'))
          assert.equal(path.resolve('/a/b', '../c', './d'), '/a/c/d')
          assert.equal(path.relative('/a/b/c', '/a/d'), '../../d')
          assert.equal(new url.URL('http://u:p@H.example:80/a/../b?q=1#f').href, 'http://u:p@h.example/b?q=1#f')
          assert.equal(url.parse('redis://host:6379/2').port, '6379')
          assert.deepEqual({ ...qs.parse('a=1&a=2&b=%20') }, { a: ['1', '2'], b: ' ' })
          assert.equal(util.format('%s %d %j', 'a', 5, { b: 1 }), 'a 5 {"b":1}')
          const decoder = new StringDecoder('utf8')
          assert.equal(decoder.write(Buffer.from([0xc3])) + decoder.write(Buffer.from([0xa9])), '\u00e9')
          assert.deepEqual(await dns.promises.resolveMx('here.example'), [{ priority: 10, exchange: 'mx.here.example' }])
          assert.deepEqual(await util.promisify(dns.resolve4)('here.example'), ['192.0.2.1'])
          assert.equal((await dns.promises.resolve4('none.example').catch((error) => error)).code, 'ENOTFOUND')
          const upper = new Transform({ transform(chunk, name, then) { then(null, chunk.toString().toUpperCase()) } })
          let got = ''
          upper.on('data', (part) => { got += part })
          await new Promise((resolve, reject) => pipeline(Readable.from(['a', 'b']), upper, (error) => error ? reject(error) : resolve()))
          await new Promise(setImmediate)
          assert.equal(got, 'AB')
          next(DENY, 'all is well')
        }"#;
    let house = House::new(&[("p", plugin)], &[]);
    let mut client = house.client().await;
    client.mail().await;
    assert_eq!(client.rcpt("a@b.example").await, "550 5.7.1 all is well");
}

#[tokio::test(flavor = "multi_thread")]
async fn sessions_end_for_plugins_too_and_files_are_written_where_they_may() {
    let plugin = "
        const fs = require('fs')
        exports.hook_reset_transaction = (next) => { fs.appendFileSync('spool/log', 'reset '); next() }
        exports.hook_disconnect = (next, c) => { fs.appendFileSync('spool/log', `gone ${c.remote.ip}`); next() }
        exports.hook_mail = (next) => next()";
    let mut house = House::new(&[("p", plugin)], &[("spool/log", "")]);
    let log = house.folder.path().join("spool/log");
    house.config.writable = Some(house.folder.path().join("spool"));
    let mut client = house.client().await;
    client.mail().await;
    client.mail().await;
    drop(client);
    let told = || std::fs::read_to_string(&log).unwrap();
    let done = tokio::time::timeout(Duration::from_secs(20), async {
        while !told().contains("gone") {
            tokio::task::yield_now().await;
        }
    });
    done.await.expect("the plugin hears of the end");
    assert_eq!(told(), "reset reset gone 192.0.2.7");
}

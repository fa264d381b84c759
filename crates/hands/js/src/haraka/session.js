// A session as Haraka's plugins see it: connection, transaction, header, and the hooks in their order.
(function (global) {
  'use strict';
  const env = global.__env;
  delete global.__env;
  const { host, builtin, constants, Notes, ResultStore, hooks, logger, failure } = env;
  const { cont, deny, denysoft, denydisconnect, disconnect, ok, denysoftdisconnect, next_hook, stop } = constants;
  const sessions = new Map();
  const options = JSON.parse(host.place());

  // --- Addresses ----------------------------------------------------------------------------------------------------
  class Address {
    constructor(user, name) {
      if (typeof user === 'object' && user !== null) { name = user.host ?? user.original_host; user = user.user; } else if (name === undefined) {
        const text = String(user).replace(/^<(.*)>$/s, '$1');
        const at = text.lastIndexOf('@');
        [user, name] = at < 0 ? [text, null] : [text.slice(0, at), text.slice(at + 1)];
      }
      this.user = user === '' ? null : user;
      this.host = name === null || name === undefined || name === '' ? null : String(name).toLowerCase();
      this.original_host = name ?? null;
      this.original = this.format();
      this.is_utf8 = /[^\0-\x7f]/.test(this.original);
    }
    isNull() { return this.user === null && this.host === null; }
    is_null() { return this.isNull(); }
    plain() { return this.isNull() ? '' : this.host === null ? this.user : `${this.user}@${this.original_host ?? this.host}`; }
    format() { return `<${this.plain()}>`; }
    toString() { return this.format(); }
    toJSON() { return { user: this.user, host: this.host, original: this.original }; }
    static parse(text) { return new Address(text); }
  }
  // `address` was a method once and is a text in newer packages: this is both, wherever it is not compared by `===`.
  Object.defineProperty(Address.prototype, 'address', {
    get() {
      const text = this.plain();
      return new Proxy(() => text, {
        get(_, name) {
          if (name === Symbol.toPrimitive || name === 'toString' || name === 'valueOf' || name === 'toJSON') return () => text;
          const value = text[name];
          return typeof value === 'function' ? value.bind(text) : value;
        },
      });
    },
  });
  env.Address = Address;
  env.plain_address = (address) => typeof address.plain === 'function' ? address.plain() : String(typeof address.address === 'function' ? address.address() : address.address ?? address).replace(/^<(.*)>$/, '$1');

  // --- Header -------------------------------------------------------------------------------------------------------
  const decoded = (text) => text.replace(/(=\?[^?]+\?[bq]\?[^?]*\?=)\s+(?==\?)/gi, '$1').replace(/=\?([^?*]+)(?:\*[^?]*)?\?([bq])\?([^?]*)\?=/gi, (all, charset, kind, value) => {
    const octets = /b/i.test(kind) ? env.Buffer.from(value, 'base64') : env.unbinary(value.replace(/_/g, ' ').replace(/=([0-9a-f]{2})/gi, (_, hex) => String.fromCharCode(parseInt(hex, 16))));
    try { return new builtin.util.TextDecoder(charset).decode(octets); } catch { return octets.toString(); }
  });
  class Header {
    constructor(transaction) {
      Object.defineProperty(this, 'own', { value: { transaction, fields: [] } });
      this.options = {};
    }
    get fields() { return this.own.fields; }
    get header_list() { return this.fields.map(([name, value]) => `${name}:${value}\n`); }
    get headers() { return this.#by(String); }
    get headers_decoded() { return this.#by((text) => decoded(text.replace(/\r?\n/g, '').trim())); }
    #by(shown) { const found = Object.create(null); for (const [name, value] of this.fields) (found[name.toLowerCase()] ??= []).push(shown(`${value.replace(/\r\n/g, '\n').replace(/^[ \t]/, '')}\n`)); return found; }
    // Lines of a header, folded or not: for those who make one by hand.
    parse(lines) {
      this.own.fields = [];
      for (const line of lines) {
        const last = this.fields.at(-1);
        if (/^[ \t]/.test(line) && last) last[1] += `\n${line.replace(/\r?\n$/, '')}`;
        else { const at = line.indexOf(':'); if (at > 0) this.fields.push([line.slice(0, at).trim(), line.slice(at + 1).replace(/\r?\n$/, '')]); }
      }
    }
    get_all(name) { return this.fields.filter(([one]) => one.toLowerCase() === String(name).toLowerCase()).map(([, value]) => `${value.replace(/\r\n/g, '\n').replace(/^[ \t]/, '')}\n`); }
    get(name) { return this.get_all(name).join('\n'); }
    get_decoded(name) { return this.get_all(name).map((value) => decoded(value.replace(/\r?\n/g, '').trim())).join('\n'); }
    lines() { return this.header_list; }
    toString() { return this.header_list.join('\n'); }
    #changed(how, name, value) { this.own.transaction?.edit(how, name, value); }
    add(name, value) { this.fields.unshift([name, ` ${value}`]); this.#changed('prepend', name, String(value)); }
    add_end(name, value) { this.fields.push([name, ` ${value}`]); this.#changed('add', name, String(value)); }
    remove(name) { this.own.fields = this.fields.filter(([one]) => one.toLowerCase() !== String(name).toLowerCase()); this.#changed('remove', name, ''); }
  }

  // --- The content as a stream ----------------------------------------------------------------------------------------
  class MessageStream extends builtin.stream {
    constructor(transaction) { super(); Object.defineProperty(this, 'transaction', { value: transaction }); this.targets = new Map(); }
    // What a plugin wants of the content: line ends, a dot at the end, no header.
    made(given = {}) {
      let octets = this.transaction.octets();
      const end = given.line_endings ?? '\r\n';
      if (given.skip_headers) { const at = octets.indexOf('\r\n\r\n'); octets = at < 0 ? octets.subarray(0, 0) : octets.subarray(at + 4); }
      if (end !== '\r\n' || given.dot_stuffed || given.dot_stuffing) {
        let text = env.binary(octets);
        if (given.dot_stuffed !== false && (given.dot_stuffed || given.dot_stuffing)) text = text.replace(/^\./gm, '..');
        if (end !== '\r\n') text = text.replace(/\r\n/g, end);
        octets = env.unbinary(text);
      }
      if (given.ending_dot) octets = env.Buffer.concat([octets, env.Buffer.from(`.${end}`)]);
      return octets;
    }
    pipe(to, given = {}) {
      const CHUNK = 65536;
      let octets, at = 0, stopped = false;
      this.targets.set(to, () => { stopped = true; });
      const clamd = (part) => { if (!given.clamd_style) return part; const size = env.Buffer.alloc(4); size.writeUInt32BE(part.length, 0); return env.Buffer.concat([size, part]); };
      const step = () => {
        while (!stopped && at < octets.length) {
          const part = octets.subarray(at, at + CHUNK);
          at += part.length;
          if (to.write(clamd(part)) === false) return void to.once('drain', step);
        }
        if (stopped) return;
        this.targets.delete(to);
        if (given.clamd_style) to.write(env.Buffer.alloc(4));
        if (given.end !== false) to.end();
        this.emit('end');
      };
      global.setImmediate(() => {
        if (stopped) return;
        try { octets = this.made(given); to.emit?.('pipe', this); step(); } catch (error) { to.destroy?.(error); }
      });
      return to;
    }
    unpipe(to) { for (const [one, end] of this.targets) if (to === undefined || one === to) { end(); this.targets.delete(one); } return this; }
    get_data(given, then) { if (typeof given === 'function') { then = given; given = {}; } const current = env.current; global.setImmediate(() => env.as(current, () => then(this.made(given)))); }
    get_data_string(...given) { const then = given.pop(); this.get_data(given[0] ?? {}, (octets) => then(octets.toString())); }
    add_line() {}
    add_line_end(then) { then?.(); }
    pause() {}
    resume() {}
    destroy() { this.unpipe(); return this; }
    get total_length() { return this.transaction.data_bytes; }
  }

  // --- Transaction --------------------------------------------------------------------------------------------------
  class Transaction {
    constructor(connection) {
      Object.defineProperty(this, 'own', { value: { connection, edits: [], present: false, given: [], body: undefined, starts: [] } });
      this.uuid = `${connection.uuid}.${++connection.tran_count}`;
      this.notes = new Notes();
      this.notes.skip_plugins = [];
      Object.assign(this, { mail_from: new Address('', null), rcpt_to: [], data_bytes: 0, parse_body: false, discard_data: false, encoding: 'utf8', mime_part_count: 0, rcpt_count: { accept: 0, tempfail: 0, reject: 0 }, banner: null, cfg: {}, resetting: false });
      this.header = new Header(this);
      this.message_stream = new MessageStream(this);
      this.results = new ResultStore(connection);
    }
    // Changes of the header go to the server's own message as soon as it is there.
    edit(how, name, value) {
      if (this.own.present) host.message_edit(this.own.connection.number, how, String(name), value);
      else this.own.edits.push([how, name, value]);
    }
    octets() {
      if (!this.own.present) throw failure('ERR_FEATURE_UNAVAILABLE', 'the content is there at data_post and queue');
      return env.Buffer.of_view(host.message_octets(this.own.connection.number, false));
    }
    arrived() {
      const number = this.own.connection.number;
      this.own.present = true;
      this.data_bytes = Number(host.message_get(number, 'size'));
      this.header.own.fields = host.message_fields(number);
      for (const [how, name, value] of this.own.edits.splice(0)) {
        if (how === 'prepend') this.header.add(name, value); else if (how === 'add') this.header.add_end(name, value); else this.header.remove(name);
      }
      const there = host.message_recipients(number);
      const mine = this.rcpt_to.map(env.plain_address);
      if (mine.join('\n') === this.own.given.join('\n')) { if (mine.join('\n') !== there.join('\n')) this.rcpt_to = there.map((text) => new Address(text)); } else {
        // Whom somebody else took out stays out; what a plugin made of the others holds.
        const refused = new Set(this.own.given.filter((text) => !there.includes(text)));
        this.rcpt_to = this.rcpt_to.filter((address) => !refused.has(env.plain_address(address)));
      }
      this.own.there = there;
      const sender = host.message_get(number, 'sender');
      if (this.own.sender !== sender && this.own.sender === undefined) this.mail_from = new Address(sender);
      this.own.sender = sender;
      if (this.parse_body) this.ensure_body();
    }
    // What plugins made of the envelope, and text they add.
    leaves() {
      const { connection, there, sender } = this.own;
      const number = connection.number;
      const list = this.rcpt_to.map(env.plain_address);
      if (list.join('\n') !== there.join('\n')) host.message_set_recipients(number, list);
      const from = env.plain_address(this.mail_from);
      if (from !== sender) host.message_set(number, 'sender', from);
      const said = connection.own.auth_results.splice(0);
      if (said.length > 0) this.add_leading_header('Authentication-Results', `${connection.local.host}; ${said.join('; ')}`);
    }
    ensure_body() {
      if (this.own.body !== undefined || !this.own.present) return this.own.body;
      let Body;
      try { ({ Body } = env.requiring(`${env.core ?? env.root}/haraka.js`)('haraka-email-message')); } catch (error) { if (error.code !== 'MODULE_NOT_FOUND') throw error; }
      if (Body === undefined) throw failure('MODULE_NOT_FOUND', 'a parsed body needs the package haraka-email-message in node_modules');
      const body = this.own.body = new Body(this.header);
      body.on('mime_boundary', () => { this.mime_part_count++; });
      for (const start of this.own.starts) body.on('attachment_start', start);
      const octets = env.Buffer.of_view(host.message_octets(this.own.connection.number, true));
      for (let at = 0; at < octets.length;) {
        const lf = octets.indexOf(10, at);
        const next = lf < 0 ? octets.length : lf + 1;
        const line = octets.subarray(at, next);
        body.parse_more(line.length >= 2 && line.at(-2) === 13 ? env.Buffer.concat([line.subarray(0, -2), env.Buffer.from('\n')]) : line);
        at = next;
      }
      body.parse_end();
      return body;
    }
    get body() { return this.parse_body ? this.ensure_body() ?? null : null; }
    add_header(name, value) { this.header.add_end(name, value); }
    add_leading_header(name, value) { this.header.add(name, value); }
    remove_header(name) { this.header.remove(name); }
    reset_headers() {}
    attachment_hooks(start) { this.parse_body = true; this.own.starts.push(start); }
    set_banner() { throw failure('ERR_FEATURE_UNAVAILABLE', 'set_banner is not available here'); }
    add_body_filter() { throw failure('ERR_FEATURE_UNAVAILABLE', 'add_body_filter is not available here'); }
    incr_mime_count() { this.mime_part_count++; }
  }

  // --- Connection ---------------------------------------------------------------------------------------------------
  const LOCAL = /^(127\.|::1$|::ffff:127\.)/, PRIVATE = /^(10\.|192\.168\.|172\.(1[6-9]|2\d|3[01])\.|169\.254\.|f[cd][0-9a-f]{2}:|fe[89ab][0-9a-f]:)/i;
  let count = 0;
  class Connection {
    constructor(number) {
      this.number = number;
      Object.defineProperty(this, 'own', { value: { auth_results: [], mails: 0 } });
      this.uuid = builtin.crypto.randomUUID().toUpperCase();
      this.notes = new Notes();
      Object.assign(this, { transaction: null, tran_count: 0, capabilities: [], early_talker: false, pipelining: false, relaying: false, esmtp: false, errors: 0, last_reject: '', totalbytes: 0, start_time: Date.now(), state: constants.connection.state.CMD, hook: null, current_line: null, last_response: null, encoding: 'utf8', server: env.haraka_server, rcpt_count: { accept: 0, tempfail: 0, reject: 0 }, msg_count: { accept: 0, tempfail: 0, reject: 0 }, hooks_to_run: [] });
      this.local = { ip: null, port: null, host: '', info: 'Tuma' };
      this.remote = { ip: null, port: null, host: null, info: null, closed: false, is_private: false, is_local: false, login: null };
      this.hello = { host: null, verb: null };
      this.tls = { enabled: false, advertised: false, verified: false, cipher: {}, authorizationError: null };
      this.proxy = { allowed: false, ip: null, type: null, timer: null };
      this.client = Object.assign(new builtin.events(), { write() {}, end() {}, destroy() {}, on: builtin.events.prototype.on, upgrade() { throw failure('ERR_FEATURE_UNAVAILABLE', 'STARTTLS is the server\'s own: set [tls]'); } });
      this.results = new ResultStore(this);
      count++;
    }
    known(facts) {
      Object.assign(this.local, { ip: facts.local_address ?? null, port: facts.local_port ?? null, host: facts.hostname });
      Object.assign(this.remote, { ip: facts.peer ?? null, port: facts.peer_port ?? null });
      this.remote.is_local = LOCAL.test(facts.peer ?? '');
      this.remote.is_private = this.remote.is_local || PRIVATE.test(facts.peer ?? '');
      if (facts.helo) this.hello.host = facts.helo;
      if (facts.trusted) this.relaying = true;
      this.esmtp = facts.protocol === 'ESMTP';
      if (facts.tls) Object.assign(this.tls, { enabled: true, advertised: true, cipher: { name: facts.cipher, version: facts.tls } });
      if (facts.user) { this.notes.auth_user = facts.user; this.notes.auth_method ??= 'server'; }
      if (facts.id && !this.own.named) { this.own.named = true; this.notes.tuma_session = facts.id; }
    }
    get using_tls() { return this.tls.enabled; }
    get remote_ip() { return this.remote.ip; }
    get remote_host() { return this.remote.host; }
    get hello_host() { return this.hello.host; }
    get local_ip() { return this.local.ip; }
    get greeting() { return this.hello.verb; }
    get(at) { return String(at).split('.').reduce((place, step) => place?.[step], this); }
    set(...given) {
      const value = given.pop();
      const list = given.length > 1 ? given : String(given[0]).split('.');
      const last = list.pop();
      let place = this;
      for (const step of list) place = place[step] ??= {};
      place[last] = value;
      if (list[0] === 'remote' && last === 'ip') { this.remote.is_local = LOCAL.test(value ?? ''); this.remote.is_private = this.remote.is_local || PRIVATE.test(value ?? ''); }
    }
    auth_results(text) { if (text) this.own.auth_results.push(text); return text; }
    respond(code, text, then) { this.last_response = `${code} ${[].concat(text).join(' ')}`; this.own.spoke = [code, [].concat(text).map(String).join('\n')]; if (typeof then === 'function') then(); }
    loop_respond(code, text) { this.own.loop = [code, String(text ?? '')]; }
    disconnect() { this.own.left = true; }
    reset_transaction(then) { const done = () => { this.transaction = null; if (typeof then === 'function') then(); }; if (this.transaction) run('reset_transaction', this, undefined, done, done); else done(); }
    init_transaction(then) { this.transaction = new Transaction(this); then?.(); }
    pause() {}
    resume() {}
    fail() {}
    queue_msg(retval, msg) { return msg ? String(msg) : ''; }
    received_line() { return ''; }
    store_queue_result() {}
    toString() { return `connection ${this.uuid}`; }
  }
  logger.add_log_methods(Connection);
  env.Connection = Connection;
  env.shared.connection = { Connection, createConnection: () => new Connection(0) };
  env.shared.transaction = { Transaction, createTransaction: () => new Transaction(new Connection(0)) };
  env.shared.address = { Address };

  // --- Hooks --------------------------------------------------------------------------------------------------------
  const ALWAYS = new Set(['connect_init', 'disconnect', 'reset_transaction', 'log', 'quit']);
  const ENDED = new Set(['disconnect', 'reset_transaction', 'log']);
  const denies = (value) => value === deny || value === denysoft || value === denydisconnect || value === denysoftdisconnect;
  const VALUES = new Set([cont, stop, deny, denysoft, denydisconnect, disconnect, ok, next_hook, constants.delay, denysoftdisconnect]);

  // Runs the plugins of a hook in their order; `done(value, message, item)` hears what came of them, `failed` of a throw,
  // a rejection, a value that is none, and of a plugin that says nothing within its time. Each of the two once.
  function run(hook, connection, params, done, failed, list = hooks[hook] ?? [], object = connection) {
    let at = 0;
    const proceed = () => {
      for (;;) {
        if (at >= list.length) return done(cont);
        if (connection.state >= constants.connection.state.DISCONNECTING && !ENDED.has(hook)) return done(stop);
        const item = list[at++];
        const { plugin, method } = item;
        if (connection.transaction?.notes.skip_plugins?.includes(plugin.name)) continue;
        let settled = false, sync = true, answer, timer;
        const place = `${plugin.name}.${String(method)} at ${hook}`;
        const settle = (value, message) => {
          if (settled) { connection.logwarn(plugin, `next was called again at ${hook}: only the first call counts`); return; }
          settled = true;
          if (timer !== undefined) global.clearTimeout(timer);
          value = value === undefined || value === null || value === 0 || value === false || value === '' ? cont : value;
          if (!VALUES.has(value)) { answer = undefined; wrong(new TypeError(`next was called with ${env.inspect(value)}, which is no answer`)); return; }
          answer = [value, message];
          if (!sync) step();
        };
        const wrong = (error) => {
          if (timer !== undefined) global.clearTimeout(timer);
          settled = true;
          answer = null;
          connection.logerror?.(plugin, `${place}: ${env.told(error)}`);
          if (ALWAYS.has(hook)) { answer = [cont]; if (!sync) step(); return; }
          failed(`${place}: ${env.told(error)}`);
        };
        // What the answer means; true when the next plugin is asked.
        const heard = () => {
          const [value, message] = answer;
          if (value === cont || ALWAYS.has(hook)) return true;
          if (!denies(value) || hook === 'deny' || hook.startsWith('init_')) { done(value, message, item); return false; }
          if (!hooks.deny?.length) { done(value, message, item); return false; }
          run('deny', connection, [value, message, plugin.name, method, params, hook], (overruled) => {
            if (overruled === ok) proceed(); else done(value, message, item);
          }, failed);
          return false;
        };
        const step = () => { if (answer && heard()) proceed(); };
        const before = env.current;
        env.current = { fail: (error) => { if (!settled) wrong(error); else connection.logerror?.(plugin, `${place}, after it had answered: ${env.told(error)}`); } };
        connection.hook = hook;
        try {
          if (typeof plugin[method] !== 'function') throw new TypeError(`the plugin has no function \`${String(method)}\``);
          const returned = plugin[method](settle, object, params);
          if (returned !== undefined && returned !== null && typeof returned.then === 'function') {
            const own = env.current;
            returned.then((value) => { if (!settled && value !== undefined) { if (Array.isArray(value)) settle(...value); else settle(value); } }, (error) => own.fail(error));
          }
        } catch (error) {
          if (!settled) wrong(error); else connection.logerror?.(plugin, `${place}, after it had answered: ${env.told(error)}`);
        }
        const own = env.current;
        env.current = before;
        sync = false;
        if (!settled) {
          if (plugin.timeout > 0) env.as(own, () => { timer = global.setTimeout(() => wrong(new Error(`the plugin did not answer within ${plugin.timeout} s`)), plugin.timeout * 1000); });
          return;
        }
        if (!answer || !heard()) return;
      }
    };
    proceed();
  }

  // --- Answers ------------------------------------------------------------------------------------------------------
  const CODES = { connect: [554, 421], hello: [550, 450], mail: [550, 450], rcpt: [550, 450], data: [554, 451], data_post: [550, 450], queue: [550, 450] };
  const TEXTS = { connect: ['your mail is not welcome here', 'come back later'], hello: ['HELO denied', 'HELO denied, try again later'], mail: ['sender denied', 'sender denied, try again later'], rcpt: ['recipient denied', 'recipient denied, try again later'], data: ['message denied', 'message denied, try again later'], data_post: ['message denied', 'message denied, try again later'], queue: ['message denied', 'message denied, try again later'] };
  // A value of `next` as the parts of an answer.
  const answered = (phase, value, message) => {
    const soft = value === denysoft || value === denysoftdisconnect;
    let code = CODES[phase][soft ? 1 : 0], text = TEXTS[phase][soft ? 1 : 0], status;
    if (value === disconnect) [code, text] = [421, 'goodbye'];
    if (message !== undefined && message !== null && message !== '') {
      if (typeof message === 'object' && !Array.isArray(message) && !(message instanceof Error)) {
        if (Number.isInteger(message.code)) code = message.code;
        text = String(message.msg ?? message.reply ?? message);
        if (message.cls !== undefined && message.sub !== undefined) status = `${message.cls}.${message.sub}.${message.det ?? 0}`;
        else if (message.reply) text = String(message.reply);
      } else text = Array.isArray(message) ? message.map(String).join('\n') : message instanceof Error ? message.message : String(message);
    }
    const found = /^([245]\.\d{1,3}\.\d{1,3})\s+/.exec(text);
    if (found) { status = found[1]; text = text.slice(found[0].length); }
    const wanted = soft || value === disconnect ? 4 : 5;
    if (Math.floor(code / 100) !== wanted) code = value === disconnect ? 421 : CODES[phase][soft ? 1 : 0];
    if (status !== undefined && Number(status[0]) !== Math.floor(code / 100)) status = undefined;
    const word = value === denydisconnect || value === denysoftdisconnect || value === disconnect ? 'disconnect' : soft ? 'defer' : 'reject';
    return [word, code, status, text];
  };

  const counted = (counts, parts) => { if (parts === undefined) counts.accept++; else if (parts[1] < 500) counts.tempfail++; else counts.reject++; };
  const PHASES = ['connect', 'hello', 'auth', 'mail', 'rcpt', 'data', 'message'];
  const any = (...names) => names.some((name) => hooks[name]?.length > 0);
  const phases = {
    connect(connection, subject, say, failed) {
      run('connect_init', connection, undefined, () => run('lookup_rdns', connection, undefined, (value, message) => {
        if (denies(value) || value === disconnect) return say(answered('connect', value, message));
        if (value === ok && message) connection.set('remote.host', String(message)), connection.set('remote.info', connection.remote.info ?? String(message));
        const ask = () => run('connect', connection, undefined, (value, message) => say(denies(value) || value === disconnect ? answered('connect', value, message) : undefined), failed);
        if (connection.remote.host || !connection.remote.ip) return ask();
        // As Haraka does unless a plugin did.
        builtin.dns.reverse(connection.remote.ip, (error, names) => { connection.set('remote.host', error ? error.code === 'ENOTFOUND' ? 'NXDOMAIN' : 'DNSERROR' : names[0]); ask(); });
      }, failed), failed);
    },
    hello(connection, subject, say, failed) {
      connection.hello.host = subject.name;
      connection.hello.verb = subject.extended ? 'EHLO' : 'HELO';
      connection.esmtp = subject.extended;
      connection.capabilities = [];
      run(subject.extended ? 'ehlo' : 'helo', connection, subject.name, (value, message) => {
        if (denies(value) || value === disconnect) return say(answered('hello', value, message));
        if (!subject.extended) return say();
        run('capabilities', connection, undefined, () => say(), failed);
      }, failed);
    },
    auth(connection, subject, say) { connection.notes.auth_user = subject.user; connection.relaying = true; say(); },
    mail(connection, subject, say, failed) {
      connection.own.mails++;
      const begin = () => {
        const transaction = connection.transaction = new Transaction(connection);
        transaction.mail_from = new Address(subject.address);
        transaction.own.sender = subject.address;
        const params = {};
        if (subject.size !== undefined && subject.size !== null) params.SIZE = String(subject.size);
        if (subject.body && subject.body !== '7BIT') params.BODY = subject.body;
        if (subject.smtputf8) params.SMTPUTF8 = undefined;
        run('mail', connection, [transaction.mail_from, params], (value, message) => {
          const parts = denies(value) || value === disconnect ? answered('mail', value, message) : undefined;
          if (parts !== undefined) return run('reset_transaction', connection, undefined, () => { connection.transaction = null; say(parts); }, failed);
          say();
        }, failed);
      };
      if (connection.transaction) connection.reset_transaction(begin); else begin();
    },
    rcpt(connection, subject, say, failed) {
      const transaction = connection.transaction ??= Object.assign(new Transaction(connection), { mail_from: new Address(subject.sender) });
      const address = new Address(subject.address);
      const before = [...transaction.rcpt_to];
      transaction.rcpt_to.push(address);
      connection.current_line = `RCPT TO:${address.format()}`;
      const told = (parts) => {
        counted(transaction.rcpt_count, parts);
        counted(connection.rcpt_count, parts);
        if (parts !== undefined) transaction.rcpt_to = before;
        else transaction.own.given.push(subject.address);
        say(parts);
      };
      const end = (why) => { transaction.rcpt_to = before; failed(why); };
      run('rcpt', connection, [address, {}], (value, message) => {
        if (denies(value) || value === disconnect) return told(answered('rcpt', value, message));
        if (value !== ok && !connection.relaying && options.rcpt_needs_ok && any('rcpt')) return told(['reject', 550, '5.1.1', `I cannot deliver mail for ${address.format()}`]);
        run('rcpt_ok', connection, address, (value, message) => told(denies(value) || value === disconnect ? answered('rcpt', value, message) : undefined), end);
      }, end);
    },
    data(connection, subject, say, failed) {
      connection.transaction ??= Object.assign(new Transaction(connection), { mail_from: new Address(subject.sender) });
      run('data', connection, undefined, (value, message) => say(denies(value) || value === disconnect ? answered('data', value, message) : undefined), failed);
    },
    message(connection, subject, say, failed) {
      const transaction = connection.transaction ??= new Transaction(connection);
      transaction.arrived();
      connection.totalbytes += transaction.data_bytes;
      const told = (parts) => { counted(connection.msg_count, parts); say(parts); };
      run('data_post', connection, undefined, (value, message) => {
        if (denies(value) || value === disconnect) return told(answered('data_post', value, message));
        const hook = connection.relaying ? 'queue_outbound' : 'queue';
        run(hook, connection, undefined, (value, message, item) => {
          if (denies(value) || value === disconnect) return told(answered('queue', value, message));
          if (value !== ok) { transaction.leaves(); return told(); }
          // The plugin has the message; the server keeps none.
          const parts = ['discard', 0, undefined, `taken by the plugin ${item.plugin.name}${message ? `: ${message}` : ''}`];
          run('queue_ok', connection, message ?? '', () => told(parts), failed);
        }, failed);
      }, failed);
    },
  };

  // --- What the server calls ------------------------------------------------------------------------------------------
  env.server('__ask', (phase, id, call, facts, subject) => {
    let connection = sessions.get(id);
    if (connection === undefined) sessions.set(id, connection = new Connection(id));
    if (facts !== undefined && facts !== null) connection.known(facts);
    let sync = true, answer, told = false, why;
    const once = (then) => (value) => {
      if (told) return;
      told = true;
      if (sync) then(value); else if (then === failing) host.failed(call, value); else finish(value);
    };
    const finish = (parts) => { try { host.done(call, left(parts)); } catch (error) { host.failed(call, env.told(error)); } };
    // Whoever asked to be rid of the client, or spoke for the server, is taken at that word.
    const left = (parts) => {
      if (parts === undefined && connection.own.loop) { const [code, text] = connection.own.loop; return [code < 500 ? 'defer' : 'reject', code, undefined, text]; }
      return parts === undefined && connection.own.left ? ['disconnect', 421, undefined, 'goodbye'] : parts;
    };
    const saying = (parts) => { answer = parts; };
    const failing = (text) => { why = text; };
    phases[PHASES[phase]](connection, subject, once(saying), once(failing));
    sync = false;
    if (why !== undefined) throw new Error(why);
    return told ? left(answer) : true;
  });
  const over = (connection, then) => {
    if (connection.transaction) connection.transaction.own.present = false;
    connection.reset_transaction(then);
  };
  env.server('__reset', (id, mails) => { const connection = sessions.get(id); if (connection?.transaction && connection.own.mails === mails) over(connection); });
  env.server('__forget', (ids) => {
    for (const id of ids) {
      const connection = sessions.get(id);
      if (connection === undefined) continue;
      sessions.delete(id);
      count--;
      connection.state = constants.connection.state.DISCONNECTED;
      connection.remote.closed = true;
      const end = () => run('disconnect', connection, undefined, () => {}, () => {});
      if (connection.transaction) over(connection, end); else end();
    }
  });
  // Loads the plugins of the list. Gives the phases at which somebody wants to be asked.
  env.server('__load', (list) => {
    for (const name of list) {
      try { env.load_plugin(name); } catch (error) { throw new Error(`plugin ${name}: ${env.told(error)}`); }
    }
    for (const list of Object.values(hooks)) list.sort((a, b) => a.priority - b.priority || a.order - b.order);
    env.shared.plugins.plugin_list = Object.keys(env.registered);
    const content = any('mail', 'rcpt', 'rcpt_ok', 'data', 'data_post', 'queue', 'queue_outbound');
    const wanted = { connect: any('connect_init', 'lookup_rdns', 'connect', 'disconnect'), hello: any('helo', 'ehlo', 'capabilities'), auth: content, mail: content, rcpt: any('rcpt', 'rcpt_ok') || content, data: any('data'), message: content };
    return PHASES.filter((phase) => wanted[phase]);
  });
  env.server('__begin', (call) => {
    const nobody = Object.assign(new Connection(0), { toString: () => 'init' });
    let told = false, sync = true;
    const end = (why) => { told = true; if (why === undefined) host.done(call); else host.failed(call, why); };
    run('init_master', nobody, env.haraka_server, (value, message) => end(value === cont || value === ok ? undefined : `init_master: ${message ?? constants.translate(value)}`), end, undefined, env.haraka_server);
    sync = false;
    return told || sync;
  });
  env.server('__plugins', () => JSON.stringify(Object.values(env.registered).map((plugin) => ({ name: plugin.name, path: plugin.plugin_path, hooks: Object.keys(plugin.hooks) }))));
})(globalThis);

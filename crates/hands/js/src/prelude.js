// What a script is given: `tuma`, `require`, timers and a console. The first thing that a machine runs; the script sees
// none of the names within, and cannot replace what the server calls.
(function (global) {
  'use strict';
  const host = global.__host;
  delete global.__host;
  const PHASES = ['connect', 'hello', 'auth', 'mail', 'rcpt', 'data', 'message'];
  const HOOKS_MAX = 1000;
  const hooks = PHASES.map(() => []);
  const tests = [];
  let loading = true;

  // A name that is not there is a mistake in the script and not nothing: `rcpt.adress === undefined` would be a yes by
  // accident. The look-up comes here only when an object itself has no such name.
  const tolerated = new Set(['then', 'toJSON', 'constructor', 'toString', 'valueOf', 'inspect', 'length']);
  const strict = (what) => new Proxy(Object.prototype, {
    get(target, key, receiver) {
      if (typeof key === 'symbol' || tolerated.has(key)) return Reflect.get(target, key, receiver);
      throw new TypeError(`${what} has no field \`${key}\``);
    },
    set(target, key) {
      throw new TypeError(`${what} has no field \`${String(key)}\` that can be set`);
    },
  });

  const SUBJECTS = ['session', 'hello', 'auth', 'mail', 'rcpt', 'envelope', 'message'].map(strict);
  const sessions = new Map();

  // Answers. One that is made and not returned would be a yes by accident, so they are counted.
  let made = 0;
  class Answer {
    constructor(word, parts) { this.word = word; this.parts = parts; made++; }
  }
  const reply = (word, usual, text) => (...given) => {
    let code = usual;
    if (typeof given[0] === 'number') code = given.shift();
    if (given.length > 2) throw new TypeError(`tuma.${word} takes (text), (code, text) or (code, status, text)`);
    const status = given.length === 2 ? given.shift() : undefined;
    const said = given.length === 1 && given[0] !== undefined ? String(given[0]) : text;
    if (!Number.isInteger(code) || code < 400 || code > 599) throw new RangeError(`tuma.${word}: the code of a refusal is within 400 to 599`);
    if (word === 'reject' && code < 500) throw new RangeError('tuma.reject: the code of its reply begins with 5');
    if (word === 'defer' && code >= 500) throw new RangeError('tuma.defer: the code of its reply begins with 4');
    return new Answer(word, [word, code, status === undefined ? undefined : String(status), said]);
  };

  // Octets go over as a list.
  const plain = (value) => value instanceof Uint8Array ? Array.from(value) : typeof value === 'string' ? value : String(value);

  class Message {
    #session;
    constructor(session) { this.#session = session; }
    get recipients() { return host.message_recipients(this.#session); }
    get octets() { return host.message_octets(this.#session, false); }
    get body_octets() { return host.message_octets(this.#session, true); }
    get size() { return Number(host.message_get(this.#session, 'size')); }
    header(name) { return host.message_header(this.#session, String(name)); }
    headers(name) { return host.message_headers(this.#session, String(name)); }
    fields() { return host.message_fields(this.#session).map(([name, value]) => ({ name, value })); }
    add_header(name, value) { host.message_edit(this.#session, 'add', String(name), plain(value)); }
    prepend_header(name, value) { host.message_edit(this.#session, 'prepend', String(name), plain(value)); }
    set_header(name, value) { host.message_edit(this.#session, 'set', String(name), plain(value)); }
    remove_header(name) { return host.message_edit(this.#session, 'remove', String(name), ''); }
    add_recipient(address) { host.message_add_recipient(this.#session, String(address)); }
    remove_recipient(address) { return host.message_remove_recipient(this.#session, String(address)); }
    set_recipients(list) { host.message_set_recipients(this.#session, list.map(String)); }
    is_for(address) { return host.message_is_for(this.#session, String(address)); }
    static field(name, settable) {
      Object.defineProperty(Message.prototype, name, {
        get() { return host.message_get(this.#session, name); },
        set: settable ? function (value) { host.message_set(this.#session, name, name === 'body' ? plain(value) : value); } : undefined,
      });
    }
  }
  for (const name of ['verified', 'content']) Message.field(name, false);
  for (const name of ['sender', 'body', 'tenant', 'campaign', 'job', 'envid', 'pool', 'priority']) Message.field(name, true);
  delete Message.field;
  Object.setPrototypeOf(Message.prototype, SUBJECTS[6]);

  // What waits: its number, and what is called with what it came to.
  const waiting = new Map();
  let number = 0;
  const start = (kind, argument, then) => {
    number++;
    host.start(number, kind, argument);
    waiting.set(number, then);
    return number;
  };
  const operation = (kind, argument) => new Promise((resolve, reject) => {
    start(kind, argument, (failed, came) => failed === undefined ? resolve(came) : reject(new Error(failed)));
  });

  const told = (error) => {
    if (error instanceof Error) return `${error.name}: ${error.message}\n${error.stack ?? ''}`.trim();
    return `it threw ${String(error)}`;
  };

  const checked = (returned) => {
    if (returned === undefined || returned === null) return undefined;
    if (returned instanceof Answer) return returned;
    throw new TypeError(`a ${typeof returned} was returned; an answer is made by tuma.accept, reject, defer, disconnect or discard`);
  };

  // Asks the hooks of a phase from number `at` on. Gives an answer's parts, nothing, or true when it waits.
  function run(list, at, session, subject, call) {
    for (; at < list.length; at++) {
      made = 0;
      const returned = subject === undefined ? list[at](session) : list[at](session, subject);
      if (returned !== undefined && returned !== null && typeof returned.then === 'function') {
        const next = at + 1;
        returned.then((value) => {
          const answer = checked(value);
          if (answer !== undefined) return host.done(call, answer.parts);
          const later = run(list, next, session, subject, call);
          if (later !== true) host.done(call, later);
        }).catch((error) => host.failed(call, told(error)));
        return true;
      }
      const answer = checked(returned);
      if (answer !== undefined) return answer.parts;
      if (made > 0) throw new Error('an answer was made and not returned: write `return tuma.reject(...)`');
    }
    return undefined;
  }

  const server = (name, value) => Object.defineProperty(global, name, { value, writable: false, enumerable: false });
  server('__ask', (phase, id, call, facts, subject) => {
    let session = sessions.get(id);
    if (facts !== undefined && facts !== null) {
      if (session === undefined) {
        facts.notes = {};
        Object.setPrototypeOf(facts, SUBJECTS[0]);
        sessions.set(id, session = facts);
      } else {
        Object.assign(session, facts);
      }
    }
    if (phase === 6) subject = new Message(id);
    else if (subject !== undefined && subject !== null) Object.setPrototypeOf(subject, SUBJECTS[phase]);
    else subject = undefined;
    return run(hooks[phase], 0, session, subject, call);
  });
  server('__forget', (ids) => { for (const id of ids) sessions.delete(id); });
  server('__complete', (id, failed, came) => {
    const then = waiting.get(id);
    if (then === undefined) return;
    waiting.delete(id);
    then(failed ?? undefined, came);
  });

  const names = (kind) => async (name) => JSON.parse(await operation(kind, String(name)));
  const tuma = {
    on(phase, hook) {
      if (!loading) throw new Error('tuma.on: hooks are registered when the script is loaded');
      const at = PHASES.indexOf(phase);
      if (at < 0) throw new RangeError(`tuma.on: there is no phase \`${phase}\`; there are ${PHASES.join(', ')}`);
      if (typeof hook !== 'function') throw new TypeError('tuma.on: the second argument is a function');
      if (hooks[at].length >= HOOKS_MAX) throw new RangeError('tuma.on: too many hooks');
      hooks[at].push(hook);
    },
    test(name, body) {
      if (!loading) throw new Error('tuma.test: tests are registered when the script is loaded');
      tests.push([String(name), body]);
    },
    accept: () => new Answer('accept', ['accept', 0, undefined, '']),
    reject: reply('reject', 550, 'refused by a local rule'),
    defer: reply('defer', 451, 'try again later'),
    disconnect: reply('disconnect', 421, 'goodbye'),
    discard: (why) => new Answer('discard', ['discard', 0, undefined, why === undefined ? 'by a script' : String(why)]),
    dns: { a: names('a'), aaaa: names('aaaa'), mx: names('mx'), txt: names('txt'), ptr: names('ptr') },
    store: {
      get: (key) => host.store_get(String(key)),
      set: (key, value, seconds) => host.store_set(String(key), String(value), seconds),
      add: (key, by, seconds) => host.store_add(String(key), by, seconds),
    },
    regex(pattern) {
      const n = host.regex(String(pattern));
      return {
        is_match: (text) => host.regex_is_match(n, String(text)),
        find: (text) => host.regex_find(n, String(text)),
        replace: (text, by) => host.regex_replace(n, String(text), String(by)),
      };
    },
    sleep: (seconds) => operation('timer', String(seconds * 1000)).then(() => undefined),
    time: host.time,
  };
  for (const level of ['debug', 'info', 'warn', 'error']) tuma[level] = (...texts) => host.log(level, texts.map(String).join(' '));
  global.tuma = Object.freeze(tuma);
  global.console = { log: tuma.info, info: tuma.info, warn: tuma.warn, error: tuma.error, debug: tuma.debug };
  global.setTimeout = (then, milliseconds = 0, ...rest) => start('timer', String(Number(milliseconds) || 0), () => then(...rest));
  global.clearTimeout = (id) => { if (waiting.delete(id)) host.cancel(id); };

  // Modules, as CommonJS has them.
  const modules = new Map();
  const folder = (path) => path.slice(0, path.lastIndexOf('/')) || '/';
  function load(path) {
    const known = modules.get(path);
    if (known !== undefined) return known.exports;
    const module = { exports: {}, id: path, filename: path, loaded: false };
    modules.set(path, module);
    try {
      const source = host.source(path);
      if (path.endsWith('.json')) module.exports = JSON.parse(source);
      else host.compile(source, path).call(module.exports, module.exports, requiring(path), module, path, folder(path));
      module.loaded = true;
    } catch (error) {
      modules.delete(path);
      throw error;
    }
    return module.exports;
  }
  function requiring(from) {
    const here = folder(from);
    return (name) => {
      const path = host.resolve(here, String(name));
      if (path === null || path === undefined) {
        const error = new Error(`Cannot find module '${name}' from ${from}`);
        error.code = 'MODULE_NOT_FOUND';
        throw error;
      }
      return load(path);
    };
  }
  server('__load', ([path]) => {
    load(path);
    loading = false;
    return PHASES.filter((_, at) => hooks[at].length > 0);
  });

  // Tests: a client whose every step is an operation.
  const client = () => {
    const step = (word) => async (...given) => JSON.parse(await operation('client', JSON.stringify([word, ...given])));
    const steps = {};
    for (const word of ['connect', 'hello', 'auth', 'mail', 'rcpt', 'data', 'message']) steps[word] = step(word);
    return Object.setPrototypeOf(steps, strict('client'));
  };
  server('__tests', () => tests.map(([name]) => name));
  server('__test', (at, call) => {
    const failed = (error) => host.failed(call, told(error));
    new Promise((resolve) => resolve(tests[at][1](client()))).then(() => host.done(call), failed);
  });
})(globalThis);

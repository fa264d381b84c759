// What Node has of its own and needs nothing of the world: buffers, events, timers, util, path, url and the like. The
// first script of a machine that runs Haraka's plugins; the scripts after it find what it made in `__env`.
(function (global) {
  'use strict';
  const host = global.__host;
  delete global.__host;
  const env = global.__env = { host, builtin: Object.create(null), current: undefined };
  const builtin = env.builtin;
  const server = (name, value) => Object.defineProperty(global, name, { value, writable: false, enumerable: false });
  env.server = server;

  // --- What waits ---------------------------------------------------------------------------------------------------
  // Who began an operation is in charge again when it is done, so that an error there ends the right question.
  const waiting = new Map();
  let number = 0;
  env.start = (kind, argument, then) => {
    number++;
    host.start(number, kind, argument);
    waiting.set(number, [then, env.current]);
    return number;
  };
  env.cancel = (id) => { if (waiting.delete(id)) host.cancel(id); };
  env.operation = (kind, argument) => new Promise((resolve, reject) => {
    env.start(kind, argument, (failed, came) => failed === undefined ? resolve(came) : reject(new Error(failed)));
  });
  // Runs a callback in the name of whoever is in charge.
  env.as = (current, work) => {
    const before = env.current;
    env.current = current;
    try {
      return work();
    } catch (error) {
      if (current === undefined) throw error;
      current.fail(error);
    } finally {
      env.current = before;
    }
  };
  server('__complete', (id, failed, came) => {
    const entry = waiting.get(id);
    if (entry === undefined) return;
    waiting.delete(id);
    env.as(entry[1], () => entry[0](failed ?? undefined, came));
  });

  // --- Timers -------------------------------------------------------------------------------------------------------
  class Timeout {
    constructor(then, after, rest, repeat) {
      Object.defineProperties(this, { then: { value: then }, after: { value: Math.max(1, Number(after) || 0) }, rest: { value: rest }, repeat: { value: repeat }, id: { value: undefined, writable: true } });
      this.begin();
    }
    begin() {
      this.id = env.start('timer', String(this.after), () => {
        this.id = undefined;
        if (this.repeat) this.begin();
        this.then(...this.rest);
      });
    }
    close() { if (this.id !== undefined) env.cancel(this.id); this.id = undefined; return this; }
    refresh() { this.close(); this.begin(); return this; }
    ref() { return this; }
    unref() { return this; }
    hasRef() { return false; }
    [Symbol.toPrimitive]() { return this.id ?? 0; }
    [Symbol.dispose ?? Symbol('dispose')]() { this.close(); }
  }
  const clear = (timer) => { if (timer instanceof Timeout) timer.close(); else if (timer !== undefined && timer !== null) env.cancel(Number(timer)); };
  let immediates = [];
  const setImmediate = (then, ...rest) => {
    const entry = { then, rest, current: env.current, ref() { return entry; }, unref() { return entry; }, hasRef: () => false };
    if (immediates.push(entry) === 1) {
      env.start('timer', '0', () => {
        const now = immediates;
        immediates = [];
        for (const { then, rest, current } of now) if (then !== undefined) env.as(current, () => then(...rest));
      });
    }
    return entry;
  };
  const timers = {
    setTimeout: (then, after, ...rest) => new Timeout(then, after, rest, false),
    setInterval: (then, after, ...rest) => new Timeout(then, after, rest, true),
    clearTimeout: clear, clearInterval: clear, setImmediate,
    clearImmediate: (entry) => { if (entry) entry.then = undefined; },
  };
  Object.assign(global, timers);
  timers.promises = {
    setTimeout: (after, value) => new Promise((resolve) => timers.setTimeout(resolve, after, value)),
    setImmediate: (value) => new Promise((resolve) => setImmediate(resolve, value)),
  };
  builtin.timers = timers;
  builtin['timers/promises'] = timers.promises;
  const nextTick = (then, ...rest) => {
    const current = env.current;
    Promise.resolve().then(() => env.as(current, () => then(...rest))).catch((error) => host.log('error', env.told(error)));
  };
  global.queueMicrotask ??= (then) => nextTick(then);

  env.told = (error) => {
    if (error instanceof Error) return `${error.name}: ${error.message}\n${error.stack ?? ''}`.trim();
    return `it threw ${typeof error === 'string' ? error : inspect(error)}`;
  };
  const failure = (code, message, Kind = Error) => Object.assign(new Kind(message), { code });
  env.failure = failure;

  // --- Buffer -------------------------------------------------------------------------------------------------------
  const LETTERS = 'ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789+/';
  const VALUES = new Int16Array(128).fill(-1);
  for (let n = 0; n < 64; n++) VALUES[LETTERS.charCodeAt(n)] = n;
  VALUES[45] = 62;
  VALUES[95] = 63;
  const binary = (octets) => {
    let text = '';
    for (let at = 0; at < octets.length; at += 8192) text += String.fromCharCode.apply(null, Uint8Array.prototype.subarray.call(octets, at, at + 8192));
    return text;
  };
  env.binary = binary;
  const unbinary = (text, Kind = Buffer) => {
    const octets = new Kind(text.length);
    for (let n = 0; n < text.length; n++) octets[n] = text.charCodeAt(n);
    return octets;
  };
  env.unbinary = unbinary;
  const base64 = (octets, letters, pad) => {
    let text = '';
    let n = 0;
    for (; n + 2 < octets.length; n += 3) {
      const word = octets[n] << 16 | octets[n + 1] << 8 | octets[n + 2];
      text += letters[word >> 18] + letters[word >> 12 & 63] + letters[word >> 6 & 63] + letters[word & 63];
    }
    if (n + 1 === octets.length) text += letters[octets[n] >> 2] + letters[octets[n] << 4 & 63] + (pad ? '==' : '');
    if (n + 2 === octets.length) {
      const word = octets[n] << 8 | octets[n + 1];
      text += letters[word >> 10] + letters[word >> 4 & 63] + letters[word << 2 & 63] + (pad ? '=' : '');
    }
    return text;
  };
  const unbase64 = (text) => {
    const octets = new Buffer(Math.ceil(text.length * 3 / 4));
    let length = 0, word = 0, bits = 0;
    for (let n = 0; n < text.length; n++) {
      const code = text.charCodeAt(n);
      if (code === 61) break;
      const value = code < 128 ? VALUES[code] : -1;
      if (value < 0) continue;
      word = (word << 6 | value) & 0xffffff;
      bits += 6;
      if (bits >= 8) { bits -= 8; octets[length++] = word >> bits & 255; }
    }
    return octets.subarray(0, length);
  };
  const encoding = (name) => {
    const plain = String(name ?? 'utf8').toLowerCase().replace(/^(utf|ucs|iso|us)-/, '$1');
    const known = { utf8: 'utf8', ascii: 'ascii', usascii: 'ascii', latin1: 'latin1', binary: 'latin1', 'iso8859-1': 'latin1', hex: 'hex', base64: 'base64', base64url: 'base64url', utf16le: 'utf16le', ucs2: 'utf16le' }[plain];
    return known;
  };
  const octetsOf = (text, name) => {
    const kind = encoding(name);
    if (kind === undefined) throw failure('ERR_UNKNOWN_ENCODING', `Unknown encoding: ${name}`, TypeError);
    switch (kind) {
      case 'utf8': return Buffer.of_view(host.octets(text));
      case 'ascii': case 'latin1': return unbinary(text);
      case 'base64': case 'base64url': return unbase64(text);
      case 'hex': {
        const octets = new Buffer(text.length >> 1);
        for (let n = 0; n < octets.length; n++) {
          const value = parseInt(text.substr(n * 2, 2), 16);
          if (Number.isNaN(value)) return octets.subarray(0, n);
          octets[n] = value;
        }
        return octets;
      }
      default: {
        const octets = new Buffer(text.length * 2);
        for (let n = 0; n < text.length; n++) { const code = text.charCodeAt(n); octets[n * 2] = code & 255; octets[n * 2 + 1] = code >> 8; }
        return octets;
      }
    }
  };
  const OCTETS_MAX = 256 << 20;
  class Buffer extends Uint8Array {
    static get [Symbol.species]() { return Buffer; }
    static of_view(view) { return new Buffer(view.buffer, view.byteOffset, view.byteLength); }
    static from(value, second, third) {
      if (typeof value === 'string') return octetsOf(value, second);
      if (value instanceof ArrayBuffer) return new Buffer(value, second, third);
      if (ArrayBuffer.isView(value) || Array.isArray(value)) {
        const octets = new Buffer(value.length);
        octets.set(value);
        return octets;
      }
      if (value && value.type === 'Buffer' && Array.isArray(value.data)) return Buffer.from(value.data);
      if (value && (typeof value === 'object' || typeof value === 'function')) {
        const inner = value.valueOf();
        if (inner !== value && inner !== null && inner !== undefined) return Buffer.from(inner, second, third);
        if (typeof value.length === 'number') return Buffer.from(Array.from(value));
      }
      throw failure('ERR_INVALID_ARG_TYPE', 'The first argument must be of type string or an instance of Buffer, ArrayBuffer, or Array', TypeError);
    }
    static alloc(size, fill, name) {
      if (!(size >= 0 && size <= OCTETS_MAX)) throw failure('ERR_OUT_OF_RANGE', `a buffer of ${size} octets cannot be`, RangeError);
      const octets = new Buffer(Number(size));
      return fill === undefined || fill === 0 ? octets : octets.fill(fill, name);
    }
    static allocUnsafe(size) { return Buffer.alloc(size); }
    static allocUnsafeSlow(size) { return Buffer.alloc(size); }
    static isBuffer(value) { return value instanceof Buffer; }
    static isEncoding(name) { return typeof name === 'string' && encoding(name) !== undefined; }
    static byteLength(value, name) {
      if (typeof value !== 'string') return value.byteLength;
      return encoding(name) === 'latin1' ? value.length : octetsOf(value, name).length;
    }
    static concat(list, total) {
      const length = total ?? list.reduce((sum, part) => sum + part.length, 0);
      const octets = Buffer.alloc(length);
      let at = 0;
      for (const part of list) {
        if (at >= length) break;
        octets.set(at + part.length > length ? part.subarray(0, length - at) : part, at);
        at += part.length;
      }
      return octets;
    }
    static compare(a, b) {
      const shared = Math.min(a.length, b.length);
      for (let n = 0; n < shared; n++) if (a[n] !== b[n]) return a[n] < b[n] ? -1 : 1;
      return Math.sign(a.length - b.length);
    }
    get parent() { return this.buffer; }
    get offset() { return this.byteOffset; }
    toString(name, start = 0, end = this.length) {
      const part = start === 0 && end >= this.length ? this : Uint8Array.prototype.subarray.call(this, start, Math.max(start, end));
      switch (encoding(name)) {
        case 'utf8': return host.utf8(binary(part));
        case 'latin1': return binary(part);
        case 'ascii': return binary(part.map((octet) => octet & 127));
        case 'base64': return base64(part, LETTERS, true);
        case 'base64url': return base64(part, LETTERS.slice(0, 62) + '-_', false);
        case 'hex': { let text = ''; for (const octet of part) text += (octet < 16 ? '0' : '') + octet.toString(16); return text; }
        case 'utf16le': { let text = ''; for (let n = 0; n + 1 < part.length; n += 2) text += String.fromCharCode(part[n] | part[n + 1] << 8); return text; }
        default: throw failure('ERR_UNKNOWN_ENCODING', `Unknown encoding: ${name}`, TypeError);
      }
    }
    toLocaleString(name, start, end) { return this.toString(name, start, end); }
    toJSON() { return { type: 'Buffer', data: Array.from(this) }; }
    inspect() { return `<Buffer ${this.toString('hex', 0, 50).replace(/(..)(?=.)/g, '$1 ')}>`; }
    equals(other) { return Buffer.compare(this, other) === 0; }
    compare(other, start = 0, end = other.length, from = 0, to = this.length) { return Buffer.compare(this.subarray(from, to), other.subarray(start, end)); }
    slice(start, end) { return this.subarray(start, end); }
    write(text, at, length, name) {
      if (typeof at === 'string') { name = at; at = 0; length = undefined; }
      if (typeof length === 'string') { name = length; length = undefined; }
      at ??= 0;
      const octets = octetsOf(text, name);
      const most = Math.min(octets.length, this.length - at, length ?? Infinity);
      this.set(octets.subarray(0, most), at);
      return most;
    }
    copy(target, at = 0, start = 0, end = this.length) {
      const part = Uint8Array.prototype.subarray.call(this, start, Math.min(end, start + Math.max(0, target.length - at)));
      target.set(part, at);
      return part.length;
    }
    fill(value, start, end, name) {
      if (typeof start === 'string') { name = start; start = 0; end = undefined; }
      if (typeof value !== 'string' && !ArrayBuffer.isView(value)) return super.fill(Number(value) & 255, start, end);
      const octets = typeof value === 'string' ? octetsOf(value, name) : value;
      if (octets.length === 0) return super.fill(0, start, end);
      for (let at = start ?? 0, n = 0; at < (end ?? this.length); at++, n++) this[at] = octets[n % octets.length];
      return this;
    }
    indexOf(value, at = 0, name) {
      if (typeof value === 'number') return super.indexOf(value & 255, at);
      if (typeof at === 'string') { name = at; at = 0; }
      const octets = typeof value === 'string' ? octetsOf(value, name) : value;
      if (at < 0) at = Math.max(0, this.length + at);
      if (octets.length === 0) return Math.min(at, this.length);
      for (let found = super.indexOf(octets[0], at); found >= 0 && found + octets.length <= this.length; found = super.indexOf(octets[0], found + 1)) {
        let n = 1;
        while (n < octets.length && this[found + n] === octets[n]) n++;
        if (n === octets.length) return found;
      }
      return -1;
    }
    lastIndexOf(value, at, name) {
      if (typeof value === 'number') return at === undefined ? super.lastIndexOf(value & 255) : super.lastIndexOf(value & 255, at);
      const octets = typeof value === 'string' ? octetsOf(value, name) : value;
      for (let found = Math.min(at ?? Infinity, this.length - octets.length); found >= 0; found--) {
        let n = 0;
        while (n < octets.length && this[found + n] === octets[n]) n++;
        if (n === octets.length) return found;
      }
      return -1;
    }
    includes(value, at, name) { return this.indexOf(value, at, name) >= 0; }
    swap16() { for (let n = 0; n + 1 < this.length; n += 2) [this[n], this[n + 1]] = [this[n + 1], this[n]]; return this; }
    readUIntBE(at, size) { let value = 0; for (let n = 0; n < size; n++) value = value * 256 + this[at + n]; return value; }
    readUIntLE(at, size) { let value = 0; for (let n = size - 1; n >= 0; n--) value = value * 256 + this[at + n]; return value; }
    readIntBE(at, size) { const value = this.readUIntBE(at, size); return value >= 2 ** (size * 8 - 1) ? value - 2 ** (size * 8) : value; }
    readIntLE(at, size) { const value = this.readUIntLE(at, size); return value >= 2 ** (size * 8 - 1) ? value - 2 ** (size * 8) : value; }
    writeUIntBE(value, at, size) { for (let n = size - 1; n >= 0; n--) { this[at + n] = value % 256; value = Math.floor(value / 256); } return at + size; }
    writeUIntLE(value, at, size) { for (let n = 0; n < size; n++) { this[at + n] = value % 256; value = Math.floor(value / 256); } return at + size; }
    writeIntBE(value, at, size) { return this.writeUIntBE(value < 0 ? value + 2 ** (size * 8) : value, at, size); }
    writeIntLE(value, at, size) { return this.writeUIntLE(value < 0 ? value + 2 ** (size * 8) : value, at, size); }
  }
  const method = (name, work) => Object.defineProperty(Buffer.prototype, name, { value: work, writable: true, configurable: true });
  method('readUInt8', function (at = 0) { return this[at]; });
  method('readInt8', function (at = 0) { return this[at] << 24 >> 24; });
  method('writeUInt8', function (value, at = 0) { this[at] = value; return at + 1; });
  method('writeInt8', function (value, at = 0) { this[at] = value; return at + 1; });
  for (const [bits, Kind] of [[16, ''], [32, '']]) {
    for (const end of ['BE', 'LE']) {
      method(`readUInt${bits}${end}`, function (at = 0) { return this[`readUInt${end}`](at, bits / 8); });
      method(`readInt${bits}${end}`, function (at = 0) { return this[`readInt${end}`](at, bits / 8); });
      method(`writeUInt${bits}${end}`, function (value, at = 0) { return this[`writeUInt${end}`](value, at, bits / 8); });
      method(`writeInt${bits}${end}`, function (value, at = 0) { return this[`writeInt${end}`](value, at, bits / 8); });
    }
  }
  for (const [name, kind, size] of [['Float', 'Float32', 4], ['Double', 'Float64', 8], ['BigInt64', 'BigInt64', 8], ['BigUInt64', 'BigUint64', 8]]) {
    for (const end of ['BE', 'LE']) {
      method(`read${name}${end}`, function (at = 0) { return new DataView(this.buffer, this.byteOffset)[`get${kind}`](at, end === 'LE'); });
      method(`write${name}${end}`, function (value, at = 0) { new DataView(this.buffer, this.byteOffset)[`set${kind}`](at, value, end === 'LE'); return at + size; });
    }
  }
  for (const name of Object.getOwnPropertyNames(Buffer.prototype)) {
    if (name.includes('UInt')) method(name.replace('UInt', 'Uint'), Buffer.prototype[name]);
  }
  // As it was before `class` was: with and without `new`.
  const Callable = new Proxy(Buffer, { apply: (_, __, given) => typeof given[0] === 'number' ? Buffer.alloc(given[0]) : Buffer.from(...given), construct: (_, given, to) => typeof given[0] === 'string' ? Buffer.from(...given) : Reflect.construct(Buffer, given, to) });
  Buffer.prototype.constructor = Callable;
  Buffer.poolSize = 8192;
  global.Buffer = Callable;
  env.Buffer = Buffer;
  env.bytes = (value, name) => typeof value === 'string' ? octetsOf(value, name) : value instanceof Buffer ? value : ArrayBuffer.isView(value) ? new Buffer(value.buffer, value.byteOffset, value.byteLength) : Buffer.from(value);
  global.atob ??= (text) => binary(unbase64(String(text)));
  global.btoa ??= (text) => base64(unbinary(String(text)), LETTERS, true);
  builtin.buffer = { Buffer: Callable, SlowBuffer: Callable, kMaxLength: OCTETS_MAX, constants: { MAX_LENGTH: OCTETS_MAX, MAX_STRING_LENGTH: OCTETS_MAX }, atob: global.atob, btoa: global.btoa, isUtf8: (octets) => !env.bytes(octets).toString().includes('\ufffd'), isAscii: (octets) => octets.every((octet) => octet < 128) };
  class TextEncoder { get encoding() { return 'utf-8'; } encode(text = '') { return host.octets(String(text)); } encodeInto(text, into) { const octets = host.octets(String(text)).subarray(0, into.length); into.set(octets); return { read: text.length, written: octets.length }; } }
  class TextDecoder {
    constructor(name = 'utf-8', options = {}) {
      this.encoding = String(name).toLowerCase();
      this.fatal = options.fatal === true;
      this.kind = encoding(/^(windows-1252|iso-?8859-1)$/.test(this.encoding) ? 'latin1' : this.encoding);
      if (this.kind === undefined) throw failure('ERR_ENCODING_NOT_SUPPORTED', `The "${name}" encoding is not supported`, RangeError);
    }
    decode(octets = new Uint8Array(0)) {
      const text = env.bytes(octets).toString(this.kind);
      if (this.fatal && this.kind === 'utf8' && text.includes('\ufffd')) throw failure('ERR_ENCODING_INVALID_ENCODED_DATA', 'The encoded data was not valid', TypeError);
      return text.replace(/^\ufeff/, '');
    }
  }
  global.TextEncoder ??= TextEncoder;
  global.TextDecoder ??= TextDecoder;
  class StringDecoder {
    constructor(name = 'utf8') { this.encoding = encoding(name); this.rest = Buffer.alloc(0); }
    write(octets) {
      const all = Buffer.concat([this.rest, env.bytes(octets)]);
      let whole = all.length;
      if (this.encoding === 'utf8') {
        // Behind the last lead octet whose sequence is not complete.
        for (let back = 1; back <= Math.min(3, all.length); back++) {
          const octet = all[all.length - back];
          if (octet < 128) break;
          if (octet >= 192) { if ((octet >= 240 ? 4 : octet >= 224 ? 3 : 2) > back) whole = all.length - back; break; }
        }
      } else if (this.encoding === 'utf16le') whole -= whole % 2;
      else if (this.encoding === 'base64') whole -= whole % 3;
      this.rest = Buffer.from(all.subarray(whole));
      return all.toString(this.encoding, 0, whole);
    }
    end(octets) { const text = (octets ? this.write(octets) : '') + this.rest.toString(this.encoding); this.rest = Buffer.alloc(0); return text; }
  }
  builtin.string_decoder = { StringDecoder };

  // --- Events -------------------------------------------------------------------------------------------------------
  const LISTENERS = Symbol('listeners');
  function EventEmitter() { EventEmitter.init.call(this); }
  EventEmitter.init = function () { if (!Object.hasOwn(this, LISTENERS)) Object.defineProperty(this, LISTENERS, { value: new Map(), writable: true }); };
  const listening = (emitter) => { if (!Object.hasOwn(emitter, LISTENERS)) EventEmitter.init.call(emitter); return emitter[LISTENERS]; };
  const add = (emitter, name, then, front) => {
    if (typeof then !== 'function') throw failure('ERR_INVALID_ARG_TYPE', 'The "listener" argument must be of type function', TypeError);
    const all = listening(emitter);
    if (all.has('newListener')) emitter.emit('newListener', name, then.listener ?? then);
    const list = all.get(name) ?? [];
    all.set(name, front ? [then, ...list] : [...list, then]);
    return emitter;
  };
  const onceOnly = (emitter, name, then) => {
    const once = function (...given) { emitter.removeListener(name, once); return then.apply(emitter, given); };
    once.listener = then;
    return once;
  };
  Object.assign(EventEmitter.prototype, {
    on(name, then) { return add(this, name, then, false); },
    addListener(name, then) { return add(this, name, then, false); },
    prependListener(name, then) { return add(this, name, then, true); },
    once(name, then) { return add(this, name, onceOnly(this, name, then), false); },
    prependOnceListener(name, then) { return add(this, name, onceOnly(this, name, then), true); },
    removeListener(name, then) {
      const list = listening(this).get(name) ?? [];
      const at = list.findLastIndex((one) => one === then || one.listener === then);
      if (at >= 0) {
        const rest = list.toSpliced(at, 1);
        if (rest.length === 0) listening(this).delete(name); else listening(this).set(name, rest);
        if (listening(this).has('removeListener')) this.emit('removeListener', name, then);
      }
      return this;
    },
    removeAllListeners(name) { if (name === undefined) listening(this).clear(); else listening(this).delete(name); return this; },
    emit(name, ...given) {
      const list = listening(this).get(name);
      if (list === undefined) {
        if (name === 'error') throw given[0] instanceof Error ? given[0] : failure('ERR_UNHANDLED_ERROR', `Unhandled error. (${inspect(given[0])})`);
        return false;
      }
      for (const then of list) then.apply(this, given);
      return true;
    },
    listeners(name) { return (listening(this).get(name) ?? []).map((then) => then.listener ?? then); },
    rawListeners(name) { return [...(listening(this).get(name) ?? [])]; },
    listenerCount(name) { return listening(this).get(name)?.length ?? 0; },
    eventNames() { return [...listening(this).keys()]; },
    setMaxListeners() { return this; },
    getMaxListeners() { return Infinity; },
  });
  EventEmitter.prototype.off = EventEmitter.prototype.removeListener;
  Object.assign(EventEmitter, {
    EventEmitter, defaultMaxListeners: 10, setMaxListeners() {}, captureRejectionSymbol: Symbol.for('nodejs.rejection'), errorMonitor: Symbol('events.errorMonitor'),
    listenerCount: (emitter, name) => emitter.listenerCount(name),
    once: (emitter, name) => new Promise((resolve, reject) => {
      const failed = (error) => { emitter.removeListener(name, done); reject(error); };
      const done = (...given) => { emitter.removeListener('error', failed); resolve(given); };
      emitter.once(name, done);
      if (name !== 'error') emitter.once('error', failed);
    }),
  });
  builtin.events = EventEmitter;
  class Event { constructor(type, options) { Object.assign(this, options); this.type = type; } preventDefault() {} stopPropagation() {} }
  class EventTarget {
    #emitter = new EventEmitter();
    addEventListener(name, then, options) { this.#emitter[options?.once ? 'once' : 'on'](name, typeof then === 'function' ? then : then.handleEvent.bind(then)); }
    removeEventListener(name, then) { this.#emitter.removeListener(name, then); }
    dispatchEvent(event) { event.target = this; this[`on${event.type}`]?.(event); if (event.type !== 'error' || this.#emitter.listenerCount('error')) this.#emitter.emit(event.type, event); return true; }
  }
  class AbortSignal extends EventTarget {
    aborted = false;
    reason = undefined;
    throwIfAborted() { if (this.aborted) throw this.reason; }
    static abort(reason) { const control = new AbortController(); control.abort(reason); return control.signal; }
    static timeout(after) { const control = new AbortController(); timers.setTimeout(() => control.abort(Object.assign(new Error('The operation was aborted due to timeout'), { name: 'TimeoutError' })), after); return control.signal; }
    static any(signals) { const control = new AbortController(); for (const signal of signals) { if (signal.aborted) control.abort(signal.reason); else signal.addEventListener('abort', () => control.abort(signal.reason), { once: true }); } return control.signal; }
  }
  class AbortController {
    signal = new AbortSignal();
    abort(reason = Object.assign(new Error('This operation was aborted'), { name: 'AbortError', code: 'ABORT_ERR' })) {
      if (this.signal.aborted) return;
      this.signal.aborted = true;
      this.signal.reason = reason;
      this.signal.dispatchEvent(new Event('abort'));
    }
  }
  Object.assign(global, { Event: global.Event ?? Event, EventTarget: global.EventTarget ?? EventTarget, AbortSignal, AbortController });
  global.DOMException ??= class DOMException extends Error { constructor(message, name = 'Error') { super(message); this.name = name; } };

  // --- util ---------------------------------------------------------------------------------------------------------
  const custom = Symbol.for('nodejs.util.inspect.custom');
  const promisified = Symbol.for('nodejs.util.promisify.custom');
  function inspect(value, options) {
    const deep = typeof options === 'object' && options !== null ? options.depth ?? 2 : 2;
    const seen = new Set();
    const show = (value, depth) => {
      if (typeof value === 'string') return depth === 0 && seen.size === 0 ? `'${value}'` : JSON.stringify(value);
      if (typeof value === 'function') return `[Function: ${value.name || 'anonymous'}]`;
      if (typeof value !== 'object' || value === null) return typeof value === 'bigint' ? `${value}n` : String(value);
      if (value instanceof Error) return value.stack ? `${value.name}: ${value.message}\n${value.stack}` : `${value.name}: ${value.message}`;
      if (value instanceof RegExp || value instanceof Date) return String(value);
      if (value instanceof Buffer) return value.inspect();
      if (typeof value[custom] === 'function') return String(value[custom](deep - depth, {}, inspect));
      if (seen.has(value)) return '[Circular]';
      if (depth > deep) return Array.isArray(value) ? '[Array]' : '[Object]';
      seen.add(value);
      const most = 100;
      const list = (items, open, close) => `${open} ${items.slice(0, most).join(', ')}${items.length > most ? ', ...' : ''} ${close}`.replace(/^(.) {2}(.)$/, '$1$2');
      let text;
      if (Array.isArray(value)) text = list(value.slice(0, most + 1).map((item) => show(item, depth + 1)), '[', ']');
      else if (value instanceof Map) text = `Map(${value.size}) ${list([...value].slice(0, most + 1).map(([k, v]) => `${show(k, depth + 1)} => ${show(v, depth + 1)}`), '{', '}')}`;
      else if (value instanceof Set) text = `Set(${value.size}) ${list([...value].slice(0, most + 1).map((item) => show(item, depth + 1)), '{', '}')}`;
      else text = list(Object.keys(value).slice(0, most + 1).map((key) => `${key}: ${show(value[key], depth + 1)}`), '{', '}');
      seen.delete(value);
      return text;
    };
    return show(value, 0);
  }
  inspect.custom = custom;
  inspect.defaultOptions = {};
  const format = (first, ...rest) => {
    if (typeof first !== 'string') return [first, ...rest].map((one) => typeof one === 'string' ? one : inspect(one)).join(' ');
    const text = first.replace(/%([sdifjoOc%])/g, (all, kind) => {
      if (kind === '%') return '%';
      if (rest.length === 0) return all;
      const one = rest.shift();
      switch (kind) {
        case 's': return typeof one === 'object' && one !== null ? inspect(one) : String(one);
        case 'd': return String(Number(one));
        case 'i': return String(parseInt(one, 10));
        case 'f': return String(parseFloat(one));
        case 'j': try { return JSON.stringify(one); } catch { return '[Circular]'; }
        case 'c': return '';
        default: return inspect(one);
      }
    });
    return [text, ...rest.map((one) => typeof one === 'string' ? one : inspect(one))].join(' ');
  };
  const same = (a, b, strict) => {
    if (strict ? Object.is(a, b) : a == b || (a !== a && b !== b)) return true;
    if (typeof a !== 'object' || typeof b !== 'object' || a === null || b === null) return false;
    if (strict && Object.getPrototypeOf(a) !== Object.getPrototypeOf(b)) return false;
    if (a instanceof Date && b instanceof Date) return a.getTime() === b.getTime();
    if (a instanceof RegExp && b instanceof RegExp) return String(a) === String(b);
    if (a instanceof Map || a instanceof Set) return b.constructor === a.constructor && same([...a], [...b], strict);
    const keys = Object.keys(a);
    return keys.length === Object.keys(b).length && keys.every((key) => Object.hasOwn(b, key) && same(a[key], b[key], strict));
  };
  const kind = (name) => (value) => Object.prototype.toString.call(value) === `[object ${name}]`;
  const util = {
    inspect, format, isDeepStrictEqual: (a, b) => same(a, b, true),
    inherits(child, parent) { child.super_ = parent; Object.setPrototypeOf(child.prototype, parent.prototype); },
    promisify(work) {
      if (work[promisified]) return work[promisified];
      return function (...given) {
        return new Promise((resolve, reject) => work.call(this, ...given, (error, value) => error ? reject(error) : resolve(value)));
      };
    },
    callbackify: (work) => function (...given) { const then = given.pop(); work.apply(this, given).then((value) => nextTick(then, null, value), (error) => nextTick(then, error)); },
    deprecate: (work) => work, debuglog: () => Object.assign(() => {}, { enabled: false }), debug: () => Object.assign(() => {}, { enabled: false }),
    stripVTControlCharacters: (text) => text.replace(/\u001b\[[0-9;]*[A-Za-z]/g, ''), toUSVString: (text) => String(text).toWellFormed(), styleText: (_, text) => text,
    types: {
      isRegExp: kind('RegExp'), isDate: kind('Date'), isMap: kind('Map'), isSet: kind('Set'), isPromise: (value) => value instanceof Promise, isNativeError: (value) => value instanceof Error,
      isUint8Array: (value) => value instanceof Uint8Array, isTypedArray: (value) => ArrayBuffer.isView(value) && !(value instanceof DataView), isArrayBuffer: kind('ArrayBuffer'), isAnyArrayBuffer: (value) => value instanceof ArrayBuffer, isArrayBufferView: ArrayBuffer.isView,
      isAsyncFunction: (value) => kind('AsyncFunction')(value), isGeneratorFunction: kind('GeneratorFunction'), isGeneratorObject: kind('Generator'), isProxy: () => false, isBoxedPrimitive: (value) => value instanceof Number || value instanceof String || value instanceof Boolean, isDataView: kind('DataView'), isWeakMap: kind('WeakMap'), isWeakSet: kind('WeakSet'), isSymbolObject: () => false, isExternal: () => false,
    },
    isArray: Array.isArray, isRegExp: kind('RegExp'), isDate: kind('Date'), isError: (value) => value instanceof Error, isString: (value) => typeof value === 'string', isFunction: (value) => typeof value === 'function', isObject: (value) => typeof value === 'object' && value !== null, isBuffer: Buffer.isBuffer, isUndefined: (value) => value === undefined, isNull: (value) => value === null, isNullOrUndefined: (value) => value === undefined || value === null, isNumber: (value) => typeof value === 'number', isBoolean: (value) => typeof value === 'boolean',
    TextEncoder: global.TextEncoder, TextDecoder: global.TextDecoder, _extend: Object.assign, aborted: (signal) => new Promise((resolve) => signal.addEventListener('abort', resolve)),
  };
  util.promisify.custom = promisified;
  timers.setTimeout[promisified] = timers.promises.setTimeout;
  timers.setImmediate[promisified] = timers.promises.setImmediate;
  builtin.util = util;
  builtin['util/types'] = util.types;
  env.format = format;
  env.inspect = inspect;
  const say = (level) => (...given) => host.log(level, format(...given));
  global.console = { log: say('info'), info: say('info'), warn: say('warn'), error: say('error'), debug: say('debug'), trace: say('debug'), dir: say('info'), assert(held, ...given) { if (!held) say('error')('Assertion failed', ...given); }, time() {}, timeEnd() {}, timeLog() {}, group() {}, groupEnd() {}, table: say('info') };
  builtin.console = global.console;

  // --- path ---------------------------------------------------------------------------------------------------------
  const normalize = (text) => {
    const parts = [];
    const rooted = text.startsWith('/');
    for (const part of text.split('/')) {
      if (part === '' || part === '.') continue;
      if (part !== '..') parts.push(part);
      else if (parts.length > 0 && parts.at(-1) !== '..') parts.pop();
      else if (!rooted) parts.push('..');
    }
    const plain = (rooted ? '/' : '') + parts.join('/') + (text.endsWith('/') && parts.length > 0 ? '/' : '');
    return plain || (rooted ? '/' : '.');
  };
  const path = {
    sep: '/', delimiter: ':', normalize,
    join: (...parts) => normalize(parts.filter((part) => part !== '').join('/') || '.'),
    resolve(...parts) {
      let all = '';
      for (let n = parts.length - 1; n >= 0 && !all.startsWith('/'); n--) if (parts[n]) all = all === '' ? parts[n] : `${parts[n]}/${all}`;
      if (!all.startsWith('/')) all = `${process.cwd()}/${all}`;
      const plain = normalize(all);
      return plain.length > 1 && plain.endsWith('/') ? plain.slice(0, -1) : plain;
    },
    isAbsolute: (text) => text.startsWith('/'),
    dirname(text) { const plain = text.replace(/\/+$/, ''); const at = plain.lastIndexOf('/'); return at < 0 ? (text.startsWith('/') ? '/' : '.') : at === 0 ? '/' : plain.slice(0, at); },
    basename(text, ending = '') { const name = text.replace(/\/+$/, '').split('/').pop(); return ending && name !== ending && name.endsWith(ending) ? name.slice(0, -ending.length) : name; },
    extname(text) { const name = text.split('/').pop(); const at = name.lastIndexOf('.'); return at <= 0 ? '' : name.slice(at); },
    relative(from, to) {
      const a = path.resolve(from).split('/').filter(Boolean), b = path.resolve(to).split('/').filter(Boolean);
      let shared = 0;
      while (shared < a.length && a[shared] === b[shared]) shared++;
      return [...a.slice(shared).map(() => '..'), ...b.slice(shared)].join('/');
    },
    parse(text) { const base = path.basename(text), ext = path.extname(text); return { root: text.startsWith('/') ? '/' : '', dir: text.includes('/') ? path.dirname(text) : '', base, ext, name: ext ? base.slice(0, -ext.length) : base }; },
    format: (parts) => (parts.dir ? `${parts.dir}/` : parts.root ?? '') + (parts.base ?? `${parts.name ?? ''}${parts.ext ?? ''}`),
    toNamespacedPath: (text) => text,
  };
  path.posix = path;
  path.win32 = path;
  builtin.path = path;
  builtin['path/posix'] = path;

  // --- url and querystring ------------------------------------------------------------------------------------------
  const unescape = (text) => { try { return decodeURIComponent(text.replace(/\+/g, ' ')); } catch { return text; } };
  const escape = (text) => encodeURIComponent(text).replace(/[!'()~]/g, (c) => `%${c.charCodeAt(0).toString(16).toUpperCase()}`);
  const querystring = {
    parse(text, pair = '&', equal = '=') {
      const found = Object.create(null);
      for (const part of String(text).split(pair)) {
        if (part === '') continue;
        const at = part.indexOf(equal);
        const [key, value] = at < 0 ? [unescape(part), ''] : [unescape(part.slice(0, at)), unescape(part.slice(at + 1))];
        if (key in found) found[key] = [].concat(found[key], value); else found[key] = value;
      }
      return found;
    },
    stringify: (object, pair = '&', equal = '=') => Object.entries(object ?? {}).flatMap(([key, value]) => (Array.isArray(value) ? value : [value]).map((one) => `${encodeURIComponent(key)}${equal}${encodeURIComponent(one ?? '')}`)).join(pair),
    escape: encodeURIComponent, unescape,
  };
  querystring.encode = querystring.stringify;
  querystring.decode = querystring.parse;
  builtin.querystring = querystring;
  class URLSearchParams {
    #list = [];
    #changed;
    constructor(given = '', changed) {
      this.#changed = changed;
      if (typeof given === 'string') {
        for (const part of given.replace(/^\?/, '').split('&')) if (part) { const at = part.indexOf('='); this.#list.push(at < 0 ? [unescape(part), ''] : [unescape(part.slice(0, at)), unescape(part.slice(at + 1))]); }
      } else for (const [key, value] of given[Symbol.iterator] ? given : Object.entries(given)) this.#list.push([String(key), String(value)]);
    }
    #did() { this.#changed?.(this.toString()); }
    append(key, value) { this.#list.push([String(key), String(value)]); this.#did(); }
    set(key, value) { this.#list = this.#list.filter(([name]) => name !== key); this.append(key, value); }
    delete(key) { this.#list = this.#list.filter(([name]) => name !== key); this.#did(); }
    get(key) { return this.#list.find(([name]) => name === key)?.[1] ?? null; }
    getAll(key) { return this.#list.filter(([name]) => name === key).map(([, value]) => value); }
    has(key) { return this.#list.some(([name]) => name === key); }
    sort() { this.#list.sort(([a], [b]) => a < b ? -1 : a > b ? 1 : 0); this.#did(); }
    forEach(then) { for (const [key, value] of this.#list) then(value, key, this); }
    keys() { return this.#list.map(([key]) => key).values(); }
    values() { return this.#list.map(([, value]) => value).values(); }
    entries() { return this.#list.values(); }
    [Symbol.iterator]() { return this.#list.values(); }
    get size() { return this.#list.length; }
    toString() { return this.#list.map(([key, value]) => `${escape(key).replace(/%20/g, '+')}=${escape(value).replace(/%20/g, '+')}`).join('&'); }
  }
  const PORTS = { 'http:': '80', 'https:': '443', 'ftp:': '21', 'ws:': '80', 'wss:': '443' };
  const URL_SHAPE = /^([a-z][a-z0-9+.-]*:)(?:(\/\/)(?:([^@/?#]*)@)?(\[[0-9a-f:.]*\]|[^:/?#]*)(?::(\d*))?)?([^?#]*)(\?[^#]*)?(#.*)?$/i;
  class URL {
    constructor(given, base) {
      let text = String(given).trim();
      let found = URL_SHAPE.exec(text);
      if (found === null || (found[2] === undefined && found[1].toLowerCase() in PORTS)) {
        if (base === undefined) throw Object.assign(failure('ERR_INVALID_URL', 'Invalid URL', TypeError), { input: text });
        const on = new URL(base);
        if (text.startsWith('//')) text = on.protocol + text;
        else if (text.startsWith('/')) text = on.origin_part() + text;
        else if (text.startsWith('?')) text = on.origin_part() + on.pathname + text;
        else if (text.startsWith('#')) text = on.origin_part() + on.pathname + on.search + text;
        else text = on.origin_part() + on.pathname.replace(/[^/]*$/, '') + text;
        found = URL_SHAPE.exec(text);
        if (found === null) throw failure('ERR_INVALID_URL', 'Invalid URL', TypeError);
      }
      this.protocol = found[1].toLowerCase();
      const special = this.protocol in PORTS;
      const [user = '', password = ''] = (found[3] ?? '').split(/:(.*)/s);
      this.username = user;
      this.password = password;
      this.slashes = found[2] !== undefined;
      this.hostname = (found[4] ?? '').toLowerCase();
      if (special && (this.hostname === '' || /[\s<>^|%\\]/.test(this.hostname))) throw failure('ERR_INVALID_URL', 'Invalid URL', TypeError);
      if (found[5] && Number(found[5]) > 65535) throw failure('ERR_INVALID_URL', 'Invalid URL', TypeError);
      this.port = found[5] === undefined || found[5] === PORTS[this.protocol] ? '' : found[5];
      this.pathname = this.slashes ? normalize(found[6] || (special ? '/' : '')).replace(/^\.$/, '') : found[6];
      this.pathname = this.pathname.replace(/ /g, '%20');
      this.search = found[7] === '?' ? '' : found[7] ?? '';
      this.hash = found[8] === '#' ? '' : found[8] ?? '';
      Object.defineProperty(this, 'searchParams', { value: new URLSearchParams(this.search, (text) => { this.search = text ? `?${text}` : ''; }) });
    }
    origin_part() { const user = this.username ? `${this.username}${this.password ? `:${this.password}` : ''}@` : ''; return `${this.protocol}${this.slashes ? '//' : ''}${user}${this.host}`; }
    get host() { return this.hostname + (this.port ? `:${this.port}` : ''); }
    get origin() { return this.protocol in PORTS ? `${this.protocol}//${this.host}` : 'null'; }
    get href() { return this.origin_part() + this.pathname + this.search + this.hash; }
    toString() { return this.href; }
    toJSON() { return this.href; }
    static canParse(text, base) { try { return Boolean(new URL(text, base)); } catch { return false; } }
    static parse(text, base) { try { return new URL(text, base); } catch { return null; } }
  }
  Object.assign(global, { URL: global.URL ?? URL, URLSearchParams: global.URLSearchParams ?? URLSearchParams });
  builtin.url = {
    URL: global.URL, URLSearchParams: global.URLSearchParams,
    parse(text, queries) {
      const found = URL_SHAPE.exec(String(text).trim());
      const [, protocol = null, slashes, auth = null, name = null, port = null, pathname, search = null, hash = null] = found ?? [];
      const rest = found ? undefined : /^([^?#]*)(\?[^#]*)?(#.*)?$/s.exec(String(text));
      const query = (rest ? rest[2] ?? null : search)?.slice(1) ?? null;
      const on = rest ? rest[1] : pathname;
      return { protocol: protocol?.toLowerCase() ?? null, slashes: slashes ? true : null, auth: auth ? unescape(auth) : null, host: name ? name.toLowerCase() + (port ? `:${port}` : '') : null, port: port || null, hostname: name ? name.toLowerCase().replace(/^\[(.*)\]$/, '$1') : null, hash: rest ? rest[3] ?? null : hash, search: rest ? rest[2] ?? null : search, query: queries ? querystring.parse(query ?? '') : query, pathname: on || null, path: (on || '') + (query === null ? '' : `?${query}`) || null, href: String(text) };
    },
    format: (url) => typeof url === 'string' ? url : url instanceof URL ? url.href : `${url.protocol ?? ''}${url.slashes || url.host || url.hostname ? '//' : ''}${url.auth ? `${url.auth}@` : ''}${url.host ?? (url.hostname ?? '') + (url.port ? `:${url.port}` : '')}${url.pathname ?? ''}${url.search ?? (url.query ? `?${querystring.stringify(url.query)}` : '')}${url.hash ?? ''}`,
    resolve: (base, text) => { try { return new URL(text, base).href; } catch { return text; } },
    fileURLToPath: (url) => decodeURIComponent(new URL(url).pathname), pathToFileURL: (text) => new URL(`file://${path.resolve(text)}`),
    domainToASCII: (name) => host.to_ascii(String(name)) ?? '', domainToUnicode: (name) => host.to_unicode(String(name)) ?? '',
  };
  builtin.punycode = { toASCII: (name) => host.to_ascii(String(name)) ?? String(name), toUnicode: (name) => host.to_unicode(String(name)) ?? String(name), ucs2: { decode: (text) => Array.from(text, (c) => c.codePointAt(0)), encode: (list) => String.fromCodePoint(...list) } };

  // --- assert -------------------------------------------------------------------------------------------------------
  class AssertionError extends Error { constructor(options) { super(options.message); this.name = 'AssertionError'; this.code = 'ERR_ASSERTION'; Object.assign(this, options); } }
  const held = (right, message, fallback, more) => { if (right) return; if (message instanceof Error) throw message; throw new AssertionError({ message: message ?? fallback, ...more }); };
  const assert = (value, message) => held(value, message, 'The expression evaluated to a falsy value');
  Object.assign(assert, {
    ok: assert, AssertionError, fail: (message = 'Failed') => held(false, message),
    equal: (a, b, message) => held(a == b, message, `${inspect(a)} == ${inspect(b)}`), notEqual: (a, b, message) => held(a != b, message, `${inspect(a)} != ${inspect(b)}`),
    strictEqual: (a, b, message) => held(Object.is(a, b), message, `${inspect(a)} !== ${inspect(b)}`), notStrictEqual: (a, b, message) => held(!Object.is(a, b), message, `${inspect(a)} === ${inspect(b)}`),
    deepEqual: (a, b, message) => held(same(a, b, false), message, 'not equal'), deepStrictEqual: (a, b, message) => held(same(a, b, true), message, 'not equal'), notDeepStrictEqual: (a, b, message) => held(!same(a, b, true), message, 'equal'),
    throws(work, ...rest) { try { work(); } catch { return; } held(false, rest.find((one) => typeof one === 'string'), 'Missing expected exception'); },
    match: (text, pattern, message) => held(pattern.test(text), message, 'no match'), ifError: (value) => { if (value !== null && value !== undefined) throw value; },
  });
  assert.strict = assert;
  builtin.assert = assert;
  builtin['assert/strict'] = assert;

  // --- os and process -----------------------------------------------------------------------------------------------
  const machine = host.machine();
  const began = host.time();
  const temporary = () => env.writable ?? '/tmp';
  builtin.os = {
    EOL: '\n', hostname: () => machine.hostname, tmpdir: temporary, homedir: () => env.root, platform: () => 'linux', type: () => 'Linux', release: () => '0', arch: () => machine.arch, endianness: () => 'LE', uptime: () => host.time() - began, loadavg: () => host.load(), totalmem: () => 0, freemem: () => 0,
    cpus: () => Array.from({ length: machine.cpus }, () => ({ model: '', speed: 0, times: { user: 0, nice: 0, sys: 0, idle: 0, irq: 0 } })), networkInterfaces: () => host.interfaces(), userInfo: () => ({ username: 'tuma', uid: -1, gid: -1, shell: null, homedir: env.root }), availableParallelism: () => machine.cpus, constants: { signals: {}, errno: {} },
  };
  const gone = (what) => () => { throw failure('ERR_FEATURE_UNAVAILABLE', `${what} is not for a plugin to do here`); };
  const process = Object.assign(new EventEmitter(), {
    title: 'tuma', pid: machine.pid, ppid: 0, platform: 'linux', arch: machine.arch, version: 'v22.0.0', versions: { node: '22.0.0', v8: '0', tuma: machine.version }, release: { name: 'node' }, argv: ['node', 'haraka'], argv0: 'node', execArgv: [], execPath: '/usr/bin/node', exitCode: undefined, env: Object.create(null), features: {}, config: { variables: {} },
    cwd: () => env.root, chdir: gone('chdir'), exit: gone('process.exit'), kill: gone('process.kill'), abort: gone('process.abort'), setuid: gone('setuid'), setgid: gone('setgid'), getuid: () => 65534, geteuid: () => 65534, getgid: () => 65534, umask: () => 0o22, uptime: () => host.time() - began,
    hrtime: Object.assign((before) => { const now = host.clock(); const seconds = Math.floor(now / 1000), rest = Math.round(now % 1000 * 1e6); return before ? (rest < before[1] ? [seconds - before[0] - 1, rest - before[1] + 1e9] : [seconds - before[0], rest - before[1]]) : [seconds, rest]; }, { bigint: () => BigInt(Math.round(host.clock() * 1e6)) }),
    nextTick, memoryUsage: Object.assign(() => ({ rss: 0, heapTotal: 0, heapUsed: 0, external: 0, arrayBuffers: 0 }), { rss: () => 0 }), cpuUsage: () => ({ user: 0, system: 0 }), resourceUsage: () => ({}), emitWarning: (warning) => host.log('warn', String(warning?.message ?? warning)), binding: gone('process.binding'), stdout: { write: (text) => { host.log('info', String(text).trimEnd()); return true; }, isTTY: false, columns: 80 }, stderr: { write: (text) => { host.log('warn', String(text).trimEnd()); return true; }, isTTY: false }, stdin: { isTTY: false }, getBuiltinModule: (name) => builtin[name.replace(/^node:/, '')],
  });
  global.process = process;
  builtin.process = process;
  global.performance ??= { now: () => host.clock(), timeOrigin: began * 1000 };
  if (global.performance.timeOrigin === undefined) global.performance = { now: () => host.clock(), timeOrigin: began * 1000 };
  builtin.perf_hooks = { performance: global.performance, PerformanceObserver: class { observe() {} disconnect() {} }, monitorEventLoopDelay: () => ({ enable() {}, disable() {}, mean: 0, max: 0, percentile: () => 0 }) };
  global.structuredClone ??= (value) => value === undefined ? undefined : JSON.parse(JSON.stringify(value));
  global.global = global;
  class AsyncLocalStorage { run(store, work, ...given) { const before = this.store; this.store = store; try { return work(...given); } finally { this.store = before; } } getStore() { return this.store; } enterWith(store) { this.store = store; } exit(work, ...given) { return this.run(undefined, work, ...given); } disable() { this.store = undefined; } static bind(work) { return work; } static snapshot() { return (work, ...given) => work(...given); } }
  class AsyncResource { runInAsyncScope(work, self, ...given) { return work.apply(self, given); } emitDestroy() { return this; } asyncId() { return 0; } triggerAsyncId() { return 0; } static bind(work) { return work; } bind(work) { return work; } }
  builtin.async_hooks = { AsyncLocalStorage, AsyncResource, executionAsyncId: () => 0, triggerAsyncId: () => 0, createHook: () => ({ enable() {}, disable() {} }) };
  const channel = (name) => ({ name, hasSubscribers: false, publish() {}, subscribe() {}, unsubscribe() {}, bindStore() {}, runStores: (context, work, self, ...given) => work.apply(self, given) });
  builtin.diagnostics_channel = { channel, hasSubscribers: () => false, subscribe() {}, unsubscribe() {}, tracingChannel: (name) => ({ start: channel(name), end: channel(name), asyncStart: channel(name), asyncEnd: channel(name), error: channel(name), hasSubscribers: false, subscribe() {}, traceSync: (work, _, self, ...given) => work.apply(self, given), tracePromise: (work, _, self, ...given) => work.apply(self, given) }) };
  builtin.constants = { O_RDONLY: 0, O_WRONLY: 1, O_RDWR: 2, O_CREAT: 64, O_EXCL: 128, O_TRUNC: 512, O_APPEND: 1024, F_OK: 0, R_OK: 4, W_OK: 2, X_OK: 1, S_IFMT: 61440, S_IFREG: 32768, S_IFDIR: 16384 };
})(globalThis);

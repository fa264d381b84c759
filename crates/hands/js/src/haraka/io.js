// What Node has of the world: files within the folder, names, sockets, HTTP, digests. The server does the work; nothing
// here can reach what it does not offer.
(function (global) {
  'use strict';
  const env = global.__env;
  const { host, builtin, Buffer, failure } = env;
  const { Duplex, Readable, Writable } = builtin.stream;
  const EventEmitter = builtin.events;
  const nextTick = global.process.nextTick;

  // --- Files --------------------------------------------------------------------------------------------------------
  const named = (path) => builtin.path.resolve(path instanceof global.URL ? path.pathname : String(path));
  const did = (what, path, work) => {
    try {
      return work(named(path));
    } catch (error) {
      const code = /^E[A-Z]+/.exec(error.message)?.[0] ?? 'EIO';
      throw Object.assign(new Error(`${code}: ${error.message.replace(/^E[A-Z]+:? ?/, '')}, ${what} '${path}'`), { code, errno: { ENOENT: -2, EACCES: -13, EEXIST: -17, ENOTDIR: -20, EISDIR: -21, EROFS: -30 }[code] ?? -5, syscall: what, path: String(path) });
    }
  };
  class Stats {
    constructor([kind, size, modified, ino]) {
      Object.assign(this, { kind, size, mtimeMs: modified * 1000, ctimeMs: modified * 1000, atimeMs: modified * 1000, birthtimeMs: modified * 1000, ino, dev: 0, nlink: 1, uid: 0, gid: 0, mode: kind === 'file' ? 0o100644 : 0o40755, blocks: Math.ceil(size / 512), blksize: 4096 });
      Object.defineProperty(this, 'kind', { enumerable: false });
      for (const name of ['mtime', 'ctime', 'atime', 'birthtime']) this[name] = new Date(modified * 1000);
    }
    isFile() { return this.kind === 'file'; }
    isDirectory() { return this.kind === 'folder'; }
    isSocket() { return this.kind === 'other'; }
    isSymbolicLink() { return false; }
    isFIFO() { return false; }
    isBlockDevice() { return false; }
    isCharacterDevice() { return false; }
  }
  const named_encoding = (options) => typeof options === 'string' ? options : options?.encoding;
  const texted = (octets, options) => named_encoding(options) && named_encoding(options) !== 'buffer' ? octets.toString(named_encoding(options)) : octets;
  const flags_of = (options, usual) => (typeof options === 'object' && options !== null ? options.flag ?? options.flags : undefined) ?? usual;
  const files = new Map();
  let descriptor = 100;
  const sync = {
    readFile: (path, options) => texted(Buffer.of_view(did('open', path, host.fs_read)), options),
    stat(path, options) { try { return new Stats(did('stat', path, host.fs_stat)); } catch (error) { if (options?.throwIfNoEntry === false && error.code === 'ENOENT') return undefined; throw error; } },
    readdir(path, options) {
      const names = did('scandir', path, host.fs_list);
      if (!options?.withFileTypes) return names;
      return names.map((name) => { const of = (kind) => { try { return sync.stat(`${path}/${name}`)[kind](); } catch { return false; } }; return { name, path: String(path), parentPath: String(path), isFile: () => of('isFile'), isDirectory: () => of('isDirectory'), isSymbolicLink: () => false }; });
    },
    realpath: (path) => did('realpath', path, host.fs_real),
    access: (path, mode = 0) => { did('access', path, host.fs_stat); if (mode & 2) did('access', path, host.fs_may_write); },
    writeFile: (path, value, options) => { did('open', path, (file) => host.fs_write(file, env.binary(env.bytes(value, named_encoding(options))), String(flags_of(options, 'w')))); },
    appendFile: (path, value, options) => { did('open', path, (file) => host.fs_write(file, env.binary(env.bytes(value, named_encoding(options))), 'a')); },
    mkdir: (path, options) => { did('mkdir', path, (folder) => host.fs_mkdir(folder, options?.recursive === true)); },
    unlink: (path) => { did('unlink', path, host.fs_unlink); },
    rmdir: (path) => { did('rmdir', path, host.fs_rmdir); },
    rm: (path, options) => { try { did('rm', path, host.fs_unlink); } catch (error) { if (!options?.force || error.code !== 'ENOENT') throw error; } },
    rename: (from, to) => { did('rename', from, (file) => host.fs_rename(file, named(to))); },
    link: (from, to) => { did('link', from, (file) => host.fs_link(file, named(to))); },
    copyFile: (from, to) => { sync.writeFile(to, sync.readFile(from)); },
    utimes() {}, chmod() {}, chown() {}, fsync() {}, fdatasync() {}, futimes() {}, fchown() {}, fchmod() {},
    mkdtemp: (path) => { const folder = path + host.random(3).reduce((text, octet) => text + octet.toString(16).padStart(2, '0'), ''); sync.mkdir(folder); return folder; },
    open: (path, flags = 'r') => {
      const number = descriptor++;
      if (typeof flags === 'number') flags = (flags & 3) === 0 ? 'r' : flags & 128 ? 'wx' : flags & 1024 ? 'a' : 'w';
      if (files.size >= 100) throw failure('EMFILE', 'EMFILE: too many open files');
      if (String(flags).startsWith('r')) files.set(number, { path, content: sync.readFile(path), at: 0 });
      else { sync.writeFile(path, '', { flag: flags }); files.set(number, { path, at: 0, written: true }); }
      return number;
    },
    close: (number) => { files.delete(number); },
    fstat: (number) => sync.stat(files.get(number).path),
    read: (number, into, at = 0, length = into.length - at, position = null) => {
      const file = files.get(number);
      const start = position ?? file.at;
      const copied = file.content.copy(into, at, start, start + length);
      if (position === null) file.at += copied;
      return copied;
    },
    write: (number, value, ...rest) => { const octets = typeof value === 'string' ? env.bytes(value) : env.bytes(value).subarray(rest[0] ?? 0, (rest[0] ?? 0) + (rest[1] ?? value.length)); sync.appendFile(files.get(number).path, octets); return octets.length; },
  };
  sync.lstat = sync.stat;
  const fs = { constants: builtin.constants, promises: { constants: builtin.constants }, ...builtin.constants, Stats, existsSync: (path) => { try { return Boolean(host.fs_stat(named(path))); } catch { return false; } }, exists: (path, then) => nextTick(then, fs.existsSync(path)) };
  for (const [name, work] of Object.entries(sync)) {
    fs[`${name}Sync`] = work;
    fs[name] = (...given) => {
      const then = typeof given.at(-1) === 'function' ? given.pop() : () => {};
      let error = null, value;
      try { value = work(...given); } catch (caught) { error = caught; }
      global.setImmediate(then, error, value);
    };
    fs.promises[name] = async (...given) => { const value = work(...given); await Promise.resolve(); return value; };
  }
  fs.promises.open = async (path, flags) => { const number = sync.open(path, flags); return { fd: number, readFile: async (options) => sync.readFile(path, options), read: async (into, ...rest) => ({ bytesRead: sync.read(number, into, ...rest), buffer: into }), write: async (value) => ({ bytesWritten: sync.write(number, value) }), writeFile: async (value) => { sync.write(number, value); }, stat: async () => sync.stat(path), sync: async () => {}, datasync: async () => {}, close: async () => sync.close(number) }; };
  fs.realpathSync.native = sync.realpath;
  fs.createReadStream = (path, options) => {
    const stream = new Readable({ ...(typeof options === 'object' ? options : { encoding: options }), read() {} });
    stream.path = path;
    fs.readFile(path, (error, content) => {
      if (error) return void stream.destroy(error);
      stream.emit('open', 0);
      stream.emit('ready');
      const start = options?.start ?? 0;
      const part = content.subarray(start, options?.end === undefined ? undefined : options.end + 1);
      for (let at = 0; at < part.length; at += 65536) stream.push(part.subarray(at, at + 65536));
      stream.push(null);
    });
    return stream;
  };
  function WriteStream(path, options) {
    if (!(this instanceof WriteStream)) return new WriteStream(path, options);
    Writable.call(this, typeof options === 'object' ? options : {});
    this.path = path;
    this.fd = 0;
    this.bytesWritten = 0;
    let failed;
    try { sync.writeFile(path, '', { flag: flags_of(options, 'w') }); } catch (error) { failed = error; }
    nextTick(() => { if (failed) this.destroy(failed); else { this.emit('open', 0); this.emit('ready'); } });
  }
  builtin.util.inherits(WriteStream, Writable);
  Object.setPrototypeOf(WriteStream, Writable);
  WriteStream.prototype._write = function (chunk, name, then) { fs.appendFile(this.path, chunk, (error) => { this.bytesWritten += chunk.length; then(error); }); };
  WriteStream.prototype.close = function (then) { this.end(then); };
  fs.WriteStream = WriteStream;
  fs.createWriteStream = (path, options) => new WriteStream(path, options);
  // Nothing is watched by itself: a reload of the server reads everything again.
  fs.watch = () => Object.assign(new EventEmitter(), { close() {}, ref() {}, unref() {} });
  fs.watchFile = () => {};
  fs.unwatchFile = () => {};
  builtin.fs = fs;
  builtin['fs/promises'] = fs.promises;

  // --- Names --------------------------------------------------------------------------------------------------------
  const dns = { NODATA: 'ENODATA', FORMERR: 'EFORMERR', SERVFAIL: 'ESERVFAIL', NOTFOUND: 'ENOTFOUND', NOTIMP: 'ENOTIMP', REFUSED: 'EREFUSED', TIMEOUT: 'ETIMEOUT', CONNREFUSED: 'ECONNREFUSED', CANCELLED: 'ECANCELLED', ADDRCONFIG: 0, V4MAPPED: 0, ALL: 0 };
  const wrong = (what, name, code) => Object.assign(new Error(`${what} ${code} ${name}`), { code, errno: code, syscall: what, hostname: name });
  const ask = async (what, kind, name) => {
    let records;
    try { records = JSON.parse(await env.operation(kind, name)); } catch (error) { throw wrong(what, name, /is no (domain|address)/.test(error.message) ? 'ENOTFOUND' : /time/i.test(error.message) ? 'ETIMEOUT' : 'ESERVFAIL'); }
    if (records.length === 0) throw wrong(what, name, 'ENOTFOUND');
    return records;
  };
  const bare = (name) => name.replace(/\.$/, '');
  // `1.2.0.192.in-addr.arpa` as an address.
  const reversed = (name) => {
    const v4 = /^(\d+)\.(\d+)\.(\d+)\.(\d+)\.in-addr\.arpa\.?$/i.exec(name);
    if (v4) return v4.slice(1).reverse().join('.');
    const v6 = /^((?:[0-9a-f]\.){32})ip6\.arpa\.?$/i.exec(name);
    return v6 ? v6[1].split('.').reverse().join('').match(/.{4}/g).join(':') : undefined;
  };
  const resolvers = {
    resolve4: async (name, options) => { const found = await ask('queryA', 'a', name); return options?.ttl ? found.map((address) => ({ address, ttl: 60 })) : found; },
    resolve6: async (name, options) => { const found = await ask('queryAaaa', 'aaaa', name); return options?.ttl ? found.map((address) => ({ address, ttl: 60 })) : found; },
    resolveMx: async (name) => (await ask('queryMx', 'mx', name)).map((text) => { const at = text.indexOf(' '); return { priority: Number(text.slice(0, at)), exchange: bare(text.slice(at + 1)) }; }),
    resolveTxt: async (name) => (await ask('queryTxt', 'txt', name)).map((text) => [text]),
    resolvePtr: async (name) => { const address = reversed(name); if (address === undefined) throw wrong('queryPtr', name, 'ENOTFOUND'); return (await ask('queryPtr', 'ptr', address)).map(bare); },
    reverse: async (address) => { if (!net.isIP(address)) throw wrong('getHostByAddr', address, 'EINVAL'); return (await ask('getHostByAddr', 'ptr', address)).map(bare); },
  };
  for (const kind of ['Ns', 'Soa', 'Cname', 'Srv', 'Naptr', 'Caa', 'Any', 'Tlsa']) resolvers[`resolve${kind}`] = async (name) => { throw wrong(`query${kind}`, name, 'ENOTIMP'); };
  resolvers.resolve = async (name, kind = 'A') => {
    const word = { A: '4', AAAA: '6' }[String(kind).toUpperCase()] ?? String(kind)[0].toUpperCase() + String(kind).slice(1).toLowerCase();
    if (!resolvers[`resolve${word}`]) throw failure('ERR_INVALID_ARG_VALUE', `there is no record type ${kind}`, TypeError);
    return resolvers[`resolve${word}`](name);
  };
  const lookup = async (name, options) => {
    if (typeof options === 'number') options = { family: options };
    const own = net.isIP(name);
    if (own) return options?.all ? [{ address: name, family: own }] : { address: name, family: own };
    const found = [];
    if (name === 'localhost') found.push({ address: '127.0.0.1', family: 4 });
    else {
      const kinds = options?.family === 6 ? [6] : options?.family === 4 ? [4] : [4, 6];
      let failed;
      for (const family of kinds) try { for (const address of await resolvers[`resolve${family}`](name)) found.push({ address, family }); } catch (error) { failed = error; }
      if (found.length === 0) throw wrong('getaddrinfo', name, failed?.code === 'ENOTFOUND' ? 'ENOTFOUND' : 'EAI_AGAIN');
    }
    return options?.all ? found : found[0];
  };
  const called = (work) => (...given) => {
    const then = given.pop();
    const current = env.current;
    work(...given).then((value) => env.as(current, () => nextTick(then, null, value)), (error) => env.as(current, () => nextTick(then, error)));
  };
  class PromiseResolver { constructor() { Object.assign(this, resolvers); } setServers() {} getServers() { return ['127.0.0.1']; } cancel() {} setLocalAddress() {} }
  class Resolver { constructor() { for (const [name, work] of Object.entries(resolvers)) this[name] = called(work); } setServers() {} getServers() { return ['127.0.0.1']; } cancel() {} setLocalAddress() {} }
  for (const [name, work] of Object.entries(resolvers)) dns[name] = called(work);
  dns.lookup = (name, options, then) => {
    if (typeof options === 'function') { then = options; options = {}; }
    called(lookup)(name, options, (error, found) => error ? then(error) : options?.all ? then(null, found) : then(null, found.address, found.family));
  };
  dns.lookup[builtin.util.promisify.custom] = lookup;
  Object.assign(dns, { Resolver, setServers() {}, getServers: () => ['127.0.0.1'], setDefaultResultOrder() {}, getDefaultResultOrder: () => 'verbatim', promises: { ...resolvers, lookup, Resolver: PromiseResolver, setServers() {}, getServers: () => ['127.0.0.1'], setDefaultResultOrder() {} } });
  builtin.dns = dns;
  builtin['dns/promises'] = dns.promises;

  // --- Sockets ------------------------------------------------------------------------------------------------------
  const isIPv4 = (text) => /^(?:(?:25[0-5]|2[0-4]\d|1?\d?\d)(?:\.(?!$)|$)){4}$/.test(String(text)) && !/(^|\.)0\d/.test(String(text));
  const isIPv6 = (text) => typeof text === 'string' && text.includes(':') && host.is_ipv6(text.replace(/%.*$/, ''));
  const net = { isIPv4, isIPv6, isIP: (text) => isIPv4(text) ? 4 : isIPv6(text) ? 6 : 0 };
  class Socket extends Duplex {
    constructor(options = {}) {
      super({ ...options, read: undefined, write: undefined });
      this.connecting = false;
      this.pending = true;
      this.readyState = 'closed';
      this.bytesRead = 0;
      this.bytesWritten = 0;
      this.timeout = 0;
      this.autoDestroy = true;
    }
    connect(...given) {
      const then = typeof given.at(-1) === 'function' ? given.pop() : undefined;
      let options = given[0];
      if (Array.isArray(options)) options = options[0];
      if (typeof options !== 'object' || options === null) options = typeof options === 'string' && !/^\d+$/.test(options) ? { path: options } : { port: options, host: given[1] };
      if (then) this.once('connect', then);
      this.connecting = true;
      this.readyState = 'opening';
      const where = async () => {
        if (options.path) return `unix ${options.path}`;
        const name = options.host ?? options.hostname ?? '127.0.0.1';
        const list = await lookup(name, { all: true, family: options.family });
        return `tcp ${list.slice(0, 4).map(({ address, family }) => family === 6 ? `[${address}]:${options.port}` : `${address}:${options.port}`).join(' ')}`;
      };
      const current = env.current;
      where().then((place) => env.as(current, () => { if (!this.destroyed) this.opening = env.start('socket', place, (failed, came) => this.#opened(failed, came)); }), (error) => env.as(current, () => this.destroy(error)));
      this.#wake();
      return this;
    }
    #opened(failed, came) {
      this.connecting = false;
      if (this.destroyed) { if (came) host.socket_close(JSON.parse(came).id); return; }
      if (failed !== undefined) {
        const code = /ECONN\w+|ETIMEDOUT|ENOENT|EACCES|EHOSTUNREACH/.exec(failed)?.[0] ?? 'ECONNREFUSED';
        return void this.destroy(Object.assign(new Error(`connect ${failed}`), { code, errno: code, syscall: 'connect' }));
      }
      const about = JSON.parse(came);
      this.handle = about.id;
      this.pending = false;
      this.readyState = 'open';
      Object.assign(this, { remoteAddress: about.remote?.[0], remotePort: about.remote?.[1], remoteFamily: about.remote?.[0]?.includes(':') ? 'IPv6' : 'IPv4', localAddress: about.local?.[0], localPort: about.local?.[1] });
      this.#wake();
      this.emit('connect');
      this.emit('ready');
      this.held?.();
      this.held = undefined;
      this.receive();
    }
    // Takes what comes, one read at a time, while there is room for it.
    receive() {
      if (this.handle === undefined || this.reading !== undefined || this.destroyed || this.over) return;
      this.reading = env.start('socket_read', String(this.handle), (failed, came) => {
        this.reading = undefined;
        if (this.destroyed) return;
        if (failed !== undefined) return void this.destroy(Object.assign(new Error(`read ${failed}`), { code: 'ECONNRESET', syscall: 'read' }));
        this.#wake();
        if (came === '') {
          this.over = true;
          this.push(null);
          if (!this.allowHalfOpen || this.writableEnded) this.end();
          this.resume_if_idle();
          return;
        }
        this.bytesRead += came.length;
        const octets = env.unbinary(came);
        if (this.inner) return void this.inner.received(octets);
        if (this.push(octets)) this.receive();
      });
    }
    // Nobody reads: the end is told all the same.
    resume_if_idle() { if (this._readableState.length === 0 && this.listenerCount('data') === 0 && this.listenerCount('readable') === 0) this.resume(); }
    _read() { this.receive(); }
    _write(chunk, name, then) {
      if (this.handle === undefined) { this.held = () => this._write(chunk, name, then); return; }
      this.#wake();
      this.bytesWritten += chunk.length;
      env.start('socket_write', `${this.handle} ${env.binary(chunk)}`, (failed) => then(failed === undefined ? null : Object.assign(new Error(`write ${failed}`), { code: 'EPIPE', syscall: 'write' })));
    }
    _final(then) {
      if (this.handle === undefined) { if (this.connecting) { this.held = () => this._final(then); return; } return void then(); }
      env.start('socket_end', String(this.handle), () => then());
    }
    _destroy(error, then) {
      if (this.timer) global.clearTimeout(this.timer);
      if (this.reading !== undefined) env.cancel(this.reading);
      if (this.opening !== undefined && this.handle === undefined) env.cancel(this.opening);
      if (this.handle !== undefined) host.socket_close(this.handle);
      this.handle = undefined;
      this.readyState = 'closed';
      then();
    }
    #wake() {
      if (this.timer) { global.clearTimeout(this.timer); this.timer = undefined; }
      if (this.timeout > 0 && !this.destroyed) this.timer = global.setTimeout(() => this.emit('timeout'), this.timeout);
    }
    setTimeout(after, then) { this.timeout = Number(after) || 0; if (then) this.once('timeout', then); this.#wake(); return this; }
    end(...given) { if (this.readyState === 'open') this.readyState = 'readOnly'; return super.end(...given); }
    destroySoon() { if (this.writableEnded) this.destroy(); else this.end(() => this.destroy()); }
    resetAndDestroy() { return this.destroy(); }
    setNoDelay() { return this; }
    setKeepAlive() { return this; }
    ref() { return this; }
    unref() { return this; }
    address() { return { address: this.localAddress, port: this.localPort, family: this.localAddress?.includes(':') ? 'IPv6' : 'IPv4' }; }
    get bufferSize() { return this._writableState.length; }
    // TLS over this connection: nothing else reads meanwhile.
    secure(options, then) {
      const begin = () => {
        if (this.reading !== undefined) env.cancel(this.reading);
        this.reading = undefined;
        const name = options.servername || options.host || this.servername || '';
        env.start('socket_tls', JSON.stringify([this.handle, name, options.rejectUnauthorized !== false, options.ca ? [].concat(options.ca).map(String) : []]), (failed, came) => {
          if (this.destroyed) return;
          if (failed !== undefined) return void this.destroy(Object.assign(new Error(failed), { code: 'ERR_TLS' }));
          Object.assign(this, { encrypted: true, authorized: options.rejectUnauthorized !== false, authorizationError: null, tls: JSON.parse(came) });
          then?.();
          this.emit('secureConnect');
          this.emit('secure');
          this.receive();
        });
      };
      if (this.handle !== undefined) begin(); else this.once('connect', begin);
      return this;
    }
    getPeerCertificate() { return {}; }
    getCipher() { return { name: this.tls?.cipher, standardName: this.tls?.cipher, version: this.tls?.version }; }
    getProtocol() { return this.tls?.version ?? null; }
    getSession() { return undefined; }
    isSessionReused() { return false; }
    setServername(name) { this.servername = name; }
  }
  // The kind must be callable without `new`, as old code does.
  const callable = (Kind) => new Proxy(Kind, { apply: (_, self, given) => new Kind(...given) });
  net.Socket = callable(Socket);
  net.Stream = net.Socket;
  net.connect = net.createConnection = (...given) => {
    const options = typeof given[0] === 'object' && given[0] !== null ? given[0] : {};
    const socket = new Socket();
    if (options.timeout) socket.setTimeout(options.timeout);
    return socket.connect(...given);
  };
  net.setDefaultAutoSelectFamily = () => {};
  net.getDefaultAutoSelectFamily = () => true;
  net.createServer = net.Server = function () { throw failure('ERR_FEATURE_UNAVAILABLE', 'a plugin cannot listen: the server does'); };
  const number4 = (text) => text.split('.').reduce((sum, part) => sum * 256 + Number(part), 0);
  net.BlockList = class BlockList {
    rules = [];
    addAddress(address) { this.rules.push((text) => text === address); }
    addRange(from, to) { this.rules.push((text) => isIPv4(text) && number4(text) >= number4(from) && number4(text) <= number4(to)); }
    addSubnet(address, prefix) { this.rules.push((text) => isIPv4(text) === isIPv4(address) && host.in_subnet(text, address, prefix)); }
    check(text) { return this.rules.some((rule) => rule(text)); }
  };
  builtin.net = net;
  const tls = {
    connect(...given) {
      const then = typeof given.at(-1) === 'function' ? given.pop() : undefined;
      let options = given.find((one) => typeof one === 'object' && one !== null) ?? {};
      if (typeof given[0] === 'number') options = { ...options, port: given[0], host: typeof given[1] === 'string' ? given[1] : options.host };
      const socket = options.socket ?? new Socket();
      if (then) socket.once('secureConnect', then);
      if (!options.socket) socket.connect(options);
      return socket.secure(options);
    },
    TLSSocket: net.Socket, rootCertificates: [], DEFAULT_MIN_VERSION: 'TLSv1.2', DEFAULT_MAX_VERSION: 'TLSv1.3', DEFAULT_CIPHERS: '', createSecureContext: (options) => ({ context: options ?? {} }), checkServerIdentity: () => undefined, getCiphers: () => ['tls_aes_256_gcm_sha384', 'tls_aes_128_gcm_sha256', 'tls_chacha20_poly1305_sha256'],
    createServer: net.createServer, Server: net.Server,
  };
  builtin.tls = tls;

  // --- HTTP, as a client ----------------------------------------------------------------------------------------------
  const BODY_MAX = 64 << 20;
  const HEAD_MAX = 64 << 10;
  const REASONS = { 200: 'OK', 201: 'Created', 204: 'No Content', 301: 'Moved Permanently', 302: 'Found', 400: 'Bad Request', 401: 'Unauthorized', 403: 'Forbidden', 404: 'Not Found', 500: 'Internal Server Error', 503: 'Service Unavailable' };
  class ClientRequest extends Writable {
    constructor(options, secure) {
      super({});
      Object.assign(this, { autoDestroy: false, options, secure, sent: false, parts: [], kept: Object.create(null), method: String(options.method ?? 'GET').toUpperCase(), path: options.path ?? '/', aborted: false });
      if (/[\r\n\0]/.test(this.path + this.method)) throw failure('ERR_UNESCAPED_CHARACTERS', 'Request path contains unescaped characters', TypeError);
      const headers = options.headers ?? {};
      for (const [name, value] of headers[Symbol.iterator] ? headers : Object.entries(headers)) this.setHeader(name, value);
      const name = options.hostname ?? options.host ?? 'localhost';
      const port = Number(options.port || (secure ? 443 : 80));
      if (!this.kept.host) this.setHeader('Host', (name.includes(':') ? `[${name}]` : name) + (port === (secure ? 443 : 80) ? '' : `:${port}`));
      if (options.auth && !this.kept.authorization) this.setHeader('Authorization', `Basic ${Buffer.from(options.auth).toString('base64')}`);
      const to = options.socketPath ? { path: options.socketPath } : { host: name.replace(/^\[(.*)\]$/, '$1'), port, family: options.family };
      this.socket = this.connection = secure ? tls.connect({ ...options, ...to, path: undefined, socket: undefined, servername: options.servername ?? (net.isIP(name) ? '' : name) }) : net.connect(to);
      this.socket.on('error', (error) => this.destroy(error));
      if (options.timeout) this.setTimeout(options.timeout);
      options.signal?.addEventListener('abort', () => this.destroy(options.signal.reason));
      nextTick(() => this.emit('socket', this.socket));
      this.on('finish', () => this.#send());
      this.receive();
    }
    setHeader(name, value) {
      if (!/^[!#$%&'*+.^_`|~0-9A-Za-z-]+$/.test(name) || /[\r\n\0]/.test(String(value))) throw failure('ERR_INVALID_CHAR', `Invalid character in header content ["${name}"]`, TypeError);
      this.kept[name.toLowerCase()] = [name, value];
      return this;
    }
    getHeader(name) { return this.kept[name.toLowerCase()]?.[1]; }
    hasHeader(name) { return name.toLowerCase() in this.kept; }
    removeHeader(name) { delete this.kept[name.toLowerCase()]; }
    getHeaders() { return Object.fromEntries(Object.entries(this.kept).map(([name, [, value]]) => [name, value])); }
    flushHeaders() {}
    setNoDelay() {}
    setSocketKeepAlive() {}
    setTimeout(after, then) { if (then) this.once('timeout', then); this.socket.setTimeout(after, () => this.emit('timeout')); return this; }
    abort() { this.aborted = true; this.emit('abort'); this.destroy(); }
    // The body is sent whole, so its length is known.
    _write(chunk, name, then) { this.parts.push(chunk); this.length = (this.length ?? 0) + chunk.length; then(this.length > BODY_MAX ? new Error('the body of the request is too long') : null); }
    #send() {
      const body = Buffer.concat(this.parts);
      if (body.length > 0 || !['GET', 'HEAD', 'DELETE', 'OPTIONS'].includes(this.method)) this.setHeader('Content-Length', body.length);
      this.removeHeader('Transfer-Encoding');
      this.setHeader('Connection', 'close');
      const head = `${this.method} ${this.path} HTTP/1.1\r\n${Object.values(this.kept).map(([name, value]) => [].concat(value).map((one) => `${name}: ${one}\r\n`).join('')).join('')}\r\n`;
      this.socket.write(Buffer.concat([Buffer.from(head, 'latin1'), body]));
    }
    receive() {
      let rest = Buffer.alloc(0), answer, left, chunked = false, length = 0, over = false;
      const end = () => { if (over) return; over = true; answer.complete = true; answer.push(null); this.socket.destroy(); };
      const give = (octets) => {
        length += octets.length;
        if (length > BODY_MAX) return void this.destroy(new Error('the answer is too long'));
        if (octets.length > 0) answer.push(octets);
      };
      const bad = (why) => this.destroy(Object.assign(new Error(`Parse Error: ${why}`), { code: 'HPE_INVALID' }));
      const step = () => {
        while (!over && !this.destroyed) {
          if (answer === undefined) {
            const at = rest.indexOf('\r\n\r\n');
            if (at < 0) { if (rest.length > HEAD_MAX) bad('the head is too long'); return; }
            const lines = rest.toString('latin1', 0, at).split('\r\n');
            rest = rest.subarray(at + 4);
            const first = /^HTTP\/(1\.[01]) (\d{3})(?: (.*))?$/.exec(lines[0]);
            if (first === null) return void bad('no status line');
            if (first[2].startsWith('1') && first[2] !== '101') continue;
            answer = new Readable({ read() {} });
            Object.assign(answer, { statusCode: Number(first[2]), statusMessage: first[3] ?? '', httpVersion: first[1], headers: Object.create(null), rawHeaders: [], socket: this.socket, connection: this.socket, complete: false, req: this, aborted: false, trailers: {} });
            answer.setTimeout = (after, then) => { this.setTimeout(after, then); return answer; };
            for (const line of lines.slice(1)) {
              const colon = line.indexOf(':');
              if (colon <= 0) return void bad('no header field');
              const name = line.slice(0, colon), low = name.toLowerCase(), value = line.slice(colon + 1).trim();
              answer.rawHeaders.push(name, value);
              if (low === 'set-cookie') (answer.headers[low] ??= []).push(value);
              else answer.headers[low] = low in answer.headers ? `${answer.headers[low]}, ${value}` : value;
            }
            chunked = /chunked/i.test(answer.headers['transfer-encoding'] ?? '');
            const said = answer.headers['content-length'];
            left = chunked ? 0 : said === undefined ? Infinity : Number(said);
            if (Number.isNaN(left) || left < 0) return void bad('Content-Length');
            if (this.method === 'HEAD' || answer.statusCode === 204 || answer.statusCode === 304) { left = 0; chunked = false; }
            const then = this.listenerCount('response') > 0;
            this.emit('response', answer);
            if (!then) answer.resume();
            if (left === 0 && !chunked) return end();
          } else if (!chunked) {
            const part = rest.subarray(0, left);
            rest = rest.subarray(part.length);
            left -= part.length;
            give(part);
            if (left === 0) return end();
            return;
          } else if (left > 0) {
            const part = rest.subarray(0, left);
            rest = rest.subarray(part.length);
            left -= part.length;
            give(part);
            if (left > 0) return;
            left = -2;
          } else if (left === -2) {
            if (rest.length < 2) return;
            rest = rest.subarray(2);
            left = 0;
          } else {
            const at = rest.indexOf('\r\n');
            if (at < 0) { if (rest.length > 1024) bad('chunk size'); return; }
            left = parseInt(rest.toString('latin1', 0, at), 16);
            rest = rest.subarray(at + 2);
            if (Number.isNaN(left) || left < 0) return void bad('chunk size');
            if (left === 0) return end();
          }
        }
      };
      this.socket.on('data', (octets) => { rest = Buffer.concat([rest, octets]); step(); });
      this.socket.on('end', () => { if (answer !== undefined && !chunked && left === Infinity) end(); });
      this.socket.on('close', () => {
        if (answer === undefined) { if (!this.destroyed) this.destroy(Object.assign(new Error('socket hang up'), { code: 'ECONNRESET' })); } else if (!over) { answer.aborted = true; answer.destroy(Object.assign(new Error('aborted'), { code: 'ECONNRESET' })); }
        this.emit('close');
      });
    }
    _destroy(error, then) { this.socket.destroy(); then(); }
  }
  const client = (secure) => {
    const request = (...given) => {
      const then = typeof given.at(-1) === 'function' ? given.pop() : undefined;
      let options = {};
      for (const one of given) {
        if (typeof one === 'string' || one instanceof global.URL) {
          const url = typeof one === 'string' ? new global.URL(one) : one;
          options = { ...options, protocol: url.protocol, hostname: url.hostname.replace(/^\[(.*)\]$/, '$1'), port: url.port, path: url.pathname + url.search, auth: url.username ? `${decodeURIComponent(url.username)}:${decodeURIComponent(url.password)}` : undefined };
        } else if (one) options = { ...options, ...one };
      }
      const made = new ClientRequest(options, options.protocol ? options.protocol === 'https:' : secure);
      if (then) made.once('response', then);
      return made;
    };
    class Agent { constructor(options) { this.options = options ?? {}; this.sockets = {}; } destroy() {} }
    return { request, get: (...given) => { const made = request(...given); made.end(); return made; }, Agent, globalAgent: new Agent(), STATUS_CODES: REASONS, METHODS: ['GET', 'HEAD', 'POST', 'PUT', 'DELETE', 'PATCH', 'OPTIONS'], createServer: net.createServer, Server: net.Server, ClientRequest, maxHeaderSize: HEAD_MAX };
  };
  builtin.http = client(false);
  builtin.https = client(true);
  class Headers {
    #kept = new Map();
    constructor(given) { for (const [name, value] of given === undefined ? [] : given[Symbol.iterator] ? given : Object.entries(given)) this.append(name, value); }
    append(name, value) { const low = name.toLowerCase(); this.#kept.set(low, this.#kept.has(low) ? `${this.#kept.get(low)}, ${value}` : String(value)); }
    set(name, value) { this.#kept.set(name.toLowerCase(), String(value)); }
    get(name) { return this.#kept.get(name.toLowerCase()) ?? null; }
    has(name) { return this.#kept.has(name.toLowerCase()); }
    delete(name) { this.#kept.delete(name.toLowerCase()); }
    forEach(then) { for (const [name, value] of this.#kept) then(value, name, this); }
    entries() { return this.#kept.entries(); }
    keys() { return this.#kept.keys(); }
    values() { return this.#kept.values(); }
    [Symbol.iterator]() { return this.#kept.entries(); }
  }
  global.Headers = Headers;
  global.fetch = (url, options = {}) => new Promise((resolve, reject) => {
    const go = (url, hops) => {
      const headers = Object.fromEntries(new Headers(options.headers));
      const made = builtin.http.request(url, { method: options.method ?? 'GET', headers, signal: options.signal }, (answer) => {
        if ([301, 302, 303, 307, 308].includes(answer.statusCode) && answer.headers.location && options.redirect !== 'manual') {
          answer.destroy();
          if (hops <= 0) return reject(new TypeError('fetch failed: too many redirections'));
          return go(new global.URL(answer.headers.location, url), hops - 1);
        }
        const parts = [];
        answer.on('data', (part) => parts.push(part));
        answer.on('error', reject);
        answer.on('end', () => {
          const body = Buffer.concat(parts);
          resolve({ status: answer.statusCode, statusText: answer.statusMessage, ok: answer.statusCode >= 200 && answer.statusCode < 300, url: String(url), headers: new Headers(Object.entries(answer.headers).filter(([, value]) => typeof value === 'string')), text: async () => body.toString(), json: async () => JSON.parse(body.toString()), arrayBuffer: async () => body.buffer.slice(body.byteOffset, body.byteOffset + body.length), bytes: async () => body });
        });
      });
      made.on('error', (error) => reject(Object.assign(new TypeError('fetch failed'), { cause: error })));
      made.end(options.body ?? undefined);
    };
    go(new global.URL(url), 5);
  });

  // --- Digests ------------------------------------------------------------------------------------------------------
  const spelled = (name) => String(name).toLowerCase().replace(/^rsa-/, '').replace(/[-/]/g, '');
  class Hash extends builtin.stream.Transform {
    constructor(name, key) {
      super({});
      Object.assign(this, { algorithm: spelled(name), key, parts: [] });
      host.digest(this.algorithm, '');
    }
    update(value, name) { this.parts.push(Buffer.from(env.bytes(value, name))); return this; }
    digest(name) {
      const all = env.binary(Buffer.concat(this.parts));
      const octets = Buffer.of_view(this.key === undefined ? host.digest(this.algorithm, all) : host.hmac(this.algorithm, env.binary(this.key), all));
      return name && name !== 'buffer' ? octets.toString(name) : octets;
    }
    copy() { const other = new Hash(this.algorithm, this.key); other.parts = [...this.parts]; return other; }
    _transform(chunk, name, then) { this.update(chunk); then(); }
    _flush(then) { then(null, this.digest()); }
  }
  const pem = (key) => typeof key === 'string' ? key : key instanceof Uint8Array ? env.bytes(key).toString('latin1') : key instanceof KeyObject ? key.text : key.key !== undefined ? key.format === 'der' ? env.bytes(key.key).toString('latin1') : pem(key.key) : String(key);
  class KeyObject { constructor(text, type) { Object.defineProperty(this, 'text', { value: text }); this.type = type; const kind = host.key_kind(text); if (kind === null || kind === undefined) throw failure('ERR_OSSL_UNSUPPORTED', 'this is no key that can be used'); this.asymmetricKeyType = kind; } export() { return this.text; } }
  const signing = (name, key, octets) => Buffer.of_view(host.sign(spelled(name ?? 'ed25519'), pem(key), env.binary(octets)));
  const verifying = (name, key, signature, octets) => host.verify(spelled(name ?? 'ed25519'), pem(key), env.binary(signature), env.binary(octets));
  class Signer extends Writable {
    constructor(name) { super({}); this.algorithm = name; this.parts = []; }
    update(value, name) { this.parts.push(Buffer.from(env.bytes(value, name))); return this; }
    _write(chunk, name, then) { this.update(chunk); then(); }
    sign(key, name) { const octets = signing(this.algorithm, key, Buffer.concat(this.parts)); return name ? octets.toString(name) : octets; }
    verify(key, signature, name) { return verifying(this.algorithm, key, env.bytes(signature, name), Buffer.concat(this.parts)); }
  }
  const random = (size, then) => { const octets = Buffer.of_view(host.random(size)); if (!then) return octets; nextTick(then, null, octets); };
  const randomInt = (low, high, then) => {
    if (typeof high !== 'number') { then = high; high = low; low = 0; }
    const value = low + Number(random(6).readUIntBE(0, 6) % (high - low));
    if (then) nextTick(then, null, value); else return value;
  };
  const uuid = () => { const octets = random(16); octets[6] = octets[6] & 15 | 64; octets[8] = octets[8] & 63 | 128; return octets.toString('hex').replace(/(.{8})(.{4})(.{4})(.{4})/, '$1-$2-$3-$4-'); };
  builtin.crypto = {
    createHash: (name) => new Hash(name), createHmac: (name, key) => new Hash(name, env.bytes(typeof key === 'object' && key instanceof KeyObject ? key.text : key)), hash: (name, value, as = 'hex') => new Hash(name).update(value).digest(as),
    getHashes: () => ['md5', 'sha1', 'sha224', 'sha256', 'sha384', 'sha512', 'RSA-SHA1', 'RSA-SHA256'], getCiphers: () => [], getCurves: () => [],
    randomBytes: random, pseudoRandomBytes: random, randomInt, randomUUID: uuid, randomFillSync: (octets) => { octets.set(host.random(octets.length)); return octets; }, randomFill: (octets, then) => { octets.set(host.random(octets.length)); nextTick(then, null, octets); }, getRandomValues: (octets) => { octets.set(host.random(octets.length)); return octets; },
    timingSafeEqual(a, b) { if (a.length !== b.length) throw failure('ERR_CRYPTO_TIMING_SAFE_EQUAL_LENGTH', 'Input buffers must have the same byte length', RangeError); let differs = 0; for (let n = 0; n < a.length; n++) differs |= a[n] ^ b[n]; return differs === 0; },
    createSign: (name) => new Signer(name), createVerify: (name) => new Signer(name), sign: (name, octets, key) => signing(name, key, env.bytes(octets)), verify: (name, octets, key, signature) => verifying(name, key, env.bytes(signature), env.bytes(octets)),
    createPublicKey: (key) => new KeyObject(pem(key), 'public'), createPrivateKey: (key) => new KeyObject(pem(key), 'private'), KeyObject, constants: { RSA_PKCS1_PADDING: 1, RSA_PKCS1_PSS_PADDING: 6 }, Hash, Hmac: Hash,
  };
  builtin.crypto.webcrypto = { getRandomValues: builtin.crypto.getRandomValues, randomUUID: uuid };
  global.crypto = builtin.crypto.webcrypto;

  // --- What is not here -----------------------------------------------------------------------------------------------
  // A module that is only named does no harm; its use says what is missing.
  const absent = (name) => new Proxy(function () {}, {
    get(_, key) {
      if (typeof key === 'symbol' || ['then', '__esModule', 'toJSON', 'prototype', 'constructor'].includes(key)) return key === 'prototype' ? {} : undefined;
      return function () { throw failure('ERR_FEATURE_UNAVAILABLE', `${name}.${key} is not available to plugins here`); };
    },
    apply() { throw failure('ERR_FEATURE_UNAVAILABLE', `${name} is not available to plugins here`); },
    getOwnPropertyDescriptor: (target, key) => Reflect.getOwnPropertyDescriptor(target, key),
  });
  for (const name of ['child_process', 'worker_threads', 'zlib', 'vm', 'v8', 'dgram', 'http2', 'inspector', 'repl', 'sys', 'wasi', 'trace_events']) builtin[name] = absent(name);
  for (const name of ['ReadableStream', 'WritableStream', 'TransformStream', 'CompressionStream', 'Blob', 'File', 'FormData', 'WebSocket', 'MessageChannel', 'BroadcastChannel']) {
    global[name] ??= class { constructor() { throw failure('ERR_FEATURE_UNAVAILABLE', `${name} is not available to plugins here`); } };
  }
  builtin.cluster = Object.assign(new EventEmitter(), { isMaster: true, isPrimary: true, isWorker: false, workers: {}, worker: undefined, fork: () => absent('cluster').fork(), setupPrimary() {}, setupMaster() {} });
  builtin.tty = { isatty: () => false };
  builtin.module = { createRequire: (from) => env.requiring(from instanceof global.URL || String(from).startsWith('file:') ? new global.URL(from).pathname : from), builtinModules: Object.keys(builtin), isBuiltin: (name) => name.replace(/^node:/, '') in builtin };
  builtin.readline = {
    createInterface({ input }) {
      const lines = new EventEmitter();
      let rest = '';
      input.on('data', (chunk) => { const parts = (rest + chunk).split(/\r?\n/); rest = parts.pop(); for (const line of parts) lines.emit('line', line); });
      input.on('end', () => { if (rest) lines.emit('line', rest); lines.emit('close'); });
      lines.close = () => { input.destroy?.(); lines.emit('close'); };
      return lines;
    },
  };
})(globalThis);

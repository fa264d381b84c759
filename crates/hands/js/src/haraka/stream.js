// Node's streams, as far as plugins and their helpers use them: readable, writable, both, and what changes on its way.
(function (global) {
  'use strict';
  const env = global.__env;
  const { builtin, Buffer, failure } = env;
  const EventEmitter = builtin.events;
  const HIGH = 16384;
  const nextTick = global.process.nextTick;

  // Constructors that plugins of any age inherit from: by `class`, or by `call` and `util.inherits`.
  function Stream(options) { EventEmitter.call(this); this.destroyed = false; this.errored = null; this.closed = false; void options; }
  builtin.util.inherits(Stream, EventEmitter);
  Object.setPrototypeOf(Stream, EventEmitter);
  Stream.prototype.destroy = function (error) {
    if (this.destroyed) return this;
    this.destroyed = true;
    if (error) this.errored = error;
    const done = (more) => nextTick(() => {
      const told = more ?? error;
      if (told) this.emit('error', told);
      this.closed = true;
      this.emit('close');
    });
    if (this._destroy) this._destroy(error ?? null, done); else done();
    return this;
  };
  Stream.prototype.pipe = function (to, options = {}) {
    const from = this;
    const data = (chunk) => { if (to.write(chunk) === false && from.pause) from.pause(); };
    const drain = () => { if (from.resume) from.resume(); };
    const end = () => { if (options.end !== false && to !== global.process.stdout && to !== global.process.stderr) to.end(); };
    const failed = () => undo();
    const undo = () => {
      from.removeListener('data', data);
      from.removeListener('end', end);
      to.removeListener('drain', drain);
      to.removeListener('close', undo);
      to.removeListener('error', failed);
      from.piped = from.piped?.filter((one) => one.to !== to);
    };
    (from.piped ??= []).push({ to, undo });
    from.on('data', data);
    from.on('end', end);
    to.on('drain', drain);
    to.on('close', undo);
    if (to.listenerCount('error') > 0) to.on('error', failed);
    to.emit('pipe', from);
    if (from.resume) from.resume();
    return to;
  };
  Stream.prototype.unpipe = function (to) {
    for (const one of [...(this.piped ?? [])]) if (to === undefined || one.to === to) { one.undo(); one.to.emit('unpipe', this); }
    if (!this.piped?.length && this.pause) this.pause();
    return this;
  };

  function Readable(options = {}) {
    if (!(this instanceof Readable)) return new Readable(options);
    Stream.call(this, options);
    Readable.begin(this, options);
  }
  builtin.util.inherits(Readable, Stream);
  Object.setPrototypeOf(Readable, Stream);
  Readable.begin = (self, options = {}) => {
    options ??= {};
    self._readableState = { list: [], length: 0, flowing: null, ended: false, endEmitted: false, reading: false, objectMode: Boolean(options.objectMode || options.readableObjectMode), decoder: undefined, scheduled: false, highWaterMark: options.highWaterMark ?? HIGH };
    self.readable = true;
    self.readableEnded = false;
    if (options.encoding) self.setEncoding(options.encoding);
    if (typeof options.read === 'function') self._read = options.read;
    if (typeof options.destroy === 'function') self._destroy = options.destroy;
  };
  const flow = (self) => {
    const state = self._readableState;
    if (state.scheduled || self.destroyed) return;
    state.scheduled = true;
    nextTick(() => {
      state.scheduled = false;
      while (state.flowing && state.list.length > 0 && !self.destroyed) {
        const chunk = state.list.shift();
        state.length -= state.objectMode ? 1 : chunk.length;
        self.emit('data', chunk);
      }
      if (!state.flowing && state.list.length > 0 && self.listenerCount('readable') > 0) self.emit('readable');
      if (state.ended && state.list.length === 0) {
        if (!state.endEmitted && (state.flowing || self.listenerCount('readable') > 0)) {
          if (self.listenerCount('readable') > 0 && !state.flowing) self.emit('readable');
          state.endEmitted = true;
          self.readable = false;
          self.readableEnded = true;
          self.emit('end');
          if (self.autoDestroy !== false && (self._writableState === undefined || self._writableState.finished)) self.destroy();
        }
      } else if ((state.flowing || self.listenerCount('readable') > 0) && !state.reading && !state.ended && state.length < state.highWaterMark) {
        state.reading = true;
        self._read(state.highWaterMark);
      }
    });
  };
  Object.assign(Readable.prototype, {
    _read() {},
    push(chunk, name) {
      const state = this._readableState;
      state.reading = false;
      if (chunk === null) {
        const rest = state.decoder?.end();
        if (rest) { state.list.push(rest); state.length += rest.length; }
        state.ended = true;
      } else {
        if (state.ended) throw failure('ERR_STREAM_PUSH_AFTER_EOF', 'stream.push() after EOF');
        if (!state.objectMode) {
          if (typeof chunk === 'string' && !state.decoder) chunk = Buffer.from(chunk, name);
          if (state.decoder && typeof chunk !== 'string') chunk = state.decoder.write(chunk);
        }
        if (state.objectMode || chunk.length > 0) { state.list.push(chunk); state.length += state.objectMode ? 1 : chunk.length; }
      }
      flow(this);
      return state.length < state.highWaterMark;
    },
    unshift(chunk) { this._readableState.list.unshift(chunk); this._readableState.length += chunk.length ?? 1; flow(this); },
    read(size) {
      const state = this._readableState;
      if (state.list.length === 0) { flow(this); return null; }
      let chunk;
      if (state.objectMode) chunk = state.list.shift();
      else {
        const all = state.list.length === 1 ? state.list[0] : typeof state.list[0] === 'string' ? state.list.join('') : Buffer.concat(state.list);
        if (size !== undefined && size > all.length && !state.ended) return null;
        chunk = size === undefined || size >= all.length ? all : all.slice(0, size);
        state.list = chunk.length < all.length ? [all.slice(chunk.length)] : [];
      }
      state.length = state.objectMode ? state.list.length : state.list.reduce((sum, one) => sum + one.length, 0);
      flow(this);
      return chunk;
    },
    setEncoding(name) { this._readableState.decoder = new builtin.string_decoder.StringDecoder(name); return this; },
    resume() { this._readableState.flowing = true; flow(this); return this; },
    pause() { this._readableState.flowing = false; return this; },
    isPaused() { return this._readableState.flowing === false; },
    on(name, then) {
      EventEmitter.prototype.on.call(this, name, then);
      if (name === 'data' && this._readableState?.flowing !== false) this.resume();
      if (name === 'readable') flow(this);
      return this;
    },
    [Symbol.asyncIterator]() {
      const self = this;
      return (async function* () {
        const got = [];
        let ended = false, failed, wake;
        const woken = () => { const now = wake; wake = undefined; now?.(); };
        self.on('data', (chunk) => { got.push(chunk); if (got.length > 16) self.pause(); woken(); });
        self.on('end', () => { ended = true; woken(); });
        self.on('close', () => { ended = true; woken(); });
        self.on('error', (error) => { failed = error; woken(); });
        try {
          for (;;) {
            if (got.length > 0) yield got.shift();
            else if (failed) throw failed;
            else if (ended) return;
            else { self.resume(); if (got.length === 0) await new Promise((resolve) => { wake = resolve; }); }
          }
        } finally { self.destroy(); }
      })();
    },
  });
  Readable.prototype.addListener = Readable.prototype.on;
  for (const [name, of] of [['readableFlowing', (state) => state.flowing], ['readableLength', (state) => state.length], ['readableObjectMode', (state) => state.objectMode], ['readableHighWaterMark', (state) => state.highWaterMark], ['readableEncoding', (state) => state.decoder?.encoding ?? null]]) {
    Object.defineProperty(Readable.prototype, name, { get() { return this._readableState === undefined ? undefined : of(this._readableState); }, configurable: true });
  }
  Readable.from = (source, options) => {
    const steps = typeof source === 'string' || source instanceof Buffer ? [source].values() : source[Symbol.asyncIterator]?.() ?? source[Symbol.iterator]();
    return new Readable({ objectMode: true, ...options, read() { Promise.resolve(steps.next()).then(async ({ value, done }) => this.push(done ? null : await value)).catch((error) => this.destroy(error)); } });
  };

  const writable = (self, options = {}) => {
    options ??= {};
    self._writableState = { queue: [], length: 0, busy: false, ending: false, finished: false, needDrain: false, corked: 0, objectMode: Boolean(options.objectMode || options.writableObjectMode), decodeStrings: options.decodeStrings !== false, defaultEncoding: options.defaultEncoding ?? 'utf8', highWaterMark: options.highWaterMark ?? HIGH };
    self.writable = true;
    self.writableEnded = false;
    self.writableFinished = false;
    for (const name of ['write', 'writev', 'final', 'destroy']) if (typeof options[name] === 'function') self[`_${name}`] = options[name];
  };
  const written = (self) => {
    const state = self._writableState;
    if (state.busy || state.corked > 0 || self.destroyed) return;
    if (state.queue.length > 0) {
      state.busy = true;
      const [chunk, name, then] = state.queue.shift();
      let called = false, sync = true;
      const done = (error) => {
        if (called) return;
        called = true;
        const after = () => {
          state.busy = false;
          state.length -= state.objectMode ? 1 : chunk.length;
          if (error) { then?.(error); self.destroy(error); return; }
          then?.();
          if (state.needDrain && state.length === 0 && !state.ending) { state.needDrain = false; self.emit('drain'); }
          written(self);
        };
        if (sync) nextTick(after); else after();
      };
      try { if (self._write) self._write(chunk, name, done); else self._writev([{ chunk, encoding: name }], done); } catch (error) { done(error); }
      sync = false;
    } else if (state.ending && !state.finished) {
      state.finished = true;
      const finish = (error) => {
        if (error) return void self.destroy(error);
        nextTick(() => {
          self.writableFinished = true;
          self.emit('finish');
          if (self.autoDestroy !== false && (self._readableState === undefined || self._readableState.endEmitted)) self.destroy();
        });
      };
      if (self._final) { try { self._final(finish); } catch (error) { finish(error); } } else finish();
    }
  };
  const Writing = {
    write(chunk, name, then) {
      const state = this._writableState;
      if (typeof name === 'function') { then = name; name = undefined; }
      if (state.ending || this.destroyed) {
        const error = state.ending ? failure('ERR_STREAM_WRITE_AFTER_END', 'write after end') : failure('ERR_STREAM_DESTROYED', 'Cannot call write after a stream was destroyed');
        nextTick(() => { then?.(error); if (state.ending && !this.destroyed) this.emit('error', error); });
        return false;
      }
      if (!state.objectMode) {
        if (typeof chunk === 'string') { if (state.decodeStrings) { chunk = Buffer.from(chunk, name ?? state.defaultEncoding); name = 'buffer'; } } else { chunk = env.bytes(chunk); name = 'buffer'; }
      }
      state.queue.push([chunk, name ?? 'utf8', then]);
      state.length += state.objectMode ? 1 : chunk.length;
      const more = state.length < state.highWaterMark;
      if (!more) state.needDrain = true;
      written(this);
      return more;
    },
    end(chunk, name, then) {
      if (typeof chunk === 'function') { then = chunk; chunk = undefined; }
      if (typeof name === 'function') { then = name; name = undefined; }
      if (chunk !== undefined && chunk !== null) this.write(chunk, name);
      if (then) { if (this._writableState.finished) nextTick(then); else this.once('finish', then); }
      this._writableState.ending = true;
      this.writableEnded = true;
      this.writable = false;
      written(this);
      return this;
    },
    cork() { this._writableState.corked++; },
    uncork() { const state = this._writableState; if (state.corked > 0) state.corked--; written(this); },
    setDefaultEncoding(name) { this._writableState.defaultEncoding = name; return this; },
  };
  function Writable(options = {}) {
    if (!(this instanceof Writable)) return new Writable(options);
    Stream.call(this, options);
    writable(this, options);
  }
  builtin.util.inherits(Writable, Stream);
  Object.setPrototypeOf(Writable, Stream);
  Object.assign(Writable.prototype, Writing);
  function Duplex(options = {}) {
    if (!(this instanceof Duplex)) return new Duplex(options);
    Stream.call(this, options);
    Readable.begin(this, options);
    writable(this, options);
    this.allowHalfOpen = options?.allowHalfOpen !== false;
  }
  builtin.util.inherits(Duplex, Readable);
  Object.setPrototypeOf(Duplex, Readable);
  Object.assign(Duplex.prototype, Writing);
  Object.defineProperty(Writable, Symbol.hasInstance, { value(one) { return Function.prototype[Symbol.hasInstance].call(this, one) || (this === Writable && one?._writableState !== undefined); } });
  for (const Kind of [Writable, Duplex]) {
    for (const [name, of] of [['writableLength', (state) => state.length], ['writableObjectMode', (state) => state.objectMode], ['writableHighWaterMark', (state) => state.highWaterMark], ['writableNeedDrain', (state) => state.needDrain], ['writableCorked', (state) => state.corked]]) {
      Object.defineProperty(Kind.prototype, name, { get() { return this._writableState === undefined ? undefined : of(this._writableState); }, configurable: true });
    }
  }
  function Transform(options = {}) {
    if (!(this instanceof Transform)) return new Transform(options);
    Duplex.call(this, options);
    if (typeof options?.transform === 'function') this._transform = options.transform;
    if (typeof options?.flush === 'function') this._flush = options.flush;
  }
  builtin.util.inherits(Transform, Duplex);
  Object.setPrototypeOf(Transform, Duplex);
  Transform.prototype._write = function (chunk, name, then) {
    this._transform(chunk, name, (error, value) => {
      if (!error && value !== undefined && value !== null) this.push(value);
      // Who reads slowly holds up who writes, but not for ever: without a reader there is nothing to wait for.
      then(error);
    });
  };
  Transform.prototype._final = function (then) {
    const end = (error, value) => {
      if (!error && value !== undefined && value !== null) this.push(value);
      if (!error) this.push(null);
      then(error);
    };
    if (this._flush) this._flush(end); else end();
  };
  Transform.prototype._transform = function (chunk, name, then) { then(null, chunk); };
  function PassThrough(options) { if (!(this instanceof PassThrough)) return new PassThrough(options); Transform.call(this, options); }
  builtin.util.inherits(PassThrough, Transform);
  Object.setPrototypeOf(PassThrough, Transform);
  const finished = (stream, options, then) => {
    if (typeof options === 'function') { then = options; options = {}; }
    let called = false;
    const done = (error) => { if (!called) { called = true; then(error ?? undefined); } };
    const over = () => (stream._writableState === undefined || options?.writable === false || stream._writableState.finished) && (stream._readableState === undefined || options?.readable === false || stream._readableState.endEmitted);
    const maybe = () => { if (over()) done(); };
    stream.on('error', done);
    stream.on('end', maybe);
    stream.on('finish', maybe);
    stream.on('close', () => done(over() ? undefined : failure('ERR_STREAM_PREMATURE_CLOSE', 'Premature close')));
    if (stream.destroyed || over()) nextTick(() => done(stream.errored));
    return () => { called = true; };
  };
  const pipeline = (...streams) => {
    const then = typeof streams.at(-1) === 'function' ? streams.pop() : () => {};
    if (Array.isArray(streams[0])) streams = streams[0];
    let called = false;
    const done = (error) => { if (called) return; called = true; if (error) for (const one of streams) one.destroy?.(); then(error); };
    streams = streams.map((one, n) => n === 0 && one._readableState === undefined && one.pipe === undefined ? Readable.from(one) : one);
    for (const one of streams.slice(0, -1)) one.on('error', done);
    finished(streams.at(-1), { readable: false }, done);
    return streams.reduce((from, to) => from.pipe(to));
  };
  Object.assign(Stream, {
    Stream, Readable, Writable, Duplex, Transform, PassThrough, finished, pipeline,
    promises: {
      finished: (stream, options) => new Promise((resolve, reject) => finished(stream, options, (error) => error ? reject(error) : resolve())),
      pipeline: (...streams) => new Promise((resolve, reject) => pipeline(...streams.filter((one) => one.pipe || one.write || one[Symbol.iterator] || one[Symbol.asyncIterator]), (error) => error ? reject(error) : resolve())),
    },
    isReadable: (one) => one?.readable === true, isErrored: (one) => Boolean(one?.errored), isDisturbed: () => false, addAbortSignal: (signal, stream) => { signal.addEventListener('abort', () => stream.destroy(signal.reason)); return stream; }, getDefaultHighWaterMark: () => HIGH,
  });
  builtin.stream = Stream;
  builtin['stream/promises'] = Stream.promises;
  builtin['stream/web'] = {};
})(globalThis);

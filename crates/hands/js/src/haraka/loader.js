// Modules, configuration files and plugins, as Haraka finds them.
(function (global) {
  'use strict';
  const env = global.__env;
  const { host, builtin, failure } = env;
  const path = builtin.path;
  const fs = builtin.fs;
  const { root, core, writable } = JSON.parse(host.place());
  Object.assign(env, { root, core, writable });
  Object.assign(global.process.env, { HARAKA: root, NODE_ENV: 'production', HOME: root, WITHOUT_CONFIG_CACHE: '' });
  delete global.process.env.WITHOUT_CONFIG_CACHE;

  // --- Log ----------------------------------------------------------------------------------------------------------
  const LEVELS = { data: 'debug', protocol: 'debug', debug: 'debug', info: 'info', notice: 'info', warn: 'warn', error: 'error', crit: 'error', alert: 'error', emerg: 'error' };
  const saying = (level) => function (...given) {
    let who = '-', where = '-';
    const said = [];
    const named = (one) => { if (one === undefined || one === null) return; if (one instanceof env.Plugin) where = one.name; else if (env.Connection && one instanceof env.Connection) who = one.transaction?.uuid ?? one.uuid; else return false; return true; };
    if (!named(this) && typeof this?.name === 'string') where = this.name;
    for (const one of given) if (!named(one) && one !== undefined) said.push(typeof one === 'string' ? one : one instanceof Error ? env.told(one) : env.inspect(one));
    host.log(LEVELS[level], `[${who}] [${where}] ${said.join(' ')}`);
  };
  const logger = { name: 'logger', levels: {}, loglevel: 6, would_log: () => true, add_log_methods(object) { for (const level of Object.keys(LEVELS)) (typeof object === 'function' ? object.prototype : object)[`log${level}`] ??= saying(level); } };
  Object.keys(LEVELS).forEach((level, n) => { logger[`log${level}`] = logger[level] = saying(level); logger[`LOG${level.toUpperCase()}`] = 9 - n; logger.levels[level.toUpperCase()] = 9 - n; });
  env.logger = logger;

  // --- Constants ----------------------------------------------------------------------------------------------------
  const constants = { cont: 900, stop: 901, deny: 902, denysoft: 903, denydisconnect: 904, disconnect: 905, ok: 906, next_hook: 907, delay: 908, denysoftdisconnect: 909, write_excl: 64 | 512 | 1 | 128 };
  const WORDS = Object.keys(constants);
  for (const word of WORDS) constants[word.toUpperCase()] = constants[word];
  const states = { CMD: 1, LOOP: 2, DATA: 3, PAUSE: 4, PAUSE_SMTP: 5, PAUSE_DATA: 6, DISCONNECTING: 99, DISCONNECTED: 100 };
  for (const [word, n] of Object.entries(states)) states[`STATE_${word}`] = n;
  Object.assign(constants, { import(into) { for (const word of WORDS) into[word.toUpperCase()] = constants[word]; }, translate: (value) => WORDS.find((word) => constants[word] === value)?.toUpperCase() ?? 'UNKNOWN', connection: { state: states } });
  constants.import(global);
  env.constants = constants;

  // --- Notes --------------------------------------------------------------------------------------------------------
  const steps = (at) => {
    const list = Array.isArray(at) ? [...at] : String(at).split('.');
    if (list.some((step) => ['__proto__', 'constructor', 'prototype'].includes(step))) throw new TypeError('this is no name of a note');
    return list;
  };
  class Notes {
    constructor(given) {
      if (given && typeof given === 'object') Object.assign(this, given);
      const fixed = (name, value) => Object.defineProperty(this, name, { value, enumerable: false });
      fixed('get', (at) => at ? steps(at).reduce((place, step) => place ? place[step] : undefined, this) : undefined);
      fixed('set', (at, value, only) => {
        if (at === undefined || value === undefined) return;
        const list = steps(at), last = list.pop();
        let place = this;
        for (const step of list) { if (typeof place[step] !== 'object' || place[step] === null) place[step] = {}; place = place[step]; }
        if (!only || place[last] === undefined) place[last] = value;
      });
    }
  }
  env.Notes = Notes;

  // --- Configuration ------------------------------------------------------------------------------------------------
  const TRUE = /^(?:true|yes|ok|enabled|on|1)$/i;
  const KINDS = { ini: 'ini', json: 'json', hjson: 'hjson', yaml: 'yaml', yml: 'yaml', js: 'js', pem: 'binary', bin: 'binary' };
  const scalar = (text) => /^-?\d+$/.test(text) ? parseInt(text, 10) : /^-?\d+\.\d+$/.test(text) ? parseFloat(text) : text;
  const unsafe = (key) => key === '__proto__' || key === 'constructor' || key === 'prototype';
  const ini = (text, booleans = []) => {
    const found = Object.create(null);
    const section = (name) => found[name] ??= Object.create(null);
    let current = section('main'), name = 'main';
    const wanted = new Set();
    for (const given of booleans) {
      const parts = /^(?:([^. ]+)\.)?(.+)/.exec(given);
      if (parts === null) continue;
      const within = (parts[1] ?? 'main').replace(/^[-+]/, ''), key = parts[2].replace(/^[-+]/, '');
      if (unsafe(within) || unsafe(key)) continue;
      wanted.add(`${within}.${key}`);
      if (within !== '*') section(within)[key] = /^\+/.test(parts[1] ?? '') || parts[2].startsWith('+');
    }
    let before = '';
    for (const line of (text ?? '').split(/\r\n|\r|\n/)) {
      if (/^\s*(?:[;#].*)?$/.test(line)) continue;
      const head = /^\s*\[([^\]]*)\]\s*$/.exec(line);
      if (head !== null) { name = head[1].trim(); current = unsafe(name) ? Object.create(null) : section(name); continue; }
      if (/\\[ \t]*$/.test(line)) { before += line.replace(/\\[ \t]*$/, ''); continue; }
      const parts = /^\s*([\w@:._+\-/[\]]+)\s*(?:=\s*(.*?)\s*)?$/.exec(before + line);
      before = '';
      if (parts === null) { logger.logwarn({ name: 'config' }, `this line says nothing: ${line}`); continue; }
      const list = parts[1].endsWith('[]'), key = list ? parts[1].slice(0, -2) : parts[1];
      if (unsafe(key)) continue;
      const value = wanted.has(`${name}.${key}`) || wanted.has(`*.${key}`) ? TRUE.test(parts[2]) : parts[2] === undefined ? undefined : scalar(parts[2]);
      if (list) { if (!Array.isArray(current[key])) current[key] = []; current[key].push(value); } else current[key] = value;
    }
    return found;
  };
  const parse = (file, kind, options, text) => {
    switch (kind) {
      case 'ini': return ini(text, options?.booleans);
      case 'json': return JSON.parse(text);
      case 'hjson': return env.requiring(`${core ?? root}/haraka.js`)('hjson').parse(text);
      case 'yaml': return env.requiring(`${core ?? root}/haraka.js`)('yaml').parse(text);
      case 'data': { const lines = text.split(/\r\n|\r|\n/); if (lines.at(-1) === '') lines.pop(); return lines; }
      default: {
        const lines = text.split(/\r\n|\r|\n/).filter((line) => !/^\s*(?:[;#].*)?$/.test(line)).map((line) => line.trim());
        if (lines.length === 0 && path.basename(file) === 'me') lines.push(builtin.os.hostname());
        if (kind === 'list') return lines;
        if (lines.length === 0) return null;
        return options?.booleans?.includes(lines[0]) ? TRUE.test(lines[0]) : scalar(lines[0]);
      }
    }
  };
  const empty = (kind, options) => kind === 'ini' ? ini('', options?.booleans) : kind === 'value' ? null : kind === 'json' || kind === 'yaml' || kind === 'hjson' || kind === 'js' ? {} : [];
  // A file that is not there is undefined; one that cannot be read stops the plugin from loading.
  const readConfig = (folder, name, kind, options) => {
    let file = path.resolve(folder, name);
    if (!path.isAbsolute(name) && !file.startsWith(`${folder}/`)) throw new Error(`config name '${name}' leads out of ${folder}`);
    if (!fs.existsSync(file)) {
      const yaml = file.replace(/\.h?json$/, '.yaml');
      if (yaml === file || !fs.existsSync(yaml)) return undefined;
      file = yaml;
      kind = 'yaml';
    }
    if (kind === 'binary') return fs.readFileSync(file);
    try { return parse(file, kind, options, fs.readFileSync(file, 'utf8')); } catch (error) { throw new Error(`${file}: ${error.message}`); }
  };
  const isMap = (value) => typeof value === 'object' && value !== null && !Array.isArray(value) && !(value instanceof Uint8Array);
  const merged = (base, over) => {
    const all = Object.assign(Object.create(Object.getPrototypeOf(base)), base);
    for (const [key, value] of Object.entries(over)) if (!unsafe(key) && value !== null) all[key] = isMap(value) && isMap(all[key]) ? merged(all[key], value) : value;
    return all;
  };
  class Config {
    constructor(folders) { Object.defineProperty(this, 'folders', { value: folders }); this.root_path = folders.at(-1); }
    get(name, ...given) {
      let kind, options;
      for (const one of given) {
        if (typeof one === 'string') kind = one;
        else if (typeof one === 'object' && one !== null) options = one;
        // A callback for a changed file: all is loaded anew at a reload, so there is nothing to call.
      }
      kind ??= KINDS[path.extname(name).slice(1).toLowerCase()] ?? 'value';
      let value;
      for (const folder of this.folders) {
        const found = readConfig(folder, name, kind, options);
        if (found === undefined || found === null) continue;
        if (value !== undefined && isMap(value) && isMap(found)) {
          // A switch that the second file does not name keeps what the first says.
          const plain = kind === 'ini' ? readConfig(folder, name, kind, { booleans: [] }) : found;
          const said = kind === 'ini' ? Object.fromEntries(Object.entries(plain).map(([section, keys]) => [section, Object.fromEntries(Object.keys(keys).map((key) => [key, found[section][key]]))])) : found;
          value = merged(value, said);
        } else if (!(Array.isArray(found) && found.length === 0 && value !== undefined)) value = found;
      }
      return value === undefined ? empty(kind, options) : value;
    }
    getInt(name, usual) { const value = parseInt(this.get(name, 'value'), 10); return Number.isNaN(value) ? parseInt(usual, 10) : value; }
    getDir(name, options, then) {
      const work = (async () => (await fs.promises.readdir(path.join(this.root_path, name))).map((file) => ({ path: path.join(this.root_path, name, file), data: this.get(path.join(name, file), options?.type) })))();
      if (then) work.then((files) => then(null, files), then); else return work;
    }
    module_config(defaults, over) { return new Config([path.join(defaults, 'config'), ...(over ? [path.join(over, 'config')] : [])]); }
    stop_watching() {}
  }
  const own = path.join(root, 'config');
  env.config = new Config(core ? [path.join(core, 'config'), own] : [own]);

  // --- Results ------------------------------------------------------------------------------------------------------
  const LISTS = ['msg', 'pass', 'fail', 'skip', 'err'];
  const SHOWN = [...LISTS, 'hide', 'order', 'emit', 'human', 'human_html'];
  const nameOf = (plugin) => typeof plugin === 'string' ? plugin : plugin?.name;
  class ResultStore {
    constructor(conn) { this.conn = conn; this.store = Object.create(null); }
    of(plugin) { return this.store[nameOf(plugin)] ??= { pass: [], fail: [], msg: [], err: [], skip: [] }; }
    has(plugin, list, wanted) {
      const kept = this.store[nameOf(plugin)]?.[list];
      const is = (one) => wanted instanceof RegExp ? typeof one === 'string' && wanted.test(one) : one === wanted;
      return Array.isArray(kept) ? kept.some(is) : kept !== undefined && is(kept);
    }
    add(plugin, given) {
      const kept = this.of(plugin);
      for (const [key, value] of Object.entries(given)) {
        if (value === undefined || unsafe(key)) continue;
        const plain = (one) => key === 'err' && one instanceof Error ? one.message : one;
        if (LISTS.includes(key)) kept[key] = kept[key].concat(Array.isArray(value) ? value.map(plain) : [plain(value)]);
        else if (!['emit', 'human', 'human_html'].includes(key)) kept[key] = value;
      }
      return this.tell(plugin, kept, given);
    }
    incr(plugin, given) {
      const kept = this.of(plugin);
      for (const [key, value] of Object.entries(given)) if (!unsafe(key)) kept[key] = (parseFloat(kept[key]) || 0) + (parseFloat(value) || 0);
    }
    push(plugin, given) {
      const kept = this.of(plugin);
      for (const [key, value] of Object.entries(given)) if (!unsafe(key)) kept[key] = (Array.isArray(kept[key]) ? kept[key] : []).concat(value);
      return this.tell(plugin, kept, given);
    }
    get(plugin) { return this.store[nameOf(plugin)]; }
    get_all() { return this.store; }
    resolve_plugin_name(plugin) { return nameOf(plugin); }
    collate(plugin) { const kept = this.get(plugin); return kept === undefined ? undefined : this.private_collate(kept).join(', '); }
    private_collate(kept) {
      const hide = kept.hide ?? [];
      const single = Object.entries(kept).filter(([key, value]) => key[0] !== '_' && !SHOWN.includes(key) && !hide.includes(key) && (Array.isArray(value) ? value.length > 0 : typeof value !== 'object'));
      const lists = (kept.order?.length ? kept.order : LISTS).filter((key) => kept[key]?.length && !hide.includes(key));
      return [...single.map(([key, value]) => `${key}: ${value}`), ...lists.map((key) => `${key}:${[].concat(kept[key]).join(', ')}`)];
    }
    tell(plugin, kept, given) {
      const parts = given.human ? [given.human] : this.private_collate(kept);
      kept.human = parts.join(', ');
      kept.human_html = parts.join(', \t ');
      if (given.emit) this.conn.loginfo?.(plugin, kept.human);
      if (given.err) this.conn.logerror?.(plugin, given.err instanceof Error ? given.err.message : String(given.err));
      return kept.human;
    }
  }
  env.ResultStore = ResultStore;

  // --- Modules ------------------------------------------------------------------------------------------------------
  const modules = new Map();
  // What of Haraka itself is the server's business here.
  const shared = Object.create(null);
  env.shared = shared;
  const server = env.haraka_server = { notes: new Notes(), cfg: { main: {} }, cluster: undefined, has_tls: false, started: true, address: () => ({ address: '127.0.0.1', port: 25 }), sendToMaster() {}, get_smtp_server() {}, http: { app: { use() {}, get() {}, post() {} } } };
  global.server = server;
  shared.config = env.config;
  shared.logger = logger;
  shared.constants = constants;
  shared.server = server;
  // `./outbound`, `../logger.js` and the like, when it is Haraka's own file that is meant.
  const sharedName = (asked) => asked.replace(/^(\.\.?\/)+/, '').replace(/\.js$/, '').replace(/\/index$/, '');
  // Stands in for packages that are not installed.
  const fallback = {
    'haraka-config': () => env.config, 'haraka-constants': () => constants, 'haraka-notes': () => Notes, 'haraka-results': () => ResultStore,
    'address-rfc2821': () => ({ Address: env.Address }), '@haraka/email-address': () => ({ Address: env.Address, parseEnvelope: (text) => new env.Address(text) }),
  };
  function load(file) {
    const known = modules.get(file);
    if (known !== undefined) return known.exports;
    if (core !== undefined && path.dirname(file) === core && sharedName(path.basename(file)) in shared) return shared[sharedName(path.basename(file))];
    if (core !== undefined && file === path.join(core, 'outbound', 'index.js')) return shared.outbound;
    const module = { exports: {}, id: file, filename: file, path: path.dirname(file), loaded: false, children: [], paths: [], parent: null };
    module.require = requiring(file);
    modules.set(file, module);
    try {
      const source = host.source(file);
      if (file.endsWith('.json')) module.exports = JSON.parse(source);
      else host.compile_sloppy(source, file).call(module.exports, module.exports, module.require, module, file, path.dirname(file));
      module.loaded = true;
    } catch (error) {
      modules.delete(file);
      throw error;
    }
    return module.exports;
  }
  function requiring(from) {
    const here = path.dirname(from);
    const find = (asked) => host.resolve(here, asked) ?? (asked.startsWith('.') || asked.startsWith('/') ? undefined : host.resolve(core ?? root, asked) ?? host.resolve(root, asked));
    const require = (asked) => {
      asked = String(asked);
      const plain = asked.replace(/^node:/, '').replace(/\/$/, '');
      if (plain in builtin && (asked.startsWith('node:') || !asked.endsWith('/'))) return builtin[plain];
      const file = find(asked);
      if (file !== undefined && file !== null) return load(file);
      if (asked in fallback) return fallback[asked]();
      throw failure('MODULE_NOT_FOUND', `Cannot find module '${asked}'\nRequire stack:\n- ${from}`);
    };
    require.resolve = (asked) => { const file = find(asked); if (file === undefined || file === null) throw failure('MODULE_NOT_FOUND', `Cannot find module '${asked}'`); return file; };
    require.cache = Object.create(null);
    require.main = undefined;
    require.extensions = {};
    return require;
  }
  env.requiring = requiring;
  env.load = load;

  // --- Plugins ------------------------------------------------------------------------------------------------------
  const hooks = env.hooks = Object.create(null);
  const registered = env.registered = Object.create(null);
  let order = 0;
  const places = (name) => {
    const within = (folder) => [`plugins/${name}.js`, `plugins/${name}/package.json`, `node_modules/haraka-plugin-${name}/package.json`, `node_modules/${name}/package.json`].map((file) => path.join(folder, file));
    return [...within(root), ...(core === undefined ? [] : [...within(core), path.join(core, '..', `haraka-plugin-${name}`, 'package.json')])];
  };
  const HOOKS_MAX = 10_000;
  class Plugin {
    constructor(given) {
      this.name = given.replace(/^haraka-plugin-/, '');
      this.base = {};
      this.hooks = {};
      const file = places(this.name).find((file) => host.exists(file));
      if (file === undefined) throw new Error(`there is no plugin \`${this.name}\` in plugins/ or node_modules/ of ${root}${core ? ` or ${core}` : ''}`);
      this.plugin_path = file;
      this.hasPackageJson = path.basename(file) === 'package.json';
      this.config = this.hasPackageJson ? env.config.module_config(path.dirname(file), root) : env.config;
      const seconds = [env.config.get(`${this.name}.timeout`), env.config.get('plugin_timeout')].map(parseFloat).find((value) => !Number.isNaN(value));
      this.timeout = seconds ?? 30;
    }
    haraka_require(name) {
      const plain = sharedName(name);
      if (plain in shared) return shared[plain];
      if (core === undefined) throw failure('MODULE_NOT_FOUND', `haraka_require('${name}'): Haraka itself is not installed; policy.haraka.core says where it is`);
      return requiring(path.join(core, 'haraka.js'))(`./${name}`);
    }
    register() {}
    register_hook(hook, method, priority) {
      const list = hooks[hook] ??= [];
      if (list.length >= HOOKS_MAX) throw new RangeError('too many hooks');
      const first = Math.max(-100, Math.min(100, parseInt(priority, 10) || 0));
      list.push({ plugin: this, method, priority: first, order: order++ });
      (this.hooks[hook] ??= []).push(method);
    }
    inherits(name) {
      const parent = compiled(name);
      for (const key in parent) if (this[key] === undefined || this[key] === null) this[key] = parent[key];
      if (parent.register !== Plugin.prototype.register) parent.register.call(this);
      this.base[name] = parent;
    }
  }
  logger.add_log_methods(Plugin);
  env.Plugin = Plugin;
  function compiled(name) {
    const plugin = new Plugin(name);
    if (plugin.hasPackageJson) {
      const main = host.resolve(root, path.dirname(plugin.plugin_path));
      if (main === undefined || main === null) throw new Error(`${plugin.plugin_path}: its main file is missing`);
      const exported = load(main);
      for (const key in exported) plugin[key] = exported[key];
    } else {
      const usual = requiring(plugin.plugin_path);
      const require = Object.assign((asked) => {
        if (asked === './config') return plugin.config;
        if (asked.startsWith('.')) {
          const plain = sharedName(asked);
          const beside = host.resolve(path.dirname(plugin.plugin_path), asked);
          const cores = core !== undefined && !/^\.\.?\//.test(path.relative(core, plugin.plugin_path));
          if (plain in shared && (cores || beside === undefined || beside === null)) return shared[plain];
          if (beside === undefined || beside === null) return plugin.haraka_require(plain);
        }
        return usual(asked);
      }, usual);
      const module = { exports: plugin };
      host.compile_strict(host.source(plugin.plugin_path), plugin.plugin_path).call(plugin, plugin, require, module, plugin.plugin_path, path.dirname(plugin.plugin_path));
      if (module.exports !== plugin) for (const key in module.exports) plugin[key] = module.exports[key];
    }
    return plugin;
  }
  const RENAMED = { 'auth/auth_ldap': 'auth-ldap', backscatterer: 'dns-list', 'connect.asn': 'asn', 'connect.fcrdns': 'fcrdns', 'connect.geoip': 'geoip', 'connect.p0f': 'p0f', 'connect.rdns_access': 'access', 'data.nomsgid': 'headers', 'data.noreceived': 'headers', 'data.rfc5322_header_checks': 'headers', 'data.headers': 'headers', dkim_sign: 'dkim', dkim_verify: 'dkim', 'data.uribl': 'uribl', dnsbl: 'dns-list', dnswl: 'dns-list', 'log.syslog': 'syslog', 'mail_from.access': 'access', 'mail_from.blocklist': 'access', 'mail_from.nobounces': 'bounce', max_unrecognized_commands: 'limit', rate_limit: 'limit', 'rcpt_to.access': 'access', 'rcpt_to.blocklist': 'access', 'rcpt_to.ldap': 'rcpt-ldap', 'rcpt_to.max_count': 'limit', 'rcpt_to.qmail_deliverable': 'qmail-deliverable', 'rdns.regexp': 'access', relay_acl: 'relay', relay_all: 'relay', relay_force_routing: 'relay' };
  env.load_plugin = (given) => {
    let name = given.replace(/^haraka-plugin-/, '');
    if (name in RENAMED && !places(name).some((file) => host.exists(file))) name = RENAMED[name];
    if (name in registered) return registered[name];
    const plugin = compiled(name);
    registered[name] = plugin;
    plugin.register();
    for (const key in plugin) {
      const hook = /^hook_(\w+)\b/.exec(key)?.[1];
      if (hook !== undefined && typeof plugin[key] === 'function') plugin.register_hook(hook, key);
    }
    return plugin;
  };
  shared.plugins = { registered_hooks: hooks, registered_plugins: registered, plugin_list: [], config: env.config, server, Plugin, deprecated: RENAMED, load_plugin: env.load_plugin, _load_and_compile_plugin: compiled, run_hooks() { throw failure('ERR_FEATURE_UNAVAILABLE', 'plugins.run_hooks is for the server to call'); } };
  logger.add_log_methods(shared.plugins);

  // --- Mail of a plugin's own -----------------------------------------------------------------------------------------
  shared.outbound = {
    net_utils: undefined, config: env.config,
    send_email(from, to, contents, then = () => {}, options = {}) {
      const octets = typeof contents === 'string' ? env.bytes(contents) : env.bytes(contents);
      const text = env.binary(octets).replace(/\r?\n/g, '\r\n');
      const plain = (address) => typeof address === 'string' ? address.replace(/^<(.*)>$/, '$1') : env.plain_address(address);
      const job = { from: plain(from ?? ''), to: [].concat(to).map(plain), content: options.dot_stuffed ? text.replace(/^\.\./gm, '.') : text };
      env.start('post', JSON.stringify(job), (failed, came) => failed === undefined ? then(constants.ok, came) : then(/^4/.test(failed) ? constants.denysoft : constants.deny, failed));
    },
    send_trans_email(transaction, then = () => {}) { transaction.message_stream.get_data((octets) => shared.outbound.send_email(transaction.mail_from, transaction.rcpt_to, octets, then)); },
    get_stats: (then) => then(null, '0/0/0'), list_queue: (then) => then(null, []), stat_queue: (then) => then(null, {}), flush_queue() {}, load_pid_queue() {}, ensure_queue_dir() {}, drain_pools() {},
  };
  shared.tls_socket = {
    connect: (...given) => {
      const socket = builtin.net.connect(...given);
      socket.upgrade = (options, then) => socket.secure({ ...options, servername: options?.servername ?? socket.servername }, () => then?.(true, undefined, {}, socket.getCipher()));
      return socket;
    },
    createConnection: (...given) => shared.tls_socket.connect(...given), cfg: undefined, load_tls_ini: () => shared.tls_socket.cfg = { no_tls_hosts: {}, ...env.config.get('tls.ini', { booleans: ['-redis.disable_for_failed_hosts', '-main.requestCert', '-main.rejectUnauthorized'] }), redis: { disable_for_failed_hosts: false } }, load_plugin_tls_options: (own) => ({ ...env.config.get('tls.ini').main, ...own }), config: env.config, getSocketOpts: (name, then) => then?.({}), tls_ini_section_with_defaults: () => ({}), addOCSP() {}, shutdown() {},
  };
  shared.line_socket = {
    Socket: builtin.net.Socket,
    connect: (...given) => {
      const socket = shared.tls_socket.connect(...given);
      let rest = '';
      socket.on('data', (octets) => { const lines = (rest + env.binary(octets)).split('\n'); rest = lines.pop(); for (const line of lines) socket.emit('line', `${line}\n`); });
      socket.on('end', () => { if (rest) { const last = rest; rest = ''; socket.emit('line', last); } });
      return socket;
    },
  };
})(globalThis);

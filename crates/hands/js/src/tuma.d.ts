// The interface of scripts in JavaScript: put this file beside the script, so that an editor completes and checks.

interface TumaAnswer { readonly word: string }

/** A session, until the client leaves. */
interface TumaSession {
  readonly id?: string;
  /** The client's address. */
  readonly peer?: string;
  readonly peer_port?: number;
  readonly local_address?: string;
  readonly local_port?: number;
  /** What the client calls itself. */
  readonly helo: string;
  /** Who logged in. */
  readonly user?: string;
  readonly listener: string;
  /** This server's name. */
  readonly hostname: string;
  /** The client may relay. */
  readonly trusted: boolean;
  readonly protocol: "SMTP" | "ESMTP" | "LMTP" | "HTTP" | "internal";
  /** The protocol of TLS, if there is any. */
  readonly tls?: string;
  readonly cipher?: string;
  /** What the script wants to remember until the session ends. */
  readonly notes: Record<string, any>;
}
interface TumaHello { readonly name: string; readonly extended: boolean }
interface TumaAuth { readonly user: string; readonly mechanism: string }
interface TumaMail {
  /** Empty for the null reverse-path. */
  readonly address: string;
  readonly local_part?: string;
  readonly domain?: string;
  /** SIZE: a claim. */
  readonly size?: number;
  readonly body: "7BIT" | "8BITMIME" | "BINARYMIME";
  readonly smtputf8: boolean;
  readonly require_tls: boolean;
  readonly envid?: string;
}
interface TumaRcpt {
  readonly address: string;
  readonly local_part: string;
  readonly domain: string;
  readonly notify: string;
  readonly orcpt?: string;
  readonly sender: string;
  /** Recipients accepted before this one. */
  readonly accepted: number;
}
interface TumaEnvelope { readonly sender: string; readonly recipients: string[] }
interface TumaMessage {
  sender: string;
  readonly recipients: string[];
  body: string | Uint8Array;
  readonly content: string;
  readonly octets: Uint8Array;
  readonly body_octets: Uint8Array;
  readonly size: number;
  /** What SPF, DKIM and DMARC found. */
  readonly verified?: string;
  tenant?: string;
  campaign?: string;
  job?: string;
  envid?: string;
  pool?: string;
  priority: "high" | "normal" | "low" | "bulk";
  header(name: string): string | undefined;
  headers(name: string): string[];
  fields(): { name: string; value: string }[];
  add_header(name: string, value: string | Uint8Array): void;
  prepend_header(name: string, value: string | Uint8Array): void;
  set_header(name: string, value: string | Uint8Array): void;
  remove_header(name: string): number;
  add_recipient(address: string): void;
  remove_recipient(address: string): boolean;
  set_recipients(addresses: string[]): void;
  is_for(address: string): boolean;
}
type TumaReturned = TumaAnswer | void | null | Promise<TumaAnswer | void | null>;
interface TumaReply { answer: string; code?: number; status?: string; text?: string }
interface TumaClient {
  connect(given?: { peer?: string; listener?: string; hostname?: string; trusted?: boolean; user?: string }): Promise<TumaReply | null>;
  hello(name: string): Promise<TumaReply | null>;
  auth(user: string, mechanism?: string): Promise<TumaReply | null>;
  mail(sender: string, size?: number): Promise<TumaReply | null>;
  rcpt(address: string): Promise<TumaReply | null>;
  data(): Promise<TumaReply | null>;
  message(content: string): Promise<{ reply: TumaReply | null; message: { sender: string; recipients: string[]; content: string } }>;
}

declare const tuma: {
  on(phase: "connect", hook: (session: TumaSession) => TumaReturned): void;
  on(phase: "hello", hook: (session: TumaSession, hello: TumaHello) => TumaReturned): void;
  on(phase: "auth", hook: (session: TumaSession, auth: TumaAuth) => TumaReturned): void;
  on(phase: "mail", hook: (session: TumaSession, mail: TumaMail) => TumaReturned): void;
  on(phase: "rcpt", hook: (session: TumaSession, rcpt: TumaRcpt) => TumaReturned): void;
  on(phase: "data", hook: (session: TumaSession, envelope: TumaEnvelope) => TumaReturned): void;
  on(phase: "message", hook: (session: TumaSession, message: TumaMessage) => TumaReturned): void;
  test(name: string, body: (client: TumaClient) => void | Promise<void>): void;
  accept(): TumaAnswer;
  reject(text?: string): TumaAnswer;
  reject(code: number, text?: string): TumaAnswer;
  reject(code: number, status: string, text: string): TumaAnswer;
  defer(text?: string): TumaAnswer;
  defer(code: number, text?: string): TumaAnswer;
  defer(code: number, status: string, text: string): TumaAnswer;
  disconnect(text?: string): TumaAnswer;
  disconnect(code: number, text?: string): TumaAnswer;
  disconnect(code: number, status: string, text: string): TumaAnswer;
  discard(why?: string): TumaAnswer;
  /** Records of a name; a rejection means that there was no answer. */
  readonly dns: Record<"a" | "aaaa" | "mx" | "txt" | "ptr", (name: string) => Promise<string[]>>;
  /** Texts that all sessions share until the server stops. */
  readonly store: {
    get(key: string): string | undefined;
    set(key: string, value: string, seconds: number): boolean;
    add(key: string, by: number, seconds: number): number | undefined;
  };
  /** A pattern whose time is linear in the text. */
  regex(pattern: string): {
    is_match(text: string): boolean;
    find(text: string): (string | undefined)[] | undefined;
    replace(text: string, by: string): string;
  };
  sleep(seconds: number): Promise<void>;
  /** Seconds since 1970. */
  time(): number;
  debug(...texts: any[]): void;
  info(...texts: any[]): void;
  warn(...texts: any[]): void;
  error(...texts: any[]): void;
};
declare function require(name: string): any;
declare function setTimeout(then: (...rest: any[]) => void, milliseconds?: number, ...rest: any[]): number;
declare function clearTimeout(timer: number): void;

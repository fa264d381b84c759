---@meta
-- The interface of Tuma's policy scripts, for the Lua language server. Printed by `tuma policy annotations`.

---@class tuma.Answer
---@class tuma.Regex
---@field is_match fun(self: tuma.Regex, text: string): boolean
---@field find fun(self: tuma.Regex, text: string): table<integer|string, string>?
---@field replace fun(self: tuma.Regex, text: string, with: string): string

---@class tuma.Session
---@field id string?
---@field peer string? The client's address.
---@field peer_port integer?
---@field local_address string?
---@field local_port integer?
---@field helo string What the client calls itself.
---@field user string? The authenticated user.
---@field listener string
---@field hostname string This server's name.
---@field trusted boolean The client may send to any domain.
---@field protocol string
---@field tls string? The version of TLS; nil without.
---@field cipher string?
---@field notes table What the script remembers of this session.

---@class tuma.Hello
---@field name string
---@field extended boolean

---@class tuma.Auth
---@field user string
---@field mechanism string

---@class tuma.Mail
---@field address string Empty for the null reverse-path.
---@field local_part string?
---@field domain string?
---@field size integer?
---@field body "7BIT"|"8BITMIME"|"BINARYMIME"
---@field smtputf8 boolean
---@field require_tls boolean
---@field envid string?

---@class tuma.Rcpt
---@field address string
---@field local_part string
---@field domain string
---@field notify string
---@field orcpt string?
---@field sender string
---@field accepted integer Recipients accepted before this one.

---@class tuma.Envelope
---@field sender string
---@field recipients string[]

---@class tuma.Message
---@field sender string May be set.
---@field recipients string[]
---@field size integer
---@field body string May be set.
---@field content string
---@field verified string? What SPF, DKIM and DMARC found.
---@field tenant string? May be set, as the other tags.
---@field campaign string?
---@field job string?
---@field envid string?
---@field pool string?
---@field priority "high"|"normal"|"low"|"bulk"
---@field header fun(self: tuma.Message, name: string): string?
---@field headers fun(self: tuma.Message, name: string): string[]
---@field fields fun(self: tuma.Message): { name: string, value: string }[]
---@field add_header fun(self: tuma.Message, name: string, value: string)
---@field prepend_header fun(self: tuma.Message, name: string, value: string)
---@field set_header fun(self: tuma.Message, name: string, value: string)
---@field remove_header fun(self: tuma.Message, name: string): integer
---@field add_recipient fun(self: tuma.Message, address: string)
---@field remove_recipient fun(self: tuma.Message, address: string): boolean
---@field set_recipients fun(self: tuma.Message, list: string[])
---@field is_for fun(self: tuma.Message, address: string): boolean

---@class tuma.Reply
---@field answer "accept"|"reject"|"defer"|"disconnect"|"discard"
---@field code integer?
---@field status string?
---@field text string?

---@class tuma.Client
---@field connect fun(self: tuma.Client, with?: { peer?: string, listener?: string, hostname?: string, trusted?: boolean, user?: string }): tuma.Reply?
---@field hello fun(self: tuma.Client, name: string): tuma.Reply?
---@field auth fun(self: tuma.Client, user: string, mechanism?: string): tuma.Reply?
---@field mail fun(self: tuma.Client, sender: string, size?: integer): tuma.Reply?
---@field rcpt fun(self: tuma.Client, address: string): tuma.Reply?
---@field data fun(self: tuma.Client): tuma.Reply?
---@field message fun(self: tuma.Client, content: string): tuma.Reply?, tuma.Message

---@class tuma
tuma = {}

---@overload fun(phase: "connect", hook: fun(session: tuma.Session): tuma.Answer?)
---@overload fun(phase: "hello", hook: fun(session: tuma.Session, hello: tuma.Hello): tuma.Answer?)
---@overload fun(phase: "auth", hook: fun(session: tuma.Session, auth: tuma.Auth): tuma.Answer?)
---@overload fun(phase: "mail", hook: fun(session: tuma.Session, mail: tuma.Mail): tuma.Answer?)
---@overload fun(phase: "rcpt", hook: fun(session: tuma.Session, rcpt: tuma.Rcpt): tuma.Answer?)
---@overload fun(phase: "data", hook: fun(session: tuma.Session, envelope: tuma.Envelope): tuma.Answer?)
---@param phase "message"
---@param hook fun(session: tuma.Session, message: tuma.Message): tuma.Answer?
function tuma.on(phase, hook) end

---@param name string
---@param run fun(client: tuma.Client)
function tuma.test(name, run) end

---@return tuma.Answer
function tuma.accept() end

---@overload fun(text?: string): tuma.Answer
---@overload fun(code: integer, text: string): tuma.Answer
---@param code integer 500 to 599
---@param status string
---@param text string
---@return tuma.Answer
function tuma.reject(code, status, text) end

---@overload fun(text?: string): tuma.Answer
---@overload fun(code: integer, text: string): tuma.Answer
---@param code integer 400 to 499
---@param status string
---@param text string
---@return tuma.Answer
function tuma.defer(code, status, text) end

---@overload fun(text?: string): tuma.Answer
---@overload fun(code: integer, text: string): tuma.Answer
---@param code integer
---@param status string
---@param text string
---@return tuma.Answer
function tuma.disconnect(code, status, text) end

---@param reason? string
---@return tuma.Answer
function tuma.discard(reason) end

---@param pattern string
---@return tuma.Regex
function tuma.regex(pattern) end

---@param seconds number
function tuma.sleep(seconds) end

---@return number seconds since 1970
function tuma.time() end

---@param text string
function tuma.debug(text) end
---@param text string
function tuma.info(text) end
---@param text string
function tuma.warn(text) end
---@param text string
function tuma.error(text) end

---@class tuma.Dns Lists of records, empty if there are none; nil and the reason if there was no answer.
---@field a fun(name: string): string[]?, string?
---@field aaaa fun(name: string): string[]?, string?
---@field mx fun(name: string): string[]?, string? As "preference name".
---@field txt fun(name: string): string[]?, string?
---@field ptr fun(address: string): string[]?, string?
---@type tuma.Dns
tuma.dns = {}

---@class tuma.Store Shared by all sessions; an entry lives for so many seconds.
---@field get fun(key: string): string?
---@field set fun(key: string, value: string, seconds: number): boolean False if there is no room.
---@field add fun(key: string, by: integer, seconds: number): integer? The sum; nil if there is no room.
---@type tuma.Store
tuma.store = {}

//! What answers and bodies hold that are written and read by hand, for the OpenAPI document. A test asks a running
//! server by that document and holds its answers to these.
#![allow(dead_code, reason = "their descriptions are what is wanted")]

use schemars::JsonSchema;
use serde_json::{Map, Value};
use std::collections::BTreeMap;

macro_rules! shapes {
    ($($(#[$meta:meta])* $name:ident { $($(#[$field_meta:meta])* $field:ident: $kind:ty,)* })*) => {
        $(
            $(#[$meta])*
            #[derive(JsonSchema)]
            #[schemars(deny_unknown_fields)]
            pub(super) struct $name { $($(#[$field_meta])* pub(super) $field: $kind,)* }
        )*
    };
}

shapes! {
    /// A message handed in: what became of its recipients.
    Handed {
        /// The first message that was made.
        id: Option<String>,
        queued: u64,
        refused: u64,
        deferred: u64,
        /// The messages that were made.
        messages: Vec<HandedMessage>,
        /// The fate of each recipient; beyond 1,000 only of those that were not queued.
        results: Vec<HandedResult>,
        results_complete: bool,
    }
    /// A message that was made.
    HandedMessage { id: String, recipients: u64, }
    /// What became of one recipient.
    HandedResult {
        email: String,
        status: HandedStatus,
        /// The recipient's id, if it was queued.
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        /// Why not, if it was not.
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        detail: Option<String>,
    }
    /// What happened to a recipient.
    Event {
        time_ms: u64,
        kind: String,
        recipient: Option<String>,
        id: Option<String>,
        reply: Option<String>,
        attempt: u64,
        host: Option<String>,
        address: Option<String>,
        /// Of events asked for together.
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        message: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        campaign: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        metadata: Option<Value>,
    }
    /// What is remembered of a message.
    Timeline {
        id: String,
        received_at_ms: u64,
        sender: String,
        recipients: u64,
        size: u64,
        tenant: Option<String>,
        campaign: Option<String>,
        job: Option<String>,
        reference: Option<String>,
        metadata: Value,
        send_at_ms: Option<u64>,
        expires_at_ms: Option<u64>,
        events: Vec<Event>,
    }
    /// A page of events.
    Events {
        events: Vec<Event>,
        /// The cursor for the next request.
        next: String,
        /// True if what followed the cursor is no longer remembered.
        missed: bool,
    }
    /// A stored template's name.
    TemplateName { name: String, updated_at_ms: u64, }
    /// A stored template.
    TemplateShown { name: String, updated_at_ms: u64, content: Value, }
    /// An API key.
    KeyShown {
        id: String,
        name: String,
        role: String,
        tenant: Option<String>,
        networks: Vec<String>,
        from_domains: Vec<String>,
        requests_per_minute_max: Option<u32>,
        created_at_ms: u64,
        expires_at_ms: Option<u64>,
        revoked_at_ms: Option<u64>,
        valid: bool,
        /// The key itself; in the answer that makes it and nowhere else.
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        token: Option<String>,
    }
    /// An API key to be made.
    KeyIn {
        /// What people call it.
        #[schemars(length(min = 1, max = 255))]
        name: String,
        /// `sender`, `viewer`, `operator` or `admin`; left out, `sender`.
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        role: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<String>,
        /// Networks it may be used from; none is all.
        #[schemars(default, length(max = 100))]
        networks: Option<Vec<String>>,
        /// Domains it may send from; none is all.
        #[schemars(default, length(max = 100))]
        from_domains: Option<Vec<String>>,
        #[schemars(default, range(min = 1))]
        requests_per_minute_max: Option<u32>,
        /// Such as `90d`.
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        expires_in: Option<String>,
        /// RFC 3339.
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        expires_at: Option<String>,
    }
    /// A tenant.
    TenantShown {
        tenant: String,
        from_domains: Vec<String>,
        pools: Vec<String>,
        recipients_per_hour_max: Option<u64>,
        recipients_per_day_max: Option<u64>,
        recipients_this_hour: u64,
        recipients_this_day: u64,
        suspended: bool,
        /// In the configuration, where alone it is changed.
        declared: bool,
        keys: u64,
    }
    /// A tenant to be.
    TenantIn {
        /// Domains it may send from; none is all.
        #[schemars(default, length(max = 100))]
        from_domains: Option<Vec<String>>,
        /// Pools it may choose; none is all.
        #[schemars(default, length(max = 100))]
        pools: Option<Vec<String>>,
        #[schemars(default, range(min = 1, max = 10_000_000_000_u64))]
        recipients_per_hour_max: Option<u64>,
        #[schemars(default, range(min = 1, max = 10_000_000_000_u64))]
        recipients_per_day_max: Option<u64>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        suspended: Option<bool>,
    }
    /// What went with a tenant.
    TenantRemoved { tenant: String, keys_revoked: u64, templates_deleted: u64, }
    /// A line of the log of changes.
    AuditShown {
        number: i64,
        time_ms: u64,
        who: String,
        peer: String,
        method: String,
        path: String,
        status: u16,
        detail: String,
    }
    /// What the server is doing.
    StatusShown {
        version: String,
        uptime_seconds: u64,
        sessions: u64,
        connections_out: u64,
        recipients: RecipientCounts,
        memory: MemoryShown,
        spool: SpoolShown,
        acme: Vec<IssuingShown>,
        accounting: Vec<String>,
        queues: u64,
        paths: u64,
        sites: Vec<SiteShown>,
    }
    /// A certificate that is got by ACME.
    IssuingShown {
        certificate: String,
        names: Vec<String>,
        not_after_ms: Option<u64>,
        renews_at_ms: Option<u64>,
        failures: u32,
        error: Option<String>,
        tries_again_at_ms: Option<u64>,
    }
    /// Recipients by what became of them since the start.
    RecipientCounts {
        queued: u64,
        received: u64,
        delivered: u64,
        deferred: u64,
        bounced: u64,
        expired: u64,
        discarded: u64,
        rejected: u64,
        suppressed: u64,
        unaccounted: i64,
    }
    /// Octets in memory.
    MemoryShown { hot_bytes: u64, receiving_bytes: u64, }
    /// The spool.
    SpoolShown {
        messages: u64,
        segments: u64,
        used_bytes: u64,
        free_bytes: u64,
        segments_to_load: u64,
        accepts: bool,
    }
    /// A site.
    SiteShown {
        site: String,
        provider: Option<String>,
        recipients: u64,
        ready: u64,
        waiting: u64,
        attempted: u64,
        connections: u64,
        hold: Option<String>,
        setting: Option<String>,
        held_for_seconds: Option<f64>,
        held_until_seconds: Option<f64>,
        last_failure: Option<String>,
        paths: Vec<PathShown>,
    }
    /// A source's way to a site.
    PathShown { source: String, connections: u64, mode: String, hold: Option<String>, }
    /// A queue.
    QueueShown {
        queue: String,
        site: Option<String>,
        priority: u8,
        ready: u64,
        waiting: u64,
        attempted: u64,
        recipients: u64,
        set_aside: Option<String>,
        set_aside_for_seconds: Option<f64>,
    }
    /// What waits in a queue.
    EntryShown {
        id: Option<String>,
        reverse_path: Option<String>,
        recipients: Vec<String>,
        size: Option<u64>,
        received_at_ms: Option<u64>,
        destination: String,
        queue: String,
        attempts: u64,
        in_attempt: bool,
        ambiguous: bool,
        due_in_seconds: Option<f64>,
        expires_in_seconds: Option<f64>,
        last_reply: Option<String>,
    }
    /// What was made due.
    Flushed {
        moved: u64,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        hint: Option<String>,
    }
    /// What mail an order names. All conditions must hold; `*` stands for anything.
    ScopeIn {
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        domain: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        source: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        pool: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        campaign: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        job: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        sender: Option<String>,
    }
    /// An order to be given.
    OrderIn {
        action: ActionIn,
        /// With the action `limit`: such as `100/h`.
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        rates: Option<Vec<String>>,
        /// With the action `reroute`.
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        to_pool: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        scope: Option<ScopeIn>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        /// Seconds, or a text such as `2h`.
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        ends_in: Option<NumberOrText>,
        /// Milliseconds since 1970, or RFC 3339.
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        ends_at: Option<NumberOrText>,
    }
    /// What an order would touch.
    Preview { queues: u64, recipients: u64, uncertain: u64, read: u64, cut: bool, }
    /// An egress source.
    SourceShown {
        source: String,
        enabled: bool,
        enabled_in_configuration: bool,
        disabled_by: Option<String>,
        disabled_for_seconds: Option<f64>,
        enabled_in_seconds: Option<f64>,
        v4: Option<String>,
        v6: Option<String>,
        ehlo_name: Option<String>,
        pools: BTreeMap<String, u32>,
        sites: u64,
        sites_in_backoff: u64,
        connections: u64,
    }
    /// A source that was taken in or out of use.
    SourceChanged {
        source: String,
        enabled: bool,
        changed: bool,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        enabled_in_seconds: Option<f64>,
        /// True if it outlives a restart.
        kept: bool,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        warning: Option<String>,
    }
    /// For how long a source is taken out of use.
    DisableIn {
        #[schemars(default, length(max = 500))]
        reason: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        ends_in: Option<String>,
    }
    /// Something that is not as usual.
    LimitShown {
        state: String,
        site: Option<String>,
        source: Option<String>,
        tenant: Option<String>,
        campaign: Option<String>,
        queue: Option<String>,
        text: String,
        held_for_seconds: Option<f64>,
        held_until_seconds: Option<f64>,
        setting: Option<String>,
        change: Option<String>,
    }
    /// What is to go on.
    ReleaseIn {
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        site: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        campaign: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        queue: Option<String>,
    }
    /// What goes on.
    Released {
        released: u64,
        kept: bool,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        warning: Option<String>,
    }
    /// An entry of the suppression list.
    SuppressionShown {
        address: String,
        tenant: Option<String>,
        reason: String,
        note: String,
        since_ms: u64,
        until_ms: Option<u64>,
    }
    /// Whether an address is on the list.
    SuppressionFound { suppressed: bool, entry: Option<SuppressionShown>, }
    /// A page of the list.
    SuppressionPage { entries: Vec<SuppressionShown>, cursor: Option<u64>, }
    /// Counters over time.
    StatsShown {
        span: String,
        from_ms: u64,
        to_ms: u64,
        by: Vec<String>,
        rows: Vec<StatsRowShown>,
        /// False if there were more rows than were asked for.
        complete: bool,
    }
    /// What was counted of a minute, hour or day; the labels that were asked for, and the counts.
    StatsRowShown {
        start_ms: u64,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        campaign: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        job: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        pool: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        source: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        provider: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        class: Option<String>,
        received: u64,
        delivered: u64,
        deferred: u64,
        bounced: u64,
        expired: u64,
        discarded: u64,
        rejected: u64,
        suppressed: u64,
        remote_bounce: u64,
        remote_status: u64,
        complained: u64,
        /// Octets delivered.
        octets: u64,
        /// Milliseconds from acceptance to delivery, of all deliveries together.
        latency_ms: u64,
    }
    /// Figures of the list.
    SuppressionStats {
        entries: u64,
        domains: u64,
        by_reason: BTreeMap<String, u64>,
        octets: u64,
        stale: u64,
        damaged: u64,
        failed: u64,
        dropped: u64,
    }
    /// An entry to be added. A body may hold several, one a line.
    SuppressionIn {
        /// An address or a domain.
        address: String,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        reason: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        note: Option<String>,
        /// Such as `30d`.
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        r#for: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        until_ms: Option<u64>,
    }
    /// What was added.
    SuppressionAdded { given: u64, new: u64, }
    /// Addresses to be taken off.
    SuppressionOut {
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        tenant: Option<String>,
        addresses: Vec<String>,
    }
    /// What was taken off.
    SuppressionRemoved { removed: u64, }
    /// A webhook.
    WebhookShown {
        webhook: String,
        url: String,
        taken: u64,
        failures: u64,
        pending_octets: u64,
        kept_octets: u64,
        dead_octets: u64,
        lost_octets: u64,
        dropped: u64,
        last_failure: Option<String>,
        failing_seconds: Option<f64>,
    }
    /// What is posted again.
    ReplayIn {
        /// Everything that is kept, not only what was put aside.
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        all: Option<bool>,
    }
    /// An explanation.
    ExplainShown {
        about: String,
        kind: String,
        /// True if there was more than was looked at.
        cut: bool,
        answers: Vec<ExplainAnswer>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        queues: Option<u64>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        read: Option<u64>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        events: Option<Vec<Event>>,
    }
    /// Why one entry does not move, or would not.
    ExplainAnswer {
        queue: Option<String>,
        site: Option<String>,
        provider: Option<String>,
        sources: Vec<String>,
        ready_in_queue: u64,
        ready_in_all: u64,
        in_attempt: bool,
        attempts: u64,
        moves_in_seconds: Option<f64>,
        verdict: String,
        gates: Vec<GateShown>,
        limits: Vec<String>,
        route: RouteShown,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        id: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        sender: Option<String>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        recipients: Option<Vec<String>>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        recipient_count: Option<u64>,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        received_at_ms: Option<u64>,
    }
    /// One thing that may hold mail.
    GateShown {
        gate: String,
        source: Option<String>,
        holds: bool,
        text: String,
        held_for_seconds: Option<f64>,
        held_until_seconds: Option<f64>,
        setting: Option<String>,
        change: Option<String>,
    }
    /// Which way.
    RouteShown {
        target: String,
        next_hops: Option<Vec<String>>,
        exchangers: Option<Vec<String>>,
        tls: String,
        tls_by: Option<String>,
        tls_detail: Option<String>,
        in_the_clear: Vec<InTheClear>,
    }
    /// An exchanger that is spoken to without TLS for a while.
    InTheClear { exchanger: String, why: String, for_seconds: f64, }
    /// The configuration file.
    ConfigShown {
        file: String,
        /// For `If-Match`.
        fingerprint: String,
        /// Its text, secrets hidden.
        text: String,
        /// Every value in force as TOML, if the file can be read.
        effective: Option<String>,
    }
    /// A text without mistakes.
    ConfigValid { valid: bool, warnings: String, }
    /// A text that was put in force.
    ConfigApplied {
        /// The version of the history that it replaced.
        replaced: u64,
        fingerprint: String,
        text: String,
        warnings: String,
    }
    /// An earlier version.
    ConfigVersion {
        version: u64,
        replaced_at_ms: u64,
        replaced_by: String,
        reason: String,
        fingerprint: String,
        #[schemars(default, skip_serializing_if = "Option::is_none")]
        text: Option<String>,
    }
    /// The version to go back to.
    RollBackIn {
        #[schemars(default)]
        version: Option<u64>,
    }
    /// KumoMTA's answer to a message handed in.
    KumoInjected {
        success_count: u64,
        fail_count: u64,
        failed_recipients: Vec<String>,
        errors: Vec<String>,
    }
    /// KumoMTA's answer to `bounce`.
    KumoBounced { id: String, bounced: BTreeMap<String, u64>, total_bounced: u64, }
    /// KumoMTA's answer to `suspend`.
    KumoId { id: String, }
    /// An order as KumoMTA lists it.
    KumoItem {
        id: String,
        reason: String,
        duration: Option<String>,
        campaign: Option<String>,
        tenant: Option<String>,
        domain: Option<String>,
    }
    /// A suspended site as KumoMTA lists it.
    KumoReadyItem { id: String, reason: String, duration: Option<String>, name: String, }
    /// SendGrid's answer where it says no.
    SendgridRefused { errors: Vec<SendgridError>, }
    /// One mistake.
    SendgridError { message: String, field: Option<String>, help: Value, }
}

/// What became of a recipient.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub(super) enum HandedStatus {
    /// On the disk.
    Queued,
    /// Never.
    Refused,
    /// Not now.
    Deferred,
}

/// What an order does.
#[derive(JsonSchema)]
#[schemars(rename_all = "lowercase")]
pub(super) enum ActionIn {
    Suspend,
    Hold,
    Bounce,
    Limit,
    Reroute,
}

/// A number, or a text that stands for one.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(super) enum NumberOrText {
    Number(f64),
    Text(String),
}

/// An object of other keys than can be listed.
pub(super) type Anything = Map<String, Value>;

/// A text.
pub(super) type Text = String;

/// The answer to a question about the list.
#[derive(JsonSchema)]
#[schemars(untagged)]
pub(super) enum SuppressionAnswer {
    Found(SuppressionFound),
    Page(SuppressionPage),
}

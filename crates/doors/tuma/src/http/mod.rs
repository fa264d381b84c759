//! HTTP: messages handed in, the questions and orders behind the commands of `tuma`, health and metrics. Every answer
//! is bounded, and so is every body that is read.
//!
//! Read first: [`start`], which lists who may what, then `access.rs`, then `messages/inject.rs`.

mod access;
mod admin;
mod compat;
mod config;
mod configuration;
mod events;
mod explain;
mod extract;
mod foretell;
mod json;
mod limits;
mod messages;
mod openapi;
mod orders;
mod queue;
mod quota;
mod redact;
mod refusal;
mod serve;
mod shapes;
mod sources;
mod stats;
mod suppressions;
mod tenancy;
mod time;
mod trace;
mod unsubscribe;
mod webhooks;

pub use config::{HttpConfig, TenantConfig};

use crate::root::Root;
use crate::server::Server;
use access::Need;
use accounting::{Metrics, Record};
use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use axum::body::Bytes;
use axum::extract::{Path, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use delivery::Order;
use messages::idempotency::Idempotency;
use net::tls::{CertificateFiles, Certificates};
use openapi::Call;
use reception::auth::Brake;
use refusal::Refusal;
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::Duration;
use tenants::Store;
use tokio::sync::oneshot;
use tracing_subscriber::filter::Targets;

/// Octets of a body at most where no messages are handed in.
const BODY_MAX: usize = 64 * 1024;

type Shared = State<Arc<Server>>;

/// What HTTP has of its own.
pub struct Http {
    store: Arc<Store>,
    /// Holds those who guess keys.
    brake: Brake,
    rates: access::Rates,
    quotas: quota::Quotas,
    /// What was asked before.
    pub(crate) idempotency: Arc<Idempotency>,
    settings: ArcSwap<Settings>,
    /// All tenants in force: those of the settings and those made at run time.
    tenants: ArcSwap<BTreeMap<String, TenantConfig>>,
    /// Tenants are changed by one at a time.
    tenants_turn: tokio::sync::Mutex<()>,
    certificates: Option<Arc<Certificates>>,
    loaded: AtomicBool,
    /// Which run of the server this is: for cursors.
    run: u64,
    traffic: compat::powermta::Traffic,
    /// The configuration file is changed by one at a time.
    config_turn: tokio::sync::Mutex<()>,
    /// Connections at most, in and out.
    connections_max: (u64, u64),
}

struct Settings {
    config: Arc<HttpConfig>,
    tenants: Arc<BTreeMap<String, TenantConfig>>,
    certificate: Option<CertificateFiles>,
}

impl Settings {
    fn of(root: &Root) -> Arc<Self> {
        Arc::new(Self {
            config: Arc::new(root.http.clone()),
            tenants: Arc::new(root.tenant.clone()),
            certificate: root.http_certificate_files(),
        })
    }
}

impl Http {
    /// Opens what is stored, in the folder of what outlives the process.
    pub fn open(root: &Root, folder: &std::path::Path) -> Result<Self> {
        let store = Arc::new(Store::open(folder).context("server.state_directory")?);
        let quotas = quota::Quotas::of(store.quotas().context("server.state_directory")?);
        let mut http = Self {
            tenants: ArcSwap::from_pointee(tenancy::together(&root.tenant, &store)),
            tenants_turn: Default::default(),
            store,
            brake: Brake::default(),
            rates: access::Rates::default(),
            quotas,
            idempotency: Idempotency::open(
                folder,
                access::wall(),
                messages::idempotency::Bounds::of(&root.http),
            )
            .context("server.state_directory: idempotency keys")?,
            settings: ArcSwap::new(Settings::of(root)),
            certificates: None,
            loaded: AtomicBool::new(false),
            run: access::wall().0,
            traffic: Default::default(),
            config_turn: Default::default(),
            connections_max: (
                root.reception.connections_max as u64,
                root.delivery.connections_total_max as u64,
            ),
        };
        http.certificates = serve::certificates(&http).context("http.certificate")?;
        Ok(http)
    }

    /// Puts other settings in force; what is wrong with the certificate is found before.
    pub fn reload(&self, root: &Root) {
        self.settings.store(Settings::of(root));
        self.tenants_changed();
        if let Err(error) = self.reload_certificate() {
            tracing::error!(%error, "the HTTP certificate stays as it was");
        }
    }

    /// Reads the certificate again; on an error the old one stays.
    pub(crate) fn reload_certificate(&self) -> Result<(), String> {
        match (&self.certificates, self.certificate_files()) {
            (Some(certificates), Some(files)) => certificates.reload(&[files]).map_err(|e| e.to_string()),
            _ => Ok(()),
        }
    }

    fn certificate_files(&self) -> Option<CertificateFiles> {
        self.settings.load().certificate.clone()
    }

    /// The spool was read to its end.
    pub fn set_loaded(&self) {
        self.loaded.store(true, Relaxed);
    }

    fn limits(&self) -> (u64, u64) {
        self.connections_max
    }

    fn is_loaded(&self) -> bool {
        self.loaded.load(Relaxed)
    }

    fn config(&self) -> Arc<HttpConfig> {
        self.settings.load().config.clone()
    }

    fn tenants(&self) -> Arc<BTreeMap<String, TenantConfig>> {
        self.tenants.load_full()
    }

    /// True if a tenant is the configuration's.
    fn declares(&self, tenant: &str) -> bool {
        self.settings.load().tenants.contains_key(tenant)
    }

    /// Puts the tenants together again, after the settings or the store have changed.
    fn tenants_changed(&self) {
        // By what is in force when it is stored, so that a reload and a change at once do not undo each other.
        self.tenants.rcu(|_| Arc::new(tenancy::together(&self.settings.load().tenants, &self.store)));
    }

    /// Writes what outlives the process; waits for the disk.
    pub(crate) fn close(&self) {
        if let Err(error) = self.store.write_quotas(&self.quotas.all()) {
            tracing::error!(%error, "what tenants have handed in could not be written");
        }
    }

    fn certificates(&self) -> Option<Arc<Certificates>> {
        self.certificates.clone()
    }
}

/// Begins to answer.
pub fn start(server: Arc<Server>, socket: std::net::TcpListener) -> Result<()> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::TcpListener::from_std(socket)?;
    tokio::spawn(compat::powermta::sample(Arc::downgrade(&server)));
    let routes = openapi::router(&server, calls())
        .route(ACME_ROUTE, axum::routing::get(acme_challenge))
        .fallback(nothing_here)
        .with_state(server.clone());
    tokio::spawn(async move {
        if let Err(error) = serve::serve(socket, server.http.clone(), routes).await {
            tracing::error!(%error, "the HTTP listener ended");
        }
    });
    Ok(())
}

/// Every call there is.
fn calls() -> Vec<Call> {
    use compat::kumomta_admin;
    use shapes::*;
    macro_rules! call {
        ($need:ident $method:literal $path:literal, $text:literal, $handler:expr) => {
            Call::new($method, $path, Some(Need::$need), $text, $handler)
        };
    }
    let text = "text/plain";
    vec![
        Call::new("GET", "/health", None, "Whether mail is taken now.", health)
            .answers_of(200, "It is", text)
            .answers_of(503, "It is not, and why", text),
        Call::new("GET", openapi::PATH, None, "This document.", document).answers::<Anything>(200, "OpenAPI 3.1"),
        Call::new("GET", unsubscribe::PATH, None, "A page with a button to unsubscribe; it changes nothing.", unsubscribe::show)
            .answers_of(200, "The page", "text/html")
            .refuses(&[400, 404]),
        Call::new("POST", unsubscribe::PATH, None, "Unsubscribes with one click (RFC 8058).", unsubscribe::unsubscribe)
            .body_of::<String>("application/x-www-form-urlencoded")
            .body_max(unsubscribe::BODY_MAX)
            .answers_of(200, "It is done", text)
            .refuses(&[404, 503]),
        // ---- messages
        call!(Send "POST" "/v1/messages", "Hands in a message, or one for each of many.", messages::send)
            .body::<messages::request::MessageRequest<'static>>()
            .of_messages()
            .repeatable()
            .answers::<Handed>(202, "Every recipient is queued on disk, or refused for good and named")
            .answers::<Handed>(207, "Some are queued; the deferred ones could not be taken now"),
        call!(Own "GET" "/v1/messages/{id}", "What is remembered of a message, or of one recipient of it.", messages::timeline)
            .answers::<Timeline>(200, "Its story"),
        call!(Own "GET" "/v1/events", "What happens to recipients, from a cursor on; live with `Accept: text/event-stream`.", events::events)
            .query::<events::EventsQuery>()
            .answers::<Events>(200, "A page, or events as they happen")
            .answers_of(200, "A page, or events as they happen", "text/event-stream"),
        call!(Send "POST" "/api/inject/v1", "KumoMTA's form of handing in messages.", compat::kumomta::inject_v1)
            .body::<compat::kumomta::Request<'static>>()
            .of_messages()
            .repeatable()
            .answers::<KumoInjected>(200, "How many were taken"),
        call!(Send "POST" "/v3/mail/send", "SendGrid's form of handing in messages.", compat::sendgrid::send)
            .body::<compat::sendgrid::Request>()
            .of_messages()
            .answers_of(200, "Nothing is wrong; sandbox mode sends nothing", "")
            .answers_of(202, "Taken", "")
            .answers::<SendgridRefused>(400, "Refused")
            .answers::<SendgridRefused>(403, "Refused")
            .answers::<SendgridRefused>(413, "Refused")
            .answers::<SendgridRefused>(422, "Refused")
            .answers::<SendgridRefused>(429, "Refused")
            .answers::<SendgridRefused>(503, "Refused"),
        // ---- templates
        call!(Own "GET" "/v1/templates", "The names of stored templates.", admin::templates)
            .query::<admin::OfTenant>()
            .answers::<Vec<TemplateName>>(200, "The names, in order"),
        call!(Own "GET" "/v1/templates/{name}", "A stored template.", admin::template)
            .query::<admin::OfTenant>()
            .answers::<TemplateShown>(200, "As it was stored"),
        call!(Own "PUT" "/v1/templates/{name}", "Stores a template, in the place of one of that name.", admin::put_template)
            .query::<admin::OfTenant>()
            .body::<messages::request::PartsIn>()
            .body_max(admin::TEMPLATE_MAX)
            .refuses(&[409, 422])
            .answers::<TemplateName>(200, "Stored"),
        call!(Own "DELETE" "/v1/templates/{name}", "Deletes a template.", admin::delete_template)
            .query::<admin::OfTenant>()
            .answers_of(204, "Deleted", ""),
        // ---- what is seen
        call!(View "GET" "/metrics", "Metrics for Prometheus.", metrics)
            .answers_of(200, "OpenMetrics", "application/openmetrics-text"),
        call!(View "GET" "/status", "PowerMTA's keys for monitoring scripts.", compat::powermta::status)
            .query::<compat::powermta::Format>()
            .answers::<Anything>(200, "By `format`")
            .answers_of(200, "By `format`", "text/xml"),
        call!(View "GET" "/v1/status", "What the server is doing.", queue::status)
            .answers::<StatusShown>(200, "Figures"),
        call!(View "GET" "/v1/queue", "What is queued, message by message.", queue::queue)
            .query::<queue::QueueQuery>()
            .answers::<Vec<EntryShown>>(200, "Entries"),
        call!(View "GET" "/v1/queues", "The queues, those with the most recipients first.", queue::queues)
            .query::<queue::QueuesQuery>()
            .answers::<Vec<QueueShown>>(200, "Queues"),
        call!(View "GET" "/v1/explain", "Why mail does not move, or which way it would go.", explain::explain)
            .query::<explain::ExplainQuery>()
            .refuses(&[404])
            .answers::<ExplainShown>(200, "The gates of each entry"),
        call!(View "GET" "/v1/orders", "The orders in force, oldest first.", orders::list)
            .answers::<Vec<Anything>>(200, "Orders"),
        call!(View "GET" "/v1/sources", "The egress sources.", sources::list)
            .answers::<Vec<SourceShown>>(200, "Sources"),
        call!(View "GET" "/v1/limits", "What is not as usual between sources and sites.", limits::list)
            .query::<limits::LimitsQuery>()
            .answers::<Vec<LimitShown>>(200, "Backoff, suspensions, warm-up"),
        call!(View "GET" "/v1/trace", "What sessions that begin from now on say, line by line, while they say it; credentials and content are not shown.", trace::trace)
            .query::<trace::TraceQuery>()
            .refuses(&[406, 409])
            .answers_of(200, "Lines as server-sent events", "text/event-stream"),
        call!(View "GET" "/v1/tenants", "The tenants.", tenancy::list)
            .answers::<Vec<TenantShown>>(200, "Tenants"),
        call!(Own "GET" "/v1/tenants/{name}", "A tenant; a tenant's key sees its own.", tenancy::one)
            .answers::<TenantShown>(200, "The tenant"),
        call!(View "GET" "/v1/suppressions", "Whether an address is on the list, or a page of the list.", suppressions::ask)
            .query::<suppressions::Asked>()
            .refuses(&[409])
            .answers::<SuppressionAnswer>(200, "The entry, or the page"),
        call!(View "GET" "/v1/suppressions/stats", "Figures of the suppression list.", suppressions::stats)
            .answers::<SuppressionStats>(200, "Figures"),
        call!(Own "GET" "/v1/stats", "Counters by minute, hour and day; a tenant's key sees that tenant's.", stats::stats)
            .query::<stats::Asked>()
            .refuses(&[409, 503])
            .answers::<StatsShown>(200, "Rows, in the order of time and labels"),
        call!(View "GET" "/v1/webhooks", "How the webhooks are doing.", webhooks::list)
            .answers::<Vec<WebhookShown>>(200, "Webhooks"),
        call!(View "GET" "/v1/webhooks/{name}/dead", "What a webhook put aside.", webhooks::dead)
            .query::<webhooks::Asked>()
            .refuses(&[409])
            .answers::<Vec<Anything>>(200, "Records"),
        // ---- what is ordered
        call!(Operate "POST" "/v1/queue/flush", "Makes what waits due now.", queue::flush)
            .query::<queue::FlushQuery>()
            .answers::<Flushed>(200, "How much was moved"),
        call!(Operate "POST" "/v1/orders", "Gives an order.", orders::give)
            .body::<OrderIn>()
            .refuses(&[404, 409, 422])
            .answers::<Anything>(201, "The order, and what it touches now"),
        call!(Operate "POST" "/v1/orders/preview", "What an order like this would touch now.", orders::preview)
            .body::<OrderIn>()
            .refuses(&[404, 422])
            .answers::<Preview>(200, "Counts"),
        call!(Operate "DELETE" "/v1/orders/{id}", "Ends an order.", orders::cancel)
            .answers::<Anything>(200, "The order that was"),
        call!(Operate "POST" "/v1/sources/{name}/enable", "Takes a source into use again.", sources::enable)
            .refuses(&[409])
            .answers::<SourceChanged>(200, "Done"),
        call!(Operate "POST" "/v1/sources/{name}/disable", "Takes a source out of use.", sources::disable)
            .body_or_none::<DisableIn>()
            .refuses(&[422])
            .answers::<SourceChanged>(200, "Done"),
        call!(Operate "POST" "/v1/limits/release", "Lets go on what rules have stopped.", limits::release)
            .body::<ReleaseIn>()
            .refuses(&[404])
            .answers::<Released>(200, "Done"),
        // Lists of addresses have bounds of their own.
        call!(Operate "POST" "/v1/suppressions", "Puts addresses on the suppression list: one object, or one a line.", suppressions::add)
            .body::<SuppressionIn>()
            .body_max(suppressions::BODY_MAX)
            .refuses(&[404, 422])
            .answers::<SuppressionAdded>(200, "On the disk"),
        call!(Operate "DELETE" "/v1/suppressions", "Takes addresses off the suppression list.", suppressions::remove)
            .body::<SuppressionOut>()
            .body_max(suppressions::BODY_MAX)
            .refuses(&[422])
            .answers::<SuppressionRemoved>(200, "On the disk"),
        call!(Operate "POST" "/v1/webhooks/{name}/replay", "Posts again what was put aside.", webhooks::replay)
            .body_or_none::<ReplayIn>()
            .refuses(&[409])
            .answers::<WebhookShown>(200, "The webhook"),
        // ---- KumoMTA's admin calls
        call!(Operate "POST" "/api/admin/bounce/v1", "KumoMTA's `bounce`: an order.", kumomta_admin::bounce)
            .body::<kumomta_admin::Asked>()
            .refuses(&[409, 422])
            .answers::<KumoBounced>(200, "The order"),
        call!(View "GET" "/api/admin/bounce/v1", "KumoMTA's list of what `bounce` asked for.", kumomta_admin::bounces)
            .answers::<Vec<KumoItem>>(200, "Orders"),
        call!(Operate "DELETE" "/api/admin/bounce/v1", "Ends what `bounce` asked for.", kumomta_admin::cancel_bounce)
            .body::<kumomta_admin::Cancel>()
            .refuses(&[404])
            .answers::<Anything>(200, "Ended"),
        call!(Operate "POST" "/api/admin/suspend/v1", "KumoMTA's `suspend`: an order.", kumomta_admin::suspend)
            .body::<kumomta_admin::Asked>()
            .refuses(&[409, 422])
            .answers::<KumoId>(200, "The order"),
        call!(View "GET" "/api/admin/suspend/v1", "KumoMTA's list of what `suspend` asked for.", kumomta_admin::suspensions)
            .answers::<Vec<KumoItem>>(200, "Orders"),
        call!(Operate "DELETE" "/api/admin/suspend/v1", "Ends what `suspend` asked for.", kumomta_admin::cancel_suspend)
            .body::<kumomta_admin::Cancel>()
            .refuses(&[404])
            .answers::<Anything>(200, "Ended"),
        call!(Operate "POST" "/api/admin/suspend-ready-q/v1", "KumoMTA's `suspend-ready-q`: an order.", kumomta_admin::suspend_ready)
            .body::<kumomta_admin::ReadyAsked>()
            .refuses(&[409, 422])
            .answers::<KumoId>(200, "The order"),
        call!(View "GET" "/api/admin/suspend-ready-q/v1", "KumoMTA's list of what `suspend-ready-q` asked for.", kumomta_admin::ready_suspensions)
            .answers::<Vec<KumoReadyItem>>(200, "Orders"),
        call!(Operate "DELETE" "/api/admin/suspend-ready-q/v1", "Ends what `suspend-ready-q` asked for.", kumomta_admin::cancel_ready)
            .body::<kumomta_admin::Cancel>()
            .refuses(&[404])
            .answers::<Anything>(200, "Ended"),
        call!(Operate "POST" "/api/admin/rebind/v1", "KumoMTA's `rebind`: mail goes by another pool.", kumomta_admin::rebind)
            .body::<kumomta_admin::Rebind>()
            .refuses(&[404, 409, 422])
            .answers::<Anything>(200, "Done"),
        // ---- what is administered
        call!(Admin "GET" "/v1/keys", "The API keys, the newest first.", admin::keys)
            .answers::<Vec<KeyShown>>(200, "Keys, without what opens"),
        call!(Admin "POST" "/v1/keys", "Makes an API key.", admin::new_key)
            .body::<KeyIn>()
            .refuses(&[404, 409])
            .answers::<KeyShown>(201, "The key, with its token, once"),
        call!(Admin "DELETE" "/v1/keys/{id}", "Takes a key back, at once.", admin::revoke_key)
            .answers::<KeyShown>(200, "The key that was"),
        call!(Admin "PUT" "/v1/tenants/{name}", "Makes a tenant, or changes one made at run time to be so.", tenancy::put)
            .body_or_none::<TenantIn>()
            .refuses(&[409, 422])
            .answers::<TenantShown>(200, "Changed")
            .answers::<TenantShown>(201, "Made"),
        call!(Admin "PATCH" "/v1/tenants/{name}", "Changes what is named of a tenant made at run time.", tenancy::change)
            .body_or_none::<TenantIn>()
            .refuses(&[404, 409, 422])
            .answers::<TenantShown>(200, "Changed"),
        call!(Admin "DELETE" "/v1/tenants/{name}", "Removes a tenant made at run time, takes its keys back and deletes its templates.", tenancy::remove)
            .refuses(&[404, 409])
            .answers::<TenantRemoved>(200, "What went with it"),
        call!(Admin "GET" "/v1/audit", "The log of changes, the newest first.", admin::audit)
            .query::<admin::AuditQuery>()
            .answers::<Vec<AuditShown>>(200, "Lines"),
        call!(Admin "GET" "/v1/config", "The configuration file, its secrets hidden, and the values in force.", configuration::read)
            .refuses(&[409])
            .answers::<ConfigShown>(200, "The text and its fingerprint"),
        call!(Admin "PUT" "/v1/config", "Puts another text in force; `If-Match` with the fingerprint of the one it replaces.", configuration::apply)
            .query::<configuration::Why>()
            .body_of::<Text>(text)
            .body_max(configuration::TEXT_MAX)
            .secret()
            .refuses(&[409, 412, 422])
            .answers::<ConfigApplied>(200, "In force; the version that it replaced"),
        call!(Admin "POST" "/v1/config/validate", "What is wrong with a text; nothing changes.", configuration::validate)
            .body_of::<Text>(text)
            .body_max(configuration::TEXT_MAX)
            .secret()
            .refuses(&[409, 422])
            .answers::<ConfigValid>(200, "Nothing"),
        call!(Admin "GET" "/v1/config/history", "What was in force before, the newest first.", configuration::list)
            .answers::<Vec<ConfigVersion>>(200, "Versions"),
        call!(Admin "GET" "/v1/config/history/{version}", "An earlier version, its secrets hidden.", configuration::version)
            .answers::<ConfigVersion>(200, "The version"),
        call!(Admin "POST" "/v1/config/rollback", "Puts an earlier version in force; left out, the last.", configuration::roll_back)
            .body_or_none::<RollBackIn>()
            .refuses(&[404, 409, 422])
            .answers::<ConfigApplied>(200, "In force; the version that it replaced"),
        call!(Admin "POST" "/v1/reload", "Reads the configuration again.", reload)
            .answers_of(200, "Done", text)
            .answers_of(422, "What is wrong with it; nothing was changed", text),
        call!(Admin "POST" "/v1/log-level", "Changes the log level until the next reload.", log_level)
            .body_of::<Text>(text)
            .answers_of(200, "Done", text),
    ]
}

/// The OpenAPI document.
pub fn openapi() -> Value {
    openapi::document(&calls())
}

async fn document() -> axum::Json<Value> {
    axum::Json(openapi())
}

/// Where an authority looks while it checks a name (RFC 8555 §8.3). No call of the API: it has no place in its description.
const ACME_ROUTE: &str = "/.well-known/acme-challenge/{token}";

async fn acme_challenge(State(server): Shared, Path(token): Path<String>) -> Response {
    match server.issuing.challenges.answer(&token) {
        Some(answer) => ([(header::CONTENT_TYPE, "application/octet-stream")], answer).into_response(),
        None => nothing_here().await.into_response(),
    }
}

async fn nothing_here() -> Refusal {
    Refusal::missing("there is nothing at this path; see docs/http.md")
}

async fn health(State(server): Shared) -> Response {
    match server.spool.may_accept() {
        Ok(()) => (StatusCode::OK, "ok\n").into_response(),
        Err(refusal) => (StatusCode::SERVICE_UNAVAILABLE, format!("{refusal}\n")).into_response(),
    }
}

async fn metrics(State(server): Shared) -> Response {
    ([(header::CONTENT_TYPE, Metrics::CONTENT_TYPE)], server.metrics.encode()).into_response()
}

fn event(record: &Record) -> Value {
    json!({
        "time_ms": record.time.0,
        "kind": record.kind.as_str(),
        "recipient": record.recipient_text(),
        "id": recipient_id(record),
        "reply": record.reply.as_ref().map(|reply| reply.to_string()),
        "attempt": record.attempt.number,
        "host": record.connection.as_ref().map(|c| c.host.to_string()),
        "address": record.connection.as_ref().and_then(|c| c.remote).map(|a| a.to_string()),
    })
}

/// Our name for one recipient of a message.
fn recipient_id(record: &Record) -> Option<String> {
    match &record.subject {
        accounting::Subject::Recipient(message, index) => Some(format!("{}.{index}", message.id)),
        accounting::Subject::Refused(_) => None,
        accounting::Subject::Reported(reported) => Some(format!("{}.{}", reported.id?, reported.index?)),
    }
}

async fn reload(State(server): Shared) -> Response {
    match server.reload().await {
        Ok(text) => (StatusCode::OK, format!("{text}\n")).into_response(),
        Err(report) => (StatusCode::UNPROCESSABLE_ENTITY, report).into_response(),
    }
}

async fn log_level(State(server): Shared, level: Bytes) -> Result<&'static str, Refusal> {
    let level = std::str::from_utf8(&level).ok().map(str::trim).filter(|level| !level.is_empty());
    let read = level.and_then(|level| level.parse::<Targets>().ok());
    let wrong = || Refusal::bad("write error, warn, info, debug or trace, or by room: info,delivery=debug");
    let failed = |why: tracing_subscriber::reload::Error| {
        Refusal::new(StatusCode::INTERNAL_SERVER_ERROR, why.to_string())
    };
    server.log_level.reload(read.ok_or_else(wrong)?).map_err(failed)?;
    Ok("log level changed\n")
}

fn seconds(duration: Option<Duration>) -> Option<f64> {
    duration.map(|d| (d.as_secs_f64() * 10.0).round() / 10.0)
}

fn now() -> std::time::Instant {
    tokio::time::Instant::now().into_std()
}

/// Asks the dispatcher, and gives its answer; a refusal once it has ended.
async fn ask<T>(server: &Server, order: impl FnOnce(oneshot::Sender<T>) -> Order) -> Result<T, Refusal> {
    let (reply, answer) = oneshot::channel();
    server.delivery.order(order(reply)).await;
    answer.await.map_err(|_| Refusal::stopping())
}

fn stopping() -> Response {
    Refusal::stopping().into_response()
}

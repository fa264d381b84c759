//! HTTP: messages handed in, the questions and orders behind the commands of `tuma`, health and metrics. Every answer
//! is bounded, and so is every body that is read.
//!
//! Read first: [`start`], which lists who may what, then `access.rs`, then `messages/inject.rs`.

mod access;
mod admin;
mod compat;
mod config;
mod events;
mod explain;
mod foretell;
mod json;
mod limits;
mod messages;
mod orders;
mod queue;
mod quota;
mod refusal;
mod serve;
mod sources;
mod suppressions;
mod time;
mod webhooks;

pub use config::{HttpConfig, TenantConfig};

use crate::root::Root;
use crate::server::Server;
use access::Need;
use accounting::{Metrics, Record};
use anyhow::{Context as _, Result};
use arc_swap::ArcSwap;
use axum::Router;
use axum::extract::{DefaultBodyLimit, Path, State};
use axum::http::{StatusCode, header};
use axum::middleware;
use axum::response::{IntoResponse, Response};
use axum::routing::{delete, get, post};
use delivery::Order;
use messages::idempotency::Idempotency;
use net::tls::{CertificateFiles, Certificates};
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
    certificates: Option<Arc<Certificates>>,
    loaded: AtomicBool,
    /// Which run of the server this is: for cursors.
    run: u64,
    traffic: compat::powermta::Traffic,
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
        let mut http = Self {
            store,
            brake: Brake::default(),
            rates: access::Rates::default(),
            quotas: quota::Quotas::default(),
            idempotency: Arc::default(),
            settings: ArcSwap::new(Settings::of(root)),
            certificates: None,
            loaded: AtomicBool::new(false),
            run: access::wall().0,
            traffic: Default::default(),
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
        self.settings.load().tenants.clone()
    }

    fn certificates(&self) -> Option<Arc<Certificates>> {
        self.certificates.clone()
    }
}

/// Routes with what it needs to use them.
fn guarded(server: &Arc<Server>, need: Need, routes: Router<Arc<Server>>) -> Router<Arc<Server>> {
    routes.route_layer(middleware::from_fn_with_state((server.http.clone(), need), access::guard))
}

/// Begins to answer.
pub fn start(server: Arc<Server>, socket: std::net::TcpListener) -> Result<()> {
    socket.set_nonblocking(true)?;
    let socket = tokio::net::TcpListener::from_std(socket)?;
    tokio::spawn(compat::powermta::sample(Arc::downgrade(&server)));
    let send = Router::new()
        .route("/v1/messages", post(messages::send))
        .route("/api/inject/v1", post(compat::kumomta::inject_v1))
        .route("/v3/mail/send", post(compat::sendgrid::send));
    let own = Router::new()
        .route("/v1/messages/{id}", get(messages::timeline))
        .route("/v1/events", get(events::events))
        .route("/v1/templates", get(admin::templates))
        .route(
            "/v1/templates/{name}",
            get(admin::template).put(admin::put_template).delete(admin::delete_template),
        );
    let view = Router::new()
        .route("/metrics", get(metrics))
        .route("/status", get(compat::powermta::status))
        .route("/v1/status", get(queue::status))
        .route("/v1/queue", get(queue::queue))
        .route("/v1/queues", get(queue::queues))
        .route("/v1/explain", get(explain::explain))
        .route("/v1/orders", get(orders::list))
        .route("/v1/sources", get(sources::list))
        .route("/v1/limits", get(limits::list))
        .route("/v1/tenants", get(admin::list_tenants));
    let operate = Router::new()
        .route("/v1/queue/flush", post(queue::flush))
        .route("/v1/orders", post(orders::give))
        .route("/v1/orders/preview", post(orders::preview))
        .route("/v1/orders/{id}", delete(orders::cancel))
        .route("/v1/sources/{name}/enable", post(sources::enable))
        .route("/v1/sources/{name}/disable", post(sources::disable))
        .route("/v1/limits/release", post(limits::release));
    let admin = Router::new()
        .route("/v1/keys", get(admin::keys).post(admin::new_key))
        .route("/v1/keys/{id}", delete(admin::revoke_key))
        .route("/v1/audit", get(admin::audit))
        .route("/v1/reload", post(reload))
        .route("/v1/log-level", post(log_level));
    let routes = Router::new()
        .route("/health", get(health))
        .route(ACME_ROUTE, get(acme_challenge))
        // A body of messages has bounds of its own.
        .merge(guarded(&server, Need::Send, send.layer(DefaultBodyLimit::disable())))
        .merge(guarded(&server, Need::Own, own.layer(DefaultBodyLimit::max(admin::TEMPLATE_MAX))))
        .merge(guarded(&server, Need::View, view.layer(DefaultBodyLimit::max(BODY_MAX))))
        .merge(guarded(&server, Need::Operate, operate.layer(DefaultBodyLimit::max(BODY_MAX))))
        .merge(guarded(&server, Need::View, suppressions::view().merge(webhooks::view())))
        // Lists of addresses have bounds of their own too.
        .merge(guarded(&server, Need::Operate, suppressions::operate().merge(webhooks::operate())))
        .merge(guarded(&server, Need::Admin, admin.layer(DefaultBodyLimit::max(BODY_MAX))))
        .fallback(nothing_here)
        .with_state(server.clone());
    tokio::spawn(async move {
        if let Err(error) = serve::serve(socket, server.http.clone(), routes).await {
            tracing::error!(%error, "the HTTP listener ended");
        }
    });
    Ok(())
}

/// Where an authority looks while it checks a name (RFC 8555 §8.3).
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
    }
}

async fn reload(State(server): Shared) -> Response {
    match server.reload().await {
        Ok(text) => (StatusCode::OK, format!("{text}\n")).into_response(),
        Err(report) => (StatusCode::UNPROCESSABLE_ENTITY, report).into_response(),
    }
}

async fn log_level(State(server): Shared, level: String) -> Response {
    let Ok(level) = level.trim().parse::<Targets>() else {
        return (
            StatusCode::BAD_REQUEST,
            "write error, warn, info, debug or trace, or by room: info,delivery=debug\n",
        )
            .into_response();
    };
    match server.log_level.reload(level) {
        Ok(()) => (StatusCode::OK, "log level changed\n").into_response(),
        Err(error) => (StatusCode::INTERNAL_SERVER_ERROR, format!("{error}\n")).into_response(),
    }
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

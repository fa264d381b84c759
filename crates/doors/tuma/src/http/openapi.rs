//! Every call there is, once: its route, who may, and what the OpenAPI 3.1 document says of it. The router is made of
//! the same list as the document, so that neither has a path the other lacks; what a body holds is read from the types.

use super::access::{self, Need};
use super::refusal::Refusal;
use crate::server::Server;
use axum::Router;
use axum::extract::DefaultBodyLimit;
use axum::handler::Handler;
use axum::middleware;
use axum::response::IntoResponse;
use axum::routing::{MethodFilter, MethodRouter, on};
use schemars::generate::{Contract, SchemaSettings};
use schemars::{JsonSchema, Schema, SchemaGenerator};
use serde_json::{Map, Value, json};
use std::sync::Arc;

/// Where the document stands.
pub(super) const PATH: &str = "/v1/openapi.json";

type Describe = fn(&mut SchemaGenerator) -> Schema;

/// One form of an answer.
struct Answer {
    status: u16,
    text: &'static str,
    kind: &'static str,
    schema: Option<Describe>,
}

/// One call.
pub(super) struct Call {
    method: &'static str,
    path: &'static str,
    need: Option<Need>,
    text: &'static str,
    route: MethodRouter<Arc<Server>>,
    query: Option<Describe>,
    body: Option<(&'static str, bool, Describe)>,
    /// Octets of a body; `None` where the handler reads it within bounds of its own.
    body_max: Option<usize>,
    answers: Vec<Answer>,
    refusals: Vec<u16>,
    repeatable: bool,
    secret: bool,
}

impl Call {
    /// A call by its method, path, who may, and one sentence.
    pub(super) fn new<H, T>(
        method: &'static str,
        path: &'static str,
        need: Option<Need>,
        text: &'static str,
        handler: H,
    ) -> Self
    where
        H: Handler<T, Arc<Server>>,
        T: 'static,
    {
        let filter = match method {
            "POST" => MethodFilter::POST,
            "PUT" => MethodFilter::PUT,
            "PATCH" => MethodFilter::PATCH,
            "DELETE" => MethodFilter::DELETE,
            _ => MethodFilter::GET,
        };
        Self {
            method,
            path,
            need,
            text,
            route: on(filter, handler),
            query: None,
            body: None,
            body_max: Some(super::BODY_MAX),
            answers: Vec::new(),
            refusals: Vec::new(),
            repeatable: false,
            secret: false,
        }
    }

    /// What may stand behind the question mark.
    pub(super) fn query<T: JsonSchema>(mut self) -> Self {
        self.query = Some(T::json_schema);
        self.refusals.push(400);
        self
    }

    /// A JSON body, which must be there.
    pub(super) fn body<T: JsonSchema>(mut self) -> Self {
        self.body = Some(("application/json", true, |all| all.subschema_for::<T>()));
        self.refusals.extend([400, 413]);
        self
    }

    /// A JSON body that may be left out.
    pub(super) fn body_or_none<T: JsonSchema>(mut self) -> Self {
        self = self.body::<T>();
        self.body = self.body.map(|(kind, _, schema)| (kind, false, schema));
        self
    }

    /// A body of another kind.
    pub(super) fn body_of<T: JsonSchema>(mut self, kind: &'static str) -> Self {
        self = self.body::<T>();
        self.body = self.body.map(|(_, needed, schema)| (kind, needed, schema));
        self
    }

    /// The handler reads the body itself, within `http.body_max`, and a key makes the request safe to repeat.
    pub(super) fn of_messages(mut self) -> Self {
        self.body_max = None;
        self.refusals.extend([408, 409, 415, 422, 503]);
        self
    }

    /// It heeds `Idempotency-Key`.
    pub(super) fn repeatable(mut self) -> Self {
        self.repeatable = true;
        self
    }

    /// The body has secrets.
    pub(super) fn secret(mut self) -> Self {
        self.secret = true;
        self
    }

    /// Other bounds of the body than usual.
    pub(super) fn body_max(mut self, octets: usize) -> Self {
        self.body_max = Some(octets);
        self
    }

    /// An answer in JSON.
    pub(super) fn answers<T: JsonSchema>(mut self, status: u16, text: &'static str) -> Self {
        let schema: Describe = |all| all.subschema_for::<T>();
        self.answers.push(Answer { status, text, kind: "application/json", schema: Some(schema) });
        self
    }

    /// An answer of another kind.
    pub(super) fn answers_of(mut self, status: u16, text: &'static str, kind: &'static str) -> Self {
        self.answers.push(Answer { status, text, kind, schema: None });
        self
    }

    /// Statuses with which it may say no, besides the usual ones.
    pub(super) fn refuses(mut self, statuses: &[u16]) -> Self {
        self.refusals.extend(statuses);
        self
    }

    fn places(&self) -> impl Iterator<Item = &'static str> {
        self.path.split('/').filter_map(|part| part.strip_prefix('{')?.strip_suffix('}'))
    }
}

/// The routes of all calls.
pub(super) fn router(server: &Arc<Server>, calls: Vec<Call>) -> Router<Arc<Server>> {
    let mut router = Router::new();
    for call in calls {
        let limit = match call.body_max {
            Some(max) => DefaultBodyLimit::max(max),
            None => DefaultBodyLimit::disable(),
        };
        let mut route = call.route.layer(limit);
        if let Some(need) = call.need {
            let guard = access::Guard {
                http: server.http.clone(),
                need,
                body_max: call.body_max,
                secret: call.secret,
            };
            route = route.route_layer(middleware::from_fn_with_state(guard, access::guard));
        }
        router = router.route(call.path, route);
    }
    router.method_not_allowed_fallback(not_so)
}

async fn not_so() -> impl IntoResponse {
    Refusal::new(
        axum::http::StatusCode::METHOD_NOT_ALLOWED,
        "this path does not take that method; `Allow` says which it takes",
    )
}

/// A problem as RFC 9457 has it.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "its description is what is wanted")]
struct Problem {
    /// Always `about:blank`: the status says what kind it is.
    r#type: String,
    /// The status in words.
    title: String,
    /// The status again.
    #[schemars(range(min = 400, max = 599))]
    status: u16,
    /// What to do about it, in a sentence.
    detail: String,
    /// The places of the body that it is about.
    errors: Option<Vec<ProblemAt>>,
}

/// One mistake and its place.
#[derive(JsonSchema)]
#[allow(dead_code, reason = "its description is what is wanted")]
struct ProblemAt {
    detail: String,
    /// A JSON pointer as a URI fragment.
    pointer: String,
}

/// The document.
pub(super) fn document(calls: &[Call]) -> Value {
    let settings = |contract: Contract| {
        let mut settings = SchemaSettings::draft2020_12();
        settings.definitions_path = "/components/schemas".into();
        settings.meta_schema = None;
        settings.contract = contract;
        settings.into_generator()
    };
    let (mut asked, mut told) = (settings(Contract::Deserialize), settings(Contract::Serialize));
    let problem = asked.subschema_for::<Problem>();
    let mut paths = Map::new();
    for call in calls {
        let entry = paths.entry(call.path).or_insert_with(|| json!({}));
        entry[call.method.to_ascii_lowercase()] = operation(call, &mut asked, &mut told, &problem);
    }
    let mut schemas = asked.take_definitions(true);
    schemas.extend(told.take_definitions(true));
    json!({
        "openapi": "3.1.0",
        "info": {
            "title": "Tuma",
            "version": env!("CARGO_PKG_VERSION"),
            "description": "Messages handed in, what became of them, and everything an operator asks or orders.",
            "license": { "name": "Apache-2.0 OR MIT", "identifier": "Apache-2.0 OR MIT" },
        },
        "servers": [{ "url": "/" }],
        "security": [{ "bearer": [] }, { "basic": [] }],
        "paths": paths,
        "components": {
            "schemas": schemas,
            "securitySchemes": {
                "bearer": { "type": "http", "scheme": "bearer", "description": "An API key, see `tuma key new`." },
                "basic": { "type": "http", "scheme": "basic", "description": "The API key is the password; the user is anything." },
            },
        },
    })
}

fn operation(
    call: &Call,
    asked: &mut SchemaGenerator,
    told: &mut SchemaGenerator,
    problem: &Schema,
) -> Value {
    let mut parameters: Vec<Value> = call
        .places()
        .map(|name| json!({ "name": name, "in": "path", "required": true, "schema": { "type": "string", "minLength": 1 } }))
        .collect();
    if let Some(query) = call.query {
        parameters.extend(query_parameters(&query(asked)));
    }
    if call.repeatable {
        parameters.push(json!({
            "name": "Idempotency-Key", "in": "header",
            "description": "The same request under the same key is taken once.",
            "schema": { "type": "string", "minLength": 1, "maxLength": super::messages::idempotency::KEY_MAX, "pattern": "^[!-~]+$" },
        }));
    }
    let mut responses = Map::new();
    for answer in &call.answers {
        let entry = responses
            .entry(answer.status.to_string())
            .or_insert_with(|| json!({ "description": answer.text }));
        if answer.status != 204 && !answer.kind.is_empty() {
            let schema =
                answer.schema.map_or_else(|| json!({ "type": "string" }), |make| make(told).to_value());
            entry["content"][answer.kind] = json!({ "schema": schema });
        }
    }
    let mut refusals = call.refusals.clone();
    if call.need.is_some() {
        refusals.extend([401, 403, 429, 503]);
    }
    if call.places().next().is_some() {
        refusals.extend([400, 404]);
    }
    for status in refusals {
        let reason =
            axum::http::StatusCode::from_u16(status).ok().and_then(|status| status.canonical_reason());
        let entry = responses
            .entry(status.to_string())
            .or_insert_with(|| json!({ "description": reason.unwrap_or("Refused") }));
        entry["content"]["application/problem+json"] = json!({ "schema": problem });
        if matches!(status, 429 | 503) {
            entry["headers"]["Retry-After"] = json!({
                "description": "Seconds after which to try again.", "schema": { "type": "integer", "minimum": 1 },
            });
        }
    }
    let mut operation = json!({
        "operationId": name_of(call),
        "tags": [call.path.split('/').nth(2).unwrap_or("server")],
        "summary": call.text,
        "responses": responses,
    });
    if let Some(need) = call.need {
        operation["description"] = json!(format!("Needs {}.", need.text()));
    } else {
        operation["security"] = json!([]);
    }
    if !parameters.is_empty() {
        operation["parameters"] = json!(parameters);
    }
    if let Some((kind, needed, schema)) = call.body {
        operation["requestBody"] =
            json!({ "required": needed, "content": { kind: { "schema": schema(asked) } } });
    }
    operation
}

/// Such as `get_v1_messages_id`.
fn name_of(call: &Call) -> String {
    let words = call.path.split(['/', '-', '.']).filter(|word| !word.is_empty());
    let words = words.map(|word| word.trim_matches(['{', '}']).to_owned());
    std::iter::once(call.method.to_ascii_lowercase()).chain(words).collect::<Vec<_>>().join("_")
}

fn query_parameters(schema: &Schema) -> Vec<Value> {
    let Some(properties) = schema.get("properties").and_then(Value::as_object) else { return Vec::new() };
    let needed = schema.get("required").and_then(Value::as_array);
    let parameter = |(name, schema): (&String, &Value)| {
        let mut schema = schema.clone();
        // What may be left out is not `null` in a query.
        if let Some(Value::Array(kinds)) = schema.get("type")
            && let Some(kind) = kinds.iter().find(|kind| *kind != "null").cloned()
        {
            schema["type"] = kind;
        }
        let text = schema.as_object_mut().and_then(|schema| schema.remove("description"));
        let required = needed.is_some_and(|needed| needed.iter().any(|one| one == name));
        let mut parameter = json!({ "name": name, "in": "query", "required": required, "schema": schema });
        if let Some(text) = text {
            parameter["description"] = text;
        }
        parameter
    };
    properties.iter().map(parameter).collect()
}

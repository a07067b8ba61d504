//! The API over REST: the messages of `portolan.api.v1` as JSON, objects as the YAML or JSON that people write.
//!
//! | call | does |
//! |---|---|
//! | `POST /api/v1/apply` | creates or replaces the objects in the body, all or none; `?if_revision=N` with one, `?message=`, `?stage=GROUP`, `?delete=KIND/NAME`, repeatable |
//! | `POST /api/v1/validate` | says what apply would say; `?delete=KIND/NAME` |
//! | `GET /api/v1/objects[/KIND]` | lists objects; `?label=k=v`, repeatable |
//! | `GET`, `DELETE /api/v1/objects/KIND/NAME` | one object; `?if_revision=N`, `?message=`, `?stage=GROUP` |
//! | `GET /api/v1/releases` | the releases kept, the newest first; `?limit=N` |
//! | `GET /api/v1/diff` | what differs between releases; `?from=N&to=N`, now without `to`; `?stage=GROUP`: what is staged |
//! | `POST /api/v1/diff` | what apply would change with the objects in the body |
//! | `POST /api/v1/releases/N/promote`, `/abort` | makes a stage active for all, gives it up; `?message=` |
//! | `POST /api/v1/rollback` | undoes releases; `?to=N&message=&if_newest=N&force=true&dry_run=true` |
//! | `GET /api/v1/instances` | all registered instances |
//! | `GET /api/v1/services/SERVICE/instances` | those of one service |
//! | `PUT`, `DELETE /api/v1/services/SERVICE/instances/ID` | registers `{address, port, ..., ttl}`, deregisters |
//! | `POST /api/v1/services/SERVICE/instances/ID/heartbeat` | renews |
//! | `POST /api/v1/services/SERVICE/accept-loss` | lets go lost instances that are held |
//! | `GET /api/v1/status` | sources, nodes, refusals; `?group=G` |
//! | `POST`, `GET /api/v1/tokens` | makes a token of `{name, role, ttl}`, lists them |
//! | `DELETE /api/v1/tokens/NAME` | revokes one |
//! | `POST /api/v1/secrets/reseal` | encrypts every stored Secret with the newest key |
//! | `GET /api/v1/bootstrap` | an Envoy bootstrap for `?group=G&node=N&delta=true&xds=HOST:PORT` |
//! | `GET /healthz`, `/readyz`, `/metrics` | for machines |
//!
//! A refusal is `{"error": ..., "problems": [...]}` with the status of [`ApiError::http_status`].

use super::{ApiError, Guarded, convert};
use crate::access::{Caller, Role};
use crate::ads::Peer;
use axum::Router;
use axum::body::Bytes;
use axum::extract::{DefaultBodyLimit, Path, RawQuery, State};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use prost::{Message, Name};
use serde_json::{Value, json};
use std::collections::BTreeMap;
use std::sync::Arc;
use xds_types::google::protobuf::UInt64Value;
use xds_types::portolan::api::v1;
use xds_types::text::Source;

/// Largest body: a thousand objects with room to spare.
const MAX_BODY: usize = 16 << 20;

/// Renders `/metrics`.
pub type Metrics = Arc<dyn Fn() -> String + Send + Sync>;
/// Makes a bootstrap for `(group, node, delta, xds address)`.
pub type MakeBootstrap = Arc<dyn Fn(&BTreeMap<String, String>) -> Result<String, String> + Send + Sync>;

#[derive(Clone)]
struct Rest {
    api: Guarded,
    metrics: Metrics,
    bootstrap: MakeBootstrap,
}

/// All routes.
pub fn router(api: Guarded, metrics: Metrics, bootstrap: MakeBootstrap) -> Router {
    Router::new()
        .route("/healthz", get(async || "ok\n"))
        .route("/readyz", get(ready))
        .route("/metrics", get(render_metrics))
        .route("/api/v1/apply", post(apply))
        .route("/api/v1/validate", post(validate))
        .route("/api/v1/objects", get(list_all))
        .route("/api/v1/objects/{kind}", get(list_kind))
        .route("/api/v1/objects/{kind}/{name}", get(get_object).delete(delete_object))
        .route("/api/v1/releases", get(history))
        .route("/api/v1/releases/{number}/promote", post(promote))
        .route("/api/v1/releases/{number}/abort", post(abort))
        .route("/api/v1/diff", get(diff_releases).post(diff_objects))
        .route("/api/v1/rollback", post(rollback))
        .route("/api/v1/instances", get(all_instances))
        .route("/api/v1/services/{service}/instances", get(instances))
        .route("/api/v1/services/{service}/instances/{id}", put(register).delete(deregister))
        .route("/api/v1/services/{service}/instances/{id}/heartbeat", post(heartbeat))
        .route("/api/v1/services/{service}/accept-loss", post(accept_loss))
        .route("/api/v1/status", get(status))
        .route("/api/v1/tokens", get(tokens).post(create_token))
        .route("/api/v1/tokens/{name}", axum::routing::delete(revoke_token))
        .route("/api/v1/secrets/reseal", post(reseal))
        .route("/api/v1/bootstrap", get(bootstrap_text))
        .fallback(async || {
            ApiError::NotFound("such a path (/api/v1/objects and /api/v1/status are some)".to_owned())
        })
        .layer(DefaultBodyLimit::max(MAX_BODY))
        .with_state(Rest { api, metrics, bootstrap })
}

/// Who calls, as [`door`] has written down in the request.
struct Who(Caller);

impl<S: Send + Sync> axum::extract::FromRequestParts<S> for Who {
    type Rejection = ApiError;

    async fn from_request_parts(parts: &mut axum::http::request::Parts, _: &S) -> Result<Self, ApiError> {
        let missing = || ApiError::Denied("the caller was not asked who it is".to_owned());
        parts.extensions.get::<Caller>().cloned().map(Self).ok_or_else(missing)
    }
}

/// Paths that say no more than whether this works.
const OPEN: &[&str] = &["/healthz", "/readyz"];

/// Asks every caller, of REST and of gRPC, who it is, before anything else is looked at.
pub async fn door(
    State(api): State<Guarded>,
    mut request: axum::extract::Request,
    next: axum::middleware::Next,
) -> Response {
    if OPEN.contains(&request.uri().path()) {
        return next.run(request).await;
    }
    let (peer, names) = request
        .extensions()
        .get::<Peer>()
        .map_or_else(|| (None, Arc::default()), |p| (p.address, p.names.clone().unwrap_or_default()));
    let header = request.headers().get(header::AUTHORIZATION).map(|v| v.as_bytes().to_vec());
    match api.identify(header.as_deref(), peer, names, request.uri().path()) {
        Ok(caller) => {
            request.headers_mut().remove(header::AUTHORIZATION);
            request.extensions_mut().insert(caller);
            next.run(request).await
        }
        Err(denied) => {
            let grpc = request.headers().get(header::CONTENT_TYPE);
            if grpc.is_some_and(|v| v.as_bytes().starts_with(b"application/grpc")) {
                return tonic::Status::unauthenticated(denied.to_string()).into_http();
            }
            let body = Json(json!({"error": denied.to_string(), "problems": []}));
            (StatusCode::UNAUTHORIZED, [(header::WWW_AUTHENTICATE, "Bearer")], body).into_response()
        }
    }
}

/// An answer as JSON.
struct Json(Value);

impl IntoResponse for Json {
    fn into_response(self) -> Response {
        ([(header::CONTENT_TYPE, "application/json")], format!("{:#}\n", self.0)).into_response()
    }
}

impl IntoResponse for ApiError {
    fn into_response(self) -> Response {
        let problems = self.problems().map(convert::problems).unwrap_or_default();
        let problems: Vec<Value> = problems.problems.iter().map(xds_types::text::to_json).collect();
        let body = Json(json!({"error": self.to_string(), "problems": problems}));
        (self.http_status(), body).into_response()
    }
}

fn message<M: Message + Name>(message: &M) -> Json {
    Json(xds_types::text::to_json(message))
}

async fn ready(State(s): State<Rest>) -> Response {
    if s.api.is_ready() {
        return "ready\n".into_response();
    }
    (StatusCode::SERVICE_UNAVAILABLE, "nothing is published yet: a source has not been listed\n")
        .into_response()
}

async fn apply(
    State(s): State<Rest>,
    Who(caller): Who,
    query: RawQuery,
    body: Bytes,
) -> Result<Json, ApiError> {
    let query = Query::read(query, &["if_revision", "message", "stage", "delete"])?;
    let resources = resources(&body)?;
    let if_revision = query.number("if_revision")?;
    if if_revision.is_some() && resources.len() != 1 {
        return Err(ApiError::Invalid("if_revision goes with one object".to_owned()));
    }
    let objects = resources.into_iter().map(|r| v1::ApplyObject { resource: Some(r), if_revision }).collect();
    let (why, stage) = (query.one("message").to_owned(), query.one("stage").to_owned());
    let request = v1::ApplyRequest { objects, message: why, stage, deletes: query.list("delete") };
    Ok(message(&s.api.apply(&caller, request).await?))
}

async fn validate(
    State(s): State<Rest>,
    Who(caller): Who,
    query: RawQuery,
    body: Bytes,
) -> Result<Json, ApiError> {
    let deletes = Query::read(query, &["delete"])?.list("delete");
    let resources = resources(&body)?;
    Ok(message(&s.api.validate(&caller, v1::ValidateRequest { resources, deletes }).await?))
}

async fn list_all(State(s): State<Rest>, Who(caller): Who, query: RawQuery) -> Result<Json, ApiError> {
    list(&s, &caller, String::new(), query)
}

async fn list_kind(
    State(s): State<Rest>,
    Who(caller): Who,
    Path(kind): Path<String>,
    query: RawQuery,
) -> Result<Json, ApiError> {
    list(&s, &caller, kind, query)
}

fn list(s: &Rest, caller: &Caller, kind: String, query: RawQuery) -> Result<Json, ApiError> {
    let query = Query::read(query, &["label"])?;
    let mut labels = std::collections::HashMap::new();
    for label in query.all("label") {
        let (k, v) = label
            .split_once('=')
            .ok_or_else(|| ApiError::Invalid(format!("label `{label}` is not of the form name=value")))?;
        labels.insert(k.to_owned(), v.to_owned());
    }
    let found = s.api.list(caller, &v1::ListRequest { kind, labels })?;
    Ok(Json(json!({"objects": found.objects.iter().map(stored).collect::<Vec<_>>()})))
}

async fn get_object(
    State(s): State<Rest>,
    Who(caller): Who,
    Path((kind, name)): Path<(String, String)>,
) -> Result<Json, ApiError> {
    Ok(Json(stored(&s.api.get(&caller, &v1::GetRequest { kind, name })?)))
}

async fn delete_object(
    State(s): State<Rest>,
    Who(caller): Who,
    Path((kind, name)): Path<(String, String)>,
    query: RawQuery,
) -> Result<Json, ApiError> {
    let query = Query::read(query, &["if_revision", "message", "stage"])?;
    let if_revision = query.number("if_revision")?;
    let (why, stage) = (query.one("message").to_owned(), query.one("stage").to_owned());
    let request = v1::DeleteRequest { kind, name, if_revision, message: why, stage };
    Ok(message(&s.api.delete(&caller, request).await?))
}

async fn history(State(s): State<Rest>, Who(caller): Who, query: RawQuery) -> Result<Json, ApiError> {
    let limit = Query::read(query, &["limit"])?.number("limit")?.map_or(0, |n| n.value);
    let limit = u32::try_from(limit).unwrap_or(u32::MAX);
    Ok(message(&s.api.history(&caller, &v1::HistoryRequest { limit }).await?))
}

async fn diff_releases(State(s): State<Rest>, Who(caller): Who, query: RawQuery) -> Result<Json, ApiError> {
    let query = Query::read(query, &["from", "to", "stage"])?;
    let (from, to) = (query.number("from")?, query.number("to")?);
    let stage = query.one("stage").to_owned();
    Ok(message(&s.api.diff(&caller, v1::DiffRequest { from, to, stage, resources: Vec::new() }).await?))
}

async fn diff_objects(State(s): State<Rest>, Who(caller): Who, body: Bytes) -> Result<Json, ApiError> {
    let request = v1::DiffRequest { resources: resources(&body)?, ..v1::DiffRequest::default() };
    if request.resources.is_empty() {
        return Err(ApiError::Invalid("no object was given".to_owned()));
    }
    Ok(message(&s.api.diff(&caller, request).await?))
}

async fn promote(
    State(s): State<Rest>,
    Who(caller): Who,
    Path(release): Path<u64>,
    query: RawQuery,
) -> Result<Json, ApiError> {
    let why = Query::read(query, &["message"])?.one("message").to_owned();
    Ok(message(&s.api.promote(&caller, v1::PromoteRequest { release, message: why }).await?))
}

async fn abort(
    State(s): State<Rest>,
    Who(caller): Who,
    Path(release): Path<u64>,
    query: RawQuery,
) -> Result<Json, ApiError> {
    let why = Query::read(query, &["message"])?.one("message").to_owned();
    Ok(message(&s.api.abort(&caller, v1::AbortRequest { release, message: why }).await?))
}

async fn rollback(State(s): State<Rest>, Who(caller): Who, query: RawQuery) -> Result<Json, ApiError> {
    let query = Query::read(query, &["to", "message", "if_newest", "force", "dry_run"])?;
    let request = v1::RollbackRequest {
        to: query.number("to")?,
        message: query.one("message").to_owned(),
        if_newest: query.number("if_newest")?,
        force: query.flag("force")?,
        dry_run: query.flag("dry_run")?,
    };
    Ok(message(&s.api.rollback(&caller, request).await?))
}

async fn all_instances(State(s): State<Rest>, Who(caller): Who) -> Result<Json, ApiError> {
    Ok(message(&s.api.instances(&caller, &v1::ListInstancesRequest::default())?))
}

async fn instances(
    State(s): State<Rest>,
    Who(caller): Who,
    Path(service): Path<String>,
) -> Result<Json, ApiError> {
    Ok(message(&s.api.instances(&caller, &v1::ListInstancesRequest { service })?))
}

async fn register(
    State(s): State<Rest>,
    Who(caller): Who,
    Path((service, id)): Path<(String, String)>,
    body: Bytes,
) -> Result<Json, ApiError> {
    // One flat object: the instance's fields, and `ttl`.
    let mut fields: serde_json::Map<String, Value> = serde_json::from_slice(&body)
        .map_err(|e| ApiError::Invalid(format!("body is not a JSON object: {e}")))?;
    for (name, own) in [("service", &service), ("id", &id)] {
        if fields.insert(name.to_owned(), json!(own)).is_some_and(|told| told != json!(own)) {
            return Err(ApiError::Invalid(format!("{name} is not the one in the path")));
        }
    }
    let ttl = fields.remove("ttl");
    let text = json!({"instance": fields, "ttl": ttl}).to_string();
    let source = Source { name: "body", text: &text };
    let parsed = xds_types::text::parse::<v1::RegisterInstanceRequest>(source);
    // The places in the text are those of our own wrapping.
    let parsed = parsed.map_err(|errors| {
        let told: Vec<_> = errors.list.iter().map(|e| format!("{}: {}", e.path, e.message)).collect();
        ApiError::Invalid(told.join("; "))
    })?;
    Ok(message(&s.api.register(&caller, parsed.message).await?))
}

async fn heartbeat(
    State(s): State<Rest>,
    Who(caller): Who,
    Path((service, id)): Path<(String, String)>,
) -> Result<Json, ApiError> {
    Ok(message(&s.api.heartbeat(&caller, v1::HeartbeatRequest { service, id }).await?))
}

async fn deregister(
    State(s): State<Rest>,
    Who(caller): Who,
    Path((service, id)): Path<(String, String)>,
) -> Result<Json, ApiError> {
    Ok(message(&s.api.deregister(&caller, v1::DeregisterInstanceRequest { service, id }).await?))
}

async fn accept_loss(
    State(s): State<Rest>,
    Who(caller): Who,
    Path(service): Path<String>,
) -> Result<Json, ApiError> {
    Ok(message(&s.api.accept_loss(&caller, v1::AcceptLossRequest { service }).await?))
}

async fn status(State(s): State<Rest>, Who(caller): Who, query: RawQuery) -> Result<Json, ApiError> {
    let query = Query::read(query, &["group", "summary_only"])?;
    let summary_only = query.one("summary_only") == "true";
    let group = query.one("group").to_owned();
    let status = s.api.status(&caller, &v1::StatusRequest { group, summary_only })?;
    let mut shown = xds_types::text::to_json(&status);
    for (name, objects) in [("quarantined", &status.quarantined), ("refused", &status.refused)] {
        let objects: Vec<Value> = objects.iter().map(stored).collect();
        if let Some(fields) = shown.as_object_mut().filter(|_| !objects.is_empty()) {
            fields.insert(name.to_owned(), objects.into());
        }
    }
    Ok(Json(shown))
}

async fn bootstrap_text(
    State(s): State<Rest>,
    Who(caller): Who,
    query: RawQuery,
) -> Result<Response, ApiError> {
    super::guarded::may(&caller, Role::Viewer)?;
    let known =
        ["group", "node", "delta", "xds", "admin", "report", "xds_ca", "xds_cert", "xds_key", "xds_sni"];
    let query = Query::read(query, &known)?;
    let options = query.0.into_iter().collect();
    let text = (s.bootstrap)(&options).map_err(ApiError::Invalid)?;
    Ok(([(header::CONTENT_TYPE, "application/yaml")], text).into_response())
}

async fn tokens(State(s): State<Rest>, Who(caller): Who) -> Result<Json, ApiError> {
    Ok(message(&s.api.tokens(&caller)?))
}

async fn create_token(State(s): State<Rest>, Who(caller): Who, body: Bytes) -> Result<Json, ApiError> {
    let text =
        std::str::from_utf8(&body).map_err(|e| ApiError::Invalid(format!("body is not UTF-8: {e}")))?;
    let parsed = xds_types::text::parse::<v1::CreateTokenRequest>(Source { name: "body", text });
    let request = parsed.map_err(|errors| ApiError::Invalid(errors.to_string()))?.message;
    Ok(message(&s.api.create_token(&caller, request).await?))
}

async fn revoke_token(
    State(s): State<Rest>,
    Who(caller): Who,
    Path(name): Path<String>,
) -> Result<Json, ApiError> {
    Ok(message(&s.api.revoke_token(&caller, v1::RevokeTokenRequest { name }).await?))
}

async fn reseal(State(s): State<Rest>, Who(caller): Who) -> Result<Json, ApiError> {
    Ok(message(&s.api.reseal(&caller, v1::ResealSecretsRequest {}).await?))
}

async fn render_metrics(State(s): State<Rest>, Who(caller): Who) -> Result<String, ApiError> {
    super::guarded::may(&caller, Role::Viewer)?;
    Ok((s.metrics)())
}

/// A stored object with its resource in the form that people write.
fn stored(object: &v1::StoredObject) -> Value {
    let mut shown = xds_types::text::to_json(object);
    if let (Some(fields), Some(resource)) = (shown.as_object_mut(), &object.resource) {
        fields.insert("resource".to_owned(), xds_types::resource::to_json(resource));
    }
    shown
}

fn resources(body: &[u8]) -> Result<Vec<xds_types::portolan::config::v1::Resource>, ApiError> {
    let text = std::str::from_utf8(body).map_err(|e| ApiError::Invalid(format!("body is not UTF-8: {e}")))?;
    let parsed = xds_types::resource::parse(Source { name: "body", text })
        .map_err(|errors| ApiError::Invalid(errors.to_string()))?;
    Ok(parsed.into_iter().map(|p| p.resource).collect())
}

/// Query parameters, of known names only.
struct Query(Vec<(String, String)>);

impl Query {
    fn read(RawQuery(query): RawQuery, known: &[&str]) -> Result<Self, ApiError> {
        let mut pairs = Vec::new();
        for part in query.unwrap_or_default().split('&').filter(|p| !p.is_empty()) {
            let (name, value) = part.split_once('=').unwrap_or((part, ""));
            if !known.contains(&name) {
                let told = format!("unknown parameter `{name}`; known: {}", known.join(", "));
                return Err(ApiError::Invalid(told));
            }
            let value = percent_encoding::percent_decode_str(value).decode_utf8_lossy().into_owned();
            pairs.push((name.to_owned(), value));
        }
        Ok(Self(pairs))
    }

    fn all<'a>(&'a self, name: &'a str) -> impl Iterator<Item = &'a str> {
        self.0.iter().filter(move |(n, _)| n == name).map(|(_, v)| v.as_str())
    }

    fn list(&self, name: &str) -> Vec<String> {
        self.all(name).map(str::to_owned).collect()
    }

    fn one(&self, name: &str) -> &str {
        self.0.iter().rev().find(|(n, _)| n == name).map_or("", |(_, v)| v)
    }

    fn number(&self, name: &str) -> Result<Option<UInt64Value>, ApiError> {
        match self.one(name) {
            "" => Ok(None),
            text => match text.parse() {
                Ok(value) => Ok(Some(UInt64Value { value })),
                Err(_) => Err(ApiError::Invalid(format!("{name} `{text}` is not a number"))),
            },
        }
    }

    fn flag(&self, name: &str) -> Result<bool, ApiError> {
        match self.one(name) {
            "" | "false" => Ok(false),
            "true" => Ok(true),
            other => Err(ApiError::Invalid(format!("{name} is true or false, not `{other}`"))),
        }
    }
}

//! The endpoints of SPEC 2.

use axum::Router;
use axum::body::Body;
use axum::extract::{Path, Request as HttpRequest, State};
use axum::http::header::{CACHE_CONTROL, CONNECTION, CONTENT_TYPE, HeaderName, RETRY_AFTER, WWW_AUTHENTICATE};
use axum::http::{HeaderValue, Response, StatusCode};
use axum::middleware::{self, Next};
use axum::routing::{get, post};
use machines::ids::Uuid;
use machines::interceptor::Request;
use machines::json::escape_into;

use super::guard::Refused;
use super::{App, body};
use crate::{records, status};

/// Paths that probes ask without a credential: they tell no more than a mode.
const OPEN_PATHS: [&str; 2] = ["/health", "/ready"];

pub fn router(app: App) -> Router {
    Router::new()
        .route("/v1/tool", post(tool))
        .route("/health", get(health))
        .route("/ready", get(ready))
        .route("/v1/status", get(node_status))
        .route("/v1/calls/{audit_id}", get(call))
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(wrong_method)
        .fallback(no_such_path)
        .layer(middleware::from_fn_with_state(app.clone(), guard))
        .with_state(app)
}

/// Before anything else of a request is looked at.
async fn guard(State(app): State<App>, request: HttpRequest, next: Next) -> Response<Body> {
    let site = app.access.check_site(request.uri(), request.headers());
    let open = OPEN_PATHS.contains(&request.uri().path());
    let allowed = site.and_then(|()| if open { Ok(()) } else { app.access.check_token(request.headers()) });
    match allowed {
        Ok(()) => next.run(request).await,
        Err(refused) => refuse(&app, refused),
    }
}

async fn tool(State(app): State<App>, request: HttpRequest) -> Response<Body> {
    match called(&app, request).await {
        Ok(answer) => answer,
        Err(refused) => refuse(&app, refused),
    }
}

async fn called(app: &App, request: HttpRequest) -> Result<Response<Body>, Refused> {
    let (head, content) = request.into_parts();
    let length = body::declared(&head.headers)?;
    // Room for the body is taken before the body is, and kept until the call is answered (FAULTS X05).
    let kib = u32::try_from(length / 1024 + 1).unwrap_or(u32::MAX);
    let _room = app.bodies.try_acquire_many(kib).map_err(|_| (503, "overload"))?;
    let bytes = body::read(content, length, app.limits.body_time).await?;
    let trace = head.headers.get("traceparent").and_then(|value| value.to_str().ok());
    let request = match Request::parse(&bytes, trace) {
        Ok(request) => request,
        Err(reason) => {
            app.node.metrics().refused("invalid_request", 400);
            return Ok(json(400, denied(&reason)));
        }
    };
    drop(bytes);
    let answer = app.node.call(request).await;
    let mut response = json(answer.status(), answer.body());
    if let Some(secs) = answer.retry_after_secs() {
        response.headers_mut().insert(RETRY_AFTER, HeaderValue::from(secs));
    }
    Ok(response)
}

async fn health(State(app): State<App>) -> Response<Body> {
    let mode = app.node.mode();
    json(200, format!("{{\"status\":\"{}\",\"mode\":\"{}\"}}", mode.status(), mode.as_str()))
}

async fn ready(State(app): State<App>) -> Response<Body> {
    let mode = app.node.mode();
    let (code, ready) = if mode.is_ready() { (200, "true") } else { (503, "false") };
    json(code, format!("{{\"ready\":{ready},\"mode\":\"{}\"}}", mode.as_str()))
}

async fn node_status(State(app): State<App>) -> Response<Body> {
    let drain = app.node.metrics().drain();
    let most = app.limits.max_in_flight;
    json(200, status::text(&app.node.status(), drain.as_ref(), app.node.node_id(), app.version, most))
}

async fn metrics(State(app): State<App>) -> Response<Body> {
    let mut response = json(200, app.node.metrics().text(&app.node.status()));
    let kind = HeaderValue::from_static("application/openmetrics-text; version=1.0.0; charset=utf-8");
    response.headers_mut().insert(CONTENT_TYPE, kind);
    response
}

/// What the log says of a call. One look-up at a time: it reads files, and calls must not wait for it.
async fn call(State(app): State<App>, Path(audit_id): Path<String>) -> Response<Body> {
    let Some(id) = Uuid::parse(audit_id.as_bytes()) else {
        return refuse(&app, (400, "invalid_request: an audit id is a UUID of 36 characters in lower case"));
    };
    let safe = app.node.status().wal.map_or(0, |wal| wal.safe);
    let Ok(_turn) = app.lookups.acquire().await else { return refuse(&app, (503, "overload")) };
    let disk = std::sync::Arc::clone(app.node.disk());
    match tokio::task::spawn_blocking(move || records::find(&disk, id, safe)).await {
        Ok(Ok(Some(found))) => json(200, found),
        Ok(Ok(None)) => json(404, format!("{{\"error\":\"not_found\",\"audit_id\":\"{id}\"}}")),
        Ok(Err(_)) | Err(_) => json(500, "{\"error\":\"the log cannot be read\"}".to_owned()),
    }
}

async fn wrong_method(State(app): State<App>) -> Response<Body> {
    refuse(&app, (405, "method_not_allowed"))
}

async fn no_such_path(State(app): State<App>) -> Response<Body> {
    refuse(&app, (404, "not_found"))
}

/// A refusal before a decision: counted, and no event.
fn refuse(app: &App, (code, reason): Refused) -> Response<Body> {
    // Texts behind the colon are for people; the label is the word before it.
    let label = reason.split(':').next().unwrap_or(reason);
    app.node.metrics().refused(label, code);
    let mut response = json(code, denied(reason));
    let mut put = |name: HeaderName, value: &'static str| {
        response.headers_mut().insert(name, HeaderValue::from_static(value));
    };
    match code {
        401 => put(WWW_AUTHENTICATE, "Bearer"),
        503 => put(RETRY_AFTER, "1"),
        // A body that was not read must not be taken for the next request (FAULTS N14).
        400 | 403 | 413 | 415 => put(CONNECTION, "close"),
        _ => {}
    }
    response
}

fn denied(reason: &str) -> String {
    let mut text = String::from("{\"decision\":\"deny\",\"reason\":");
    escape_into(reason, &mut text);
    text.push('}');
    text
}

fn json(code: u16, text: String) -> Response<Body> {
    let mut response = Response::new(Body::from(text));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(CONTENT_TYPE, HeaderValue::from_static("application/json"));
    headers.insert(CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

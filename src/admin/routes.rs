//! The routes of the admin interface.

use std::time::Duration;

use axum::body::Bytes;
use axum::extract::rejection::{PathRejection, QueryRejection};
use axum::extract::{Path, Query, Request, State};
use axum::http::header::{ACCEPT, CONTENT_TYPE, HeaderMap, HeaderValue};
use axum::http::{StatusCode, Uri};
use axum::middleware::{from_fn, from_fn_with_state};
use axum::response::{IntoResponse, Response};
use axum::routing::{get, post, put};
use axum::{Json, Router};
use serde::Deserialize;

use super::app::{Answer, AppState, Failure, failure};
use super::bodies::{Done, WantedServers};
use super::guard;
use super::live::READERS_MAX;
use super::metrics::{self, Format};
use super::seats;
use crate::admin::status::PoolStatus;
use crate::pool::order::Order;

/// Maximum size of a request's body, in bytes.
const BODY_SIZE_MAX: usize = 64 * 1024;
/// Maximum time in which a body must arrive.
const BODY_TIME_MAX: Duration = Duration::from_secs(5);

/// All routes.
pub(super) fn router(app: AppState) -> Router {
    let changes = Router::new()
        .route("/api/servers/{id}/{order}", post(give_order))
        .route("/api/pools/{name}/servers", put(set_servers))
        .route("/api/reload", post(reload))
        .route_layer(from_fn_with_state(app.clone(), guard::needs_token));
    Router::new()
        .route("/", get(page))
        .route("/healthz", get(|| async { text(StatusCode::OK, "ok\n") }))
        .route("/readyz", get(ready))
        .route("/metrics", get(figures))
        .route("/api/status", get(status))
        .route("/api/history", get(history))
        .route("/api/events", get(events))
        .merge(changes)
        .fallback(unknown)
        .method_not_allowed_fallback(|| async {
            failure(StatusCode::METHOD_NOT_ALLOWED, "method not allowed; see the header Allow")
        })
        .layer(from_fn(guard::is_meant))
        .layer(from_fn(guard::with_headers))
        .layer(from_fn(seats::note_request))
        .with_state(app)
}

fn invalid(error: impl Into<String>) -> Failure {
    failure(StatusCode::BAD_REQUEST, error)
}

fn text(status: StatusCode, text: impl Into<String>) -> Response {
    (status, text.into()).into_response()
}

fn done(done: String) -> Response {
    Json(Done { done }).into_response()
}

async fn page() -> Response {
    axum::response::Html(include_str!("dashboard.html")).into_response()
}

async fn unknown(uri: Uri) -> Failure {
    failure(StatusCode::NOT_FOUND, format!("{} does not exist", uri.path()))
}

/// Readiness: `ready`, or a line for each pool that is not ready. With `?pool=NAME`, of that pool only.
async fn ready(State(app): State<AppState>, query: AskedFor) -> Answer {
    let (status, asked) = (app.control.status(), asked(query)?);
    if let Some(name) = asked.pool.as_deref().filter(|name| status.pool(name).is_none()) {
        let names: Vec<_> = status.pools.iter().map(|pool| pool.name.as_str()).collect();
        let error = format!("there is no pool {name}; the pools are {}", names.join(", "));
        return Err(failure(StatusCode::NOT_FOUND, error));
    }
    let is_asked = |pool: &&PoolStatus| asked.pool.as_ref().is_none_or(|name| *name == pool.name);
    let unready = |pool: &PoolStatus| Some(format!("pool {}: {}\n", pool.name, pool.unready()?));
    let lines: String = status.pools.iter().filter(is_asked).filter_map(unready).collect();
    Ok(match lines.is_empty() {
        true => text(StatusCode::OK, "ready\n"),
        false => text(StatusCode::SERVICE_UNAVAILABLE, lines),
    })
}

async fn status(State(app): State<AppState>) -> Response {
    Json(&*app.control.status()).into_response()
}

async fn figures(State(app): State<AppState>, headers: HeaderMap) -> Response {
    let accept = headers.get(ACCEPT).and_then(|accept| accept.to_str().ok()).unwrap_or_default();
    let format = Format::wanted(accept);
    let kind = (CONTENT_TYPE, HeaderValue::from_static(format.content_type()));
    ([kind], metrics::render(app.control.status(), app.control.events(), format)).into_response()
}

async fn history(State(app): State<AppState>) -> Response {
    ([(CONTENT_TYPE, HeaderValue::from_static("application/json"))], app.live.history()).into_response()
}

/// Parameters after the `?`.
#[derive(Deserialize)]
struct Parameters {
    pool: Option<String>,
    weight: Option<String>,
    after: Option<String>,
}

type AskedFor = Result<Query<Parameters>, QueryRejection>;

fn asked(query: AskedFor) -> Answer<Parameters> {
    query.map(|Query(asked)| asked).map_err(|error| invalid(error.body_text()))
}

fn place<T>(path: Result<Path<T>, PathRejection>) -> Answer<T> {
    path.map(|Path(place)| place).map_err(|error| invalid(error.body_text()))
}

async fn events(State(app): State<AppState>, headers: HeaderMap, query: AskedFor) -> Answer {
    let asked = asked(query)?;
    let header = headers.get("last-event-id").and_then(|id| id.to_str().ok());
    let last = header.or(asked.after.as_deref()).unwrap_or_default();
    let Some(body) = app.live.follow(last) else {
        let error = format!("{READERS_MAX} readers of events are the maximum; close one");
        return Err(failure(StatusCode::SERVICE_UNAVAILABLE, error));
    };
    let kind = (CONTENT_TYPE, HeaderValue::from_static("text/event-stream"));
    Ok(([kind], body).into_response())
}

async fn give_order(
    State(app): State<AppState>,
    path: Result<Path<(String, String)>, PathRejection>,
    query: AskedFor,
    request: Request,
) -> Answer {
    let ((id, word), asked) = (place(path)?, asked(query)?);
    let order = match word.as_str() {
        "drain" => Order::Drain,
        "enable" => Order::Enable,
        "disable" => Order::Disable,
        "weight" => Order::Weight(weight(asked.weight, request).await?),
        _ => {
            let error = format!("\"{word}\" is not an order; use drain, enable, disable or weight");
            return Err(failure(StatusCode::NOT_FOUND, error));
        }
    };
    let order = order.check().map_err(|refused| invalid(refused.to_string()))?;
    let id: u32 = id.parse().map_err(|_| invalid(format!("\"{id}\" is not a server id; use a number")))?;
    app.ask(move |control| control.order(asked.pool.as_deref(), id, order)).await?;
    Ok(done(format!("{word} server {id}")))
}

/// Body of an order about a weight.
#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct WeightBody {
    weight: u64,
}

/// The weight after the `?`, or in the body. A number too large for the type is returned as 0, which no
/// server accepts either.
async fn weight(asked: Option<String>, request: Request) -> Answer<u16> {
    let weight = match asked {
        Some(text) => text.parse().ok(),
        None => serde_json::from_slice(&body(request).await?).ok().map(|WeightBody { weight }| weight),
    };
    let weight =
        weight.ok_or_else(|| invalid("no weight; give ?weight=5, or {\"weight\": 5} as the body"))?;
    Ok(u16::try_from(weight).unwrap_or(0))
}

async fn set_servers(
    State(app): State<AppState>,
    path: Result<Path<String>, PathRejection>,
    request: Request,
) -> Answer {
    let name = place(path)?;
    let WantedServers { servers } = serde_json::from_slice(&body(request).await?)
        .map_err(|error| invalid(format!("the body: {error}")))?;
    for (place, server) in servers.iter().enumerate() {
        let refuse = |problem: String| Err(invalid(format!("servers[{place}]: {problem}")));
        if let Err(refused) = Order::Weight(server.weight).check() {
            return refuse(refused.to_string());
        }
        if servers[..place].iter().any(|other| other.id == server.id || other.addr == server.addr) {
            return refuse(format!("another server has the id {} or the address {}", server.id, server.addr));
        }
    }
    let count = servers.len();
    let pool = name.clone();
    app.ask(move |control| control.set_servers(&pool, servers)).await?;
    Ok(done(format!("pool {name} has {count} servers of its controller")))
}

async fn reload(State(app): State<AppState>) -> Answer {
    Ok(done(app.ask(|control| control.reload()).await?))
}

/// The body of a request; an error if it is too long or too slow.
async fn body(request: Request) -> Answer<Bytes> {
    let read = axum::body::to_bytes(request.into_body(), BODY_SIZE_MAX);
    match tokio::time::timeout(BODY_TIME_MAX, read).await {
        Ok(Ok(bytes)) => Ok(bytes),
        Ok(Err(_)) => {
            let error = format!("the body is longer than {BODY_SIZE_MAX} bytes, or incomplete");
            Err(failure(StatusCode::PAYLOAD_TOO_LARGE, error))
        }
        Err(_) => Err(failure(StatusCode::REQUEST_TIMEOUT, "the body did not arrive in time")),
    }
}

//! The routes.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::{Extension, Path, Request as HttpRequest, State};
use axum::http::header::{self, HeaderMap, HeaderValue};
use axum::http::{Response, StatusCode};
use axum::middleware::from_fn_with_state;
use axum::routing::{get, post};
use axum::{Router, http::Method};
use nearfield_api::openai::{
    Limits, StreamOptions, model_body, models_body, parse_chat_request, parse_completions_request,
};
use nearfield_api::{Error, ErrorKind, Request};
use nearfield_privacy::DataClass;
use nearfield_router::rules::Claim;

use super::Service;
use super::answer::generate;
use super::body::{ReadBody, read_body};
use super::guard::{KeyId, authenticate, check_host, cross_origin};
use super::record::{Record, observe};
use super::reply::{error_response, error_with_status, json};
use crate::gateway::Caller;

/// Bodies longer than this are parsed beside the threads that serve others.
const LARGE_BODY: usize = 64 << 10;

/// A wire dialect's reader of request bodies.
type Parse = fn(&[u8], &Limits) -> Result<(Request, StreamOptions), Error>;

/// All routes behind their checks.
pub(super) fn router(service: Service) -> Router {
    let guarded = Router::new()
        .route("/v1/chat/completions", post(chat_completions))
        .route("/v1/completions", post(completions))
        .route("/v1/models", get(models))
        .route("/v1/models/{*id}", get(model))
        .route("/metrics", get(metrics))
        .method_not_allowed_fallback(method_not_allowed)
        .fallback(not_found)
        .layer(from_fn_with_state(Arc::clone(&service), authenticate));
    let open = Router::new().route("/health", get(health)).method_not_allowed_fallback(method_not_allowed);
    open.merge(guarded)
        .layer(from_fn_with_state(Arc::clone(&service), cross_origin))
        .layer(from_fn_with_state(Arc::clone(&service), check_host))
        .layer(from_fn_with_state(Arc::clone(&service), observe))
        .with_state(service)
}

async fn chat_completions(
    State(service): State<Service>,
    Extension(key): Extension<KeyId>,
    Extension(record): Extension<Arc<Record>>,
    request: HttpRequest,
) -> Response<Body> {
    answer(&service, key, &record, request, parse_chat_request).await
}

async fn completions(
    State(service): State<Service>,
    Extension(key): Extension<KeyId>,
    Extension(record): Extension<Arc<Record>>,
    request: HttpRequest,
) -> Response<Body> {
    answer(&service, key, &record, request, parse_completions_request).await
}

async fn answer(
    service: &Service,
    key: KeyId,
    record: &Arc<Record>,
    request: HttpRequest,
    parse: Parse,
) -> Response<Body> {
    record.key(&key.0);
    let (parts, body) = request.into_parts();
    let body = match read_body(service, &parts.headers, body).await {
        Ok(body) => body,
        Err(reply) => return reply,
    };
    let caller = match caller(service, key, &parts.headers) {
        Ok(caller) => caller,
        Err(error) => return error_response(&error),
    };
    match parsed(body, service.limits.requests, parse).await {
        Ok((request, options)) => generate(service, record, &caller, request, options).await,
        Err(error) => error_response(&error),
    }
}

/// Who asks, and what its headers say of the request. They may raise its class or narrow its candidates; what they cannot
/// mean is an error, since a claim that is overlooked would let something leave.
fn caller(service: &Service, key: KeyId, headers: &HeaderMap) -> Result<Caller, Error> {
    let text = |name: &'static str| -> Result<Option<&str>, Error> {
        let mut values = headers.get_all(name).iter();
        let (value, None) = (values.next(), values.next()) else {
            return Err(Error::invalid(name, format!("the header {name} stands twice; send it once")));
        };
        let value = value.map(|value| value.to_str().map(str::trim)).transpose();
        value.map_err(|_| Error::invalid(name, format!("the header {name} is not text")))
    };
    let class = match text("x-nearfield-class")? {
        None => None,
        Some(name) => Some(DataClass::from_name(name).ok_or_else(|| {
            let known = DataClass::ALL.map(DataClass::as_str).join(", ");
            Error::invalid("x-nearfield-class", format!("there is no such class; known are {known}"))
        })?),
    };
    let names = |text: &str| text.split(',').map(|name| name.trim().to_owned()).collect();
    let local_only = match text("x-nearfield-local-only")? {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            return Err(Error::invalid(
                "x-nearfield-local-only",
                "the header is either true or false".to_owned(),
            ));
        }
    };
    let claim = Claim { class, backends: text("x-nearfield-backends")?.map(names), local_only };
    let key_name = service.keys.name_of(&key.0);
    Ok(Caller { key_id: key.0, key_name, claim })
}

async fn parsed(body: ReadBody, limits: Limits, parse: Parse) -> Result<(Request, StreamOptions), Error> {
    if body.bytes.len() <= LARGE_BODY {
        return parse(&body.bytes, &limits);
    }
    tokio::task::spawn_blocking(move || parse(&body.bytes, &limits))
        .await
        .unwrap_or_else(|_| Err(Error::new(ErrorKind::Internal, "the request's body could not be parsed")))
}

async fn models(State(service): State<Service>) -> Response<Body> {
    match service.gateway.models().await {
        Ok(models) => json(StatusCode::OK, models_body(&models)),
        Err(error) => error_response(&error),
    }
}

async fn model(State(service): State<Service>, Path(id): Path<String>) -> Response<Body> {
    let models = match service.gateway.models().await {
        Ok(models) => models,
        Err(error) => return error_response(&error),
    };
    if let Some(model) = models.iter().find(|model| model.info.id == id) {
        return json(StatusCode::OK, model_body(model));
    }
    let message = "there is no model of this name here; GET /v1/models lists them";
    let error = Error::new(ErrorKind::NotFound, message).with_param("model").with_code("model_not_found");
    error_response(&error)
}

/// Open to all, so it says nothing but whether answers move.
async fn health(State(service): State<Service>) -> Response<Body> {
    let healthy = service.pulse.healthy() && !service.shutdown.is_draining();
    let (status, word) =
        if healthy { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ok") };
    let mut response = json(status, format!(r#"{{"status":"{word}"}}"#));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

async fn metrics(State(service): State<Service>) -> Response<Body> {
    if let Some(failures) = service.gateway.rule_failures() {
        service.metrics.rule_failures(failures);
    }
    for (backend, event, count) in service.gateway.attempt_counts() {
        service.metrics.attempts(&backend, event, count);
    }
    for (backend, open) in service.gateway.circuits() {
        service.metrics.circuit(&backend, open);
    }
    for (backend, position, state) in service.gateway.endpoints() {
        service.metrics.endpoint(&backend, position, state);
    }
    let mut response = Response::new(Body::from(service.metrics.render()));
    let form = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, form);
    response
}

async fn not_found() -> Response<Body> {
    let message = "there is no such route; the API's routes are under /v1, as in OpenAI's API";
    error_response(&Error::new(ErrorKind::NotFound, message).with_code("unknown_url"))
}

async fn method_not_allowed(method: Method) -> Response<Body> {
    let message = format!("{method} is not allowed on this route");
    let error = Error::new(ErrorKind::InvalidRequest, message).with_code("method_not_allowed");
    error_with_status(StatusCode::METHOD_NOT_ALLOWED, &error)
}

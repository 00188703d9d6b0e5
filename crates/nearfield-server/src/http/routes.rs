//! From a request to its reply: the checks that every request passes, then its route.

use std::net::SocketAddr;
use std::sync::Arc;

use bytes::Bytes;
use hyper::body::{Body as _, Incoming};
use hyper::header::{self, HeaderMap, HeaderName, HeaderValue};
use hyper::{Method, Response, StatusCode};
use nearfield_api::openai::{
    Limits, StreamOptions, model_body, models_body, parse_chat_request, parse_completions_request,
};
use nearfield_api::{Error, ErrorKind, Request};
use nearfield_privacy::DataClass;
use nearfield_router::rules::Claim;
use percent_encoding::percent_decode_str;
use tokio_util::task::AbortOnDropHandle;

use super::answer::generate;
use super::body::{ReadBody, read_body};
use super::guard::{CrossOrigin, authenticate, refuse_host};
use super::record::{Open, Record, RecordedBody};
use super::reply::{error_response, error_with_status, json};
use super::reply_body::ReplyBody;
use super::{HttpRequest, Reply, Service};
use crate::gateway::Caller;
use crate::keys::KnownKey;

/// Requests longer than this are worked on beside the threads that serve others.
const LARGE_BODY: usize = 64 << 10;

/// What a caller says of its own request.
const CLASS: HeaderName = HeaderName::from_static("x-nearfield-class");
const LOCAL_ONLY: HeaderName = HeaderName::from_static("x-nearfield-local-only");
const BACKENDS: HeaderName = HeaderName::from_static("x-nearfield-backends");

/// A wire dialect's reader of request bodies.
type Parse = fn(&[u8], &Limits) -> Result<(Request, StreamOptions), Error>;

/// What a path leads to.
enum Route {
    ChatCompletions,
    Completions,
    Models,
    /// One model, by its name as the path has it.
    Model(String),
    Health,
    Metrics,
    Unknown,
}

impl Route {
    fn of(path: &str) -> Self {
        match path {
            "/v1/chat/completions" => Self::ChatCompletions,
            "/v1/completions" => Self::Completions,
            "/v1/models" => Self::Models,
            "/health" => Self::Health,
            "/metrics" => Self::Metrics,
            _ => match path.strip_prefix("/v1/models/") {
                Some(id) if !id.is_empty() => Self::Model(id.to_owned()),
                _ => Self::Unknown,
            },
        }
    }

    /// Its name in log and metrics: of a closed set.
    const fn label(&self) -> &'static str {
        match self {
            Self::ChatCompletions => "/v1/chat/completions",
            Self::Completions => "/v1/completions",
            Self::Models => "/v1/models",
            Self::Model(_) => "/v1/models/{*id}",
            Self::Health => "/health",
            Self::Metrics => "/metrics",
            Self::Unknown => "other",
        }
    }

    /// The methods that it takes, as the `Allow` header names them.
    const fn methods(&self) -> &'static str {
        match self {
            Self::ChatCompletions | Self::Completions => "POST",
            _ => "GET,HEAD",
        }
    }

    fn takes(&self, method: &Method) -> bool {
        matches!(self, Self::Unknown) || self.methods().split(',').any(|name| name == method.as_str())
    }
}

/// Answers one request, which came in by the address `local`.
pub(super) async fn handle(
    service: &Service,
    local: SocketAddr,
    request: HttpRequest,
) -> Response<RecordedBody> {
    let (parts, body) = request.into_parts();
    let request = hyper::Request::from_parts(parts, ());
    let route = Route::of(request.uri().path());
    let open = Open::new(service, route.label());
    if let Some(refusal) = refuse_host(service, local.ip(), &request) {
        return open.reply(refusal);
    }
    let origin = CrossOrigin::of(service, request.headers());
    let preflight = origin.preflight(&request);
    // All else that was read with them can go.
    let http::request::Parts { method, headers, .. } = request.into_parts().0;
    let asks_head = method == Method::HEAD;
    let mut reply = match preflight {
        Some(reply) => reply,
        None => routed(service, open.record(), &route, method, headers, body).await,
    };
    if asks_head {
        reply = headers_only(reply);
    }
    origin.put(&mut reply);
    open.reply(reply)
}

async fn routed(
    service: &Service,
    record: &Arc<Record>,
    route: &Route,
    method: Method,
    headers: HeaderMap,
    body: Incoming,
) -> Reply {
    if matches!(route, Route::Health) {
        return if route.takes(&method) { health(service) } else { not_allowed(&method, route) };
    }
    let key = match authenticate(service, &headers) {
        Ok(key) => key,
        Err(error) => return error_response(&error),
    };
    if !route.takes(&method) {
        return not_allowed(&method, route);
    }
    match route {
        Route::ChatCompletions => answer(service, record, key, headers, body, parse_chat_request).await,
        Route::Completions => answer(service, record, key, headers, body, parse_completions_request).await,
        Route::Models => models(service).await,
        Route::Model(id) => model(service, id).await,
        Route::Metrics => metrics(service),
        Route::Health | Route::Unknown => not_found(),
    }
}

/// The same reply without its body.
fn headers_only(mut reply: Reply) -> Reply {
    if let Some(length) = reply.body().size_hint().exact() {
        reply.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(length));
    }
    *reply.body_mut() = ReplyBody::EMPTY;
    reply
}

async fn answer(
    service: &Service,
    record: &Arc<Record>,
    key: KnownKey,
    headers: HeaderMap,
    body: Incoming,
    parse: Parse,
) -> Reply {
    record.key(&key.id);
    let body = match read_body(service, &headers, body).await {
        Ok(body) => body,
        Err(reply) => return reply,
    };
    let caller = match caller(key, &headers) {
        Ok(caller) => caller,
        Err(error) => return error_response(&error),
    };
    // They keep what the connection has read, which then must read into new memory.
    drop(headers);
    if body.bytes.len() > LARGE_BODY {
        return answer_large(service, record, caller, body, parse).await;
    }
    let parsed = parse(&body.bytes, &service.limits.requests);
    drop(body);
    match parsed {
        Ok((request, options)) => generate(service, record, &caller, Box::new(request), options).await,
        Err(error) => error_response(&error),
    }
}

/// The same where to read the request, to search it and to write it anew takes long enough for others to notice.
async fn answer_large(
    service: &Service,
    record: &Arc<Record>,
    caller: Caller,
    body: ReadBody,
    parse: Parse,
) -> Reply {
    let (service, record) = (Arc::clone(service), Arc::clone(record));
    let beside = service.beside.clone();
    let work = async move {
        let limits = service.limits.requests;
        let parsed = tokio::task::spawn_blocking(move || parse(&body.bytes, &limits)).await;
        match parsed {
            Ok(Ok((request, options))) => {
                generate(&service, &record, &caller, Box::new(request), options).await
            }
            Ok(Err(error)) => error_response(&error),
            Err(_) => broke_off(),
        }
    };
    AbortOnDropHandle::new(beside.spawn(Box::pin(work))).await.unwrap_or_else(|_| broke_off())
}

fn broke_off() -> Reply {
    error_response(&Error::new(ErrorKind::Internal, "the work on the request broke off; the server goes on"))
}

/// Who asks, and what its headers say of the request. They may raise its class or narrow its candidates; what they cannot
/// mean is an error, since a claim that is overlooked would let something leave.
fn caller(key: KnownKey, headers: &HeaderMap) -> Result<Caller, Error> {
    let text = |name: &HeaderName| -> Result<Option<&str>, Error> {
        let mut values = headers.get_all(name).iter();
        let (value, None) = (values.next(), values.next()) else {
            return Err(Error::invalid(
                name.as_str(),
                format!("the header {name} stands twice; send it once"),
            ));
        };
        let value = value.map(|value| value.to_str().map(str::trim)).transpose();
        value.map_err(|_| Error::invalid(name.as_str(), format!("the header {name} is not text")))
    };
    let class = match text(&CLASS)? {
        None => None,
        Some(name) => Some(DataClass::from_name(name).ok_or_else(|| {
            let known = DataClass::ALL.map(DataClass::as_str).join(", ");
            Error::invalid(CLASS.as_str(), format!("there is no such class; known are {known}"))
        })?),
    };
    let names = |text: &str| text.split(',').map(|name| name.trim().to_owned()).collect();
    let local_only = match text(&LOCAL_ONLY)? {
        None | Some("false") => false,
        Some("true") => true,
        Some(_) => {
            return Err(Error::invalid(LOCAL_ONLY.as_str(), "the header is either true or false".to_owned()));
        }
    };
    let claim = Claim { class, backends: text(&BACKENDS)?.map(names), local_only };
    Ok(Caller { key_id: key.id, key_name: key.name, claim })
}

async fn models(service: &Service) -> Reply {
    match service.gateway.models().await {
        Ok(models) => json(StatusCode::OK, models_body(&models)),
        Err(error) => error_response(&error),
    }
}

async fn model(service: &Service, id: &str) -> Reply {
    let id = percent_decode_str(id).decode_utf8_lossy();
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
fn health(service: &Service) -> Reply {
    let healthy = service.pulse.healthy() && !service.shutdown.is_draining();
    let (status, word) =
        if healthy { (StatusCode::OK, "ok") } else { (StatusCode::SERVICE_UNAVAILABLE, "not ok") };
    let mut response = json(status, format!(r#"{{"status":"{word}"}}"#));
    response.headers_mut().insert(header::CACHE_CONTROL, HeaderValue::from_static("no-store"));
    response
}

fn metrics(service: &Service) -> Reply {
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
    let mut response = Response::new(ReplyBody::Whole(Bytes::from(service.metrics.render())));
    let form = HeaderValue::from_static("text/plain; version=0.0.4; charset=utf-8");
    response.headers_mut().insert(header::CONTENT_TYPE, form);
    response
}

fn not_found() -> Reply {
    let message = "there is no such route; the API's routes are under /v1, as in OpenAI's API";
    error_response(&Error::new(ErrorKind::NotFound, message).with_code("unknown_url"))
}

fn not_allowed(method: &Method, route: &Route) -> Reply {
    let message = format!("{method} is not allowed on this route");
    let error = Error::new(ErrorKind::InvalidRequest, message).with_code("method_not_allowed");
    let mut reply = error_with_status(StatusCode::METHOD_NOT_ALLOWED, &error);
    reply.headers_mut().insert(header::ALLOW, HeaderValue::from_static(route.methods()));
    reply
}

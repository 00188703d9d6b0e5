//! Access tokens of Google's cloud: from a service account's key, or from the machine's metadata server.

use std::fmt;
use std::time::{Duration, SystemTime, UNIX_EPOCH};

use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::signature::{RSA_PKCS1_SHA256, RsaKeyPair};
use hyper::Method;
use hyper::header::{ACCEPT, CONTENT_TYPE, HeaderValue};
use nearfield_api::{Error, ErrorKind};
use serde::Deserialize;
use serde_json::json;
use tokio::sync::Mutex;
use tokio::time::{Instant, timeout};

use crate::base_url::BaseUrl;
use crate::client::{Client, RequestBody};
use crate::encoding::{base64_decode, base64_url};
use crate::{ProviderError, Secret};

const SCOPE: &str = "https://www.googleapis.com/auth/cloud-platform";
const GRANT: &str = "urn%3Aietf%3Aparams%3Aoauth%3Agrant-type%3Ajwt-bearer";
/// The metadata server of Google's machines, which answers to no other name and only over plain http.
pub(crate) const METADATA_SERVER: &str = "http://metadata.google.internal";
/// Header of requests to it and of its answers.
const FLAVOR: &str = "metadata-flavor";
const METADATA_PATH: &str = "/computeMetadata/v1/instance/service-accounts/default/token";
/// A token is renewed so long before it ends.
const EARLY: Duration = Duration::from_mins(2);
const LONGEST_WAIT: Duration = Duration::from_secs(30);
const LARGEST_ANSWER: usize = 64 * 1024;

/// Gets tokens and keeps the last one.
pub(crate) struct TokenSource {
    origin: Origin,
    last: Mutex<Option<(Secret, Instant)>>,
}

enum Origin {
    ServiceAccount {
        email: String,
        key_id: Option<String>,
        key: Box<RsaKeyPair>,
        token_url: BaseUrl,
    },
    /// Reached by a client of its own: what stands between the backend and its proxy is not to see these tokens.
    MetadataServer {
        url: String,
        client: Box<Client>,
    },
}

impl fmt::Debug for TokenSource {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("TokenSource(hidden)")
    }
}

#[derive(Deserialize)]
struct KeyFile {
    client_email: String,
    private_key: String,
    private_key_id: Option<String>,
    #[serde(default = "default_token_uri")]
    token_uri: String,
}

fn default_token_uri() -> String {
    "https://oauth2.googleapis.com/token".to_owned()
}

#[derive(Deserialize)]
struct TokenAnswer {
    access_token: String,
    expires_in: u64,
}

impl TokenSource {
    /// Tokens for the service account of a key in Google's JSON form.
    pub(crate) fn service_account(backend: &str, file: &Secret) -> Result<Self, ProviderError> {
        let wrong = |reason: &str| ProviderError::Setting {
            backend: backend.to_owned(),
            setting: "service_account",
            reason: format!(
                "{reason}; it must lead to the JSON key of a service account, as Google hands it out"
            ),
        };
        let file: KeyFile =
            serde_json::from_str(file.expose()).map_err(|_| wrong("does not hold such a key"))?;
        let token_url = BaseUrl::parse(&file.token_uri, false)
            .map_err(|reason| wrong(&format!("holds a token_uri that {reason}")))?;
        let pem: String = file.private_key.lines().filter(|line| !line.starts_with("-----")).collect();
        let der = base64_decode(&pem).ok_or_else(|| wrong("holds a private key that is no PEM"))?;
        let key = RsaKeyPair::from_pkcs8(&der).map_err(|_| wrong("holds no private RSA key in PKCS#8"))?;
        let origin = Origin::ServiceAccount {
            email: file.client_email,
            key_id: file.private_key_id,
            key: Box::new(key),
            token_url,
        };
        Ok(Self { origin, last: Mutex::new(None) })
    }

    /// Tokens of the account that this machine runs as.
    pub(crate) fn metadata_server(backend: &str, url: &str) -> Result<Self, ProviderError> {
        let url = format!("{}{METADATA_PATH}", url.trim_end_matches('/'));
        let client = Box::new(Client::direct(backend)?);
        Ok(Self { origin: Origin::MetadataServer { url, client }, last: Mutex::new(None) })
    }

    /// The value of the `Authorization` header.
    pub(crate) async fn bearer(&self, client: &Client) -> Result<HeaderValue, Error> {
        // Held while a token is fetched: whoever comes meanwhile waits for the same token.
        let mut last = self.last.lock().await;
        if let Some((token, until)) = last.as_ref()
            && Instant::now() < *until
        {
            return token.bearer().ok_or_else(unusable);
        }
        let answer = match timeout(LONGEST_WAIT, self.fetch(client)).await {
            Ok(answer) => answer?,
            Err(_) => return Err(failed("did not answer in time")),
        };
        let token = Secret::new(answer.access_token);
        let header = token.bearer().ok_or_else(unusable)?;
        let lives = Duration::from_secs(answer.expires_in.min(86_400)).saturating_sub(EARLY);
        *last = Some((token, Instant::now() + lives));
        Ok(header)
    }

    async fn fetch(&self, client: &Client) -> Result<TokenAnswer, Error> {
        let request = hyper::Request::builder().header(ACCEPT, "application/json");
        let (client, request) = match &self.origin {
            Origin::ServiceAccount { token_url, .. } => {
                let assertion = self.assertion(SystemTime::now())?;
                let request = request
                    .method(Method::POST)
                    .uri(token_url.join("")?)
                    .header(CONTENT_TYPE, "application/x-www-form-urlencoded")
                    .body(Box::new(format!("grant_type={GRANT}&assertion={assertion}").into()));
                (client, request)
            }
            Origin::MetadataServer { url, client } => {
                (&**client, request.uri(url).header(FLAVOR, "Google").body(RequestBody::default()))
            }
        };
        let request = request.map_err(|_| failed("has no address that can be asked"))?;
        let sent = client.send(Box::new(request)).await;
        let mut response = sent.map_err(|_| failed("cannot be reached"))?;
        if !response.status().is_success() {
            return Err(failed(&format!("refused with HTTP {}", response.status().as_u16())));
        }
        let metadata = matches!(self.origin, Origin::MetadataServer { .. });
        if metadata && response.headers().get(FLAVOR).is_none_or(|flavor| flavor != "Google") {
            return Err(failed("is not Google's"));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(|_| failed("broke off"))? {
            if body.len() + chunk.len() > LARGEST_ANSWER {
                return Err(failed("answered with too much"));
            }
            body.extend_from_slice(&chunk);
        }
        serde_json::from_slice(&body).map_err(|_| failed("answered with no token"))
    }

    /// A statement, signed with the account's key, that it asks for a token (RFC 7523).
    fn assertion(&self, now: SystemTime) -> Result<String, Error> {
        let Origin::ServiceAccount { email, key_id, key, token_url } = &self.origin else {
            return Err(unusable());
        };
        let issued = now.duration_since(UNIX_EPOCH).unwrap_or_default().as_secs();
        let mut header = json!({"alg": "RS256", "typ": "JWT"});
        if let Some(id) = key_id {
            header["kid"] = json!(id);
        }
        let claims = json!({"iss": email, "scope": SCOPE, "aud": token_url.join("")?.to_string(), "iat": issued,
            "exp": issued + 3600});
        let signed = [header, claims].map(|part| base64_url(part.to_string().as_bytes())).join(".");
        let mut signature = vec![0; key.public_modulus_len()];
        key.sign(&RSA_PKCS1_SHA256, &SystemRandom::new(), signed.as_bytes(), &mut signature)
            .map_err(|_| unusable())?;
        Ok(format!("{signed}.{}", base64_url(&signature)))
    }
}

fn failed(what: &str) -> Error {
    Error::new(
        ErrorKind::Upstream,
        format!("The backend cannot be asked: the server of its access tokens {what}; check the account's key and role."),
    )
    .with_code("backend_credentials")
}

fn unusable() -> Error {
    failed("gave nothing that can be used")
}

#[cfg(test)]
mod tests {
    use nearfield_testkit::cloud_server::{CloudServer, Script};

    use super::*;

    const TOKEN: &str = r#"{"access_token":"ya29.x","expires_in":3599,"token_type":"Bearer"}"#;

    #[tokio::test]
    async fn the_metadata_server_gives_tokens_that_are_kept() {
        let server = CloudServer::start().await.unwrap();
        let root = server.base_url();
        let source = TokenSource::metadata_server("v", root.trim_end_matches("/v1")).unwrap();
        let client = Client::direct("v").unwrap();
        server.next(Script::answer(200, &[("Metadata-Flavor", "Google")], TOKEN));
        for _ in 0..3 {
            assert_eq!(source.bearer(&client).await.unwrap(), "Bearer ya29.x");
        }
        let seen = server.seen();
        let [request] = &seen[..] else { panic!("{seen:?}") };
        assert_eq!((request.method.as_str(), request.target.as_str()), ("GET", METADATA_PATH));
        assert_eq!(request.header(FLAVOR), Some("Google"));
        assert_eq!(request.header("authorization"), None);
    }

    #[tokio::test]
    async fn what_is_not_googles_is_not_believed() {
        let server = CloudServer::start().await.unwrap();
        let root = server.base_url();
        let source = TokenSource::metadata_server("v", root.trim_end_matches("/v1")).unwrap();
        let google = [("Metadata-Flavor", "Google")];
        for (script, word) in [
            (Script::answer(200, &[], TOKEN), "is not Google's"),
            (Script::answer(302, &[("Location", "http://127.0.0.1:9/")], ""), "HTTP 302"),
            (Script::answer(403, &google, "no"), "HTTP 403"),
            (Script::answer(200, &google, "{}"), "no token"),
            (Script::answer(200, &google, vec![b' '; LARGEST_ANSWER + 1]), "too much"),
        ] {
            server.next(script);
            let error = source.bearer(&Client::direct("v").unwrap()).await.unwrap_err();
            assert!(error.message.contains(word), "{error}");
            assert_eq!(error.code.as_deref(), Some("backend_credentials"));
        }
    }
}

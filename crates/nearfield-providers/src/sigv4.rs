//! AWS's signature of requests, version 4.
//!
//! The request's method, path, query, some headers and the hash of its body are put into one text, whose hash is signed
//! with a key derived from the secret, the day, the region and the service. Written after AWS's documentation of the
//! scheme, and checked against signatures that botocore makes.

use std::fmt;
use std::time::{Duration, SystemTime};

use hyper::Uri;
use hyper::header::{AUTHORIZATION, CONTENT_TYPE, HOST, HeaderName, HeaderValue};

use crate::Secret;
use crate::client::Request;
use crate::encoding::{hex, hmac_sha256, sha256_hex};

/// Who signs, and for which region.
#[derive(Clone)]
pub(crate) struct Signer {
    pub(crate) access_key_id: String,
    pub(crate) secret: Secret,
    pub(crate) session_token: Option<Secret>,
    pub(crate) region: String,
}

impl fmt::Debug for Signer {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.debug_struct("Signer").field("region", &self.region).finish_non_exhaustive()
    }
}

impl Signer {
    /// Signs a request that is complete but for this; `None` when a part of it cannot stand in a header.
    pub(crate) fn sign(&self, request: &mut Request, body: &[u8], now: SystemTime) -> Option<()> {
        let time = amz_date(now);
        let day = time.get(..8)?;
        let host = request.uri().authority()?.as_str().to_owned();
        let service = service(&host);
        let mut headers = vec![("host", host.clone()), ("x-amz-date", time.clone())];
        if let Some(kind) = request.headers().get(CONTENT_TYPE) {
            headers.push(("content-type", kind.to_str().ok()?.trim().to_owned()));
        }
        if let Some(token) = &self.session_token {
            headers.push(("x-amz-security-token", token.expose().to_owned()));
        }
        headers.sort_unstable();
        let names: Vec<&str> = headers.iter().map(|(name, _)| *name).collect();
        let names = names.join(";");
        let lines: Vec<String> = headers.iter().map(|(name, value)| format!("{name}:{value}\n")).collect();
        let lines = lines.concat();
        let canonical = format!(
            "{}\n{}\n{}\n{lines}\n{names}\n{}",
            request.method(),
            encoded_path(request.uri().path()),
            canonical_query(request.uri()),
            sha256_hex(body)
        );
        let scope = format!("{day}/{}/{service}/aws4_request", self.region);
        let to_sign = format!("AWS4-HMAC-SHA256\n{time}\n{scope}\n{}", sha256_hex(canonical.as_bytes()));
        let mut key = hmac_sha256(format!("AWS4{}", self.secret.expose()).as_bytes(), day.as_bytes());
        for part in [self.region.as_str(), service, "aws4_request"] {
            key = hmac_sha256(&key, part.as_bytes());
        }
        let signature = hex(&hmac_sha256(&key, to_sign.as_bytes()));
        let authorization = format!(
            "AWS4-HMAC-SHA256 Credential={}/{scope}, SignedHeaders={names}, Signature={signature}",
            self.access_key_id
        );
        let mut put = |name: HeaderName, value: &str, secret: bool| {
            let mut value = HeaderValue::from_str(value).ok()?;
            value.set_sensitive(secret);
            request.headers_mut().insert(name, value);
            Some(())
        };
        put(HOST, &host, false)?;
        put(HeaderName::from_static("x-amz-date"), &time, false)?;
        if let Some(token) = &self.session_token {
            put(HeaderName::from_static("x-amz-security-token"), token.expose(), true)?;
        }
        put(AUTHORIZATION, &authorization, true)
    }
}

/// The service that a host belongs to: the endpoint that AWS calls Mantle is one of its own.
fn service(host: &str) -> &'static str {
    let name = host.split(':').next().unwrap_or_default();
    let mut labels = name.split('.').map(|label| label.strip_suffix("-fips").unwrap_or(label));
    if labels.any(|label| label.eq_ignore_ascii_case("bedrock-mantle")) {
        "bedrock-mantle"
    } else {
        "bedrock"
    }
}

/// The path as it is on the wire, encoded once more: every service but storage asks for that.
fn encoded_path(path: &str) -> String {
    encode(path, b"-._~/")
}

fn canonical_query(uri: &Uri) -> String {
    let pairs = url::form_urlencoded::parse(uri.query().unwrap_or_default().as_bytes());
    let mut pairs: Vec<(String, String)> =
        pairs.map(|(name, value)| (encode(&name, b"-._~"), encode(&value, b"-._~"))).collect();
    pairs.sort_unstable();
    let pairs: Vec<String> = pairs.into_iter().map(|(name, value)| format!("{name}={value}")).collect();
    pairs.join("&")
}

fn encode(text: &str, plain: &[u8]) -> String {
    let mut encoded = String::with_capacity(text.len());
    for byte in text.bytes() {
        if byte.is_ascii_alphanumeric() || plain.contains(&byte) {
            encoded.push(byte as char);
        } else {
            encoded.push('%');
            encoded.push_str(&hex(&[byte]).to_ascii_uppercase());
        }
    }
    encoded
}

/// A moment as `20150830T123600Z`. The date follows from the days since 1970 by the rule of the Gregorian calendar.
fn amz_date(now: SystemTime) -> String {
    let seconds = now.duration_since(SystemTime::UNIX_EPOCH).unwrap_or(Duration::ZERO).as_secs();
    let (days, rest) = (seconds / 86_400, seconds % 86_400);
    // Years that begin in March, in cycles of 400: leap days come last.
    let shifted = days + 719_468;
    let (era, day) = (shifted / 146_097, shifted % 146_097);
    let year = (day - day / 1460 + day / 36_524 - day / 146_096) / 365;
    let day = day - (365 * year + year / 4 - year / 100);
    let month = (5 * day + 2) / 153;
    let day_of_month = day - (153 * month + 2) / 5 + 1;
    let month = if month < 10 { month + 3 } else { month - 9 };
    let year = year + era * 400 + u64::from(month <= 2);
    let (hour, minute, second) = (rest / 3600, rest % 3600 / 60, rest % 60);
    format!("{year:04}{month:02}{day_of_month:02}T{hour:02}{minute:02}{second:02}Z")
}

#[cfg(test)]
mod tests {
    use hyper::Method;

    use super::*;

    fn sign(url: &str, region: &str, body: &'static str, token: Option<&str>) -> Request {
        let signer = Signer {
            access_key_id: "AKIDEXAMPLE".to_owned(),
            secret: Secret::new("wJalrXUtnFEMI/K7MDENG+bPxRfiCYEXAMPLEKEY"),
            session_token: token.map(Secret::new),
            region: region.to_owned(),
        };
        let request = hyper::Request::builder()
            .method(Method::POST)
            .uri(url)
            .header(CONTENT_TYPE, "application/json")
            .body(Box::new(body.into()));
        let mut request = Box::new(request.unwrap());
        signer
            .sign(&mut request, body.as_bytes(), SystemTime::UNIX_EPOCH + Duration::from_mins(29_926_110))
            .unwrap();
        request
    }

    /// Signatures that botocore 1.44.8 makes of the same requests at the same moment.
    #[test]
    fn signatures_are_those_of_botocore() {
        for (url, region, body, token, signature) in [
            (
                "https://bedrock-runtime.us-east-1.amazonaws.com/model/us.amazon.nova-micro-v1%3A0/converse",
                "us-east-1",
                "{\"messages\":[]}",
                None,
                "25d58d838c120da51afb2efa128d3adef635da6f7f681d515c658b1cda6529e4",
            ),
            (
                "https://bedrock-runtime.eu-west-1.amazonaws.com/model/arn%3Aaws%3Abedrock%3Aus-east-1%3A123456789012%3Aapplication-inference-profile%2Fmi1dadi0g15f/converse-stream",
                "eu-west-1",
                "{\"a\":\"h\u{e9}\"}",
                Some("TOKEN/abc=="),
                "2bf2a35e4bbd451e3a2add3d8c64250b55750a3f4af1bdfddced830ae2738224",
            ),
            (
                "https://bedrock-runtime.us-east-1.amazonaws.com/openai/v1/chat/completions",
                "us-east-1",
                "{\"model\":\"m\"}",
                None,
                "cdf72098ccea20ca9c928c4449f29d00832615f694c000e0b4fcfb3d744428c5",
            ),
            (
                "https://bedrock-mantle.us-east-1.api.aws/v1/responses",
                "us-east-1",
                "{\"model\":\"m\"}",
                None,
                "3671d238756412c70816423e7eee23b8f75465ce28e74847955159e26fa15ba0",
            ),
            (
                "http://127.0.0.1:8080/model/m/converse",
                "us-east-1",
                "",
                None,
                "188ae8e4579117ea9c0671e3b34ac8f6534d22d8799e506017befe78dddf73c0",
            ),
        ] {
            let request = sign(url, region, body, token);
            let authorization = request.headers()[AUTHORIZATION].to_str().unwrap();
            assert!(authorization.ends_with(signature), "{url}: {authorization}");
            assert_eq!(request.headers()["x-amz-date"], "20261125T003000Z");
        }
    }

    #[test]
    fn the_host_tells_the_service() {
        for (host, expected) in [
            ("bedrock-mantle.us-east-1.api.aws", "bedrock-mantle"),
            ("vpce-1-a.bedrock-mantle.us-east-1.vpce.amazonaws.com:443", "bedrock-mantle"),
            ("bedrock-runtime-fips.us-east-1.amazonaws.com", "bedrock"),
            ("bedrock-mantle-cache.example", "bedrock"),
            ("127.0.0.1:8080", "bedrock"),
        ] {
            assert_eq!(service(host), expected, "{host}");
        }
    }

    #[test]
    fn days_of_the_calendar() {
        for (seconds, text) in [
            (0, "19700101T000000Z"),
            (951_782_400, "20000229T000000Z"),
            (1_709_251_199, "20240229T235959Z"),
            (4_102_444_800, "21000101T000000Z"),
            (1_440_938_160, "20150830T123600Z"),
        ] {
            assert_eq!(amz_date(SystemTime::UNIX_EPOCH + Duration::from_secs(seconds)), text);
        }
    }
}

//! One file over HTTP: resumed where it stopped, never taken for whole before length and digest agree.

use std::path::{Path, PathBuf};
use std::sync::Arc;

use reqwest::header::{
    CONTENT_ENCODING, CONTENT_LENGTH, CONTENT_RANGE, ETAG, HeaderMap, HeaderValue, IF_RANGE, LAST_MODIFIED,
    RANGE, TRANSFER_ENCODING,
};
use reqwest::{Response, StatusCode, Version};
use serde::{Deserialize, Serialize};

use crate::digest::Digest;
use crate::error::HubError;
use crate::files::{ModelLock, PartFile, blocking, read_small, remove_any, write_atomically};
use crate::http::{Failure, HttpClient, Resource, Retries, plain_headers, transport_failure};
use crate::progress::{Meter, Phase};
use crate::secret::shown;
use crate::settings::HubSettings;
use crate::space::require_space;

/// Bytes gathered before they are written.
const WRITE_BYTES: usize = 1 << 20;
/// Longest file of any kind, in bytes (4 TiB).
const MAX_FILE_BYTES: u64 = 1 << 42;

/// A file to download.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Download<'a> {
    pub(crate) resource: Resource<'a>,
    /// Its name, for messages.
    pub(crate) name: &'a str,
    /// Its length, if known beforehand.
    pub(crate) bytes: Option<u64>,
    /// Its digest, if known beforehand.
    pub(crate) sha256: Option<Digest>,
    /// Where the bytes gather.
    pub(crate) part: &'a Path,
}

/// What tells whether a later answer is about the same file: kept beside the part.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
struct Validator {
    /// A strong entity tag, or else the time of the last change, as sent in `If-Range`.
    if_range: Option<String>,
    /// Length of the whole file.
    total: Option<u64>,
}

/// What an answer says about itself.
#[derive(Debug, PartialEq)]
struct Answer {
    /// Where in the file its first byte lies.
    start: u64,
    /// Length of the whole file.
    total: Option<u64>,
}

/// Downloads the file to `download.part` and returns its digest and length. On a wrong length or digest the part is
/// removed; on any other error it stays, to be resumed.
pub(crate) async fn download(
    client: &HttpClient,
    settings: &HubSettings,
    download: Download<'_>,
    lock: &Arc<ModelLock>,
    retries: &mut Retries,
    meter: &mut Meter<'_>,
) -> Result<(Digest, u64), Failure> {
    let base = meter.done();
    let (path, held) = (download.part.to_owned(), Arc::clone(lock));
    meter.set_file(download.name);
    meter.set_phase(Phase::Verifying);
    let part = blocking(move || PartFile::open(&path, u64::MAX, held)).await?;
    meter.jump(base + part.len());
    meter.set_phase(Phase::Downloading);
    let best = part.len();
    let continued = best > 0;
    let mut transfer =
        Transfer { client, settings, download, base, part: Some(part), best, continued, redone: false };
    let result = transfer.run(retries, meter).await;
    let error = result.as_ref().err().map(|failure| &*failure.error);
    if matches!(error, Some(HubError::WrongHash { .. } | HubError::WrongLength { .. })) {
        transfer.part = None;
        remove_any(download.part)?;
        remove_any(&validator_path(download.part))?;
    }
    result
}

struct Transfer<'a> {
    client: &'a HttpClient,
    settings: &'a HubSettings,
    download: Download<'a>,
    /// Bytes of the model's other files that are done.
    base: u64,
    /// Absent only while a write is under way, or after a failed one.
    part: Option<PartFile>,
    /// The furthest that any attempt came.
    best: u64,
    /// Whether the part was put together from several answers.
    continued: bool,
    /// Whether it was thrown away once already for not being the file.
    redone: bool,
}

impl Transfer<'_> {
    fn len(&self) -> u64 {
        self.part.as_ref().map_or(0, PartFile::len)
    }

    async fn run(&mut self, retries: &mut Retries, meter: &mut Meter<'_>) -> Result<(Digest, u64), Failure> {
        loop {
            match self.attempt(meter).await {
                Ok(()) => match self.verify().await {
                    // Pieces of two files, or of a part that the disk did not keep: once more in one go.
                    Err(HubError::WrongHash { .. }) if self.continued && !self.redone => {
                        (self.redone, self.best) = (true, 0);
                        meter.message(&format!(
                            "{}: the pieces do not make up the file; fetching it anew",
                            self.download.name
                        ));
                        self.restart(meter).await?;
                    }
                    result => return Ok(result?),
                },
                Err(failure) => {
                    if self.len() > self.best {
                        self.best = self.len();
                        retries.reset();
                    }
                    retries.pause(failure, meter).await?;
                }
            }
        }
    }

    /// One request for what is missing. `Ok` means that the file is as long as it should be.
    async fn attempt(&mut self, meter: &mut Meter<'_>) -> Result<(), Failure> {
        let known = load_validator(self.download.part)?;
        if let Some(expected) = self.download.bytes {
            if self.len() == expected {
                return Ok(());
            }
            if self.len() > expected {
                self.restart(meter).await?;
            }
        }
        // Without a validator and without a digest nothing would notice that the file changed meanwhile.
        if self.len() > 0 && known.if_range.is_none() && self.download.sha256.is_none() {
            self.restart(meter).await?;
        }
        let mut headers = plain_headers();
        if self.len() > 0 {
            insert(&mut headers, RANGE, &format!("bytes={}-", self.len()));
            if let Some(validator) = &known.if_range {
                insert(&mut headers, IF_RANGE, validator);
            }
        }
        let response = self.client.get(self.download.resource, &headers).await?;
        if response.status() == StatusCode::RANGE_NOT_SATISFIABLE {
            return self.past_the_end(&response, &known, meter).await;
        }
        let answer = read_answer(&response).map_err(|reason| self.bad(&reason))?;
        if answer.start != self.len() {
            self.restart(meter).await?;
            if answer.start != 0 {
                let reason = "the server sent another part than it was asked for";
                return Err(Failure::cut(self.download.resource.url, reason));
            }
        }
        self.continued |= answer.start > 0;
        self.check_total(&answer, &known)?;
        if self.download.bytes.is_none() && answer.total.is_none() && is_end_invisible(&response) {
            return Err(self.bad(
                "the server does not say how long the file is, so that a cut download could not be told from a whole one",
            ));
        }
        if answer.start == 0 {
            let validator = Validator { if_range: validator_of(response.headers()), total: answer.total };
            let text = serde_json::to_vec(&validator).unwrap_or_default();
            write_atomically(&validator_path(self.download.part), &text)?;
        }
        if let Some(total) = answer.total.or(self.download.bytes) {
            if !meter.has_total() {
                meter.set_total(self.base + total);
            }
            require_space(self.settings, self.download.part, total.saturating_sub(self.len()))?;
        }
        self.receive(response, answer.total.or(self.download.bytes), meter).await
    }

    /// Compares the stated length with the one that was promised or seen before.
    fn check_total(&self, answer: &Answer, known: &Validator) -> Result<(), Failure> {
        let Some(total) = answer.total else { return Ok(()) };
        let wrong = |expected| {
            let file = self.download.name.to_owned();
            Err(Failure::fatal(HubError::WrongLength { file, expected, actual: total }))
        };
        match (self.download.bytes, known.total) {
            (Some(expected), _) if expected != total => wrong(expected),
            (None, Some(before)) if answer.start > 0 && before != total => wrong(before),
            _ if total > MAX_FILE_BYTES => wrong(MAX_FILE_BYTES),
            _ => Ok(()),
        }
    }

    /// Answer 416: either everything is here, or what is here belongs to another file.
    async fn past_the_end(
        &mut self,
        response: &Response,
        known: &Validator,
        meter: &mut Meter<'_>,
    ) -> Result<(), Failure> {
        let stated = header(response, &CONTENT_RANGE)
            .and_then(|text| text.strip_prefix("bytes */")?.parse::<u64>().ok());
        let whole = self.download.bytes.or(known.total);
        if self.len() > 0 && stated == Some(self.len()) && whole.is_none_or(|whole| whole == self.len()) {
            return Ok(());
        }
        self.restart(meter).await?;
        Err(Failure::cut(
            self.download.resource.url,
            "the server refused to continue where the download stopped",
        ))
    }

    /// Writes the answer's body at the end of the part.
    async fn receive(
        &mut self,
        mut response: Response,
        total: Option<u64>,
        meter: &mut Meter<'_>,
    ) -> Result<(), Failure> {
        let url = self.download.resource.url;
        let limit = total.unwrap_or(MAX_FILE_BYTES);
        let mut buffer = Vec::with_capacity(WRITE_BYTES);
        loop {
            let failure = match tokio::time::timeout(self.settings.idle_timeout, response.chunk()).await {
                Ok(Ok(Some(chunk))) => {
                    let length = self.len() + buffer.len() as u64 + chunk.len() as u64;
                    if length > limit {
                        let file = self.download.name.to_owned();
                        return Err(Failure::fatal(HubError::WrongLength {
                            file,
                            expected: limit,
                            actual: length,
                        }));
                    }
                    buffer.extend_from_slice(&chunk);
                    meter.set(self.base + length);
                    if buffer.len() < WRITE_BYTES {
                        continue;
                    }
                    None
                }
                Ok(Ok(None)) if total.is_none_or(|total| self.len() + buffer.len() as u64 == total) => {
                    self.append(buffer).await?;
                    return Ok(());
                }
                Ok(Ok(None)) => Some(Failure::cut(url, "the connection ended before the file did")),
                Ok(Err(error)) => Some(transport_failure(url, error)),
                Err(_) => Some(Failure::passing(HubError::Stalled {
                    url: shown(url),
                    after: self.settings.idle_timeout,
                })),
            };
            buffer = self.append(buffer).await?;
            if let Some(failure) = failure {
                return Err(failure);
            }
        }
    }

    /// Writes `buffer` off the asynchronous threads and gives it back empty.
    async fn append(&mut self, mut buffer: Vec<u8>) -> Result<Vec<u8>, HubError> {
        let path = self.download.part.to_owned();
        let mut part = self.part.take().ok_or_else(|| lost(&path))?;
        let (part, buffer) = blocking(move || {
            part.append(&buffer)?;
            buffer.clear();
            Ok((part, buffer))
        })
        .await?;
        self.part = Some(part);
        Ok(buffer)
    }

    /// Forgets what is here.
    async fn restart(&mut self, meter: &mut Meter<'_>) -> Result<(), HubError> {
        let path = self.download.part.to_owned();
        let mut part = self.part.take().ok_or_else(|| lost(&path))?;
        self.part = Some(
            blocking(move || {
                part.truncate(0)?;
                Ok(part)
            })
            .await?,
        );
        remove_any(&validator_path(self.download.part))?;
        self.continued = false;
        meter.jump(self.base);
        Ok(())
    }

    async fn verify(&mut self) -> Result<(Digest, u64), HubError> {
        let path = self.download.part.to_owned();
        let part = self.part.take().ok_or_else(|| lost(&path))?;
        let part = blocking(move || {
            part.sync()?;
            Ok(part)
        })
        .await?;
        let (actual, bytes) = (part.digest(), part.len());
        self.part = Some(part);
        let file = self.download.name.to_owned();
        if let Some(expected) = self.download.bytes.filter(|expected| *expected != bytes) {
            return Err(HubError::WrongLength { file, expected, actual: bytes });
        }
        if let Some(expected) = self.download.sha256.filter(|expected| *expected != actual) {
            return Err(HubError::WrongHash { file, expected, actual });
        }
        remove_any(&validator_path(&path))?;
        Ok((actual, bytes))
    }

    fn bad(&self, reason: &str) -> Failure {
        Failure::fatal(HubError::BadResponse {
            url: shown(self.download.resource.url),
            reason: reason.to_owned(),
        })
    }
}

/// A part that a failed write took along; the attempt that lost it has ended with that write's error.
fn lost(path: &Path) -> HubError {
    HubError::io(path, std::io::Error::other("the file was given up after a failed write"))
}

fn validator_path(part: &Path) -> PathBuf {
    part.with_added_extension("json")
}

fn load_validator(part: &Path) -> Result<Validator, HubError> {
    let text = read_small(&validator_path(part), 64 * 1024)?;
    // A damaged note only costs a fresh start.
    Ok(text.and_then(|text| serde_json::from_str(&text).ok()).unwrap_or_default())
}

/// A strong entity tag, else the time of the last change.
fn validator_of(headers: &HeaderMap) -> Option<String> {
    let text =
        |name| headers.get(name).and_then(|value: &HeaderValue| value.to_str().ok()).map(ToOwned::to_owned);
    text(ETAG).filter(|tag| tag.starts_with('"')).or_else(|| text(LAST_MODIFIED))
}

fn insert(headers: &mut HeaderMap, name: reqwest::header::HeaderName, value: &str) {
    if let Ok(value) = HeaderValue::from_str(value) {
        headers.insert(name, value);
    }
}

fn header<'a>(response: &'a Response, name: &reqwest::header::HeaderName) -> Option<&'a str> {
    response.headers().get(name).and_then(|value| value.to_str().ok())
}

fn read_answer(response: &Response) -> Result<Answer, String> {
    if header(response, &CONTENT_ENCODING).is_some_and(|coding| !coding.eq_ignore_ascii_case("identity")) {
        return Err("the server compresses the file although it was asked not to".to_owned());
    }
    if response.status() == StatusCode::PARTIAL_CONTENT {
        let range = header(response, &CONTENT_RANGE).unwrap_or_default();
        return parse_content_range(range).ok_or_else(|| format!("the server sent the range `{range}`"));
    }
    let total = header(response, &CONTENT_LENGTH).and_then(|text| text.parse().ok());
    Ok(Answer { start: 0, total })
}

/// `bytes first-last/total`, where the total may be `*`.
fn parse_content_range(text: &str) -> Option<Answer> {
    let (range, total) = text.strip_prefix("bytes ")?.split_once('/')?;
    let (first, last) = range.split_once('-')?;
    let (start, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
    let total = if total == "*" { None } else { Some(total.parse::<u64>().ok()?) };
    (start <= last && total.is_none_or(|total| last.checked_add(1) == Some(total)))
        .then_some(Answer { start, total })
}

/// HTTP/1 without length and without chunks: the body ends where the connection does, for whatever reason.
fn is_end_invisible(response: &Response) -> bool {
    response.version() <= Version::HTTP_11
        && header(response, &CONTENT_LENGTH).is_none()
        && !header(response, &TRANSFER_ENCODING)
            .is_some_and(|coding| coding.to_ascii_lowercase().contains("chunked"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ranges_must_reach_to_the_end() {
        assert_eq!(parse_content_range("bytes 5-9/10"), Some(Answer { start: 5, total: Some(10) }));
        assert_eq!(parse_content_range("bytes 5-9/*"), Some(Answer { start: 5, total: None }));
        for wrong in [
            "",
            "bytes 5-8/10",
            "bytes 9-5/10",
            "bytes */10",
            "items 0-1/2",
            "bytes 0-18446744073709551615/0",
        ] {
            assert_eq!(parse_content_range(wrong), None, "{wrong}");
        }
    }

    #[test]
    fn weak_entity_tags_do_not_validate_ranges() {
        let mut headers = HeaderMap::new();
        headers.insert(ETAG, HeaderValue::from_static("W/\"x\""));
        assert_eq!(validator_of(&headers), None);
        headers.insert(LAST_MODIFIED, HeaderValue::from_static("Mon, 01 Jan 2024 00:00:00 GMT"));
        assert_eq!(validator_of(&headers).as_deref(), Some("Mon, 01 Jan 2024 00:00:00 GMT"));
        headers.insert(ETAG, HeaderValue::from_static("\"x\""));
        assert_eq!(validator_of(&headers).as_deref(), Some("\"x\""));
    }
}

//! The Hugging Face hub: a revision is pinned to its commit, files are chosen, their digests come from its listing.

use std::collections::{BTreeMap, BTreeSet};

use serde::Deserialize;
use url::Url;

use crate::catalogue::License;
use crate::digest::Digest;
use crate::error::HubError;
use crate::http::{Failure, HttpClient, Resource, Retries};
use crate::names::{is_safe_relative, split_names};
use crate::plan::{Content, Plan, PlannedFile};
use crate::progress::Meter;
use crate::reference::{RepositorySource, has_extension};
use crate::secret::Credential;
use crate::settings::HubSettings;

/// Longest listing of a repository, in bytes.
const MAX_LISTING_BYTES: usize = 32 << 20;
/// Longest index of sharded safetensors, in bytes.
const MAX_INDEX_BYTES: usize = 64 << 20;
/// Most files named in an error.
const MAX_NAMED: usize = 12;

const SINGLE_FILE: &str = "model.safetensors";
const INDEX_FILE: &str = "model.safetensors.index.json";
const CONFIG_FILE: &str = "config.json";
/// What a model of safetensors may bring besides its weights and [`CONFIG_FILE`].
const COMPANIONS: [&str; 6] = [
    "tokenizer.json",
    "tokenizer_config.json",
    "generation_config.json",
    "chat_template.jinja",
    "special_tokens_map.json",
    "hf_quant_config.json",
];

/// The hub's description of a repository at a revision; unknown fields are ignored.
#[derive(Debug, Deserialize)]
struct Listing {
    sha: String,
    #[serde(default)]
    siblings: Vec<Sibling>,
    #[serde(default, rename = "cardData")]
    card: Option<Card>,
}

#[derive(Debug, Deserialize)]
struct Sibling {
    #[serde(rename = "rfilename")]
    path: String,
    #[serde(default)]
    size: Option<u64>,
    #[serde(default)]
    lfs: Option<LargeFile>,
}

#[derive(Debug, Deserialize)]
struct LargeFile {
    sha256: Digest,
    size: u64,
}

#[derive(Debug, Deserialize)]
struct Card {
    /// A short name, or a list of them.
    #[serde(default)]
    license: Option<serde_json::Value>,
    #[serde(default)]
    license_name: Option<String>,
    #[serde(default)]
    license_link: Option<String>,
}

#[derive(Debug, Deserialize)]
struct ShardIndex {
    weight_map: BTreeMap<String, String>,
}

/// Asks the hub.
#[derive(Debug)]
pub(crate) struct HuggingFace<'a> {
    client: &'a HttpClient,
    endpoint: &'a Url,
    credential: Option<Credential>,
    source: &'a RepositorySource,
}

impl<'a> HuggingFace<'a> {
    pub(crate) fn new(
        client: &'a HttpClient,
        settings: &'a HubSettings,
        source: &'a RepositorySource,
    ) -> Result<Self, HubError> {
        let endpoint = &settings.hugging_face_endpoint;
        let credential = match &settings.hugging_face_token {
            None => None,
            Some(token) => {
                Some(Credential::bearer(endpoint, token).ok_or_else(|| HubError::InvalidSetting {
                    name: "HF_TOKEN",
                    reason: "it holds characters that no token has".to_owned(),
                })?)
            }
        };
        Ok(Self { client, endpoint, credential, source })
    }

    /// Finds out which files the model consists of.
    pub(crate) async fn plan(&self, retries: &mut Retries, meter: &Meter<'_>) -> Result<Plan, HubError> {
        let revision = self.source.revision.as_deref().unwrap_or("main");
        let mut url = self.address(&["api", "models"], &["revision", revision])?;
        url.set_query(Some("blobs=true"));
        let text = self.fetch(&url, MAX_LISTING_BYTES, retries, meter).await?;
        let listing: Listing = decode(&url, &text)?;
        if listing.sha.len() != 40 || !listing.sha.chars().all(|c| c.is_ascii_hexdigit()) {
            return Err(bad_response(&url, "the hub does not say which commit the revision is".to_owned()));
        }
        let (paths, open) = self.choose(&listing, retries, meter).await?;
        let files = paths.iter().map(|path| self.planned(&listing, path)).collect::<Result<_, _>>()?;
        Ok(Plan {
            revision: Some(listing.sha.clone()),
            license: listing.card.as_ref().and_then(license_of),
            content: Content::Files(files),
            open,
        })
    }

    /// The paths to fetch, and the one to open if the model is GGUF.
    async fn choose(
        &self,
        listing: &Listing,
        retries: &mut Retries,
        meter: &Meter<'_>,
    ) -> Result<(Vec<String>, Option<String>), HubError> {
        let has = |path: &str| listing.siblings.iter().any(|sibling| sibling.path == path);
        if let Some(file) = &self.source.file {
            return self.choose_gguf(listing, file);
        }
        let mut paths = if has(INDEX_FILE) {
            let url = self.file_address(&listing.sha, INDEX_FILE)?;
            let text = self.fetch(&url, MAX_INDEX_BYTES, retries, meter).await?;
            let index: ShardIndex = decode(&url, &text)?;
            let mut paths: BTreeSet<String> = index.weight_map.into_values().collect();
            if let Some(wrong) = paths.iter().find(|path| !has_extension(path, "safetensors")) {
                return Err(bad_response(&url, format!("it names `{wrong}` as a file of weights")));
            }
            paths.insert(INDEX_FILE.to_owned());
            Vec::from_iter(paths)
        } else if has(SINGLE_FILE) {
            vec![SINGLE_FILE.to_owned()]
        } else {
            return self.choose_only_gguf(listing);
        };
        paths.push(CONFIG_FILE.to_owned());
        paths.extend(COMPANIONS.iter().filter(|path| has(path)).map(ToString::to_string));
        Ok((paths, None))
    }

    fn choose_gguf(&self, listing: &Listing, file: &str) -> Result<(Vec<String>, Option<String>), HubError> {
        if !listing.siblings.iter().any(|sibling| sibling.path == file) {
            let names = gguf_names(listing);
            let reason = if names.is_empty() {
                format!("there is no `{file}`, nor any other .gguf file")
            } else {
                format!("there is no `{file}`; there are {}", listed(&names))
            };
            return Err(self.selection(reason));
        }
        let (folder, name) = file.rsplit_once('/').map_or(("", file), |(folder, name)| (folder, name));
        let names = split_names(name).unwrap_or_else(|| vec![name.to_owned()]);
        let paths: Vec<String> = names
            .iter()
            .map(|name| if folder.is_empty() { name.clone() } else { format!("{folder}/{name}") })
            .collect();
        let open = paths.first().cloned();
        Ok((paths, open))
    }

    /// A repository without safetensors: its one GGUF model, or an error that lists what there is to choose from.
    fn choose_only_gguf(&self, listing: &Listing) -> Result<(Vec<String>, Option<String>), HubError> {
        let names = gguf_names(listing);
        match names.as_slice() {
            [] => Err(self.selection("the repository has neither safetensors nor .gguf files".to_owned())),
            [only] => self.choose_gguf(listing, only),
            _ => Err(self.selection(format!(
                "there are several models; choose one as hf:{}/FILE with FILE one of {}",
                self.source.repository,
                listed(&names)
            ))),
        }
    }

    fn planned(&self, listing: &Listing, path: &str) -> Result<PlannedFile, HubError> {
        if !is_safe_relative(path) {
            return Err(self.selection(format!("refused the file name `{}`", path.escape_debug())));
        }
        let sibling = listing
            .siblings
            .iter()
            .find(|sibling| sibling.path == path)
            .ok_or_else(|| self.selection(format!("`{path}` is missing in the repository")))?;
        let url = self.file_address(&listing.sha, path)?;
        let (bytes, sha256) = match &sibling.lfs {
            Some(large) => (Some(large.size), Some(large.sha256)),
            None => (sibling.size, None),
        };
        Ok(PlannedFile { path: path.to_owned(), url, credential: self.credential.clone(), bytes, sha256 })
    }

    async fn fetch(
        &self,
        url: &Url,
        limit: usize,
        retries: &mut Retries,
        meter: &Meter<'_>,
    ) -> Result<String, HubError> {
        let resource = Resource { url, credential: self.credential.as_ref() };
        self.client.get_text(resource, limit, retries, meter).await.map_err(|failure| self.explain(failure))
    }

    /// `{endpoint}/{before}/{repository}/{after}` with every part escaped.
    fn address(&self, before: &[&str], after: &[&str]) -> Result<Url, HubError> {
        let mut url = self.endpoint.clone();
        url.path_segments_mut()
            .map_err(|()| HubError::InvalidSetting {
                name: "HF_ENDPOINT",
                reason: "it cannot have a path".to_owned(),
            })?
            .pop_if_empty()
            .extend(before)
            .extend(self.source.repository.split('/'))
            .extend(after);
        Ok(url)
    }

    fn file_address(&self, commit: &str, path: &str) -> Result<Url, HubError> {
        let parts: Vec<&str> = ["resolve", commit].into_iter().chain(path.split('/')).collect();
        self.address(&[], &parts)
    }

    /// Says in words what the hub says in codes.
    pub(crate) fn explain(&self, failure: Failure) -> HubError {
        let HubError::Status { status, url, .. } = &*failure.error else { return *failure.error };
        let with_token = self.credential.is_some();
        let repository = &self.source.repository;
        let revision = self.source.revision.as_deref().unwrap_or("main");
        let page = self.address(&[], &[]).map_or_else(|_| self.endpoint.to_string(), |url| url.to_string());
        let hint = match (failure.code.as_deref(), *status) {
            (Some("GatedRepo"), _) => {
                return HubError::Gated { repository: repository.clone(), page, with_token };
            }
            (Some("RevisionNotFound"), _) => format!("; {repository} has no revision `{revision}`"),
            (Some("EntryNotFound"), _) => format!("; {repository} has no such file at `{revision}`"),
            (_, 401) if with_token => {
                "; HF_TOKEN is not valid, or the repository is private to others or does not exist".to_owned()
            }
            (Some("RepoNotFound"), _) | (_, 401 | 404) => format!(
                "; {repository} does not exist or is private: check the name{}",
                if with_token { "" } else { ", or set HF_TOKEN to a token that may read it" }
            ),
            (_, 403) => format!(
                "; access to {repository} is not allowed: accept its licence at {page} and set HF_TOKEN to a token of \
                 that account"
            ),
            _ => return *failure.error,
        };
        HubError::Status { url: url.clone(), status: *status, hint }
    }

    fn selection(&self, reason: String) -> HubError {
        HubError::Selection { reference: format!("hf:{}", self.source.repository), reason }
    }
}

fn decode<T: serde::de::DeserializeOwned>(url: &Url, text: &str) -> Result<T, HubError> {
    serde_json::from_str(text)
        .map_err(|error| bad_response(url, format!("not what the hub's interface says: {error}")))
}

fn bad_response(url: &Url, reason: String) -> HubError {
    HubError::BadResponse { url: crate::secret::shown(url), reason }
}

/// Every GGUF model of the listing, split ones by their first part, without vision projectors.
fn gguf_names(listing: &Listing) -> Vec<String> {
    let mut names: Vec<String> = listing
        .siblings
        .iter()
        .map(|sibling| sibling.path.clone())
        .filter(|path| has_extension(path, "gguf"))
        .filter(|path| {
            let name = path.rsplit('/').next().unwrap_or(path);
            !name.starts_with("mmproj")
                && split_names(name).is_none_or(|all| all.first().is_some_and(|first| first == name))
        })
        .collect();
    names.sort();
    names
}

fn listed(names: &[String]) -> String {
    let shown = names.iter().take(MAX_NAMED).cloned().collect::<Vec<_>>().join(", ");
    match names.len().saturating_sub(MAX_NAMED) {
        0 => shown,
        more => format!("{shown} and {more} more"),
    }
}

fn license_of(card: &Card) -> Option<License> {
    let name = match card.license.as_ref()? {
        serde_json::Value::String(name) => name.clone(),
        serde_json::Value::Array(names) => {
            names.iter().filter_map(|name| name.as_str()).collect::<Vec<_>>().join(", ")
        }
        _ => return None,
    };
    let name = if name == "other" { card.license_name.clone().unwrap_or(name) } else { name };
    let url = card.license_link.clone().filter(|link| link.starts_with("https://"));
    (!name.is_empty() && name.len() <= 200).then_some(License { name, url })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn listing(paths: &[&str]) -> Listing {
        let sibling = |path: &&str| Sibling { path: (*path).to_owned(), size: None, lfs: None };
        Listing { sha: "a".repeat(40), siblings: paths.iter().map(sibling).collect(), card: None }
    }

    #[test]
    fn split_models_count_once_and_projectors_not_at_all() {
        let listing = listing(&[
            "b.gguf",
            "mmproj-x.gguf",
            "q/a-00001-of-00002.gguf",
            "q/a-00002-of-00002.gguf",
            "README.md",
        ]);
        assert_eq!(gguf_names(&listing), ["b.gguf", "q/a-00001-of-00002.gguf"]);
    }

    #[test]
    fn licences_are_read_from_the_card() {
        let card = |json: &str| license_of(&serde_json::from_str(json).unwrap()).map(|license| license.name);
        assert_eq!(card(r#"{"license":"apache-2.0"}"#).as_deref(), Some("apache-2.0"));
        assert_eq!(card(r#"{"license":["mit","bsd"]}"#).as_deref(), Some("mit, bsd"));
        assert_eq!(card(r#"{"license":"other","license_name":"x-license"}"#).as_deref(), Some("x-license"));
        assert_eq!(card("{}"), None);
    }
}

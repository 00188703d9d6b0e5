//! The search for names and places, which no pattern finds, before a request leaves: a model of this machine reads it.

use std::fmt;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use nearfield_api::{Error, Event, FinishReason, Request};
use nearfield_privacy::{Names, NamesError};
use nearfield_router::names::{halves, passages, question};
use tokio::time::timeout;

use super::attempt::Course;
use super::opening::Gate;
use super::ruled::Search;
use super::{Caller, Gateway, admission};

/// Passages that the model reads at once: its steps take hardly longer for several.
const AT_ONCE: usize = 4;

/// Why a search failed. Names nothing of the request.
enum Failed {
    TooLong,
    Late,
    Model(Error),
    Names(NamesError),
    /// The list did not end, however short the passage.
    Endless,
}

impl fmt::Display for Failed {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::TooLong => formatter.write_str("the request has more text than is searched"),
            Self::Late => formatter.write_str("the search took longer than `seconds` allows"),
            Self::Model(error) => write!(formatter, "the model did not answer ({})", error.kind.as_str()),
            Self::Names(error) => error.fmt(formatter),
            Self::Endless => formatter.write_str("the model's list did not come to an end"),
        }
    }
}

impl Gateway {
    /// The names and places in a request; `None` when they could not be looked for. Each passage that the model reads is a
    /// request of its own in the ledger.
    pub(super) async fn find_names(
        &self,
        caller: &Caller,
        request: &mut Request,
        search: Search,
    ) -> Option<Names> {
        let searched = match passages(request) {
            None => Err(Failed::TooLong),
            Some(passages) => {
                let all = self.read_passages(caller, &request.cache_domain, &search, passages);
                timeout(search.by.patience(), all).await.unwrap_or(Err(Failed::Late))
            }
        };
        match searched {
            Ok(names) => Some(names),
            Err(why) => {
                let (rule, model) = (&search.rule, &search.by.model);
                tracing::warn!(rule, model, %why, "names and places could not be looked for");
                None
            }
        }
    }

    async fn read_passages(
        &self,
        caller: &Caller,
        cache_domain: &str,
        search: &Search,
        passages: Vec<String>,
    ) -> Result<Names, Failed> {
        let lists = stream::iter(passages)
            .map(|passage| self.read_passage(caller, cache_domain, search, passage))
            .buffered(AT_ONCE);
        lists
            .try_fold(Names::default(), |mut names, read| async move {
                for (passage, list) in read {
                    names.read(&passage, &list).map_err(Failed::Names)?;
                }
                Ok(names)
            })
            .await
    }

    /// The model's lists of one passage: of all of it, or of its halves where a list did not come to an end.
    async fn read_passage(
        &self,
        caller: &Caller,
        cache_domain: &str,
        search: &Search,
        passage: String,
    ) -> Result<Vec<(String, String)>, Failed> {
        let mut lists = Vec::new();
        let mut left = vec![passage];
        while let Some(passage) = left.pop() {
            if let Some(list) = self.list_names(caller, cache_domain, search, &passage).await? {
                lists.push((passage, list));
            } else {
                let (first, second) = halves(&passage).ok_or(Failed::Endless)?;
                left.extend([second.to_owned(), first.to_owned()]);
            }
        }
        Ok(lists)
    }

    /// The model's list of one passage; `None` when it was cut.
    async fn list_names(
        &self,
        caller: &Caller,
        cache_domain: &str,
        search: &Search,
        passage: &str,
    ) -> Result<Option<String>, Failed> {
        let Search { by, rule, policy_hash } = search;
        let mut request = Box::new(question(&by.model, passage));
        cache_domain.clone_into(&mut request.cache_domain);
        let reason = format!("names and places are looked for: {rule}");
        let row =
            self.ledger.admit_with_attempt(admission(caller, &request, reason.clone(), policy_hash.clone()));
        // Of this machine: the rules were checked for that when they were put in force.
        let candidates = std::slice::from_ref(&by.backend);
        let course = Course::new(self, row, candidates, None, reason, request, Gate::FirstToken(None));
        let mut answer = Box::new(course).run().await.map_err(|failed| Failed::Model(failed.error))?;
        let mut list = String::new();
        let mut ended = false;
        while let Some(event) = answer.events.next().await {
            match event.map_err(Failed::Model)? {
                Event::Delta { text, .. } => list.push_str(&text),
                Event::Finished { reason, .. } => ended = reason == FinishReason::Stop,
                _ => {}
            }
        }
        Ok(ended.then_some(list))
    }
}

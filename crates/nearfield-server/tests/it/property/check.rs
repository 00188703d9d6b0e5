//! Holds what happened against what may happen: rows, and what clouds received.

use std::collections::BTreeMap;

use jiff::Timestamp;
use nearfield_api::Usage;
use nearfield_store::{NanoDollars, Prices, Row};
use nearfield_testkit::cloud_server::CloudRequest;
use serde_json::Value;

use super::allowed::{Case as Allowed, RESTRICTIONS};
use super::draw::{Asked, marker};
use super::{CLOUDS, MODEL, Seen, World, key_of};
use crate::leaks::{holds, views};
use crate::support::KEY;

/// Findings of one kind that are told of.
const TOLD: usize = 5;

/// One request and all that came of it.
pub(super) struct Case {
    pub(super) number: u64,
    pub(super) id: String,
    pub(super) asked: Asked,
    /// The policy at its beginning, with its hash.
    pub(super) policy: (Value, String),
    /// The one that took its place while it ran.
    pub(super) changed: Option<Changed>,
}

/// A policy that came while a request ran.
pub(super) struct Changed {
    pub(super) policy: (Value, String),
    /// How many requests clouds had received until a while after that.
    pub(super) before: usize,
}

/// What is wrong, by kind.
#[derive(Default)]
struct Wrongs(BTreeMap<&'static str, Vec<String>>);

impl Wrongs {
    fn add(&mut self, kind: &'static str, what: String) {
        let told = self.0.entry(kind).or_default();
        if told.len() < TOLD {
            told.push(what);
        }
    }

    fn result(self) -> Result<(), String> {
        let lines = self
            .0
            .into_iter()
            .flat_map(|(kind, all)| all.into_iter().map(move |one| format!("{kind}: {one}")));
        let lines: Vec<String> = lines.collect();
        if lines.is_empty() { Ok(()) } else { Err(lines.join("\n")) }
    }
}

/// Holds every case against its row and what clouds received. Those received are in the order in which they came.
pub(super) async fn check(
    world: &World,
    cases: Vec<Case>,
    received: Vec<(&'static str, CloudRequest)>,
    seen: &mut Seen,
) -> Result<(), String> {
    let mut wrongs = Wrongs::default();
    let mut by_case: BTreeMap<String, Vec<(usize, &'static str, CloudRequest)>> = BTreeMap::new();
    for (at, (cloud, request)) in received.into_iter().enumerate() {
        let body = String::from_utf8_lossy(&request.body);
        let begin =
            body.find("(case ").ok_or_else(|| format!("{cloud} received what nobody sent: {body}"))?;
        let end = body[begin..].find(" ends)").ok_or("a request is cut")? + begin + " ends)".len();
        let marker = body[begin..end].to_owned();
        by_case.entry(marker).or_default().push((at, cloud, request));
    }
    let all = world.server.ended_rows(cases.len()).await;
    if all.len() != cases.len() {
        return Err(format!("{} rows for {} requests", all.len(), cases.len()));
    }
    let mut rows: BTreeMap<String, Row> = all.into_iter().map(|row| (row.id.clone(), row)).collect();
    if !world.decoy.seen().is_empty() {
        wrongs.add("redirects", "a redirect was followed".to_owned());
    }
    let least = least_cost();
    let mut spent = 0.0;
    for case in cases {
        let row = rows.remove(&case.id).ok_or("a request without its row")?;
        let policies =
            std::iter::once(&case.policy).chain(case.changed.as_ref().map(|changed| &changed.policy));
        let Some((policy, _)) = policies.into_iter().find(|(_, hash)| *hash == row.policy_hash) else {
            wrongs.add("policy", format!("{} was decided by a policy that was never in force", row.id));
            continue;
        };
        let offline = world.offline;
        let admitted = Allowed { policy, asked: &case.asked, offline, spent, least };
        count(&admitted, seen);
        stayed_inside(&admitted, &row, &mut wrongs);
        let requests = by_case.remove(&marker(case.number)).unwrap_or_default();
        for (at, cloud, request) in &requests {
            let tried = row.attempts.iter().filter(|attempt| attempt.backend == *cloud).count();
            let came = requests.iter().filter(|(_, other, _)| other == cloud).count();
            if came > tried {
                wrongs.add("rows", format!("{cloud} received {came} requests in {tried} attempts"));
            }
            if let Some(changed) = case.changed.as_ref().filter(|changed| *at >= changed.before) {
                let newest = Allowed { policy: &changed.policy.0, ..admitted };
                seen.add("attempt after a reload", 1);
                if !newest.allowed().contains(cloud) {
                    wrongs.add("reload", format!("{cloud} was asked although the newest policy denies it"));
                }
            }
            leaks(cloud, request, &admitted, seen, &mut wrongs);
        }
        if row.reason.contains("policy_changed") {
            seen.add("attempt left out after a reload", 1);
        }
        spent += least_spent(&row);
    }
    wrongs.result()
}

/// Each attempt is in the candidate set, and the first one, where the policy alone decided which, is its first.
fn stayed_inside(case: &Allowed<'_>, row: &Row, wrongs: &mut Wrongs) {
    let allowed = case.allowed();
    for attempt in &row.attempts {
        if !allowed.contains(&attempt.backend.as_str()) {
            let (backend, why) = (&attempt.backend, case.against(&attempt.backend));
            wrongs.add(
                "candidates",
                format!(
                    "an attempt left its candidate set: {backend} by {:?}, against it {why:?}",
                    row.reason
                ),
            );
        }
    }
    let decided = row.attempts.first().map_or(row.reason.as_str(), |attempt| attempt.why.as_str());
    if !decided.starts_with("rule ") && !decided.starts_with("no rule") {
        // The first candidate was left out, by its circuit or a policy that came meanwhile.
        return;
    }
    if decided != case.reason() {
        wrongs.add("reasons", format!("decided {decided:?}, expected {:?}", case.reason()));
    }
    let first = row.attempts.first().map(|attempt| attempt.backend.as_str());
    if !case.is_close() && first != allowed.first().copied() {
        wrongs.add("candidates", format!("{first:?} was tried first of {allowed:?} by {decided:?}"));
    }
}

/// Counts what alone kept a backend from a request.
fn count(case: &Allowed<'_>, seen: &mut Seen) {
    for backend in case.named() {
        if let [alone] = case.against(backend)[..] {
            seen.add(restriction(alone), 1);
        }
    }
}

fn restriction(name: &str) -> String {
    format!("removed by: {name}")
}

/// What must have been counted for every restriction.
pub(super) fn restrictions() -> impl Iterator<Item = String> {
    RESTRICTIONS.into_iter().map(restriction)
}

/// What the longest answer costs, without its prompt.
fn least_cost() -> f64 {
    let usage = Usage { output: 32, ..Usage::NONE };
    let priced = Prices::built_in().unwrap().cost(&format!("openai/{MODEL}"), &usage, Timestamp::now());
    priced.unwrap().cost.dollars() - 1e-9
}

/// What a request counts as in its key's month at least, whether it has ended or not.
fn least_spent(row: &Row) -> f64 {
    let Some(reserved) = row.reserved else { return 0.0 };
    let left = row.attempts.iter().any(|attempt| attempt.locality == "cloud");
    let cost = row.cost.map_or(if left { reserved.dollars() } else { 0.0 }, NanoDollars::dollars);
    cost.min(reserved.dollars())
}

fn leaks(cloud: &str, request: &CloudRequest, case: &Allowed<'_>, seen: &mut Seen, wrongs: &mut Wrongs) {
    let views = views(request);
    let others = CLOUDS.iter().filter(|other| **other != cloud).map(|other| key_of(other));
    let markers = ["client-cookie-marker", "203.0.113.77", "client-baggage-marker", "org-client-marker", KEY];
    for value in others.chain(markers.map(str::to_owned)) {
        if holds(&views, &value) {
            wrongs.add("headers", format!("{cloud} received a header that is not its own: {value}"));
        }
    }
    for (class, value, place) in &case.asked.values {
        // Every rule hides secrets, and a label of the caller's own never leaves.
        let hidden = *class == "secret" || *place == "label" || case.hides(class);
        if !hidden {
            continue;
        }
        if holds(&views, value) {
            wrongs.add(place, format!("{cloud} received the {class} value of the {place}: {value}"));
        }
        seen.add(format!("masked: {place}"), 1);
    }
}

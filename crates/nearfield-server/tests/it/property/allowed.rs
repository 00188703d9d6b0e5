//! What a backend must be to get a request, said once more in plain words: from the policy file as it was drawn, the
//! request as it was planted, and nothing of the program's own.

use serde_json::Value;

use super::MODEL;
use super::draw::{Asked, LIMITS};

/// From the least sensitive to the most.
const CLASSES: [&str; 5] = ["public", "internal", "personal", "health", "secret"];

/// Everything that may speak against a backend, but that the rule does not name it.
pub(super) const RESTRICTIONS: [&str; 13] = [
    "block",
    "the key's backends",
    "the caller's backends",
    "the model",
    "this machine only",
    "no network",
    "a key without a class",
    "money",
    "the region",
    "no agreement for health",
    "a demand",
    "keep_local",
    "a picture",
];

/// One request under one policy.
pub(super) struct Case<'a> {
    pub(super) policy: &'a Value,
    pub(super) asked: &'a Asked,
    pub(super) offline: bool,
    /// Dollars that the key has spent at least.
    pub(super) spent: f64,
    /// What an answer of full length costs at least, by the price table.
    pub(super) least: f64,
}

impl<'a> Case<'a> {
    fn key(&self) -> &'a Value {
        &self.policy["key"]["env"]
    }

    /// Every class that the request is of.
    fn classes(&self) -> Vec<&str> {
        let planted = self.asked.values.iter().map(|(class, ..)| *class);
        planted.chain(self.key()["class"].as_str()).chain(self.asked.claim.class).collect()
    }

    /// The highest of them.
    pub(super) fn class(&self) -> &'static str {
        let classes = self.classes();
        CLASSES.into_iter().rev().find(|class| classes.contains(class)).unwrap_or("public")
    }

    /// The first rule for that class.
    pub(super) fn rule(&self) -> Option<&'a Value> {
        let class = self.class();
        self.policy["rule"].as_array().unwrap().iter().find(|rule| match &rule["when"]["class"] {
            Value::Null => ["public", "internal"].contains(&class),
            classes => names(classes).contains(&class),
        })
    }

    /// The backends that the rule names, in its order; without a rule this machine.
    pub(super) fn named(&self) -> Vec<&'a str> {
        self.rule().map_or_else(|| vec!["local"], |rule| names(&rule["backends"]))
    }

    /// The backends that may get the request, in the order to try them.
    pub(super) fn allowed(&self) -> Vec<&'a str> {
        self.named().into_iter().filter(|backend| self.against(backend).is_empty()).collect()
    }

    /// Whether the rule hides values of a class, or keeps what holds them.
    pub(super) fn hides(&self, class: &str) -> bool {
        let lists = ["mask", "hash", "keep_local", "block"];
        self.rule().is_some_and(|rule| lists.iter().any(|list| names(&rule[*list]).contains(&class)))
    }

    /// Whether the month is so far spent that the sum decides, which is known only within bounds.
    pub(super) fn is_close(&self) -> bool {
        self.key()["dollars_per_month"].as_f64() == Some(LIMITS[1])
    }

    /// What the policy says in the row.
    pub(super) fn reason(&self) -> String {
        let rule =
            self.rule().map_or("no rule applies: this machine only", |rule| rule["name"].as_str().unwrap());
        format!("{rule} ({})", self.class())
    }

    /// All that speaks against a backend that the rule names.
    pub(super) fn against(&self, backend: &str) -> Vec<&'static str> {
        let mut against = Vec::new();
        let mut say = |speaks: bool, what: &'static str| {
            if speaks {
                against.push(what);
            }
        };
        let (rule, key, claim) = (self.rule(), self.key(), &self.asked.claim);
        let classes = self.classes();
        let holds = |list: &str| {
            let listed = rule.map(|rule| names(&rule[list])).unwrap_or_default();
            listed.iter().any(|class| classes.contains(class))
        };
        say(holds("block"), "block");
        let bound = &key["backends"];
        say(bound.is_array() && !names(bound).contains(&backend), "the key's backends");
        say(claim.backends.as_ref().is_some_and(|names| !names.contains(&backend)), "the caller's backends");
        say(backend == "spare" && self.asked.model() != MODEL, "the model");
        if backend == "local" {
            return against;
        }
        say(claim.local_only, "this machine only");
        say(self.offline, "no network");
        say(key["class"].is_null(), "a key without a class");
        say(key["dollars_per_month"].as_f64().is_some_and(|limit| self.is_too_dear(limit)), "money");
        let terms = &self.policy["backend"][backend];
        say(backend == "rock" && self.is_answered_elsewhere(&terms["region"]), "the region");
        say(classes.contains(&"health") && terms["baa"] != true, "no agreement for health");
        let demands = rule.map(|rule| names(&rule["require"])).unwrap_or_default();
        say(!demands.iter().all(|demand| is_met(demand, terms)), "a demand");
        say(holds("keep_local"), "keep_local");
        let masks =
            rule.is_some_and(|rule| !names(&rule["mask"]).is_empty() || !names(&rule["hash"]).is_empty());
        say(self.asked.picture && masks, "a picture");
        against
    }

    /// Whether the request may cost more than is left, or nobody knows what it may cost.
    fn is_too_dear(&self, limit: f64) -> bool {
        self.asked.model() != MODEL || limit - self.spent < self.least
    }

    /// Whether Bedrock in the European Union answers the model in another place than is declared of it.
    fn is_answered_elsewhere(&self, declared: &Value) -> bool {
        let model = self.asked.model();
        match declared.as_str() {
            Some("eu") => model.starts_with("us.") || model.starts_with("global."),
            Some(_) => model.starts_with("global."),
            None => false,
        }
    }
}

fn is_met(demand: &str, terms: &Value) -> bool {
    match demand {
        "dpa" => terms["dpa"] == true,
        "baa" => terms["baa"] == true,
        "no-training" => terms["trains"] == false && terms["processor"].is_string(),
        "region:eu" => terms["region"] == "eu",
        "retention:30" => terms["retention_days"].as_u64().is_some_and(|days| days <= 30),
        "processor:P" => terms["processor"] == "P",
        _ => false,
    }
}

fn names(list: &Value) -> Vec<&str> {
    list.as_array().into_iter().flatten().filter_map(Value::as_str).collect()
}

//! A million decisions over drawn policies, backends and requests, held against a checker that knows nothing of the
//! code that decides.

use std::collections::BTreeMap;

use nearfield_api::Locality;
use nearfield_privacy::{ClassSet, DataClass, Entity};
use nearfield_router::BackendFacts;
use nearfield_router::rules::{
    BackendTerms, Claim, Connectivity, Day, Denial, Facts, KeyTerms, Names, Rule, Rules, Verdict, When,
    decide_by_rules, explain_by_rules,
};

/// A small generator (xorshift64*): the draws must be the same on every machine.
struct Draw(u64);

impl Draw {
    fn next(&mut self) -> u64 {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        self.0.wrapping_mul(0x2545_F491_4F6C_DD1D) >> 16
    }

    fn below(&mut self, end: usize) -> usize {
        (self.next() % end as u64) as usize
    }

    fn chance(&mut self, of: usize) -> bool {
        self.below(of) == 0
    }

    fn maybe<T>(&mut self, of: usize, value: impl FnOnce(&mut Self) -> T) -> Option<T> {
        self.chance(of).then(|| value(self))
    }

    fn some<T: Clone>(&mut self, from: &[T]) -> Vec<T> {
        from.iter().filter(|_| self.0 & 1 << self.below(40) != 0).cloned().collect()
    }

    fn one<T: Copy>(&mut self, from: &[T]) -> T {
        from[self.below(from.len())]
    }
}

const NAMES: [&str; 5] = ["local", "spare", "eu", "us", "clinic"];
const KEYS: [&str; 4] = ["a", "b", "c", "d"];
const MODELS: [&str; 3] = ["small", "large", "vision"];
const DEMANDS: [&str; 6] = ["baa", "dpa", "no-training", "region:eu", "retention:30", "processor:P"];
const HIDDEN: [&str; 5] = ["personal", "secret", "EMAIL", "MRN", "hipaa"];

fn owned(names: Vec<&str>) -> Vec<String> {
    names.into_iter().map(str::to_owned).collect()
}

fn draw_rule(draw: &mut Draw, at: usize) -> Rule {
    let deny = draw.chance(9);
    let mut backends = owned(draw.some(&NAMES));
    if backends.is_empty() {
        backends.push("local".to_owned());
    }
    let at_random = draw.below(backends.len());
    backends.rotate_left(at_random);
    Rule {
        escalate: None,
        find_names: draw.chance(3),
        labels: None,
        store: None,
        name: format!("r{at}"),
        when: When {
            key: draw.maybe(5, |draw| owned(draw.some(&KEYS))),
            purpose: draw.maybe(9, |_| vec!["p".to_owned()]),
            class: draw.maybe(2, |draw| draw.some(&DataClass::ALL)),
            model: draw.maybe(6, |draw| vec![draw.one(&["*", "small", "l*", "*n"]).to_owned()]),
            tokens_from: draw.maybe(9, |draw| draw.next() % 1000),
            tokens_to: draw.maybe(9, |draw| draw.next() % 1000),
            tools: draw.maybe(9, |draw| draw.chance(2)),
            complexity_from: draw.maybe(9, |_| 0.5),
            complexity_to: draw.maybe(9, |_| 0.5),
            hours: draw.maybe(9, |_| "08:00-18:00".to_owned()),
            days: draw.maybe(9, |_| vec![Day::Mon, Day::Sun]),
            dollars_left: draw.maybe(9, |_| 1.0),
            queue_from: draw.maybe(9, |_| 2),
            queue_to: draw.maybe(9, |_| 4),
            free_cache_from: draw.maybe(40, |_| 0.2),
            free_cache_to: draw.maybe(40, |_| 0.5),
            first_token_from: draw.maybe(40, |_| 2.0),
            first_token_to: draw.maybe(40, |_| 5.0),
            connectivity: draw.maybe(9, |_| Connectivity::Online),
        },
        deny,
        backends: if deny { Vec::new() } else { backends },
        require: draw.maybe(3, |draw| owned(draw.some(&DEMANDS))).unwrap_or_default(),
        mask: draw.maybe(2, |draw| owned(draw.some(&HIDDEN))).unwrap_or_default(),
        hash: draw.maybe(6, |draw| owned(draw.some(&HIDDEN))).unwrap_or_default(),
        keep_local: draw.maybe(6, |draw| owned(draw.some(&HIDDEN))).unwrap_or_default(),
        block: draw.maybe(9, |draw| owned(draw.some(&HIDDEN))).unwrap_or_default(),
        retention: None,
        max_tokens: None,
    }
}

fn draw_rules(draw: &mut Draw) -> Rules {
    let mut rules = Rules::default();
    for name in ["eu", "us", "clinic"] {
        rules.backend.insert(
            name.to_owned(),
            BackendTerms {
                processor: draw.maybe(2, |_| "P".to_owned()),
                region: draw.maybe(2, |draw| draw.one(&["eu", "eu-west-1", "us", "europe"]).to_owned()),
                retention_days: draw.maybe(2, |draw| draw.one(&[0, 30, 31])),
                dpa: draw.chance(2),
                baa: draw.chance(2),
                trains: draw.chance(3),
            },
        );
    }
    for key in KEYS.iter().take(3) {
        let terms = KeyTerms {
            subject: None,
            purpose: draw.maybe(2, |_| "p".to_owned()),
            class: draw.maybe(2, |draw| draw.one(&DataClass::ALL)).or(draw.maybe(2, |_| DataClass::Public)),
            backends: draw.maybe(4, |draw| owned(draw.some(&NAMES))),
            dollars_per_month: draw.maybe(2, |_| 5.0),
        };
        rules.key.insert((*key).to_owned(), terms);
    }
    let count = draw.below(6);
    rules.rule = (0..count).map(|at| draw_rule(draw, at)).collect();
    rules
}

fn draw_backends(draw: &mut Draw) -> Vec<BackendFacts> {
    let mut backends = Vec::new();
    for name in NAMES {
        let locality = if name == "local" || name == "spare" { Locality::Local } else { Locality::Cloud };
        if !draw.chance(8) {
            let models = draw.maybe(4, |draw| owned(draw.some(&MODELS)));
            backends.push(BackendFacts { models, ..BackendFacts::new(name, locality) });
        }
    }
    backends
}

/// How often each thing came up.
#[derive(Debug, Default)]
struct Seen {
    allowed_cloud: usize,
    refused_by_rule: usize,
    blocked: usize,
    nothing_left: usize,
    no_rule: usize,
    health_without_agreement: usize,
    health_with_agreement: usize,
    no_class: usize,
    unscannable: usize,
    narrowed: usize,
    masked: usize,
    within_a_limit: usize,
    issued: usize,
    names_sought: usize,
    names_unknown: usize,
}

/// What must hold of every decision, said without the code that made it.
fn check(rules: &Rules, backends: &[BackendFacts], facts: &Facts<'_>, verdict: &Verdict, seen: &mut Seen) {
    let rule = rules.rule.iter().find(|rule| Some(&rule.name) == verdict.rule.as_ref());
    assert_eq!(verdict.candidates.is_empty(), verdict.denial.is_some());
    match &verdict.denial {
        Some(Denial::Rule { .. }) => seen.refused_by_rule += 1,
        Some(Denial::Blocked { .. }) => seen.blocked += 1,
        Some(_) => seen.nothing_left += 1,
        None => {}
    }
    seen.no_rule += usize::from(rule.is_none());
    let floor = facts.terms.and_then(|terms| terms.class);
    for class in [floor, facts.claim.class].into_iter().flatten().chain(facts.classes.iter()) {
        assert!(verdict.class >= class, "the class fell below one of its sources");
    }
    if let Some(rule) = rule {
        assert!(rule.when.classes().contains(&verdict.class));
        assert!(!rule.deny || verdict.candidates.is_empty());
        if let Some(keys) = &rule.when.key {
            assert!(keys.iter().any(|key| key == facts.key));
        }
    }
    for (at, name) in verdict.candidates.iter().enumerate() {
        assert!(!verdict.candidates[..at].contains(name), "twice");
        let backend =
            backends.iter().find(|backend| backend.name == *name).expect("a backend that is not there");
        assert!(backend.models.as_ref().is_none_or(|models| models.iter().any(|model| model == facts.model)));
        assert!(
            facts.claim.backends.as_ref().is_none_or(|wanted| wanted.contains(name)),
            "widened by nobody"
        );
        let bound = facts.terms.and_then(|terms| terms.backends.as_ref());
        assert!(bound.is_none_or(|bound| bound.contains(name)), "not bound");
        if let Some(rule) = rule {
            assert!(rule.backends.contains(name));
        }
        if backend.locality == Locality::Local {
            continue;
        }
        seen.allowed_cloud += 1;
        let rule = rule.expect("left without a rule");
        let declared = &rules.backend[name];
        assert!(floor.is_some(), "left without a declared class");
        assert!(facts.connectivity == Connectivity::Online && !facts.claim.local_only);
        assert!(facts.dollars_left.is_none_or(|left| left > 0.0));
        if facts.terms.is_some_and(|terms| terms.dollars_per_month.is_some()) {
            let left = facts.dollars_left.expect("a limit, and nobody knows what is left of it");
            let cost = facts.estimates.map(|estimates| estimates.get(name).expect("a limit without a price"));
            assert!(cost.is_none_or(|cost| *cost <= left), "dearer than what is left");
            seen.within_a_limit += usize::from(cost.is_some());
        }
        let health = [floor, facts.claim.class].contains(&Some(DataClass::Health))
            || facts.classes.contains(DataClass::Health);
        assert!(!health || declared.baa, "health data without an agreement");
        seen.health_with_agreement += usize::from(health);
        for demand in &rule.require {
            let met = match demand.as_str() {
                "baa" => declared.baa,
                "dpa" => declared.dpa,
                "no-training" => !declared.trains && declared.processor.is_some(),
                "region:eu" => matches!(declared.region.as_deref(), Some("eu" | "eu-west-1")),
                "retention:30" => declared.retention_days.is_some_and(|days| days <= 30),
                _ => declared.processor.as_deref() == Some("P"),
            };
            assert!(met, "{demand}");
        }
        let masks = !rule.mask.is_empty() || !rule.hash.is_empty();
        let own = facts.issued.get(name).copied().unwrap_or(0);
        assert!(
            facts.unscannable <= own || !masks,
            "what cannot be looked into left although the rule masks"
        );
        seen.issued += usize::from(facts.unscannable > 0 && masks);
        assert!(!rule.find_names || facts.names != Names::Unknown, "left although names could not be sought");
        assert_eq!(verdict.find_names, rule.find_names && facts.names == Names::NotSought);
        seen.names_sought += usize::from(rule.find_names && facts.names == Names::Sought);
        seen.masked += usize::from(masks);
        for name in &rule.keep_local {
            let inside = match name.as_str() {
                "personal" | "secret" => {
                    let said = [floor, facts.claim.class].into_iter().flatten();
                    said.chain(facts.classes.iter()).any(|class| class.as_str() == name)
                }
                "hipaa" => facts.found.keys().any(|entity| entity.hipaa()),
                kind => facts.found.keys().any(|entity| entity.as_str() == kind),
            };
            assert!(!inside, "{name} left although the rule keeps it");
        }
    }
    let leaves = |name: &String| {
        backends.iter().any(|backend| backend.name == *name && backend.locality == Locality::Cloud)
    };
    assert!(!verdict.find_names || verdict.candidates.iter().any(leaves), "sought for nothing");
    seen.names_unknown +=
        usize::from(verdict.steps.iter().any(|step| step.said.contains("names and places could not")));
    seen.no_class += usize::from(floor.is_none());
    seen.unscannable += usize::from(facts.unscannable > 0);
    seen.narrowed += usize::from(facts.claim.backends.is_some());
    seen.health_without_agreement +=
        usize::from(verdict.steps.iter().any(|step| step.said.contains("(baa)")));
}

#[test]
fn a_million_decisions_stay_inside_what_is_allowed() {
    let mut draw = Draw(0x9E37_79B9_7F4A_7C15);
    let mut seen = Seen::default();
    let mut decisions = 0;
    for _ in 0..4000 {
        let rules = draw_rules(&mut draw);
        let backends = draw_backends(&mut draw);
        for _ in 0..250 {
            let claim = Claim {
                class: draw.maybe(4, |draw| draw.one(&DataClass::ALL)),
                backends: draw.maybe(6, |draw| owned(draw.some(&NAMES))),
                local_only: draw.chance(20),
            };
            let mut found: BTreeMap<Entity, usize> = BTreeMap::new();
            let mut classes = ClassSet::default();
            for entity in [Entity::Email, Entity::Mrn, Entity::ApiKey, Entity::Url] {
                if draw.chance(6) {
                    found.insert(entity, 1);
                    classes.insert(entity.class());
                }
            }
            let key = draw.one(&KEYS);
            let mut estimates = BTreeMap::new();
            for name in NAMES {
                if !draw.chance(6) {
                    estimates.insert(name.to_owned(), draw.below(30) as f64 / 10.0);
                }
            }
            let mut issued = BTreeMap::new();
            for name in NAMES.iter().filter(|_| !draw.chance(4)) {
                issued.insert((*name).to_owned(), 1);
            }
            let facts = Facts {
                key,
                terms: rules.key_terms(key, None),
                claim: &claim,
                model: draw.one(&MODELS),
                tokens: draw.next() % 1000,
                tools: draw.chance(2),
                complexity: draw.maybe(2, |draw| draw.below(100) as f64 / 100.0),
                classes,
                found: &found,
                unscannable: if draw.chance(4) { 1 + draw.below(2) } else { 0 },
                issued: &issued,
                minute: draw.below(1440) as u16,
                day: Day::from_monday(draw.below(7) as u8),
                dollars_left: draw.maybe(2, |draw| draw.below(4) as f64),
                estimates: if draw.chance(2) { Some(&estimates) } else { None },
                queued: draw.below(6) as u32,
                free_cache: draw.maybe(2, |draw| draw.below(11) as f64 / 10.0),
                first_token: draw.maybe(2, |draw| draw.below(90) as f64 / 10.0),
                connectivity: if draw.chance(12) { Connectivity::Offline } else { Connectivity::Online },
                names: draw.one(&[Names::NotSought, Names::Sought, Names::Unknown]),
                ..Facts::default()
            };
            let verdict = explain_by_rules(&rules, &backends, &facts);
            let decided = decide_by_rules(&rules, &backends, &facts);
            assert_eq!(decided, Verdict { steps: Vec::new(), ..verdict.clone() }, "with and without reasons");
            check(&rules, &backends, &facts, &verdict, &mut seen);
            decisions += 1;
        }
    }
    eprintln!("{decisions} decisions: {seen:?}");
    assert_eq!(decisions, 1_000_000);
    let Seen {
        allowed_cloud,
        refused_by_rule,
        blocked,
        nothing_left,
        no_rule,
        health_without_agreement,
        health_with_agreement,
        no_class,
        unscannable,
        narrowed,
        masked,
        within_a_limit,
        issued,
        names_sought,
        names_unknown,
    } = seen;
    for count in [
        allowed_cloud,
        refused_by_rule,
        blocked,
        nothing_left,
        no_rule,
        health_without_agreement,
        health_with_agreement,
        no_class,
        unscannable,
        narrowed,
        masked,
        within_a_limit,
        issued,
        names_sought,
        names_unknown,
    ] {
        assert!(count > 1000, "something hardly ever occurred");
    }
}

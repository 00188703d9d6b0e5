//! The suite for backends: the scripted fake passes it, and what breaks a promise does not.

use std::sync::Arc;

use nearfield_api::{ErrorKind, Event, Locality, Usage};
use nearfield_testkit::conformance::{Check, FarSide, Subject, run};
use nearfield_testkit::plays::TOKENS;
use nearfield_testkit::scripted::{
    Play, Script, Scripted, cloud_hello, delta, done, fail, finished, started, started_as,
};

fn subject(name: &str, fake: &Arc<Scripted>) -> Subject {
    let mut subject = Subject::new(name, Arc::clone(fake) as _, Arc::clone(fake));
    subject.is_named_in_errors = false;
    subject.listed = vec!["m".to_owned(), "fake-only".to_owned()];
    subject
}

#[tokio::test]
async fn the_scripted_fake_does_all_of_it() {
    let cloud = Scripted::cloud("fake", []);
    let report = run(&subject("the scripted fake, as a cloud", &cloud)).await;
    println!("{report}");
    assert!(report.passed() && Check::ALL.iter().all(|check| report.kept(*check)), "{report}");

    // On this machine it takes only text, as the plainest model there.
    let mut subject = subject("the scripted fake, on this machine", &Scripted::local([]));
    subject.locality = Locality::Local;
    subject.listed = vec!["m".to_owned(), "local-only".to_owned()];
    let subject = subject.refuses_all(&[
        (Check::Calls, "tools"),
        (Check::OneCall, "tools"),
        (Check::ForcedCall, "tools"),
        (Check::Results, "messages[2].tool_calls"),
        (Check::Form, "response_format"),
        (Check::Thought, "reasoning_effort"),
        (Check::ThoughtCounts, "reasoning_effort"),
        (Check::ThoughtReturns, "reasoning_effort"),
        (Check::Picture, "messages[0].content[1].type"),
    ]);
    let report = run(&subject).await;
    println!("{report}");
    assert!(report.passed(), "{report}");
}

#[tokio::test]
async fn a_broken_promise_is_seen() {
    let usage = |usage| Play::Event(Event::Done { usage, work: None });
    let said = || [started_as("m"), delta("Hello"), delta(", world")];
    let estimate = Usage { input: TOKENS.0, output: TOKENS.1, ..Usage::NONE };
    let counted = Usage { measured: true, ..estimate };
    let odd = Usage { unattributed: 3, stated_total: Some(12), ..counted };
    let whole = |end: Vec<Play>| said().into_iter().chain(end).collect::<Vec<_>>();
    let good = whole(vec![finished(), usage(counted)]);
    let cases: [(&str, Vec<Play>); 13] = [
        ("no start", good[1..].to_vec()),
        ("two starts", [vec![started()], good.clone()].concat()),
        (
            "another text",
            vec![started_as("m"), delta("Hello"), delta(", world!"), finished(), usage(counted)],
        ),
        ("one piece", vec![started_as("m"), delta("Hello, world"), finished(), usage(counted)]),
        ("two ends of a choice", whole(vec![finished(), finished(), usage(counted)])),
        ("text after the end of its choice", whole(vec![finished(), delta("!"), usage(counted)])),
        ("no end of the choice", whole(vec![usage(counted)])),
        ("no end", whole(vec![finished()])),
        ("something after the end", whole(vec![finished(), usage(counted), delta("!")])),
        ("an error in the middle", whole(vec![fail(ErrorKind::Upstream), finished(), usage(counted)])),
        ("an estimate", whole(vec![finished(), usage(estimate)])),
        ("a total that does not add up", whole(vec![finished(), usage(odd)])),
        ("other counts", whole(vec![finished(), done()])),
    ];
    for (what, plays) in cases {
        let report = run(&subject(what, &Scripted::cloud("fake", [Script::Play(plays)]))).await;
        assert!(!report.kept(Check::Text) && !report.passed(), "{what}: {report}");
    }
    // The good one of them is taken, and answers nothing else.
    let report = run(&subject("good", &Scripted::cloud("fake", [Script::Play(good)]))).await;
    let kept: Vec<Check> = Check::ALL.into_iter().filter(|check| report.kept(*check)).collect();
    assert!(
        kept.contains(&Check::Text) && !kept.contains(&Check::Calls) && !kept.contains(&Check::Empty),
        "{report}"
    );
}

#[tokio::test]
async fn what_a_subject_says_of_itself_must_be_true() {
    let fake = Scripted::cloud("fake", []);
    let says_no = subject("says no and does it", &fake).refuses_all(&[(Check::Form, "response_format")]);
    assert!(!run(&says_no).await.passed());
    let mut elsewhere = subject("is not where it says", &fake);
    elsewhere.locality = Locality::Local;
    assert!(!run(&elsewhere).await.kept(Check::Health));
    let mut still = subject("nobody answers", &fake);
    still.far = Box::new(Still);
    let report = run(&still).await;
    assert!(report.kept(Check::Text) && !report.kept(Check::Cancel), "{report}");
    // It answers whatever it is asked.
    let report = run(&subject("always the same", &Scripted::cloud("fake", [cloud_hello()]))).await;
    for check in [Check::NoSuchModel, Check::Overload, Check::CutOff, Check::TooLong, Check::UnknownField] {
        assert!(!report.kept(check), "{report}");
    }
}

/// A far side that is never seen to work.
struct Still;

impl FarSide for Still {
    fn is_busy(&self) -> bool {
        false
    }
}

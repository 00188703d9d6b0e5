//! Measures detection: `measure accuracy`, `measure cases FILE.jsonl`, `measure speed [FILE...]`,
//! `measure alarms FILE...`; `measure spans` tells what it finds in the texts of a JSON array on standard input.
#![expect(
    clippy::unwrap_used,
    clippy::print_stdout,
    clippy::print_stderr,
    reason = "a measuring program that cannot go on should stop"
)]

use std::collections::BTreeMap;
use std::time::Instant;

use nearfield_privacy::{Detector, Entity, Span};
use serde::Deserialize;

#[path = "../tests/it/score.rs"]
mod score;

use score::{Case, Counts, data};

fn main() {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match words.as_slice() {
        ["accuracy", rest @ ..] => accuracy(rest.first() == Some(&"--remarks")),
        ["cases", file, rest @ ..] => cases(file, rest.first() == Some(&"--remarks")),
        ["speed"] => speed(),
        ["speed", files @ ..] => files.iter().for_each(|file| {
            println!("{:.2}", best_rate(&[std::fs::read_to_string(file).unwrap()]).0);
        }),
        ["spans"] => spans(),
        ["alarms", files @ ..] if !files.is_empty() => alarms(files),
        _ => println!(
            "measure accuracy [--remarks] | cases FILE.jsonl [--remarks] | speed [FILE...] | alarms FILE... | spans"
        ),
    }
}

/// F with recall counting twice as much.
fn f2(counts: Counts) -> f64 {
    let (recall, precision) = (counts.recall(), counts.precision());
    if recall + precision == 0.0 { 0.0 } else { 5.0 * precision * recall / (4.0 * precision + recall) }
}

/// Wilson's interval of a share at 95%.
fn wilson(part: usize, whole: usize) -> (f64, f64) {
    if whole == 0 {
        return (0.0, 1.0);
    }
    let (n, p, z) = (whole as f64, part as f64 / whole as f64, 1.959_964_f64);
    let centre = p + z * z / (2.0 * n);
    let half = z * (p * (1.0 - p) / n + z * z / (4.0 * n * n)).sqrt();
    let scale = 1.0 + z * z / n;
    ((centre - half) / scale, (centre + half) / scale)
}

fn table(counts: &BTreeMap<String, Counts>) {
    println!(
        "class                       hits  misses  false  recall [95%]           precision [95%]        F2"
    );
    for (class, counts) in counts {
        let Counts { hits, misses, false_alarms } = *counts;
        let recall = wilson(hits, hits + misses);
        let precision = wilson(hits, hits + false_alarms);
        println!(
            "{class:<26} {hits:>5} {misses:>7} {false_alarms:>6}  {:.3} [{:.3}, {:.3}]   {:.3} [{:.3}, {:.3}]   {:.3}",
            counts.recall(),
            recall.0,
            recall.1,
            counts.precision(),
            precision.0,
            precision.1,
            f2(*counts),
        );
    }
}

fn accuracy(remarks: bool) {
    let Some(bytes) = data("pii/synth_dataset_v2.json") else { return };
    let labelled: Vec<Case> = serde_json::from_slice(&bytes).unwrap();
    let (counts, said) = score::score(&Detector::new(), &labelled);
    table(&counts.into_iter().map(|(class, counts)| (class.to_owned(), counts)).collect());
    if remarks {
        for line in said {
            println!("{line}");
        }
    }
}

/// A generated case: a text that holds a value of a class, or a value that only looks like one. After a slash the class says
/// which form of it.
#[derive(Deserialize)]
struct Generated {
    class: String,
    text: String,
    value: String,
    real: bool,
}

fn cases(file: &str, remarks: bool) {
    let detector = Detector::new();
    let mut counts: BTreeMap<String, Counts> = BTreeMap::new();
    for line in std::fs::read_to_string(file).unwrap().lines() {
        let case: Generated = serde_json::from_str(line).unwrap();
        let start = case.text.find(&case.value).unwrap();
        let entity = Entity::from_name(case.class.split('/').next().unwrap()).unwrap();
        let hit = score::finds(&detector, entity, &case.text, start, start + case.value.len());
        counts.entry(case.class.clone()).or_default().note(case.real, hit);
        if remarks && case.real != hit {
            let found = detector.find(&case.text);
            let what = found.iter().map(|span| span.entity.as_str()).collect::<Vec<_>>();
            println!(
                "{} {}: {:?} found {what:?}",
                if case.real { "missed" } else { "false" },
                case.class,
                case.text
            );
        }
    }
    table(&counts);
}

/// For each text its findings as `[class, first byte, byte after the last]`.
fn spans() {
    let texts: Vec<String> = serde_json::from_reader(std::io::stdin()).unwrap();
    let detector = Detector::new();
    let found: Vec<Vec<_>> = texts
        .iter()
        .map(|text| {
            let spans = detector.find(text);
            spans.iter().map(|span| (span.entity.as_str(), span.start, span.end)).collect()
        })
        .collect();
    println!("{}", serde_json::to_string(&found).unwrap());
}

fn rate(name: &str, texts: &[String]) {
    let bytes: usize = texts.iter().map(String::len).sum();
    let (best, found) = best_rate(texts);
    println!("{name}: {best:.0} MB/s, one thread ({bytes} bytes in {} texts, {found} findings)", texts.len());
}

/// The best of seven rates in MB/s, and how many findings there are.
fn best_rate(texts: &[String]) -> (f64, usize) {
    let detector = Detector::new();
    let bytes: usize = texts.iter().map(String::len).sum();
    let mut spans: Vec<Span> = Vec::new();
    let mut found = 0;
    let mut best = 0.0f64;
    for _ in 0..7 {
        let rounds = (20_000_000 / bytes).max(1);
        let begun = Instant::now();
        for _ in 0..rounds {
            found = 0;
            for text in texts {
                detector.find_into(text, &mut spans);
                found += spans.len();
            }
        }
        best = best.max((bytes * rounds) as f64 / 1e6 / begun.elapsed().as_secs_f64());
    }
    (best, found)
}

fn speed() {
    if let Some(prompt) = data("payloads/10kbprompt.txt") {
        rate("payloads/10kbprompt.txt", &[String::from_utf8(prompt).unwrap()]);
    }
    let Some(bytes) = data("pii/synth_dataset_v2.json") else { return };
    let labelled: Vec<Case> = serde_json::from_slice(&bytes).unwrap();
    let mut texts: Vec<String> = labelled.into_iter().map(|case| case.full_text).collect();
    texts.sort();
    texts.dedup();
    // Ten kilobytes of texts at equal distances in the sorted list, so that every template is met.
    let step = (texts.iter().map(String::len).sum::<usize>() / 10_000).max(1);
    let some: Vec<String> = texts.iter().step_by(step).cloned().collect();
    rate("10 kB of distinct pii texts", &[some.join("\n")]);
    rate("all pii texts, one call each", &texts);
}

fn alarms(files: &[&str]) {
    let detector = Detector::new();
    let mut counts: BTreeMap<&str, usize> = BTreeMap::new();
    let mut bytes = 0;
    for file in files {
        let Ok(text) = std::fs::read_to_string(file) else { continue };
        bytes += text.len();
        for span in detector.find(&text) {
            *counts.entry(span.entity.as_str()).or_default() += 1;
            if std::env::var_os("MEASURE_SHOW").is_some() {
                println!("{} {:?}", span.entity, &text[span.start..span.end]);
            }
        }
    }
    for (class, count) in &counts {
        println!("{class:<26} {count:>7} {:>9.1} per MB", *count as f64 * 1e6 / bytes as f64);
    }
    println!("{bytes} bytes in {} files", files.len());
}

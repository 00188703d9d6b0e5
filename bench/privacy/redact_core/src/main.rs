//! `redact-core` behind the same two commands as our own `measure`: `spans` and `speed FILE...`.

use std::error::Error;
use std::io::Read as _;
use std::time::Instant;

use redact_core::AnalyzerEngine;

fn main() -> Result<(), Box<dyn Error>> {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let engine = AnalyzerEngine::new();
    match arguments.split_first() {
        Some((word, [])) if word == "spans" => spans(&engine),
        Some((word, files)) if word == "speed" => files.iter().try_for_each(|file| speed(&engine, file)),
        _ => Err("usage: spans | speed FILE...".into()),
    }
}

/// Texts as a JSON array come in, the findings of each go out as `[class, first byte, byte after the last]`.
fn spans(engine: &AnalyzerEngine) -> Result<(), Box<dyn Error>> {
    let mut input = String::new();
    std::io::stdin().read_to_string(&mut input)?;
    let texts: Vec<String> = serde_json::from_str(&input)?;
    let mut all = Vec::new();
    for text in &texts {
        let found = engine.analyze(text, None)?.detected_entities;
        let found: Vec<_> = found.iter().map(|one| (one.entity_type.as_str(), one.start, one.end)).collect();
        all.push(serde_json::to_value(found)?);
    }
    println!("{}", serde_json::to_string(&all)?);
    Ok(())
}

fn speed(engine: &AnalyzerEngine, file: &str) -> Result<(), Box<dyn Error>> {
    let text = std::fs::read_to_string(file)?;
    let mut best = 0.0_f64;
    for _ in 0..7 {
        let begun = Instant::now();
        let mut rounds = 0;
        while begun.elapsed().as_millis() < 100 {
            std::hint::black_box(engine.analyze(&text, None)?);
            rounds += 1;
        }
        best = best.max((text.len() * rounds) as f64 / 1e6 / begun.elapsed().as_secs_f64());
    }
    println!("{best:.2}");
    Ok(())
}

//! The receipt: one line that says where an answer came from, how fast, and what it cost here and elsewhere.

use nearfield_api::{FinishReason, Locality};
use nearfield_server::gateway::ReceiptFields;
use nearfield_store::Outcome;

/// The receipt for people.
pub(crate) fn receipt_line(receipt: &ReceiptFields, finish: Option<FinishReason>) -> String {
    let mut parts = vec![format!("{} · {}", place(receipt), receipt.model)];
    if let Some(usage) = &receipt.usage {
        let about = if usage.measured { "" } else { "about " };
        let cached = match usage.cached_input {
            0 => String::new(),
            cached => format!(" ({cached} cached)"),
        };
        let (read, written) = (usage.prompt_tokens(), usage.completion_tokens());
        let guessed = match receipt.accepted_tokens {
            None | Some(0) => String::new(),
            Some(accepted) => match receipt.draft_head_tokens {
                None | Some(0) => format!(" ({accepted} guessed ahead)"),
                Some(own) => format!(" ({accepted} guessed ahead, {own} by its draft head)"),
            },
        };
        parts.push(format!("{about}{read} tokens in{cached}, {written} out{guessed}"));
    }
    if let Some(ttft) = receipt.ttft_ms {
        parts.push(format!("first after {:.2} s", ttft / 1e3));
    }
    if let Some(speed) = receipt.tokens_per_second {
        parts.push(format!("{speed:.1} tok/s"));
    }
    if let Some(joules) = receipt.energy_joules {
        parts.push(format!("{joules:.1} J"));
    }
    parts.push(cost(receipt));
    if let Some(other) = receipt.counterfactual.as_ref().filter(|_| receipt.locality == Locality::Local) {
        parts.push(format!("in the cloud {} ({})", other.cost, other.price));
    }
    parts.extend(ending(receipt, finish).map(str::to_owned));
    parts.join(" · ")
}

fn place(receipt: &ReceiptFields) -> String {
    match receipt.locality {
        Locality::Local => receipt.backend.clone(),
        // Something left this machine: that is never said without the reason.
        Locality::Cloud => format!("{} (cloud; {})", receipt.backend, receipt.reason),
    }
}

fn cost(receipt: &ReceiptFields) -> String {
    match (receipt.cost, receipt.locality) {
        (Some(cost), Locality::Local) => format!("here {cost}"),
        (Some(cost), Locality::Cloud) => format!("cost {cost}"),
        (None, Locality::Local) => "here not priced".to_owned(),
        (None, Locality::Cloud) => "cost unknown".to_owned(),
    }
}

/// What is not a plain end.
fn ending(receipt: &ReceiptFields, finish: Option<FinishReason>) -> Option<&'static str> {
    match (&receipt.outcome, finish) {
        (Some(Outcome::Done), Some(FinishReason::Length)) => Some("cut at the token limit"),
        (Some(Outcome::Done), Some(FinishReason::ContentFilter)) => Some("withheld by the provider"),
        (Some(Outcome::Done), _) => None,
        (Some(Outcome::Cancelled), _) => Some("stopped"),
        (Some(Outcome::Truncated), _) => Some("cut off by a failure"),
        (Some(Outcome::Error(_)), _) => Some("failed"),
        (Some(Outcome::Unknown) | None, _) => Some("not complete"),
    }
}

#[cfg(test)]
mod tests {
    use nearfield_api::Usage;
    use nearfield_server::gateway::ReceiptCounterfactual;
    use nearfield_store::NanoDollars;

    use super::*;

    fn local() -> ReceiptFields {
        ReceiptFields {
            id: "1".into(),
            backend: "local".into(),
            locality: Locality::Local,
            model: "smollm2:135m".into(),
            reason: "local-only".into(),
            outcome: Some(Outcome::Done),
            usage: Some(Usage { input: 31, output: 42, measured: true, ..Usage::default() }),
            ttft_ms: Some(123.4),
            duration_ms: Some(900.0),
            tokens_per_second: Some(54.32),
            energy_joules: None,
            drafted_tokens: Some(0),
            accepted_tokens: Some(0),
            draft_head_tokens: Some(0),
            cost: None,
            price: None,
            counterfactual: Some(ReceiptCounterfactual {
                price: "openai/gpt-5.4-nano".into(),
                cost: NanoDollars(58_700),
            }),
            numerics: Some("1".into()),
            seed: Some(7),
            kernels: Some("avx512".into()),
        }
    }

    #[test]
    fn a_local_answer_says_what_the_cloud_would_have_cost() {
        assert_eq!(
            receipt_line(&local(), Some(FinishReason::Stop)),
            "local · smollm2:135m · 31 tokens in, 42 out · first after 0.12 s · 54.3 tok/s · here not priced · \
             in the cloud $0.000059 (openai/gpt-5.4-nano)"
        );
        let guessed = ReceiptFields { drafted_tokens: Some(30), accepted_tokens: Some(20), ..local() };
        assert!(receipt_line(&guessed, None).contains(" · 31 tokens in, 42 out (20 guessed ahead) · "));
        let by_head = ReceiptFields { draft_head_tokens: Some(7), ..guessed };
        assert!(receipt_line(&by_head, None).contains(" out (20 guessed ahead, 7 by its draft head) · "));
        let priced = ReceiptFields { cost: Some(NanoDollars(1200)), energy_joules: Some(14.25), ..local() };
        let line = receipt_line(&priced, Some(FinishReason::Length));
        assert!(line.contains(" · 14.2 J · here $0.0000012 · "), "{line}");
        assert!(line.ends_with(" · cut at the token limit"), "{line}");
    }

    #[test]
    fn a_cloud_answer_says_why_it_left() {
        let receipt = ReceiptFields {
            backend: "openai".into(),
            locality: Locality::Cloud,
            reason: "prefer-local: the local queue is full".into(),
            outcome: Some(Outcome::Cancelled),
            usage: Some(Usage { input: 20, cached_input: 11, output: 2, ..Usage::default() }),
            cost: Some(NanoDollars(123_000)),
            ..local()
        };
        assert_eq!(
            receipt_line(&receipt, None),
            "openai (cloud; prefer-local: the local queue is full) · smollm2:135m · \
             about 31 tokens in (11 cached), 2 out · first after 0.12 s · 54.3 tok/s · cost $0.00012 · stopped"
        );
    }
}

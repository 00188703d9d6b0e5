//! What an answer took.

/// Tokens of a request in disjoint buckets: their sum is the provider's total.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Usage {
    /// Prompt tokens that were read at full price.
    pub input: u64,
    /// Prompt tokens that a cache spared.
    pub cached_input: u64,
    /// Prompt tokens that were read and written to a cache that lives for minutes, or for a time that is not said.
    pub cache_write: u64,
    /// Prompt tokens that were read and written to a cache that lives for an hour.
    pub cache_write_1h: u64,
    /// Generated tokens, without reasoning.
    pub output: u64,
    /// Generated tokens of hidden reasoning.
    pub reasoning: u64,
    /// Tokens of the provider's total that it names nowhere else.
    pub unattributed: u64,
    /// Tokens of the caller's prediction that the answer has; part of the generated tokens.
    pub accepted_prediction: u64,
    /// Tokens of the caller's prediction that were tried and were wrong. A provider counts them among the generated
    /// tokens; the local engine does not.
    pub rejected_prediction: u64,
    /// Whether the backend counted them; `false` marks an estimate of ours.
    pub measured: bool,
    /// The provider's total, when it is not the sum of what the provider names.
    pub stated_total: Option<u64>,
    /// What the buckets consist of, where the provider says.
    pub modalities: Modalities,
}

/// Tokens by what they stand for. Each number is part of a bucket of [`Usage`], never beside it; text is the rest.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Modalities {
    /// Sound, of all prompt tokens.
    pub audio_input: u64,
    /// Pictures, of all prompt tokens.
    pub image_input: u64,
    /// Films, of all prompt tokens.
    pub video_input: u64,
    /// Sound, of the prompt tokens that a cache spared.
    pub audio_cached: u64,
    /// Pictures, of the prompt tokens that a cache spared.
    pub image_cached: u64,
    /// What the provider's own tools read, of all prompt tokens.
    pub tool_input: u64,
    /// Sound, of all generated tokens.
    pub audio_output: u64,
    /// Pictures, of all generated tokens.
    pub image_output: u64,
}

impl Usage {
    /// No tokens, not counted by anybody.
    pub const NONE: Self = Self {
        input: 0,
        cached_input: 0,
        cache_write: 0,
        cache_write_1h: 0,
        output: 0,
        reasoning: 0,
        unattributed: 0,
        accepted_prediction: 0,
        rejected_prediction: 0,
        measured: false,
        stated_total: None,
        modalities: Modalities {
            audio_input: 0,
            image_input: 0,
            video_input: 0,
            audio_cached: 0,
            image_cached: 0,
            tool_input: 0,
            audio_output: 0,
            image_output: 0,
        },
    };

    /// All prompt tokens.
    pub const fn prompt_tokens(&self) -> u64 {
        self.input
            .saturating_add(self.cached_input)
            .saturating_add(self.cache_write)
            .saturating_add(self.cache_write_1h)
    }

    /// All generated tokens.
    pub const fn completion_tokens(&self) -> u64 {
        self.output.saturating_add(self.reasoning)
    }

    /// All tokens.
    pub const fn total_tokens(&self) -> u64 {
        self.prompt_tokens().saturating_add(self.completion_tokens()).saturating_add(self.unattributed)
    }

    /// What is odd about the counts, in words for receipt and log.
    pub fn warning(&self) -> Option<String> {
        let total = self.stated_total?;
        let named = self.prompt_tokens().saturating_add(self.completion_tokens());
        Some(format!(
            "The backend states {total} tokens in total but names {named}; the rest is booked as unattributed and \
             charged like output."
        ))
    }

    /// Books what the provider's total holds beyond the buckets as unattributed, and notes a total that does not fit.
    pub(crate) fn check_total(mut self, total: Option<u64>) -> Self {
        let named = self.prompt_tokens().saturating_add(self.completion_tokens());
        if let Some(total) = total.filter(|total| *total != named) {
            self.unattributed = total.saturating_sub(named);
            self.stated_total = Some(total);
        }
        self
    }
}

//! Runs a model over batches of rows: the graph, its cache, and the sequences in it.

use nearfield_kernels::{KernelSet, KeyValueType, PAGE_POSITIONS, ThreadPool, UnsupportedKernels};
use nearfield_model::Model;

use crate::NUMERICS_VERSION;
use crate::cache::{Cache, CacheDomain, Guesses, PrefixCounters, PrefixFiles, Sequence};
use crate::compute::Compute;
use crate::error::EngineError;
use crate::graph::{Buffers, Graph};
use crate::recurrent::RecurrentState;
use crate::rope::RopeTable;
use crate::weights::Weights;

/// The two arithmetics of `docs/numerics.md`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Arithmetic {
    /// int8 activations for integer weights.
    #[default]
    Default,
    /// Every weight dequantized exactly, `f32` activations.
    Exact,
}

impl Arithmetic {
    /// The name that flags and receipts use.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Default => "default",
            Self::Exact => "exact",
        }
    }
}

/// How a [`Runner`] computes.
#[derive(Clone, Copy, Debug)]
pub struct RunnerOptions {
    /// Threads, the caller's included.
    pub threads: usize,
    /// Element type of cached keys and values.
    pub key_value_type: KeyValueType,
    /// Default or exact.
    pub arithmetic: Arithmetic,
    /// Kernel set; `None` takes the fastest.
    pub kernels: Option<KernelSet>,
    /// Positions of the cache, all sequences together.
    pub cache_positions: usize,
}

/// Consecutive tokens of one sequence, to be fed in one step.
#[derive(Debug)]
pub struct Chunk<'a> {
    /// Where they go; it grows by them.
    pub sequence: &'a mut Sequence,
    /// The tokens.
    pub tokens: &'a [u32],
    /// Which of their logits are wanted.
    pub logits: LogitsWanted,
}

impl Chunk<'_> {
    pub(crate) fn is_guessed(&self) -> bool {
        self.logits == LogitsWanted::Guessed
    }
}

/// Which rows of a chunk go through the output head.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum LogitsWanted {
    /// None: more of the prompt follows.
    None,
    /// The last row.
    Last,
    /// Every row.
    All,
    /// Every row; and the tokens may be taken back, all or the last of them: [`Runner::settle`] says how many stay before
    /// the sequence goes on.
    Guessed,
}

/// A token of which a draft head says what it expects to follow.
#[derive(Debug)]
pub struct DraftRow<'a> {
    /// The sequence that the token is to follow; it does not grow.
    pub sequence: &'a mut Sequence,
    /// The token.
    pub token: u32,
    /// How many tokens lie between the sequence's last and this one: 0, then 1 for a guess at what follows it, and so on.
    pub ahead: usize,
    /// The row of the call before for the token before this one; `None` where that is the sequence's last.
    pub previous: Option<usize>,
}

impl DraftRow<'_> {
    /// Where the token would stand.
    pub(crate) fn position(&self) -> usize {
        self.sequence.length() + self.ahead
    }
}

/// Logits of the rows that were asked for, in the order of chunks and rows.
#[derive(Clone, Copy, Debug)]
pub struct Logits<'a> {
    values: &'a [f32],
    vocabulary: usize,
}

impl<'a> Logits<'a> {
    /// Number of rows.
    pub fn rows(&self) -> usize {
        self.values.len() / self.vocabulary.max(1)
    }

    /// Logits of one row, by token id.
    pub fn row(&self, index: usize) -> &'a [f32] {
        &self.values[index * self.vocabulary..][..self.vocabulary]
    }
}

/// A model ready to compute.
pub struct Runner<'m> {
    model: &'m Model,
    graph: Graph<'m>,
    cache: Cache,
    /// Steps so far.
    steps: u64,
}

impl<'m> Runner<'m> {
    /// Prepares a model.
    ///
    /// # Errors
    /// When a tensor is missing or malformed, or the system refuses threads.
    pub fn new(model: &'m Model, options: &RunnerOptions) -> Result<Self, EngineError> {
        let set = match options.kernels {
            Some(set) if KernelSet::available().contains(&set) => set,
            Some(set) => return Err(UnsupportedKernels { wanted: set.name().to_owned() }.into()),
            None => KernelSet::detect()?,
        };
        let architecture = model.architecture();
        let pool = ThreadPool::new(options.threads)?;
        model.tensors().prepare(options.threads);
        model.release_pages();
        Ok(Self {
            model,
            graph: Graph {
                model,
                architecture,
                weights: Weights::new(model)?,
                compute: Compute::new(set, options.arithmetic, pool),
                ropes: architecture.rope.iter().map(RopeTable::new).collect(),
                buffers: Buffers::default(),
                follows: false,
            },
            cache: Cache::new(architecture, options.key_value_type, options.cache_positions)?,
            steps: 0,
        })
    }

    /// Copies the weights into memory of their own, laid out for the kernels; until then they are read where the model
    /// has mapped them. The results are the same. The mapped pages are given back. Returns the bytes taken.
    ///
    /// # Errors
    /// When the system has not the memory; the runner goes on with the mapped weights then.
    pub fn load_weights(&mut self) -> Result<usize, EngineError> {
        self.load(true)
    }

    /// As [`Runner::load_weights`], but routed experts stay mapped: the system is asked for those that a router has
    /// chosen before they are read.
    ///
    /// # Errors
    /// As there.
    pub fn load_common_weights(&mut self) -> Result<usize, EngineError> {
        self.load(false)
    }

    fn load(&mut self, experts: bool) -> Result<usize, EngineError> {
        let model = self.model;
        let Graph { weights, compute, .. } = &mut self.graph;
        Ok(weights.pack(compute.pool_mut(), experts, &mut || model.release_pages())?)
    }

    /// The kernel set in use.
    pub fn kernels(&self) -> KernelSet {
        self.graph.compute.set()
    }

    /// Reserves room for a sequence of up to `positions` tokens; `None` when the cache has not enough left.
    pub fn open(&mut self, positions: usize) -> Option<Sequence> {
        self.reserve(None, positions)
    }

    /// As [`Runner::open`], for a sequence that may share its blocks of 32 tokens within a domain.
    pub fn open_in(&mut self, domain: CacheDomain, positions: usize) -> Option<Sequence> {
        self.reserve(Some(domain), positions)
    }

    fn reserve(&mut self, domain: Option<CacheDomain>, positions: usize) -> Option<Sequence> {
        let mut sequence = self.cache.reserve(domain, positions)?;
        *sequence.state_mut() = RecurrentState::new(self.graph.architecture);
        Some(sequence)
    }

    /// Takes over what others of its domain have computed of the tokens that are to follow in a sequence, in whole
    /// blocks and without the last token, and says how many tokens that are. The sequence must be at the end of what it
    /// shares; elsewhere nothing is taken.
    pub fn resume(&mut self, sequence: &mut Sequence, following: &[u32]) -> usize {
        self.cache.resume(sequence, following)
    }

    /// Shares the whole blocks of a sequence with others of its domain. They cannot be truncated any more.
    pub fn share(&mut self, sequence: &mut Sequence) {
        self.cache.share(sequence);
    }

    /// Limits the bytes of shared blocks; without a limit they take what sequences leave of the cache.
    pub fn limit_shared(&mut self, bytes: u64) {
        self.cache.limit_shared(bytes);
    }

    /// Keeps the beginnings of closed sequences in files too, for later runners on the same model. To be called after
    /// [`Runner::follow_with_draft`].
    ///
    /// # Errors
    /// When the folder cannot be read or the system refuses a thread.
    pub fn keep_files(&mut self, files: &PrefixFiles) -> Result<(), EngineError> {
        let (arithmetic, follows) = (self.graph.compute.arithmetic().name(), self.graph.follows);
        let kind = self.cache.kind().name();
        let layout = format!("{NUMERICS_VERSION} {arithmetic} {kind} {PAGE_POSITIONS} {follows}");
        let opened = self.cache.keep_files(files, &layout);
        opened.map_err(|source| EngineError::PrefixFiles { folder: files.folder.clone(), source })
    }

    /// Limits the recurrent states that are kept for later sequences.
    pub(crate) fn limit_states(&mut self, states: usize) {
        self.cache.limit_states(states);
    }

    /// What has been shared.
    pub fn prefix_counters(&self) -> PrefixCounters {
        self.cache.counters()
    }

    /// Gives a sequence's room back.
    pub fn close(&mut self, sequence: Sequence) {
        self.cache.release(sequence);
    }

    /// Bytes of the buffers between operations, tables included.
    #[cfg(test)]
    pub(crate) fn buffer_bytes(&self) -> u64 {
        let tables: usize = self.graph.ropes.iter().map(RopeTable::bytes).sum();
        (4 * self.graph.buffers.floats() + tables) as u64
    }

    /// What computes and what is kept.
    #[cfg(test)]
    pub(crate) fn parts(&mut self) -> (&mut Graph<'m>, &mut Cache) {
        (&mut self.graph, &mut self.cache)
    }

    /// Positions of the cache that nobody has reserved.
    pub fn free_positions(&self) -> usize {
        self.cache.free_positions()
    }

    /// Feeds every chunk's tokens to its sequence, all in one pass over the weights.
    ///
    /// # Errors
    /// When a token is not in the vocabulary, a sequence has no room left, or it was cut without its recurrent state;
    /// nothing has changed then.
    pub fn step(&mut self, chunks: &mut [Chunk<'_>]) -> Result<Logits<'_>, EngineError> {
        self.check(chunks)?;
        for chunk in &mut *chunks {
            let length = chunk.sequence.length() + chunk.tokens.len();
            self.extend(chunk.sequence, length)?;
        }
        self.graph.run(&mut self.cache, chunks);
        self.steps += 1;
        for (index, chunk) in chunks.iter_mut().enumerate() {
            match self.graph.buffers.kept.first(index) {
                Some(first) => chunk.sequence.guess(chunk.tokens, Guesses { first, step: self.steps }),
                None => chunk.sequence.advance(chunk.tokens),
            }
        }
        Ok(self.logits())
    }

    /// Takes back what was fed as guesses in the last step from position `length` on. What stays counts as if it had been
    /// fed alone, recurrent state included. Without guesses it is [`Sequence::truncate`].
    ///
    /// # Errors
    /// When another step has been taken since: what the state needs is lost then.
    pub fn settle(&mut self, sequence: &mut Sequence, length: usize) -> Result<(), EngineError> {
        let Some(guesses) = sequence.guesses() else {
            sequence.truncate(length);
            return Ok(());
        };
        let before = sequence.state().position();
        if guesses.step != self.steps {
            return Err(EngineError::LostState { length: sequence.length() });
        }
        let length = length.clamp(before, sequence.length());
        // A block that has become whole is shared with the state at its end, as it would be without guesses.
        let whole = length / PAGE_POSITIONS * PAGE_POSITIONS;
        if whole > before && whole < length {
            let rest = sequence.take_off(whole);
            self.advance(sequence, guesses, whole - before, before);
            self.cache.share(sequence);
            sequence.put_back(rest);
        }
        let count = length - sequence.state().position();
        self.advance(sequence, guesses, count, before);
        sequence.settled(length);
        Ok(())
    }

    /// Moves a state on by kept rows.
    fn advance(&mut self, sequence: &mut Sequence, guesses: Guesses, count: usize, before: usize) {
        let done = sequence.state().position() - before;
        self.graph.settle(sequence, guesses.first + done, count);
        sequence.state_mut().advance(count);
    }

    /// Gives a sequence pages for its first positions.
    fn extend(&mut self, sequence: &mut Sequence, positions: usize) -> Result<(), EngineError> {
        // The cache keeps what it has promised. Were it wrong, the engine would stop.
        if self.cache.extend(sequence, positions) { Ok(()) } else { Err(EngineError::Stopped) }
    }

    fn logits(&self) -> Logits<'_> {
        Logits { values: &self.graph.buffers.logits, vocabulary: self.graph.architecture.vocabulary_size }
    }

    /// Whether the model has a head that foretells one token more.
    pub fn has_draft(&self) -> bool {
        self.graph.architecture.draft.is_some()
    }

    /// Whether the draft head is to follow what is fed, so that [`Runner::draft`] can be asked. It must be set before the
    /// first sequence is opened. Nothing changes where the model has no such head.
    pub fn follow_with_draft(&mut self, follows: bool) {
        self.graph.follows = follows && self.has_draft();
    }

    /// What the draft head expects after each row's token. Rows are of different sequences.
    ///
    /// # Errors
    /// When the head does not follow ([`Runner::follow_with_draft`]), nothing has been fed, the last step's guesses are
    /// not settled, a row goes on from one that there was not, a token is not in the vocabulary, or there is no room.
    pub fn draft(&mut self, rows: &mut [DraftRow<'_>]) -> Result<Logits<'_>, EngineError> {
        let known = self.graph.buffers.states.len() / self.graph.architecture.hidden_size.max(1);
        for row in &*rows {
            self.check_tokens(&[row.token])?;
            let (length, position) = (row.sequence.length(), row.position());
            let follows = self.graph.follows && length > 0 && row.sequence.state().fits(length);
            let previous = row.previous.map_or(row.ahead == 0, |row| row < known);
            if !follows || !previous || position >= row.sequence.capacity() {
                let (name, expected) = ("draft", "a draft head that follows, and a token after what was fed");
                return Err(EngineError::InvalidSetting { name, expected });
            }
        }
        for row in &mut *rows {
            let position = row.position();
            self.extend(row.sequence, position + 1)?;
        }
        if !rows.is_empty() {
            self.graph.draft(&mut self.cache, rows);
        }
        Ok(self.logits())
    }

    fn check_tokens(&self, tokens: &[u32]) -> Result<(), EngineError> {
        let vocabulary = self.graph.architecture.vocabulary_size;
        match tokens.iter().find(|token| **token as usize >= vocabulary) {
            Some(token) => Err(EngineError::UnknownToken { token: *token, vocabulary }),
            None => Ok(()),
        }
    }

    fn check(&self, chunks: &[Chunk<'_>]) -> Result<(), EngineError> {
        for chunk in chunks {
            self.check_tokens(chunk.tokens)?;
            let length = chunk.sequence.length();
            if length + chunk.tokens.len() > chunk.sequence.capacity() {
                return Err(EngineError::ContextOverflow {
                    prompt: length,
                    wanted: chunk.tokens.len(),
                    limit: chunk.sequence.capacity(),
                });
            }
            if !chunk.sequence.state().fits(length) {
                return Err(EngineError::LostState { length });
            }
        }
        Ok(())
    }
}

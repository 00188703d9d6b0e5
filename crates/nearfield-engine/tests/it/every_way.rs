//! The same bytes, always: one text's logits over all the ways in which an engine may come to compute it, on every family
//! and on a real model. Each way proves by a count that it happened.

use std::collections::BTreeSet;
use std::path::PathBuf;

use nearfield_engine::{
    CacheDomain, Chunk, DraftRow, KernelSet, LogitsWanted, PrefixFiles, Runner, RunnerOptions, Sequence,
    prefix_files,
};
use nearfield_model::Model;

use crate::same_bytes::models;
use crate::support::{ALL, Reference, likeliest, plain};

/// Tokens of the prompt, and of its greedy answer.
const PROMPT: usize = 64;
const ANSWER: usize = 32;
/// Most guesses at once.
const DEPTH: usize = 5;

/// What has happened on the way to a comparison.
#[derive(Debug, Default)]
struct Proof {
    most_rows: usize,
    most_pieces: usize,
    hit_tokens: u64,
    disk_tokens: u64,
    evicted_blocks: u64,
    drafts_right: usize,
    drafts_wrong: usize,
    /// Depths of drafts, and how many of each were right.
    drafts: BTreeSet<(usize, usize)>,
    states_compared: usize,
    heads_compared: usize,
    threads: BTreeSet<usize>,
    kernels: BTreeSet<&'static str>,
    runners: usize,
    /// Where weights were, and whether any of them were copied.
    places: BTreeSet<(&'static str, bool)>,
}

impl Proof {
    /// A runner whose weights are where those of the last three were not.
    fn runner<'m>(&mut self, case: &'m Case, options: &RunnerOptions) -> Runner<'m> {
        let mut runner = Runner::new(&case.model, options).unwrap();
        self.runners += 1;
        let (place, copied) = match self.runners % 3 {
            0 => ("mapped", 0),
            1 => ("memory", runner.load_weights().unwrap()),
            _ => ("experts mapped", runner.load_common_weights().unwrap()),
        };
        self.places.insert((place, copied > 0));
        runner.follow_with_draft(true);
        self.threads.insert(options.threads);
        self.kernels.insert(runner.kernels().name());
        runner
    }

    /// Takes over what a runner counted.
    fn count(&mut self, runner: &Runner<'_>) {
        let counters = runner.prefix_counters();
        self.hit_tokens += counters.hit_tokens;
        self.disk_tokens += counters.disk_tokens;
        self.evicted_blocks += counters.evicted_blocks;
    }

    fn check(&self, kernels: &BTreeSet<&'static str>, recurrent: bool) {
        let drafts = (1..=DEPTH).flat_map(|depth| (0..=depth).map(move |right| (depth, right)));
        assert!(drafts.clone().all(|draft| self.drafts.contains(&draft)), "{self:?}");
        assert_eq!(self.states_compared > 40, recurrent, "{self:?}");
        assert_eq!(self.heads_compared > 20, recurrent, "{self:?}");
        assert!(self.most_rows >= 32, "{self:?}");
        assert!(self.most_pieces > 1, "{self:?}");
        assert!(self.hit_tokens > 0 && self.disk_tokens > 0, "{self:?}");
        assert!(self.evicted_blocks > 0, "{self:?}");
        assert!(self.drafts_right > 0 && self.drafts_wrong > 0, "{self:?}");
        let places = [("experts mapped", true), ("mapped", false), ("memory", true)];
        assert_eq!(self.places, BTreeSet::from(places));
        assert_eq!(self.threads, BTreeSet::from([1, 2, 3]));
        assert_eq!(&self.kernels, kernels);
    }
}

/// A model, a text, and the logits after each of its tokens.
struct Case {
    what: String,
    model: Model,
    /// Too large to go every way with every number of threads.
    large: bool,
    text: Vec<u32>,
    logits: Vec<Vec<u32>>,
    /// What the draft head expects behind the text; none without a head.
    head: Vec<Vec<u32>>,
}

impl Case {
    /// Reads the prompt in one piece and answers token by token.
    fn new(what: String, model: Model, large: bool, prompt: &[u32], options: &RunnerOptions) -> Self {
        let (mut text, mut logits) = (Vec::new(), Vec::new());
        let mut runner = Runner::new(&model, options).unwrap();
        runner.follow_with_draft(true);
        let mut sequence = runner.open(PROMPT + ANSWER + 3).unwrap();
        let mut tokens = prompt[..PROMPT].to_vec();
        loop {
            let rows = feed(&mut runner, &mut sequence, &tokens);
            let next =
                likeliest(&rows.last().unwrap().iter().map(|bits| f32::from_bits(*bits)).collect::<Vec<_>>());
            text.append(&mut tokens);
            logits.extend(rows);
            if text.len() == PROMPT + ANSWER {
                break;
            }
            tokens.push(next);
        }
        let head = head_logits(&mut runner, &mut sequence);
        drop(runner);
        Self { what, model, large, text, logits, head }
    }

    /// Compares what the draft head expects behind the whole text.
    fn compare_head(&self, runner: &mut Runner<'_>, sequence: &mut Sequence, way: &str, proof: &mut Proof) {
        assert_eq!(sequence.tokens(), self.text, "{}: {way}", self.what);
        let got = head_logits(runner, sequence);
        assert!(got == self.head, "{}: {way}, the draft head", self.what);
        proof.heads_compared += got.len();
    }

    /// Compares logits of the text's tokens from `first` on.
    fn compare(&self, first: usize, got: &[Vec<u32>], way: &str, options: &RunnerOptions) {
        let kernels = options.kernels.map_or("fastest", KernelSet::name);
        let same = got == &self.logits[first..first + got.len()] && !got.is_empty();
        assert!(same, "{}: {way}, {kernels} on {} threads", self.what, options.threads);
    }
}

/// The bits of the logits after each token.
fn feed(runner: &mut Runner<'_>, sequence: &mut Sequence, tokens: &[u32]) -> Vec<Vec<u32>> {
    let mut chunk = [Chunk { sequence, tokens, logits: LogitsWanted::All }];
    let logits = runner.step(&mut chunk).unwrap();
    (0..logits.rows()).map(|row| bits(logits.row(row))).collect()
}

/// What a draft head expects behind a sequence and a token, and two tokens further on.
fn head_logits(runner: &mut Runner<'_>, sequence: &mut Sequence) -> Vec<Vec<u32>> {
    let places = if runner.has_draft() { 0..3 } else { 0..0 };
    let guess = |ahead: usize| {
        let (token, previous) = (7 + ahead as u32, (ahead > 0).then_some(0));
        let row = DraftRow { sequence: &mut *sequence, token, ahead, previous };
        bits(runner.draft(&mut [row]).unwrap().row(0))
    };
    places.map(guess).collect()
}

/// The bits of all recurrent states.
fn states(case: &Case, sequence: &Sequence) -> Vec<u32> {
    let layers = 0..case.model.architecture().layers.len();
    layers.flat_map(|layer| bits(sequence.recurrent_heads(layer))).collect()
}

fn bits(row: &[f32]) -> Vec<u32> {
    row.iter().map(|value| value.to_bits()).collect()
}

/// A way to the logits.
type Way = fn(&Case, &RunnerOptions, &mut Proof);

const WAYS: [Way; 7] = [whole, in_pieces, with_neighbours, cached, from_a_file, evicted, drafted];

fn whole(case: &Case, options: &RunnerOptions, proof: &mut Proof) {
    let mut runner = proof.runner(case, options);
    let mut sequence = runner.open(case.text.len() + 3).unwrap();
    let got = feed(&mut runner, &mut sequence, &case.text);
    case.compare_head(&mut runner, &mut sequence, "in one piece", proof);
    proof.most_rows = proof.most_rows.max(got.len());
    case.compare(0, &got, "in one piece", options);
}

fn in_pieces(case: &Case, options: &RunnerOptions, proof: &mut Proof) {
    let mut runner = proof.runner(case, options);
    for lengths in [&[1, 2, 3, 5, 8, 13, 31][..], &[33, 32, 7], &[5]] {
        let mut sequence = runner.open(case.text.len() + 3).unwrap();
        let (mut rest, mut got, mut pieces) = (&case.text[..], Vec::new(), 0);
        for length in lengths.iter().cycle() {
            let (piece, after) = rest.split_at(rest.len().min(*length));
            got.extend(feed(&mut runner, &mut sequence, piece));
            pieces += 1;
            rest = after;
            if rest.is_empty() {
                break;
            }
        }
        proof.most_pieces = proof.most_pieces.max(pieces);
        case.compare(0, &got, &format!("in pieces of {lengths:?}"), options);
        case.compare_head(&mut runner, &mut sequence, "in pieces", proof);
        runner.close(sequence);
    }
}

/// The prompt beside 31 others, then each token of the answer beside one of each of them.
fn with_neighbours(case: &Case, options: &RunnerOptions, proof: &mut Proof) {
    let mut runner = proof.runner(case, options);
    let mut own = runner.open(case.text.len()).unwrap();
    let mut others: Vec<Sequence> = (0..31).map(|_| runner.open(2 * ANSWER).unwrap()).collect();
    let mut got = Vec::new();
    for step in 0..=ANSWER {
        let fed = if step == 0 { 0..PROMPT } else { PROMPT + step - 1..PROMPT + step };
        let mut chunks = Vec::new();
        for (number, sequence) in others.iter_mut().enumerate() {
            // Texts of their own, which begin at different times.
            let at = (number * 7 + step) % (case.text.len() - 2);
            chunks.push(Chunk {
                sequence,
                tokens: &case.text[at..=at + (number + step) % 2],
                logits: LogitsWanted::Last,
            });
        }
        let tokens = &case.text[fed];
        chunks.insert(step % 32, Chunk { sequence: &mut own, tokens, logits: LogitsWanted::All });
        let rows = chunks.iter().map(|chunk| chunk.tokens.len()).sum();
        proof.most_rows = proof.most_rows.max(rows);
        let logits = runner.step(&mut chunks).unwrap();
        // Every other one has one row of logits.
        got.extend((0..tokens.len()).map(|row| bits(logits.row(step % 32 + row))));
    }
    case.compare(0, &got, "with 31 neighbours", options);
}

/// A prompt that was read before, and a conversation that is continued.
fn cached(case: &Case, options: &RunnerOptions, proof: &mut Proof) {
    let mut runner = proof.runner(case, options);
    let domain = CacheDomain::new("here");
    first_turn(case, &mut runner, &domain);
    for (way, text) in [("prompt cached", &case.text[..PROMPT]), ("conversation continued", &case.text[..])] {
        let mut sequence = runner.open_in(domain.clone(), case.text.len() + 3).unwrap();
        let taken = runner.resume(&mut sequence, text);
        assert_eq!(taken, (text.len() - 1) / 32 * 32, "{}: {way}", case.what);
        let got = feed(&mut runner, &mut sequence, &text[taken..]);
        case.compare(taken, &got, way, options);
        if text.len() == case.text.len() {
            case.compare_head(&mut runner, &mut sequence, way, proof);
        }
        runner.close(sequence);
    }
    // In another domain the same tokens are all computed.
    let mut other = runner.open_in(CacheDomain::new("there"), case.text.len()).unwrap();
    assert_eq!(runner.resume(&mut other, &case.text), 0);
    proof.count(&runner);
}

/// A first turn: the prompt, as far as it is whole blocks, then the answer, in steps that end with blocks.
fn first_turn(case: &Case, runner: &mut Runner<'_>, domain: &CacheDomain) {
    let mut first = runner.open_in(domain.clone(), case.text.len()).unwrap();
    assert_eq!(runner.resume(&mut first, &case.text[..PROMPT]), 0);
    for piece in case.text[..case.text.len() - 1].chunks(32) {
        feed(runner, &mut first, piece);
        runner.share(&mut first);
    }
    runner.close(first);
}

/// What another process would have computed, read from its files.
fn from_a_file(case: &Case, options: &RunnerOptions, proof: &mut Proof) {
    let folder = tempfile::tempdir().unwrap();
    let files =
        PrefixFiles { folder: folder.path().to_owned(), bytes: 1 << 30, least: 32, model: case.what.clone() };
    let domain = CacheDomain::new("here");
    let mut before = proof.runner(case, options);
    before.keep_files(&files).unwrap();
    first_turn(case, &mut before, &domain);
    drop(before);
    assert_eq!(prefix_files(folder.path()).unwrap().len(), 1, "{}", case.what);
    let mut runner = proof.runner(case, options);
    runner.keep_files(&files).unwrap();
    for (place, found) in [("there", 0), ("here", PROMPT)] {
        let mut sequence = runner.open_in(CacheDomain::new(place), case.text.len() + 3).unwrap();
        assert_eq!(runner.resume(&mut sequence, &case.text), found, "{}", case.what);
        let got = feed(&mut runner, &mut sequence, &case.text[found..]);
        case.compare(found, &got, "from a file", options);
        case.compare_head(&mut runner, &mut sequence, "from a file", proof);
        runner.close(sequence);
    }
    proof.count(&runner);
}

/// What was cached goes for another text, and is read in again.
fn evicted(case: &Case, options: &RunnerOptions, proof: &mut Proof) {
    let options = RunnerOptions { cache_positions: case.text.len().next_multiple_of(32), ..*options };
    let mut runner = proof.runner(case, &options);
    let other: Vec<u32> = case.text.iter().rev().copied().collect();
    let evicted_before = proof.evicted_blocks;
    for text in [&case.text, &other, &case.text] {
        let mut sequence = runner.open_in(CacheDomain::default(), text.len()).unwrap();
        assert_eq!(runner.resume(&mut sequence, text), 0, "{}: nothing is left of it", case.what);
        let got = feed(&mut runner, &mut sequence, text);
        runner.share(&mut sequence);
        if text == &case.text {
            case.compare(0, &got, "evicted and read again", &options);
        }
        runner.close(sequence);
    }
    proof.count(&runner);
    assert!(proof.evicted_blocks >= evicted_before + 6, "{proof:?}");
}

/// Guesses of every depth, of which every number is right; what was fed beyond them is taken back. Beside it a sequence
/// that never guesses has the recurrent states that are to be.
fn drafted(case: &Case, options: &RunnerOptions, proof: &mut Proof) {
    let mut runner = proof.runner(case, options);
    let mut plain = runner.open(case.text.len()).unwrap();
    feed(&mut runner, &mut plain, &case.text[..PROMPT]);
    let recurrent = !states(case, &plain).is_empty();
    // The depths take turns with the threads.
    let depths = (1..=DEPTH).filter(|depth| case.large || depth % 3 == options.threads % 3);
    let mut drafts = depths.flat_map(|depth| (0..=depth).map(move |right| (depth, right))).peekable();
    while drafts.peek().is_some() {
        let mut sequence = runner.open_in(CacheDomain::new(&case.what), case.text.len() + DEPTH + 3).unwrap();
        let mut got = feed(&mut runner, &mut sequence, &case.text[..PROMPT]);
        let before = plain.snapshot();
        while got.len() < case.text.len() {
            let at = got.len();
            let left = case.text.len() - at - 1;
            let next = drafts.next_if(|(_, right)| *right <= left);
            let (depth, right) = next.unwrap_or((DEPTH, left.min(DEPTH)));
            let mut fed = case.text[at..=at + right].to_vec();
            fed.extend((right..depth).map(|place| (case.text[at] + 1 + place as u32) % 100));
            // The right token may come by chance where it should not.
            if let (Some(wrong), Some(token)) = (fed.get_mut(right + 1), case.text.get(at + right + 1)) {
                *wrong = if wrong == token { (*token + 1) % 100 } else { *wrong };
            }
            head_logits(&mut runner, &mut sequence);
            let tokens = &fed[..];
            let mut chunk = [Chunk { sequence: &mut sequence, tokens, logits: LogitsWanted::Guessed }];
            let logits = runner.step(&mut chunk).unwrap();
            got.extend((0..=right).map(|row| bits(logits.row(row))));
            runner.settle(&mut sequence, at + right + 1).unwrap();
            proof.drafts_right += right;
            proof.drafts_wrong += depth - right;
            proof.drafts.insert((depth, right));
            if recurrent {
                for token in &case.text[at..=at + right] {
                    feed(&mut runner, &mut plain, &[*token]);
                }
            }
            let wanted = states(case, &plain);
            assert!(states(case, &sequence) == wanted, "{}: states, {right} of {depth} right", case.what);
            proof.states_compared += usize::from(recurrent);
        }
        case.compare(0, &got, "with drafts right and wrong", options);
        case.compare_head(&mut runner, &mut sequence, "with drafts right and wrong", proof);
        assert!(plain.restore(&before));
        runner.close(sequence);
    }
}

/// All ways on the fastest kernels with one, two and three threads; the prompt whole and in pieces on all others.
fn check(case: &Case, proof: &mut Proof) {
    let options = RunnerOptions { cache_positions: 4_096, ..plain() };
    let fastest = KernelSet::detect().unwrap();
    for threads in 1..=3 {
        // The ways take turns with the threads where the model is a large one.
        let ways = WAYS.iter().enumerate().filter(|(number, _)| !case.large || number % 3 + 1 == threads);
        for (_, way) in ways {
            way(case, &RunnerOptions { kernels: Some(fastest), threads, ..options }, proof);
        }
    }
    for set in KernelSet::available().into_iter().filter(|set| *set != fastest) {
        let options = RunnerOptions { kernels: Some(set), threads: 2, ..options };
        whole(case, &options, proof);
        if set != KernelSet::Scalar {
            in_pieces(case, &options, proof);
        }
    }
}

fn all_kernels() -> BTreeSet<&'static str> {
    KernelSet::available().into_iter().map(KernelSet::name).collect()
}

#[test]
fn every_way_gives_the_same_bytes_on_every_family() {
    for name in ALL {
        let mut proof = Proof::default();
        let prompt = Reference::of(name).tokens("c.input_ids");
        for (what, model) in models(name) {
            let case = Case::new(what, model, false, &prompt, &plain());
            check(&case, &mut proof);
        }
        proof.check(&all_kernels(), name.starts_with("qwen3_5"));
    }
}

#[test]
fn every_way_gives_the_same_bytes_on_a_real_model() {
    let Some(path) = std::env::var_os("NEARFIELD_TEST_MODELS")
        .map(|folder| PathBuf::from(folder).join("smollm2-135m.gguf"))
        .filter(|path| path.exists())
    else {
        assert!(std::env::var_os("CI").is_none(), "NEARFIELD_TEST_MODELS has no smollm2-135m.gguf");
        eprintln!("skipped: NEARFIELD_TEST_MODELS does not name a folder with smollm2-135m.gguf");
        return;
    };
    let model = Model::open(&path).unwrap();
    let prompt: Vec<u32> = (0..PROMPT as u32).map(|i| 1_000 + 37 * i * i % 9_000).collect();
    let options = RunnerOptions { kernels: None, threads: 2, ..plain() };
    let case = Case::new("smollm2:135m".to_owned(), model, true, &prompt, &options);
    let mut proof = Proof::default();
    check(&case, &mut proof);
    proof.check(&all_kernels(), false);
}

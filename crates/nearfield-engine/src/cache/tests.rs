use std::path::Path;

use nearfield_model::Model;

use super::*;

const PAGE: usize = PAGE_POSITIONS;

fn cache(pages: usize) -> Cache {
    let model = Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama")).unwrap();
    Cache::new(model.architecture(), KeyValueType::F16, pages * PAGE).unwrap()
}

fn tokens(count: usize, seed: u32) -> Vec<u32> {
    (0..count as u32).map(|i| i * 7 + seed).collect()
}

/// A sequence that holds these tokens, taken over or as if they had been computed; and how many were taken over.
fn read(cache: &mut Cache, domain: &str, tokens: &[u32], reserved: usize) -> Option<(Sequence, usize)> {
    let mut sequence = cache.reserve(Some(CacheDomain::new(domain)), reserved * PAGE)?;
    let taken = cache.resume(&mut sequence, tokens);
    assert_eq!(sequence.tokens(), &tokens[..taken]);
    assert!(cache.extend(&mut sequence, tokens.len()));
    sequence.advance(&tokens[taken..]);
    cache.share(&mut sequence);
    Some((sequence, taken))
}

#[test]
fn whole_blocks_are_taken_over_and_never_the_last_token() {
    let mut cache = cache(16);
    let text = tokens(3 * PAGE, 0);
    let (first, taken) = read(&mut cache, "a", &text, 4).unwrap();
    assert_eq!((taken, cache.tree.len()), (0, 3));
    let (second, taken) = read(&mut cache, "a", &text, 4).unwrap();
    assert_eq!(taken, 2 * PAGE, "the last token has to be computed, so its block is too");
    assert_eq!(second.pages(), first.pages(), "what was computed twice is kept once");
    let longer = [&text[..], &[1]].concat();
    assert_eq!(read(&mut cache, "a", &longer, 4).unwrap().1, 3 * PAGE);
    let other = [&text[..PAGE], &[9; PAGE + 1][..]].concat();
    assert_eq!(read(&mut cache, "a", &other, 4).unwrap().1, PAGE, "as far as they agree");
    assert_eq!(cache.counters().hit_tokens, 6 * PAGE as u64);
}

#[test]
fn another_domain_finds_nothing() {
    let mut cache = cache(16);
    let text = tokens(3 * PAGE + 1, 0);
    let (one, _) = read(&mut cache, "a", &text, 4).unwrap();
    let (two, taken) = read(&mut cache, "b", &text, 4).unwrap();
    assert_eq!((taken, cache.counters().hit_tokens), (0, 0));
    assert!(one.pages().iter().all(|page| !two.pages().contains(page)));
    // Without a domain nothing is shared.
    let mut alone = cache.reserve(None, PAGE).unwrap();
    assert_eq!(cache.resume(&mut alone, &text), 0);
    assert!(cache.extend(&mut alone, PAGE));
    alone.advance(&text[..PAGE]);
    cache.share(&mut alone);
    assert_eq!((alone.shared, cache.tree.len()), (0, 6));
}

#[test]
fn blocks_stay_until_their_room_is_needed() {
    let mut cache = cache(8);
    let (old, new) = (tokens(2 * PAGE + 1, 0), tokens(2 * PAGE + 1, 1));
    for text in [&old, &new] {
        let (sequence, _) = read(&mut cache, "", text, 4).unwrap();
        cache.release(sequence);
    }
    assert_eq!((cache.free_positions(), cache.free.len(), cache.tree.len()), (8 * PAGE, 4, 4));
    // A reservation alone takes nothing away.
    let mut large = cache.reserve(None, 7 * PAGE).unwrap();
    assert_eq!((cache.free_positions(), cache.counters().evicted_blocks), (PAGE, 0));
    assert!(cache.extend(&mut large, 6 * PAGE));
    assert_eq!(cache.counters().evicted_blocks, 2, "the older ones");
    cache.release(large);
    assert_eq!(read(&mut cache, "", &new, 4).unwrap().1, 2 * PAGE);
    assert_eq!(read(&mut cache, "", &old, 4).unwrap().1, 0);
}

#[test]
fn what_is_reserved_is_there_however_full_the_cache_is() {
    let mut cache = cache(8);
    let text = tokens(4 * PAGE, 0);
    let mut running: Vec<Sequence> = Vec::new();
    // A fixed sequence of draws stands for callers that come and go.
    let mut state = 1_u64;
    let mut draw = |below: usize| {
        state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1_442_695_040_888_963_407);
        (state >> 33) as usize % below
    };
    let (mut refused, mut read_in) = (0, 0);
    for _ in 0..3_000 {
        let mut own = text[..=draw(4 * PAGE - 1)].to_vec();
        let place = draw(own.len());
        own[place] += draw(2) as u32;
        match read(&mut cache, ["a", "b"][draw(2)], &own, 1 + own.len() / PAGE) {
            Some((sequence, _)) => running.push(sequence),
            None => refused += 1,
        }
        read_in += 1;
        while running.len() > 1 + draw(4) {
            let gone = running.swap_remove(draw(running.len()));
            cache.release(gone);
        }
        let used: std::collections::HashSet<u32> =
            running.iter().flat_map(Sequence::pages).copied().collect();
        assert!(cache.free.iter().all(|page| !used.contains(page)));
        assert!(cache.free.len() + cache.tree.len().max(used.len()) <= 8);
    }
    assert!(refused > 100 && refused < read_in / 2, "{refused}");
    let counters = cache.counters();
    assert!(counters.evicted_blocks > 100 && counters.hit_tokens > 1000, "{counters:?}");
    for sequence in running {
        cache.release(sequence);
    }
    assert_eq!((cache.free_positions(), cache.free.len() + cache.tree.len()), (8 * PAGE, 8));
}

#[test]
fn a_budget_keeps_idle_blocks_few() {
    let mut cache = cache(16);
    let page: u64 = cache.layers.iter().map(|layer| layer.layout.page_bytes() as u64).sum();
    cache.limit_shared(2 * page + page / 2);
    let text = tokens(4 * PAGE + 1, 0);
    let (sequence, _) = read(&mut cache, "", &text, 5).unwrap();
    assert_eq!(cache.tree.len(), 4, "in use");
    cache.release(sequence);
    assert_eq!((cache.tree.len(), cache.free.len()), (2, 14));
    let (sequence, taken) = read(&mut cache, "", &text, 5).unwrap();
    assert_eq!(taken, 2 * PAGE, "what is left is the beginning");
    cache.release(sequence);
    cache.limit_shared(0);
    assert_eq!((cache.tree.len(), cache.free.len()), (0, 16));
}

#[test]
fn what_is_shared_cannot_be_truncated() {
    let mut cache = cache(8);
    let text = tokens(2 * PAGE + 9, 0);
    let (mut sequence, _) = read(&mut cache, "", &text, 4).unwrap();
    sequence.truncate(2 * PAGE + 3);
    assert_eq!(sequence.length(), 2 * PAGE + 3);
    sequence.truncate(5);
    assert_eq!(sequence.length(), 2 * PAGE);
    assert_eq!(sequence.capacity(), 4 * PAGE);
}

//! Routed experts: each token goes through the few that a router chooses. Tokens are grouped by expert, so that an
//! expert's weights are read once a step, and those of experts that nobody chose are not read at all.

use nearfield_kernels::{Chosen, WeightMatrix, add_scaled, choose_experts};
use nearfield_model::Experts;

use super::Step;
use crate::compute::{Group, fit};
use crate::shared::SharedSlice;
use crate::weights::ExpertWeights;

/// Intermediate results of experts. A pair is one token at one of its experts.
#[derive(Default)]
pub(super) struct Buffers {
    input: Vec<f32>,
    scores: Vec<f32>,
    /// Inputs of all pairs, those of an expert together.
    gathered: Vec<f32>,
    gate: Vec<f32>,
    up: Vec<f32>,
    outputs: Vec<f32>,
    /// The experts' weighted sum `[rows][hidden]`.
    pub(super) sum: Vec<f32>,
}

impl Buffers {
    #[cfg(test)]
    pub(super) fn floats(&self) -> usize {
        let Self { input, scores, gathered, gate, up, outputs, sum } = self;
        [input, scores, gathered, gate, up, outputs, sum].iter().map(|buffer| buffer.capacity()).sum()
    }
}

/// A token at one of its experts.
#[derive(Clone, Copy)]
struct Pair {
    expert: usize,
    row: usize,
    weight: f32,
}

impl Step<'_> {
    /// Leaves the weighted sum of every row's experts in the experts' buffers.
    pub(super) fn routed(&mut self, shape: &Experts, weights: &ExpertWeights<'_>) {
        let hidden = self.architecture.hidden_size;
        let pairs = self.choose(shape, weights);
        let groups = groups_of(&pairs);
        // Those that stayed in the file are asked for all at once, long before the last is used.
        let chosen = groups.iter().flat_map(|group| &weights.matrices[group.expert]);
        chosen.flat_map(WeightMatrix::file_parts).for_each(|bytes| self.model.will_need(bytes));
        let super::Buffers { normed, stream, experts, .. } = &mut *self.buffers;
        let count = normed.len() / hidden;
        let Buffers { input, gathered, gate, up, outputs, sum, .. } = experts;
        let source: &[f32] = match &weights.norm {
            Some(norm) => {
                self.compute.norm(stream, norm, self.architecture.norm_epsilon, input);
                input
            }
            None => normed,
        };
        fit(gathered, pairs.len() * hidden);
        for (place, pair) in gathered.chunks_exact_mut(hidden).zip(&pairs) {
            place.copy_from_slice(&source[pair.row * hidden..][..hidden]);
        }
        let groups = &groups;
        let matrix = |part: usize| {
            groups.iter().map(move |group| Group {
                matrix: &weights.matrices[group.expert][part],
                first: group.first,
                count: group.count,
            })
        };
        fit(gate, pairs.len() * shape.size);
        fit(up, pairs.len() * shape.size);
        fit(outputs, pairs.len() * hidden);
        self.compute.grouped_products(
            gathered,
            hidden,
            &mut [(matrix(0).collect(), gate), (matrix(1).collect(), up)],
        );
        self.compute.activate(self.architecture.activation, gate, up, shape.size);
        self.compute.grouped_products(gate, shape.size, &mut [(matrix(2).collect(), outputs)]);
        fit(sum, count * hidden);
        let set = self.compute.set();
        let (outputs, total) = (&*outputs, SharedSlice::new(sum));
        let mut of_row: Vec<Vec<usize>> = vec![Vec::new(); count];
        for (number, pair) in pairs.iter().enumerate() {
            of_row[pair.row].push(number);
        }
        self.compute.rows(count, &|row| {
            // SAFETY: each row is visited once.
            let total = unsafe { total.get(row * hidden, hidden) };
            total.fill(0.0);
            // Pairs are in ascending order of experts.
            for number in &of_row[row] {
                add_scaled(set, total, &outputs[number * hidden..][..hidden], pairs[*number].weight);
            }
        });
    }

    /// Every row's experts, ordered by expert and then by row.
    fn choose(&mut self, shape: &Experts, weights: &ExpertWeights<'_>) -> Vec<Pair> {
        let hidden = self.architecture.hidden_size;
        let super::Buffers { normed, stream, experts, .. } = &mut *self.buffers;
        let Buffers { input, scores, .. } = experts;
        let count = normed.len() / hidden;
        let source: &[f32] = match &weights.router_norm {
            Some(norm) => {
                self.compute.norm(stream, norm, self.architecture.norm_epsilon, input);
                input
            }
            None => normed,
        };
        fit(scores, count * shape.count);
        self.compute.products(source, hidden, &mut [(&weights.router, scores)]);
        let set = self.compute.set();
        let mut pairs = Vec::with_capacity(count * shape.used);
        let mut chosen: Vec<Chosen> = Vec::with_capacity(shape.used);
        for (row, scores) in scores.chunks_exact(shape.count).enumerate() {
            choose_experts(set, scores, shape.used, &mut chosen);
            pairs.extend(chosen.iter().map(|chosen| {
                let scale = weights.scale.as_ref().map_or(1.0, |scale| scale[chosen.expert]);
                Pair { expert: chosen.expert, row, weight: chosen.weight * scale }
            }));
        }
        pairs.sort_by_key(|pair| (pair.expert, pair.row));
        pairs
    }
}

/// The pairs of one expert.
struct ExpertGroup {
    expert: usize,
    first: usize,
    count: usize,
}

fn groups_of(pairs: &[Pair]) -> Vec<ExpertGroup> {
    let mut first = 0;
    pairs
        .chunk_by(|one, other| one.expert == other.expert)
        .map(|pairs| {
            first += pairs.len();
            ExpertGroup { expert: pairs[0].expert, first: first - pairs.len(), count: pairs.len() }
        })
        .collect()
}

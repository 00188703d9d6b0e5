//! Softmax attention: projections, norms and rotations of heads, the cache, gates.

use nearfield_kernels::{AttentionSettings, times_sigmoid};
use nearfield_model::Attention;

use super::{Buffers, Rows, Step};
use crate::cache::Cache;
use crate::compute::{fit, store};
use crate::runner::Chunk;
use crate::shared::SharedSlice;
use crate::weights::AttentionWeights;

impl Step<'_> {
    /// From the normed input to the branch.
    pub(super) fn attention(
        &mut self,
        index: usize,
        shape: &Attention,
        weights: &AttentionWeights<'_>,
        cache: &mut Cache,
        chunks: &[Chunk<'_>],
        rows: &Rows,
    ) {
        let (hidden, epsilon) = (self.architecture.hidden_size, self.architecture.norm_epsilon);
        let count = rows.count();
        self.project(shape, weights, count);
        let Buffers { query, key, value, attended, branch, projected, .. } = &mut *self.buffers;
        self.compute.prepare_heads(
            query,
            key,
            value,
            weights,
            shape,
            epsilon,
            &self.ropes[shape.rope],
            &rows.places,
        );
        if shape.shares.is_none() {
            store(cache, index, shape, key, value, chunks, &rows.places);
        }
        fit(attended, count * shape.width());
        let settings = AttentionSettings {
            scale: shape.scale,
            window: shape.window,
            soft_cap: self.architecture.attention_logit_softcap,
        };
        let source = shape.shares.unwrap_or(index);
        let hides_first = self.hides_first;
        self.compute.attend(
            cache,
            source,
            shape,
            &settings,
            hides_first,
            query,
            attended,
            chunks,
            &rows.spans,
        );
        if shape.gated {
            let (set, width) = (self.compute.set(), shape.width());
            let out = SharedSlice::new(attended);
            self.compute.rows(count, &|row| {
                for head in 0..shape.heads {
                    // SAFETY: each head of each row is visited once.
                    let out = unsafe { out.get(row * width + head * shape.head_size, shape.head_size) };
                    let gates = (row * shape.heads + head) * 2 * shape.head_size + shape.head_size;
                    times_sigmoid(set, out, &projected[gates..][..shape.head_size]);
                }
            });
        }
        fit(branch, count * hidden);
        self.compute.products(attended, shape.width(), &mut [(&weights.output, branch)]);
    }

    /// Queries, keys and values as they come from the projections. Where heads have gates, these stay in `projected`,
    /// each head's after its queries.
    fn project(&mut self, shape: &Attention, weights: &AttentionWeights<'_>, count: usize) {
        let Buffers { normed, projected, query, key, value, .. } = &mut *self.buffers;
        let width = shape.key_value_width();
        fit(if shape.gated { &mut *projected } else { &mut *query }, count * shape.query_rows());
        fit(key, if weights.key.is_some() { count * width } else { 0 });
        fit(value, if weights.key.is_some() { count * width } else { 0 });
        let mut list = vec![(&weights.query, if shape.gated { &mut *projected } else { &mut *query })];
        if let Some(matrix) = &weights.key {
            list.push((matrix, &mut *key));
        }
        if let Some(matrix) = &weights.value {
            list.push((matrix, &mut *value));
        }
        self.compute.products(normed, self.architecture.hidden_size, &mut list);
        if shape.values_are_keys {
            value.copy_from_slice(key);
        }
        if shape.gated {
            fit(query, count * shape.width());
            let heads = projected.chunks_exact(2 * shape.head_size);
            for (query, head) in query.chunks_exact_mut(shape.head_size).zip(heads) {
                query.copy_from_slice(&head[..shape.head_size]);
            }
        }
    }
}

//! Feed-forward blocks: a dense one, with routed experts beside it where the model has them.

use nearfield_kernels::{add_scaled, sigmoid, vector};
use nearfield_model::FeedForward;

use super::{Buffers, Step};
use crate::compute::fit;
use crate::shared::SharedSlice;
use crate::weights::{ExpertWeights, FeedForwardWeights};

impl Step<'_> {
    /// From the normed input (and the stream, which some routers read) to the branch.
    pub(super) fn feed_forward(&mut self, shape: &FeedForward, weights: &FeedForwardWeights<'_>) {
        self.dense(weights);
        if let (Some(shape), Some(weights)) = (&shape.experts, &weights.experts) {
            self.routed(shape, weights);
            self.join(weights);
        }
    }

    fn dense(&mut self, weights: &FeedForwardWeights<'_>) {
        let hidden = self.architecture.hidden_size;
        let Buffers { normed, branch, gate, up, .. } = &mut *self.buffers;
        let count = normed.len() / hidden;
        fit(gate, count * weights.gate.rows());
        fit(up, count * weights.up.rows());
        fit(branch, count * hidden);
        self.compute.products(normed, hidden, &mut [(&weights.gate, gate), (&weights.up, up)]);
        self.compute.activate(self.architecture.activation, gate, up, weights.gate.rows());
        self.compute.products(gate, weights.gate.rows(), &mut [(&weights.down, branch)]);
    }

    /// Adds the dense part, which is in the branch, and the experts' sum. A shared expert is added to the sum with its
    /// gate; parts with norms of their own are normed first.
    fn join(&mut self, weights: &ExpertWeights<'_>) {
        let (hidden, epsilon) = (self.architecture.hidden_size, self.architecture.norm_epsilon);
        let Buffers { normed, branch, gate, experts, .. } = &mut *self.buffers;
        let count = branch.len() / hidden;
        if let Some(matrix) = &weights.shared_gate {
            fit(gate, count);
            self.compute.products(normed, hidden, &mut [(matrix, gate)]);
        }
        let set = self.compute.set();
        let gate = &*gate;
        let (dense, sum) = (SharedSlice::new(branch), SharedSlice::new(&mut experts.sum));
        self.compute.rows(count, &|row| {
            // SAFETY: each row is visited once.
            let (dense, sum) = unsafe { (dense.get(row * hidden, hidden), sum.get(row * hidden, hidden)) };
            if let Some(norm) = &weights.post_dense_norm {
                vector::rms_norm_in_place(set, dense, norm, epsilon);
            }
            if let Some(norm) = &weights.post_norm {
                vector::rms_norm_in_place(set, sum, norm, epsilon);
            }
            if weights.shared_gate.is_some() {
                add_scaled(set, sum, dense, sigmoid(gate[row]));
                dense.copy_from_slice(sum);
            } else {
                vector::add(set, dense, sum);
            }
        });
    }
}

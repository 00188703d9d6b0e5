//! Moving a model's matrices from its mapped file into panels.

use nearfield_kernels::{ThreadPool, WeightMatrix, pack};

use super::{
    AttentionWeights, DeltaNetWeights, ExpertWeights, FeedForwardWeights, LayerWeights, MixerWeights,
    PerLayerInputs, Weights,
};

impl Weights<'_> {
    /// Moves every matrix that can lie in panels into them, with all threads of `pool`, but for the embeddings of single
    /// layers, of which a step reads a row, and routed experts unless `experts` says so. `between` is called every few
    /// megabytes. Returns the bytes taken.
    pub(crate) fn pack(
        &mut self,
        pool: &mut ThreadPool,
        experts: bool,
        between: &mut dyn FnMut(),
    ) -> std::io::Result<usize> {
        let Self { embedding, per_layer, head, output_norm: _, layers, draft } = self;
        let mut matrices = vec![embedding, head];
        if let Some(PerLayerInputs { embedding: _, projection, norm: _ }) = per_layer {
            matrices.push(projection);
        }
        for layer in layers {
            add_layer(layer, experts, &mut matrices);
        }
        if let Some(draft) = draft {
            matrices.push(&mut draft.input);
            add_layer(&mut draft.layer, experts, &mut matrices);
        }
        pack(&mut matrices, pool, between)
    }
}

fn add_layer<'a, 'm>(
    layer: &'a mut LayerWeights<'m>,
    with_experts: bool,
    to: &mut Vec<&'a mut WeightMatrix<'m>>,
) {
    let LayerWeights { mixer, feed_forward, per_layer, .. } = layer;
    match mixer {
        MixerWeights::Attention(AttentionWeights { query, key, value, output, .. }) => {
            to.extend([query, output]);
            to.extend(key.iter_mut().chain(value));
        }
        MixerWeights::DeltaNet(DeltaNetWeights { input, gate, strength, decay, output, .. }) => {
            to.extend([input, gate, strength, decay, output]);
        }
    }
    let FeedForwardWeights { gate, up, down, experts } = feed_forward;
    to.extend([gate, up, down]);
    if let Some(ExpertWeights { router, shared_gate, matrices, .. }) = experts {
        to.push(router);
        to.extend(shared_gate);
        if with_experts {
            to.extend(matrices.iter_mut().flatten());
        }
    }
    if let Some(per_layer) = per_layer {
        to.extend([&mut per_layer.gate, &mut per_layer.output]);
    }
}

//! The recurrent state of a sequence: what delta networks keep of all earlier tokens.

use nearfield_model::Architecture;

/// The state of all recurrent layers after the tokens of a sequence so far. Empty for models that have none.
#[derive(Clone, Debug, Default)]
pub(crate) struct RecurrentState {
    /// One for each layer of the model; empty where the layer is no delta network.
    layers: Vec<LayerState>,
    /// Tokens that it has seen.
    position: usize,
    /// The model's state after its output norm and the last of them, from which a draft head goes on; zeros before the
    /// first, and where the head does not follow. Empty without a head.
    output: Vec<f32>,
}

/// The state of one layer.
#[derive(Clone, Debug, Default)]
pub(crate) struct LayerState {
    /// `[value_heads][key_size][value_size]`.
    pub(crate) heads: Vec<f32>,
    /// The last inputs of the convolution, `[kernel - 1][channels]`, the oldest first.
    pub(crate) inputs: Vec<f32>,
}

impl RecurrentState {
    /// The state before the first token: zero.
    pub(crate) fn new(architecture: &Architecture) -> Self {
        if !is_recurrent(architecture) {
            return Self::default();
        }
        let layers = architecture.layers.iter().map(|layer| match layer.delta_net() {
            Some(delta) => LayerState {
                heads: vec![0.0; delta.value_heads * delta.key_size * delta.value_size],
                inputs: vec![0.0; (delta.kernel - 1) * delta.channels()],
            },
            None => LayerState::default(),
        });
        let output = vec![0.0; architecture.draft.as_ref().map_or(0, |_| architecture.hidden_size)];
        Self { layers: layers.collect(), position: 0, output }
    }

    /// Tokens that it has seen.
    pub(crate) fn position(&self) -> usize {
        self.position
    }

    /// The model's last state after its output norm.
    pub(crate) fn output(&self) -> &[f32] {
        &self.output
    }

    pub(crate) fn output_mut(&mut self) -> &mut [f32] {
        &mut self.output
    }

    /// Whether it can go on after this many tokens: it has seen exactly these, or the model has no such layers.
    pub(crate) fn fits(&self, length: usize) -> bool {
        self.layers.is_empty() || self.position == length
    }

    /// Whether the model has no recurrent layers.
    pub(crate) fn is_empty(&self) -> bool {
        self.layers.is_empty()
    }

    /// All its numbers, in an order that does not change.
    pub(crate) fn parts(&self) -> impl Iterator<Item = &[f32]> {
        let layers = self.layers.iter().flat_map(|layer| [&layer.heads[..], &layer.inputs]);
        layers.chain([&self.output[..]])
    }

    /// As [`RecurrentState::parts`], to be overwritten.
    pub(crate) fn parts_mut(&mut self) -> impl Iterator<Item = &mut [f32]> {
        let layers = self.layers.iter_mut().flat_map(|layer| [&mut layer.heads[..], &mut layer.inputs]);
        layers.chain([&mut self.output[..]])
    }

    pub(crate) fn advance(&mut self, tokens: usize) {
        self.position += tokens;
    }

    pub(crate) fn layer_mut(&mut self, layer: usize) -> Option<&mut LayerState> {
        self.layers.get_mut(layer)
    }

    /// The matrices of a layer's heads.
    pub(crate) fn heads(&self, layer: usize) -> &[f32] {
        self.layers.get(layer).map_or(&[], |layer| &layer.heads)
    }
}

/// Whether a model has recurrent layers.
pub(crate) fn is_recurrent(architecture: &Architecture) -> bool {
    architecture.layers.iter().any(|layer| layer.delta_net().is_some())
}

/// Bytes of the state of one sequence.
pub(crate) fn state_bytes(architecture: &Architecture) -> u64 {
    let layers = architecture.layers.iter().filter_map(|layer| layer.delta_net());
    let output = architecture.draft.as_ref().map_or(0, |_| 4 * architecture.hidden_size as u64);
    layers.map(|delta| 4 * delta.state_size() as u64).sum::<u64>() + output
}

/// A point of a sequence to return to: [`Sequence::snapshot`](crate::Sequence::snapshot).
#[derive(Clone, Debug)]
pub struct Snapshot {
    pub(crate) length: usize,
    pub(crate) state: RecurrentState,
}

impl Snapshot {
    /// Tokens of the sequence when it was taken.
    pub fn length(&self) -> usize {
        self.length
    }
}

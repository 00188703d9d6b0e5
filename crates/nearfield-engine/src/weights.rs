//! A model's weights, looked up once.

use nearfield_kernels::WeightMatrix;
use nearfield_model::{Architecture, DraftTensor, ExpertTensor, LayerTensor, Mixer, Model, TensorRole};

use crate::error::EngineError;

mod panels;

/// All weights of a model; matrices are borrowed from the mapped file until they are moved into panels.
pub(crate) struct Weights<'m> {
    pub(crate) embedding: WeightMatrix<'m>,
    pub(crate) per_layer: Option<PerLayerInputs<'m>>,
    pub(crate) head: WeightMatrix<'m>,
    pub(crate) output_norm: Vec<f32>,
    pub(crate) layers: Vec<LayerWeights<'m>>,
    pub(crate) draft: Option<DraftWeights<'m>>,
}

/// Where the inputs of each layer come from.
pub(crate) struct PerLayerInputs<'m> {
    pub(crate) embedding: WeightMatrix<'m>,
    pub(crate) projection: WeightMatrix<'m>,
    pub(crate) norm: Vec<f32>,
}

/// The head that foretells one token more.
pub(crate) struct DraftWeights<'m> {
    pub(crate) embedding_norm: Vec<f32>,
    pub(crate) state_norm: Vec<f32>,
    pub(crate) input: WeightMatrix<'m>,
    pub(crate) layer: LayerWeights<'m>,
    pub(crate) output_norm: Vec<f32>,
}

/// One layer's weights. What a family lacks is `None`.
pub(crate) struct LayerWeights<'m> {
    pub(crate) mixer_norm: Vec<f32>,
    pub(crate) mixer: MixerWeights<'m>,
    pub(crate) post_mixer_norm: Option<Vec<f32>>,
    pub(crate) feed_forward_norm: Vec<f32>,
    pub(crate) feed_forward: FeedForwardWeights<'m>,
    pub(crate) post_feed_forward_norm: Option<Vec<f32>>,
    pub(crate) per_layer: Option<PerLayerWeights<'m>>,
    /// Factor on the whole stream at the end.
    pub(crate) scale: Option<f32>,
}

/// The part of a layer that mixes positions.
pub(crate) enum MixerWeights<'m> {
    Attention(AttentionWeights<'m>),
    DeltaNet(DeltaNetWeights<'m>),
}

/// Attention. A layer that reads the keys and values of another has neither projection; one whose values are its raw
/// keys has no value projection.
pub(crate) struct AttentionWeights<'m> {
    pub(crate) query: WeightMatrix<'m>,
    pub(crate) key: Option<WeightMatrix<'m>>,
    pub(crate) value: Option<WeightMatrix<'m>>,
    pub(crate) query_bias: Option<Vec<f32>>,
    pub(crate) key_bias: Option<Vec<f32>>,
    pub(crate) value_bias: Option<Vec<f32>>,
    pub(crate) query_norm: Option<Vec<f32>>,
    pub(crate) key_norm: Option<Vec<f32>>,
    /// Ones, where values are normed without a weight.
    pub(crate) value_norm: Option<Vec<f32>>,
    pub(crate) output: WeightMatrix<'m>,
}

/// A gated delta network.
pub(crate) struct DeltaNetWeights<'m> {
    pub(crate) input: WeightMatrix<'m>,
    pub(crate) gate: WeightMatrix<'m>,
    pub(crate) strength: WeightMatrix<'m>,
    pub(crate) decay: WeightMatrix<'m>,
    pub(crate) decay_bias: Vec<f32>,
    /// Negative.
    pub(crate) decay_rate: Vec<f32>,
    /// `[kernel][channels]`, turned from the file's order.
    pub(crate) convolution: Vec<f32>,
    pub(crate) norm: Vec<f32>,
    pub(crate) output: WeightMatrix<'m>,
}

/// A feed-forward block.
pub(crate) struct FeedForwardWeights<'m> {
    pub(crate) gate: WeightMatrix<'m>,
    pub(crate) up: WeightMatrix<'m>,
    pub(crate) down: WeightMatrix<'m>,
    pub(crate) experts: Option<ExpertWeights<'m>>,
}

/// Routed experts.
pub(crate) struct ExpertWeights<'m> {
    pub(crate) router: WeightMatrix<'m>,
    /// Norm of the router's input, which is the stream itself then.
    pub(crate) router_norm: Option<Vec<f32>>,
    /// Factor on each expert's weight.
    pub(crate) scale: Option<Vec<f32>>,
    /// Norm of the experts' input where it is not the dense part's.
    pub(crate) norm: Option<Vec<f32>>,
    /// Projection to the sigmoid that multiplies the dense part, which is a shared expert then.
    pub(crate) shared_gate: Option<WeightMatrix<'m>>,
    pub(crate) post_dense_norm: Option<Vec<f32>>,
    pub(crate) post_norm: Option<Vec<f32>>,
    /// Gate, up and down of each expert.
    pub(crate) matrices: Vec<[WeightMatrix<'m>; 3]>,
}

/// A layer's use of its own inputs.
pub(crate) struct PerLayerWeights<'m> {
    pub(crate) gate: WeightMatrix<'m>,
    pub(crate) output: WeightMatrix<'m>,
    pub(crate) norm: Vec<f32>,
}

impl<'m> Weights<'m> {
    pub(crate) fn new(model: &'m Model) -> Result<Self, EngineError> {
        let architecture = model.architecture();
        let count = architecture.layers.len();
        let vector = |role| model.tensors().vector(role);
        let layers =
            (0..count).map(|index| Finder { model, index }.layer()).collect::<Result<_, EngineError>>()?;
        let per_layer = match architecture.per_layer_input {
            Some(_) => Some(PerLayerInputs {
                embedding: matrix(model, TensorRole::PerLayerEmbedding)?,
                projection: matrix(model, TensorRole::PerLayerProjection)?,
                norm: vector(TensorRole::PerLayerNorm)?,
            }),
            None => None,
        };
        let draft = match architecture.draft {
            Some(_) => Some(DraftWeights {
                embedding_norm: vector(TensorRole::Draft(DraftTensor::EmbeddingNorm))?,
                state_norm: vector(TensorRole::Draft(DraftTensor::StateNorm))?,
                input: matrix(model, TensorRole::Draft(DraftTensor::Input))?,
                layer: Finder { model, index: count }.layer()?,
                output_norm: vector(TensorRole::Draft(DraftTensor::OutputNorm))?,
            }),
            None => None,
        };
        Ok(Self {
            embedding: matrix(model, TensorRole::TokenEmbedding)?,
            per_layer,
            head: matrix(model, TensorRole::OutputHead)?,
            output_norm: vector(TensorRole::OutputNorm)?,
            layers,
            draft,
        })
    }
}

/// Finds the tensors of one layer.
#[derive(Clone, Copy)]
struct Finder<'m> {
    model: &'m Model,
    index: usize,
}

impl<'m> Finder<'m> {
    fn role(self, part: LayerTensor) -> TensorRole {
        TensorRole::Layer { index: self.index, part }
    }

    fn vector(self, part: LayerTensor) -> Result<Vec<f32>, EngineError> {
        Ok(self.model.tensors().vector(self.role(part))?)
    }

    fn optional_vector(self, part: LayerTensor) -> Result<Option<Vec<f32>>, EngineError> {
        Ok(self.model.tensors().optional_vector(self.role(part))?)
    }

    fn matrix(self, part: LayerTensor) -> Result<WeightMatrix<'m>, EngineError> {
        matrix(self.model, self.role(part))
    }

    fn optional_matrix(self, part: LayerTensor) -> Result<Option<WeightMatrix<'m>>, EngineError> {
        if self.model.tensors().has(self.role(part)) { self.matrix(part).map(Some) } else { Ok(None) }
    }

    fn architecture(self) -> &'m Architecture {
        self.model.architecture()
    }

    fn layer(self) -> Result<LayerWeights<'m>, EngineError> {
        use LayerTensor as L;
        let Some(shape) = self.architecture().layer(self.index) else {
            return Err(
                nearfield_model::ModelError::NoSuchTensor { role: self.role(L::AttentionNorm) }.into()
            );
        };
        let mixer = match &shape.mixer {
            Mixer::Attention(attention) => {
                let ones = attention.values_normed.then(|| vec![1.0; attention.head_size]);
                MixerWeights::Attention(self.attention(ones)?)
            }
            Mixer::DeltaNet(delta) => MixerWeights::DeltaNet(self.delta_net(delta.kernel)?),
        };
        let per_layer = match self.optional_matrix(L::PerLayerGate)? {
            Some(gate) => Some(PerLayerWeights {
                gate,
                output: self.matrix(L::PerLayerOutput)?,
                norm: self.vector(L::PostPerLayerNorm)?,
            }),
            None => None,
        };
        Ok(LayerWeights {
            mixer_norm: self.vector(L::AttentionNorm)?,
            mixer,
            post_mixer_norm: self.optional_vector(L::PostAttentionNorm)?,
            feed_forward_norm: self.vector(L::FeedForwardNorm)?,
            feed_forward: FeedForwardWeights {
                gate: self.matrix(L::Gate)?,
                up: self.matrix(L::Up)?,
                down: self.matrix(L::Down)?,
                experts: self.experts()?,
            },
            post_feed_forward_norm: self.optional_vector(L::PostFeedForwardNorm)?,
            per_layer,
            scale: self.optional_vector(L::LayerScale)?.and_then(|scale| scale.first().copied()),
        })
    }

    fn attention(self, value_norm: Option<Vec<f32>>) -> Result<AttentionWeights<'m>, EngineError> {
        use LayerTensor as L;
        Ok(AttentionWeights {
            query: self.matrix(L::Query)?,
            key: self.optional_matrix(L::Key)?,
            value: self.optional_matrix(L::Value)?,
            query_bias: self.optional_vector(L::QueryBias)?,
            key_bias: self.optional_vector(L::KeyBias)?,
            value_bias: self.optional_vector(L::ValueBias)?,
            query_norm: self.optional_vector(L::QueryNorm)?,
            key_norm: self.optional_vector(L::KeyNorm)?,
            value_norm,
            output: self.matrix(L::AttentionOutput)?,
        })
    }

    fn delta_net(self, kernel: usize) -> Result<DeltaNetWeights<'m>, EngineError> {
        use LayerTensor as L;
        let stored = self.vector(L::DeltaConvolution)?;
        let convolution = (0..kernel).flat_map(|j| stored.iter().skip(j).step_by(kernel)).copied().collect();
        Ok(DeltaNetWeights {
            input: self.matrix(L::DeltaInput)?,
            gate: self.matrix(L::DeltaGate)?,
            strength: self.matrix(L::DeltaStrength)?,
            decay: self.matrix(L::DeltaDecay)?,
            decay_bias: self.vector(L::DeltaDecayBias)?,
            decay_rate: self.vector(L::DeltaDecayRate)?,
            convolution,
            norm: self.vector(L::DeltaNorm)?,
            output: self.matrix(L::DeltaOutput)?,
        })
    }

    fn experts(self) -> Result<Option<ExpertWeights<'m>>, EngineError> {
        use LayerTensor as L;
        let shape = self.architecture().layer(self.index);
        let Some(experts) = shape.and_then(|layer| layer.feed_forward.experts.as_ref()) else {
            return Ok(None);
        };
        let one = |index: usize| {
            let index = u16::try_from(index).unwrap_or(u16::MAX);
            let part = |part| self.matrix(L::Expert { index, part });
            Ok([part(ExpertTensor::Gate)?, part(ExpertTensor::Up)?, part(ExpertTensor::Down)?])
        };
        // The router's input is scaled by the root of its width besides its norm's weight.
        let root = (self.architecture().hidden_size as f64).sqrt().recip() as f32;
        let router_norm = self
            .optional_vector(L::RouterScale)?
            .map(|scale| scale.into_iter().map(|value| value * root).collect());
        Ok(Some(ExpertWeights {
            router: self.matrix(L::Router)?,
            router_norm,
            scale: self.optional_vector(L::ExpertScale)?,
            norm: self.optional_vector(L::ExpertsNorm)?,
            shared_gate: self.optional_matrix(L::SharedGate)?,
            post_dense_norm: self.optional_vector(L::PostDenseNorm)?,
            post_norm: self.optional_vector(L::PostExpertsNorm)?,
            matrices: (0..experts.count).map(one).collect::<Result<_, EngineError>>()?,
        }))
    }
}

fn matrix(model: &Model, role: TensorRole) -> Result<WeightMatrix<'_>, EngineError> {
    Ok(model.tensors().matrix(role)?)
}

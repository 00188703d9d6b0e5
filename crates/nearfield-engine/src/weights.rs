//! A model's weights, looked up once.

use nearfield_kernels::WeightMatrix;
use nearfield_model::{LayerTensor, Model, TensorRole};

use crate::error::EngineError;

/// All weights of a model; matrices are borrowed from the mapped file.
pub(crate) struct Weights<'m> {
    pub(crate) embedding: WeightMatrix<'m>,
    pub(crate) head: WeightMatrix<'m>,
    pub(crate) output_norm: Vec<f32>,
    pub(crate) layers: Vec<LayerWeights<'m>>,
}

/// One layer's weights. What a family lacks is `None`.
pub(crate) struct LayerWeights<'m> {
    pub(crate) attention_norm: Vec<f32>,
    pub(crate) query: WeightMatrix<'m>,
    pub(crate) key: WeightMatrix<'m>,
    pub(crate) value: WeightMatrix<'m>,
    pub(crate) query_bias: Option<Vec<f32>>,
    pub(crate) key_bias: Option<Vec<f32>>,
    pub(crate) value_bias: Option<Vec<f32>>,
    pub(crate) query_norm: Option<Vec<f32>>,
    pub(crate) key_norm: Option<Vec<f32>>,
    pub(crate) attention_output: WeightMatrix<'m>,
    pub(crate) post_attention_norm: Option<Vec<f32>>,
    pub(crate) feed_forward_norm: Vec<f32>,
    pub(crate) gate: WeightMatrix<'m>,
    pub(crate) up: WeightMatrix<'m>,
    pub(crate) down: WeightMatrix<'m>,
    pub(crate) post_feed_forward_norm: Option<Vec<f32>>,
}

impl<'m> Weights<'m> {
    pub(crate) fn new(model: &'m Model) -> Result<Self, EngineError> {
        let layers = (0..model.architecture().layers.len())
            .map(|index| LayerWeights::new(model, index))
            .collect::<Result<_, _>>()?;
        Ok(Self {
            embedding: matrix(model, TensorRole::TokenEmbedding)?,
            head: matrix(model, TensorRole::OutputHead)?,
            output_norm: model.tensors().vector(TensorRole::OutputNorm)?,
            layers,
        })
    }
}

impl<'m> LayerWeights<'m> {
    fn new(model: &'m Model, index: usize) -> Result<Self, EngineError> {
        let role = |part| TensorRole::Layer { index, part };
        let vector = |part| model.tensors().vector(role(part));
        let optional = |part| match model.tensors().optional_matrix(role(part)) {
            Some(_) => vector(part).map(Some),
            None => Ok(None),
        };
        Ok(Self {
            attention_norm: vector(LayerTensor::AttentionNorm)?,
            query: matrix(model, role(LayerTensor::Query))?,
            key: matrix(model, role(LayerTensor::Key))?,
            value: matrix(model, role(LayerTensor::Value))?,
            query_bias: optional(LayerTensor::QueryBias)?,
            key_bias: optional(LayerTensor::KeyBias)?,
            value_bias: optional(LayerTensor::ValueBias)?,
            query_norm: optional(LayerTensor::QueryNorm)?,
            key_norm: optional(LayerTensor::KeyNorm)?,
            attention_output: matrix(model, role(LayerTensor::AttentionOutput))?,
            post_attention_norm: optional(LayerTensor::PostAttentionNorm)?,
            feed_forward_norm: vector(LayerTensor::FeedForwardNorm)?,
            gate: matrix(model, role(LayerTensor::Gate))?,
            up: matrix(model, role(LayerTensor::Up))?,
            down: matrix(model, role(LayerTensor::Down))?,
            post_feed_forward_norm: optional(LayerTensor::PostFeedForwardNorm)?,
        })
    }
}

fn matrix(model: &Model, role: TensorRole) -> Result<WeightMatrix<'_>, EngineError> {
    let tensor = model.tensors().matrix(role)?;
    WeightMatrix::new(tensor.format, tensor.rows, tensor.columns, tensor.bytes)
        .map(|matrix| matrix.with_scale(tensor.scale))
        .map_err(|source| EngineError::Tensor { name: tensor.name.to_owned(), source })
}

//! The keys under a GGUF file's architecture prefix. Each is read, or known to be harmless, or refused.

use std::{cell::RefCell, collections::HashSet};

use super::{DescriptionError, MAX_SIZE, equal_share, layer_count};
use crate::gguf::{FromValue, Gguf, Value};

/// Keys that describe the file or its history and change nothing that is computed.
const HARMLESS: [&str; 5] = [
    "vocab_size",
    "tensor_data_layout",
    "rope.scaling.original_context_length",
    "rope.scaling.finetuned",
    "attention.layer_norm_epsilon",
];

/// Reads `{architecture}.*` keys and remembers which.
#[derive(Debug)]
pub(crate) struct GgufSettings<'a> {
    file: &'a Gguf,
    prefix: &'a str,
    read: RefCell<HashSet<String>>,
}

/// What all decoder-only models state in the same way.
#[derive(Debug)]
pub(super) struct GgufBase {
    pub(super) name: String,
    pub(super) hidden_size: usize,
    pub(super) vocabulary_size: usize,
    pub(super) context_length: usize,
    pub(super) norm_epsilon: f32,
    pub(super) layers: Vec<GgufLayer>,
}

/// The sizes of one layer.
#[derive(Clone, Copy, Debug)]
pub(super) struct GgufLayer {
    pub(super) heads: usize,
    pub(super) key_value_heads: usize,
    pub(super) head_size: usize,
    pub(super) feed_forward_size: usize,
}

impl<'a> GgufSettings<'a> {
    pub(crate) fn new(file: &'a Gguf, prefix: &'a str) -> Self {
        Self { file, prefix, read: RefCell::default() }
    }

    /// The file, for settings that are stored as tensors.
    pub(super) fn file(&self) -> &'a Gguf {
        self.file
    }

    /// The full name of a key.
    pub(super) fn label(&self, key: &str) -> String {
        format!("{}.{key}", self.prefix)
    }

    pub(super) fn optional<T: FromValue<'a>>(&self, key: &str) -> Result<Option<T>, DescriptionError> {
        let key = self.label(key);
        let value = self.file.metadata().optional(&key)?;
        self.read.borrow_mut().insert(key);
        Ok(value)
    }

    pub(super) fn required<T: FromValue<'a>>(&self, key: &str) -> Result<T, DescriptionError> {
        self.optional(key)?.ok_or_else(|| DescriptionError::new(self.label(key), "is missing"))
    }

    /// A size that is one number for all layers or an array with one per layer.
    fn per_layer(&self, key: &str, layers: usize) -> Result<Option<Vec<usize>>, DescriptionError> {
        let Some(value) = self.optional::<Value<'_>>(key)? else { return Ok(None) };
        if !matches!(value, Value::Array(_)) {
            return Ok(Some(vec![self.required(key)?; layers]));
        }
        let sizes: Vec<usize> = self.required(key)?;
        if sizes.len() != layers {
            let problem = format!("has {} values for {layers} layers", sizes.len());
            return Err(DescriptionError::new(self.label(key), problem));
        }
        Ok(Some(sizes))
    }

    /// Reads the sizes that every family has, for one without experts.
    pub(super) fn base(&self) -> Result<GgufBase, DescriptionError> {
        for key in ["expert_count", "expert_used_count"] {
            if let Some(experts) = self.optional::<usize>(key)?
                && experts != 0
            {
                let problem = format!("is {experts}: mixtures of experts are not supported in this family");
                return Err(DescriptionError::new(self.label(key), problem));
            }
        }
        let base = self.base_with_experts()?;
        let missing = |key: &str| DescriptionError::new(self.label(key), "is missing");
        if base.layers.iter().any(|layer| layer.feed_forward_size == 0) {
            return Err(missing("feed_forward_length"));
        }
        if let Some(value_length) = self.optional::<usize>("attention.value_length")?
            && let Some(layer) = base.layers.iter().find(|layer| layer.head_size != value_length)
        {
            let problem = format!("is {value_length}, but keys have {}; they must be equal", layer.head_size);
            return Err(DescriptionError::new(self.label("attention.value_length"), problem));
        }
        Ok(base)
    }

    /// Reads the sizes that every family has. Where all layers have experts a file may leave the width of the
    /// feed-forward blocks out: it is 0 then.
    pub(super) fn base_with_experts(&self) -> Result<GgufBase, DescriptionError> {
        let hidden_size = self.required::<usize>("embedding_length")?.min(MAX_SIZE + 1);
        let count = layer_count(self.label("block_count"), self.required("block_count")?)?;
        let missing = |key: &str| DescriptionError::new(self.label(key), "is missing");
        let heads =
            self.per_layer("attention.head_count", count)?.ok_or_else(|| missing("attention.head_count"))?;
        let key_value_heads =
            self.per_layer("attention.head_count_kv", count)?.unwrap_or_else(|| heads.clone());
        let feed_forward = self.per_layer("feed_forward_length", count)?.unwrap_or_else(|| vec![0; count]);
        let key_length = self.optional::<usize>("attention.key_length")?;
        let mut layers = Vec::with_capacity(count);
        for ((&heads, &key_value_heads), &feed_forward_size) in
            heads.iter().zip(&key_value_heads).zip(&feed_forward)
        {
            let head_size = match key_length {
                Some(length) => length,
                None => equal_share(hidden_size, heads, self.label("attention.key_length"))?,
            };
            layers.push(GgufLayer { heads, key_value_heads, head_size, feed_forward_size });
        }
        Ok(GgufBase {
            name: self.file.metadata().optional::<&str>("general.name")?.unwrap_or("unnamed").to_owned(),
            hidden_size,
            vocabulary_size: self.vocabulary_size()?,
            context_length: self.required("context_length")?,
            norm_epsilon: self.required("attention.layer_norm_rms_epsilon")?,
            layers,
        })
    }

    /// The rows of the token embedding: converters drop or keep padding rows as they like, so only these count.
    fn vocabulary_size(&self) -> Result<usize, DescriptionError> {
        let embedding = self.file.tensor("token_embd.weight");
        embedding
            .map(super::super::gguf::TensorInfo::rows)
            .ok_or_else(|| DescriptionError::new("tensor \"token_embd.weight\"", "is missing"))
    }

    /// Refuses keys that nothing has read, since they may change what must be computed.
    pub(crate) fn finish(&self) -> Result<(), DescriptionError> {
        let read = self.read.borrow();
        let unread = self.file.metadata().keys().find(|key| {
            let inside = key.strip_prefix(self.prefix).and_then(|rest| rest.strip_prefix('.'));
            inside.is_some_and(|rest| !HARMLESS.contains(&rest) && !read.contains(*key))
        });
        match unread {
            Some(key) => Err(DescriptionError::new(key, "is a setting that this version does not know")),
            None => Ok(()),
        }
    }
}

//! Safetensors checkpoints, in one file or sharded, memory-mapped.

use std::{
    collections::HashMap,
    ops::Range,
    path::{Component, Path, PathBuf},
};

use nearfield_kernels::WeightFormat;
use safetensors::{Dtype, SafeTensors};
use serde_json::Value;

use crate::{error::ModelError, files::read_object, mapped::MappedFile};

const SINGLE: &str = "model.safetensors";
const INDEX: &str = "model.safetensors.index.json";
/// Largest index accepted; those of the largest models have some megabytes.
const MAX_INDEX_BYTES: u64 = 64 << 20;
/// Most shards accepted.
const MAX_SHARDS: usize = 4096;
/// Bytes of the header's length in front of a file.
const LENGTH_BYTES: usize = 8;

/// An open checkpoint.
#[derive(Debug)]
pub(crate) struct Checkpoint {
    shards: Vec<MappedFile>,
    tensors: Vec<CheckpointTensor>,
}

/// One tensor of a checkpoint.
#[derive(Clone, Debug)]
pub(crate) struct CheckpointTensor {
    pub(crate) name: String,
    /// Slowest-varying first.
    pub(crate) shape: Vec<usize>,
    pub(crate) dtype: Dtype,
    shard: usize,
    range: Range<usize>,
}

impl Checkpoint {
    /// See [`crate::Model::release_pages`].
    pub(crate) fn release_pages(&self) {
        self.shards.iter().for_each(MappedFile::release_pages);
    }

    /// See [`crate::Model::will_need`].
    pub(crate) fn will_need(&self, bytes: &[u8]) {
        self.shards.iter().any(|file| file.will_need(bytes));
    }

    /// Opens the checkpoint in a folder: `model.safetensors`, or the shards that its index names.
    pub(crate) fn open(folder: &Path) -> Result<Self, ModelError> {
        let single = folder.join(SINGLE);
        if single.exists() {
            let mut checkpoint = Self { shards: Vec::new(), tensors: Vec::new() };
            checkpoint.add_shard(&single)?;
            return Ok(checkpoint);
        }
        let index = folder.join(INDEX);
        if index.exists() {
            return Self::open_sharded(folder, &index);
        }
        let problem = format!("it has a config.json, but neither {SINGLE} nor {INDEX}");
        Err(ModelError::not_a_model(folder, problem))
    }

    fn open_sharded(folder: &Path, index: &Path) -> Result<Self, ModelError> {
        let shard_of = read_index(index)?;
        let mut names: Vec<&String> = shard_of.values().collect();
        names.sort_unstable();
        names.dedup();
        if names.len() > MAX_SHARDS {
            let problem = format!("names {} files, more than the limit of {MAX_SHARDS}", names.len());
            return Err(ModelError::safetensors(index, problem));
        }
        let paths: Vec<PathBuf> = names.iter().map(|name| folder.join(name)).collect();
        if let Some(missing) = paths.iter().find(|path| !path.exists()) {
            return Err(ModelError::MissingPart { path: missing.clone(), count: paths.len() });
        }
        let mut checkpoint = Self { shards: Vec::new(), tensors: Vec::new() };
        let mut found = 0_usize;
        for (name, path) in names.iter().zip(&paths) {
            for tensor in checkpoint.add_shard(path)? {
                if shard_of.get(&tensor.name) != Some(*name) {
                    let problem = format!("tensor {:?} is here, but not by {INDEX}", tensor.name);
                    return Err(ModelError::safetensors(path, problem));
                }
                found += 1;
            }
        }
        // Every tensor found has its own entry, so fewer of them means that an entry has none.
        if found < shard_of.len() {
            let here: std::collections::HashSet<&str> =
                checkpoint.tensors.iter().map(|tensor| tensor.name.as_str()).collect();
            let lost = shard_of.iter().filter(|(tensor, _)| !here.contains(tensor.as_str())).min();
            let (tensor, shard) = lost.map_or(("", ""), |(tensor, shard)| (tensor, shard));
            let problem = format!("tensor {tensor:?} is missing, although {INDEX} says it is here");
            return Err(ModelError::safetensors(&folder.join(shard), problem));
        }
        Ok(checkpoint)
    }

    /// Maps a file, checks its header and adds its tensors, which are returned.
    fn add_shard(&mut self, path: &Path) -> Result<&[CheckpointTensor], ModelError> {
        let bytes = MappedFile::open(path).map_err(|source| ModelError::read(path, source))?;
        let wrong = |error| {
            let problem = format!(
                "not a whole safetensors file ({error}); it is truncated or damaged, so fetch it again"
            );
            ModelError::safetensors(path, problem)
        };
        // This checks that offsets are inside the file, without gaps or overlaps, and fit shapes and types.
        let (header_length, metadata) = SafeTensors::read_metadata(&bytes).map_err(wrong)?;
        let data_start = LENGTH_BYTES + header_length;
        let data_length = bytes.len().saturating_sub(data_start);
        let first = self.tensors.len();
        let mut tensors: Vec<_> = metadata.tensors().into_iter().collect();
        tensors.sort_by_key(|(_, info)| info.data_offsets);
        for (name, info) in tensors {
            let (start, end) = info.data_offsets;
            if start > end || end > data_length {
                let problem = format!("tensor {name:?} needs bytes up to {end}, but there are {data_length}");
                return Err(ModelError::safetensors(path, problem));
            }
            self.tensors.push(CheckpointTensor {
                name,
                shape: info.shape.clone(),
                dtype: info.dtype,
                shard: self.shards.len(),
                range: data_start + start..data_start + end,
            });
        }
        self.shards.push(bytes);
        Ok(self.tensors.get(first..).unwrap_or_default())
    }

    pub(crate) fn tensors(&self) -> &[CheckpointTensor] {
        &self.tensors
    }

    pub(crate) fn bytes(&self, shard: usize, range: Range<usize>) -> &[u8] {
        self.shards.get(shard).and_then(|bytes| bytes.get(range)).unwrap_or_default()
    }
}

impl CheckpointTensor {
    /// The weight format of the tensor's elements, if it is one that the engine computes with.
    pub(crate) fn format(&self) -> Option<WeightFormat> {
        match self.dtype {
            Dtype::F32 => Some(WeightFormat::F32),
            Dtype::F16 => Some(WeightFormat::F16),
            Dtype::BF16 => Some(WeightFormat::Bf16),
            _ => None,
        }
    }

    /// Where its bytes lie: the shard and the range in it.
    pub(crate) fn place(&self) -> (usize, Range<usize>) {
        (self.shard, self.range.clone())
    }
}

/// The shard of each tensor. Shards must be plain names, so that an index cannot reach outside its folder.
fn read_index(path: &Path) -> Result<HashMap<String, String>, ModelError> {
    let wrong = |problem: String| ModelError::safetensors(path, problem);
    let mut index = read_object(path, MAX_INDEX_BYTES)?;
    let Some(Value::Object(map)) = index.remove("weight_map") else {
        return Err(wrong("\"weight_map\" is missing or not an object".to_owned()));
    };
    if map.is_empty() {
        return Err(wrong("\"weight_map\" names no tensors".to_owned()));
    }
    map.into_iter()
        .map(|(tensor, shard)| match shard {
            Value::String(shard) if is_plain_name(&shard) => Ok((tensor, shard)),
            Value::String(shard) => Err(wrong(format!(
                "tensor {tensor:?} is said to be in {shard:?}, which is not a plain file name"
            ))),
            _ => Err(wrong(format!("the file of tensor {tensor:?} is not a string"))),
        })
        .collect()
}

fn is_plain_name(name: &str) -> bool {
    let mut components = Path::new(name).components();
    matches!((components.next(), components.next()), (Some(Component::Normal(only)), None) if only == name)
        && !name.contains(['/', '\\', ':', '\0'])
}

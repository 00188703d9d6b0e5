//! Models cut over several files.

use std::path::{Path, PathBuf};

use super::{Gguf, GgufError, header::Header, metadata::Metadata};
use crate::{error::ModelError, mapped::MappedFile};

/// Most parts accepted: the names have five digits, and nobody cuts finer than this.
const MAX_PARTS: u64 = 4096;

/// The keys by which a part says where it belongs.
pub(super) struct SplitKeys {
    /// Zero-based number of this part.
    pub(super) number: u64,
    /// Number of parts.
    pub(super) count: u64,
    /// Tensors over all parts, where it is said.
    tensors: Option<u64>,
}

impl SplitKeys {
    /// `None` when the file says nothing about parts.
    pub(super) fn read(metadata: Metadata<'_>) -> Result<Option<Self>, GgufError> {
        let Some(count) = metadata.optional::<u64>("split.count")? else { return Ok(None) };
        if count > MAX_PARTS {
            return Err(GgufError::OverLimit { what: "split.count", found: count, limit: MAX_PARTS });
        }
        let number = metadata.optional("split.no")?.unwrap_or(0);
        if count > 0 && number >= count {
            let problem = format!("split.no is {number}, but there are only {count} parts, numbered from 0");
            return Err(GgufError::Split { problem });
        }
        Ok(Some(Self { number, count, tensors: metadata.optional("split.tensors.count")? }))
    }
}

/// Opens the model that `path` belongs to.
pub(super) fn open(path: &Path) -> Result<Gguf, ModelError> {
    let (part, header) = open_part(path, 0)?;
    let keys = SplitKeys::read(header.metadata(&part)).map_err(|error| ModelError::gguf(path, error))?;
    match keys {
        Some(keys) if keys.count > 1 => open_split(path, &keys),
        _ => Gguf::assemble(vec![part], header, Vec::new()).map_err(|error| ModelError::gguf(path, error)),
    }
}

fn open_split(path: &Path, keys: &SplitKeys) -> Result<Gguf, ModelError> {
    let paths = part_paths(path, keys).map_err(|error| ModelError::gguf(path, error))?;
    if let Some(missing) = paths.iter().find(|path| !path.exists()) {
        return Err(ModelError::MissingPart { path: missing.clone(), count: paths.len() });
    }
    let mut parts = Vec::with_capacity(paths.len());
    let mut first = None;
    let mut rest = Vec::new();
    for (number, path) in paths.iter().enumerate() {
        let (part, mut header) = open_part(path, number)?;
        check_part(header.metadata(&part), number, keys).map_err(|error| ModelError::gguf(path, error))?;
        parts.push(part);
        if number == 0 {
            first = Some(header);
        } else {
            rest.append(&mut header.tensors);
        }
    }
    let problem = |problem: String| ModelError::gguf(path, GgufError::Split { problem });
    let first = first.ok_or_else(|| problem("there are no parts".to_owned()))?;
    let found = first.tensors.len() + rest.len();
    if let Some(wanted) = keys.tensors
        && wanted != found as u64
    {
        return Err(problem(format!("the parts hold {found} tensors, but split.tensors.count is {wanted}")));
    }
    Gguf::assemble(parts, first, rest).map_err(|error| ModelError::gguf(path, error))
}

fn open_part(path: &Path, number: usize) -> Result<(MappedFile, Header), ModelError> {
    let part = MappedFile::open(path).map_err(|error| ModelError::read(path, error))?;
    let header = Header::parse(&part, number).map_err(|error| ModelError::gguf(path, error))?;
    Ok((part, header))
}

/// Checks that a part says it is number `number` of as many as the part that was opened first says.
fn check_part(metadata: Metadata<'_>, number: usize, keys: &SplitKeys) -> Result<(), GgufError> {
    let found = SplitKeys::read(metadata)?
        .ok_or_else(|| GgufError::Split { problem: "the file does not say which part it is".to_owned() })?;
    if (found.number, found.count) == (number as u64, keys.count) {
        return Ok(());
    }
    let problem = format!(
        "the file says that it is part {} of {}, but by its name it is part {} of {}",
        found.number + 1,
        found.count,
        number + 1,
        keys.count
    );
    Err(GgufError::Split { problem })
}

/// The paths of all parts, from the path of one whose keys are known.
fn part_paths(path: &Path, keys: &SplitKeys) -> Result<Vec<PathBuf>, GgufError> {
    let suffix = part_suffix(keys.number, keys.count);
    let name = path.file_name().and_then(|name| name.to_str()).unwrap_or_default();
    let Some(stem) = name.strip_suffix(&suffix) else {
        let problem = format!(
            "the file is part {} of {}, so its name must end in {suffix:?} for the others to be found",
            keys.number + 1,
            keys.count
        );
        return Err(GgufError::Split { problem });
    };
    let name_of = |number| path.with_file_name(format!("{stem}{}", part_suffix(number, keys.count)));
    Ok((0..keys.count).map(name_of).collect())
}

fn part_suffix(number: u64, count: u64) -> String {
    format!("-{:05}-of-{count:05}.gguf", number + 1)
}

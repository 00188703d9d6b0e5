//! Everything before the tensor data of one GGUF file.

use super::{
    GgufError,
    cursor::Cursor,
    metadata::{Metadata, MetadataIndex},
    tensor::{TensorInfo, parse_tensors, place_tensors},
};

/// Alignment of tensor data where `general.alignment` does not set one.
const DEFAULT_ALIGNMENT: u64 = 32;
/// Largest alignment accepted; real files use 32 or 64.
const MAX_ALIGNMENT: u64 = 1 << 24;

/// The parsed and checked header of one file.
#[derive(Debug)]
pub(super) struct Header {
    pub(super) version: u32,
    index: MetadataIndex,
    pub(super) tensors: Vec<TensorInfo>,
}

impl Header {
    /// Parses the header of `bytes`, a whole file that is part number `part` of its model. After this every tensor
    /// range lies inside `bytes`.
    pub(super) fn parse(bytes: &[u8], part: usize) -> Result<Self, GgufError> {
        if !bytes.starts_with(b"GGUF") {
            return Err(GgufError::NotGguf { found: bytes.iter().copied().take(4).collect() });
        }
        let mut cursor = Cursor::new(bytes);
        cursor.take(4, "the magic number")?;
        let version = cursor.u32("the version")?;
        if !(2..=3).contains(&version) {
            return Err(match version.swap_bytes() {
                1..=3 => GgufError::BigEndian,
                _ => GgufError::UnsupportedVersion { found: version },
            });
        }
        let tensor_count = cursor.u64("the number of tensors")?;
        let key_count = cursor.u64("the number of metadata keys")?;
        let index = MetadataIndex::parse(&mut cursor, key_count)?;
        let alignment = alignment(index.view(bytes))?;
        let mut tensors = parse_tensors(&mut cursor, tensor_count, part, alignment)?;
        // An alignment below 2^24 and a position inside the file cannot overflow.
        let data_start = (cursor.position() as u64).next_multiple_of(alignment);
        let data_start = usize::try_from(data_start).unwrap_or(usize::MAX);
        place_tensors(&mut tensors, data_start, bytes.len())?;
        Ok(Self { version, index, tensors })
    }

    /// The metadata, given the bytes that were parsed.
    pub(super) fn metadata<'a>(&'a self, bytes: &'a [u8]) -> Metadata<'a> {
        self.index.view(bytes)
    }
}

fn alignment(metadata: Metadata<'_>) -> Result<u64, GgufError> {
    let found = metadata.optional("general.alignment")?.unwrap_or(DEFAULT_ALIGNMENT);
    if !found.is_power_of_two() {
        return Err(GgufError::InvalidAlignment { found });
    }
    if found > MAX_ALIGNMENT {
        return Err(GgufError::OverLimit { what: "general.alignment", found, limit: MAX_ALIGNMENT });
    }
    Ok(found)
}

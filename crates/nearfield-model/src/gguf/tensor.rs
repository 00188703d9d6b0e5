//! Tensor descriptions and the checks that make their byte ranges safe to use.

use std::{collections::HashMap, ops::Range};

use nearfield_kernels::WeightFormat;

use super::{GgufError, cursor::Cursor};

/// Most tensors that a file may have; the largest published models have a few thousand.
pub const MAX_TENSORS: u64 = 1 << 18;
/// Longest tensor name in bytes.
pub const MAX_NAME_LENGTH: u64 = 1024;
/// Most dimensions of a tensor.
pub const MAX_DIMENSIONS: u32 = 4;

/// One tensor of a file: its name, shape, storage and place.
#[derive(Clone, Debug)]
pub struct TensorInfo {
    /// Name as stored.
    pub name: String,
    /// Dimensions in file order, fastest-varying first: `[columns, rows, ...]`. At least one; none is zero.
    pub dimensions: Vec<usize>,
    /// How the elements are stored.
    pub format: WeightFormat,
    /// Which part of a split model holds it; 0 for a single file.
    pub(super) part: usize,
    /// Its bytes within that part.
    pub(super) range: Range<usize>,
}

impl TensorInfo {
    /// Length of a row: the fastest dimension.
    pub fn columns(&self) -> usize {
        self.dimensions.first().copied().unwrap_or_default()
    }

    /// Number of rows: the product of all dimensions but the fastest.
    pub fn rows(&self) -> usize {
        self.dimensions.iter().skip(1).product()
    }

    /// Where its bytes lie: the part and the range in it.
    pub(crate) fn place(&self) -> (usize, Range<usize>) {
        (self.part, self.range.clone())
    }

    /// Bytes of storage.
    pub fn byte_length(&self) -> usize {
        self.range.len()
    }
}

/// Reads `count` tensor descriptions. Their ranges are still relative to the start of the data section.
pub(super) fn parse_tensors(
    cursor: &mut Cursor<'_>,
    count: u64,
    part: usize,
    alignment: u64,
) -> Result<Vec<TensorInfo>, GgufError> {
    if count > MAX_TENSORS {
        return Err(GgufError::OverLimit { what: "the number of tensors", found: count, limit: MAX_TENSORS });
    }
    (0..count).map(|_| parse_tensor(cursor, part, alignment)).collect()
}

fn parse_tensor(cursor: &mut Cursor<'_>, part: usize, alignment: u64) -> Result<TensorInfo, GgufError> {
    const WHAT: &str = "a tensor description";
    let name = cursor.string(MAX_NAME_LENGTH, "the length of a tensor name")?;
    let tensor = std::str::from_utf8(name)
        .map_err(|_| GgufError::InvalidUtf8 { what: "a tensor name".to_owned() })?
        .to_owned();
    let dimension_count = cursor.u32(WHAT)?;
    if dimension_count > MAX_DIMENSIONS {
        return Err(GgufError::OverLimit {
            what: "the number of dimensions of a tensor",
            found: dimension_count.into(),
            limit: MAX_DIMENSIONS.into(),
        });
    }
    let dimensions = (0..dimension_count).map(|_| cursor.u64(WHAT)).collect::<Result<Vec<_>, _>>()?;
    let id = cursor.u32(WHAT)?;
    let offset = cursor.u64(WHAT)?;

    let Some(format) = weight_format(id) else {
        return Err(GgufError::UnsupportedTensorType { tensor, type_name: type_name(id), id });
    };
    if offset % alignment != 0 {
        return Err(GgufError::Misaligned { tensor, offset, alignment });
    }
    let (shape, length) = match check_dimensions(&dimensions, format) {
        Ok(checked) => checked,
        Err(problem) => return Err(GgufError::BadDimensions { tensor, dimensions, problem }),
    };
    let range = usize::try_from(offset).ok().and_then(|start| Some(start..start.checked_add(length)?));
    let Some(range) = range else {
        let problem = "its end is beyond the address space".to_owned();
        return Err(GgufError::BadDimensions { tensor, dimensions, problem });
    };
    Ok(TensorInfo { name: tensor, dimensions: shape, format, part, range })
}

/// The shape as `usize` and the bytes that it takes, or what is wrong with it.
fn check_dimensions(dimensions: &[u64], format: WeightFormat) -> Result<(Vec<usize>, usize), String> {
    let shape = dimensions
        .iter()
        .map(|&size| usize::try_from(size).ok())
        .collect::<Option<Vec<_>>>()
        .ok_or_else(|| "one is beyond the address space".to_owned())?;
    let Some((&columns, others)) = shape.split_first() else {
        return Err("there is none".to_owned());
    };
    if shape.contains(&0) {
        return Err("one is zero".to_owned());
    }
    let row = format.row_bytes(columns).ok_or_else(|| {
        format!("rows of {} must be multiples of {} elements", format.name(), format.block_size())
    })?;
    others
        .iter()
        .try_fold(row, |bytes, &size| bytes.checked_mul(size))
        .map(|bytes| (shape.clone(), bytes))
        .ok_or_else(|| "their product is beyond the address space".to_owned())
}

/// Turns offsets in the data section into ranges of the file, and checks that every tensor lies inside it and that
/// none shares a byte with another.
pub(super) fn place_tensors(
    tensors: &mut [TensorInfo],
    data_start: usize,
    file_size: usize,
) -> Result<(), GgufError> {
    for tensor in tensors.iter_mut() {
        let placed = data_start
            .checked_add(tensor.range.start)
            .zip(data_start.checked_add(tensor.range.end))
            .filter(|&(_, end)| end <= file_size);
        let Some((start, end)) = placed else {
            return Err(GgufError::OutsideFile {
                tensor: tensor.name.clone(),
                end: (data_start as u64).saturating_add(tensor.range.end as u64),
                size: file_size as u64,
            });
        };
        tensor.range = start..end;
    }
    let mut by_start: Vec<&TensorInfo> = tensors.iter().collect();
    by_start.sort_by_key(|tensor| tensor.range.start);
    for pair in by_start.windows(2) {
        if let [first, second] = pair
            && first.range.end > second.range.start
        {
            return Err(GgufError::Overlap { first: first.name.clone(), second: second.name.clone() });
        }
    }
    Ok(())
}

/// Position of each tensor by name; an error when a name appears twice.
pub(super) fn index_by_name(tensors: &[TensorInfo]) -> Result<HashMap<String, usize>, GgufError> {
    let mut by_name = HashMap::with_capacity(tensors.len());
    for (number, tensor) in tensors.iter().enumerate() {
        if by_name.insert(tensor.name.clone(), number).is_some() {
            return Err(GgufError::DuplicateTensor { tensor: tensor.name.clone() });
        }
    }
    Ok(by_name)
}

/// The weight format with this type id, where there are kernels for it.
pub fn weight_format(id: u32) -> Option<WeightFormat> {
    Some(match id {
        0 => WeightFormat::F32,
        1 => WeightFormat::F16,
        2 => WeightFormat::Q4_0,
        3 => WeightFormat::Q4_1,
        6 => WeightFormat::Q5_0,
        7 => WeightFormat::Q5_1,
        8 => WeightFormat::Q8_0,
        10 => WeightFormat::Q2K,
        11 => WeightFormat::Q3K,
        12 => WeightFormat::Q4K,
        13 => WeightFormat::Q5K,
        14 => WeightFormat::Q6K,
        20 => WeightFormat::Iq4Nl,
        30 => WeightFormat::Bf16,
        39 => WeightFormat::Mxfp4,
        40 => WeightFormat::Nvfp4,
        _ => return None,
    })
}

/// The usual name of a type id that has no kernels here.
fn type_name(id: u32) -> &'static str {
    match id {
        4 => "Q4_2",
        5 => "Q4_3",
        9 => "Q8_1",
        15 => "Q8_K",
        16 => "IQ2_XXS",
        17 => "IQ2_XS",
        18 => "IQ3_XXS",
        19 => "IQ1_S",
        21 => "IQ3_S",
        22 => "IQ2_S",
        23 => "IQ4_XS",
        24 => "I8",
        25 => "I16",
        26 => "I32",
        27 => "I64",
        28 => "F64",
        29 => "IQ1_M",
        34 => "TQ1_0",
        35 => "TQ2_0",
        41 => "Q1_0",
        _ => "an unknown type",
    }
}

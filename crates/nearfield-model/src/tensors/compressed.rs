//! The layouts in which compressed checkpoints store a matrix: which tensors belong together, and what they mean. It is
//! decided from the tensors that are there, never from a name in the settings.

use std::sync::OnceLock;

use nearfield_kernels::{FP8_BLOCK, Fp4Planes, WeightFormat, bf16_to_f32, f16_to_f32};
use safetensors::Dtype;

use super::storage::{Fp4, Fp8Store, Place, Storage};
use crate::safetensors::{Checkpoint, CheckpointTensor};

/// How the names of a matrix's tensors end.
const WEIGHT: &str = ".weight";
const PACKED: &str = ".weight_packed";
const SCALE: &str = ".weight_scale";
const SCALE_INV: &str = ".weight_scale_inv";
const SCALE_2: &str = ".weight_scale_2";
const GLOBAL_SCALE: &str = ".weight_global_scale";
/// Scales of activations, for kernels that quantize these in the format of the weights. Ours do not.
const INPUT_SCALES: [&str; 2] = [".input_scale", ".input_global_scale"];
/// Scales for a cache of FP8 keys, and of values. A wider cache does not need them.
pub(super) const CACHE_SCALES: [&str; 2] = [".k_scale", ".v_scale"];
/// Changes of the input that a layer asks for; to leave them out would be wrong.
const UNSUPPORTED: [&str; 5] =
    [".pre_quant_scale", ".svdquant_lora_a", ".svdquant_lora_b", ".weight_zero_point", ".weight_g_idx"];

/// The tensors of one matrix, or a tensor by itself.
#[derive(Debug, Default)]
pub(super) struct Parts<'a> {
    /// The name of the matrix as a plain checkpoint has it.
    pub(super) name: String,
    weight: Option<&'a CheckpointTensor>,
    packed: Option<&'a CheckpointTensor>,
    scale: Option<&'a CheckpointTensor>,
    scale_inv: Option<&'a CheckpointTensor>,
    scale_2: Option<&'a CheckpointTensor>,
    global_scale: Option<&'a CheckpointTensor>,
    unsupported: Option<&'a CheckpointTensor>,
    pub(super) tensors: usize,
    pub(super) bytes: u64,
}

/// A tensor's elements: its shape, slowest-varying first, and how they are stored.
pub(super) struct Elements {
    pub(super) shape: Vec<usize>,
    pub(super) storage: Storage,
}

/// The stem of a name and the ending by which a tensor is part of a matrix.
fn split(name: &str) -> Option<(&str, &'static str)> {
    let endings = [WEIGHT, PACKED, SCALE, SCALE_INV, SCALE_2, GLOBAL_SCALE];
    let mut all = endings.into_iter().chain(INPUT_SCALES).chain(UNSUPPORTED);
    all.find_map(|ending| Some((name.strip_suffix(ending)?, ending)))
}

/// Puts the tensors of each matrix together, in the order in which they first appear.
pub(super) fn matrices(checkpoint: &Checkpoint) -> Vec<Parts<'_>> {
    let mut all: Vec<Parts<'_>> = Vec::new();
    let mut places = std::collections::HashMap::new();
    for tensor in checkpoint.tensors() {
        let (stem, ending) = split(&tensor.name).unwrap_or((&tensor.name, ""));
        let name = if ending.is_empty() { stem.to_owned() } else { format!("{stem}{WEIGHT}") };
        let place = *places.entry(name.clone()).or_insert(all.len());
        if place == all.len() {
            all.push(Parts { name, ..Parts::default() });
        }
        let Some(parts) = all.get_mut(place) else { continue };
        parts.tensors += 1;
        parts.bytes += tensor.place().1.len() as u64;
        let part = match ending {
            "" | WEIGHT => &mut parts.weight,
            PACKED => &mut parts.packed,
            SCALE => &mut parts.scale,
            SCALE_INV => &mut parts.scale_inv,
            SCALE_2 => &mut parts.scale_2,
            GLOBAL_SCALE => &mut parts.global_scale,
            ending if UNSUPPORTED.contains(&ending) => &mut parts.unsupported,
            _ => continue,
        };
        *part = Some(tensor);
    }
    all
}

fn place(tensor: &CheckpointTensor) -> Place {
    let (part, range) = tensor.place();
    Place { part, range }
}

impl Parts<'_> {
    /// The tensor that errors name.
    pub(super) fn tensor_name(&self) -> &str {
        let tensors = [self.weight, self.packed, self.scale, self.scale_inv, self.scale_2, self.global_scale];
        tensors.into_iter().flatten().next().map_or(self.name.as_str(), |tensor| tensor.name.as_str())
    }

    /// Whether it is stored in a compressed layout.
    pub(super) fn is_compressed(&self) -> bool {
        let scales = [self.packed, self.scale, self.scale_inv, self.scale_2, self.global_scale];
        scales.iter().any(Option::is_some)
    }

    /// The element type of a plain tensor, for errors.
    pub(super) fn dtype(&self) -> String {
        self.weight.map_or_else(String::new, |tensor| format!("{:?}", tensor.dtype))
    }

    /// The tensor's elements; `None` for a plain tensor of an element type that is not read.
    ///
    /// # Errors
    /// What is wrong with the tensors of the matrix.
    pub(super) fn elements(&self, checkpoint: &Checkpoint) -> Result<Option<Elements>, String> {
        if let Some(tensor) = self.unsupported {
            return Err(format!("it needs {:?}, which is not supported", tensor.name));
        }
        let Self { weight, packed, scale, scale_inv, scale_2, global_scale, .. } = *self;
        match (packed, weight) {
            (Some(_), Some(_)) => Err("it is stored twice, packed and as it is".to_owned()),
            (Some(codes), None) => match (scale, global_scale, scale_inv.or(scale_2)) {
                (None, ..) => Err(missing(SCALE)),
                (_, _, Some(other)) => Err(format!("{:?} contradicts its packed codes", other.name)),
                (Some(scales), None, None) => fp4(WeightFormat::Mxfp4, codes, scales, 1.0).map(Some),
                (Some(scales), Some(global), None) => {
                    let divisor = one_scale(checkpoint, global)?;
                    if divisor == 0.0 || !divisor.recip().is_finite() {
                        return Err(format!("{:?} is {divisor}, but divides every weight", global.name));
                    }
                    fp4(WeightFormat::Nvfp4, codes, scales, divisor.recip()).map(Some)
                }
            },
            (None, Some(weight)) => match weight.dtype {
                Dtype::U8 => self.modelopt_fp4(checkpoint, weight).map(Some),
                Dtype::F8_E4M3 => self.fp8(checkpoint, weight).map(Some),
                _ => match [scale, scale_inv, scale_2, global_scale].into_iter().flatten().next() {
                    Some(scale) => {
                        let dtype = weight.dtype;
                        Err(format!("it has the scale {:?}, but is stored as {dtype:?}", scale.name))
                    }
                    None => Ok(weight.format().map(|format| Elements {
                        shape: weight.shape.clone(),
                        storage: Storage::Blocks { format, place: place(weight), scale: 1.0 },
                    })),
                },
            },
            (None, None) => Err("there are scales, but no weights".to_owned()),
        }
    }

    /// Codes in `weight` with two levels of scales, the second of which multiplies.
    fn modelopt_fp4(&self, checkpoint: &Checkpoint, codes: &CheckpointTensor) -> Result<Elements, String> {
        if let Some(other) = self.scale_inv.or(self.global_scale) {
            return Err(format!("{:?} contradicts its packed codes", other.name));
        }
        let scales = self.scale.ok_or_else(|| missing(SCALE))?;
        let scale_2 = self.scale_2.ok_or_else(|| missing(SCALE_2))?;
        fp4(WeightFormat::Nvfp4, codes, scales, one_scale(checkpoint, scale_2)?)
    }

    /// E4M3 codes; the shape of the scales says what they are for.
    fn fp8(&self, checkpoint: &Checkpoint, codes: &CheckpointTensor) -> Result<Elements, String> {
        if let Some(other) = self.scale_2.or(self.global_scale) {
            return Err(format!("{:?} contradicts its element type F8_E4M3", other.name));
        }
        let scales = match (self.scale, self.scale_inv) {
            (Some(one), Some(other)) => {
                return Err(format!("{:?} and {:?} contradict", one.name, other.name));
            }
            (scale, inverse) => scale.or(inverse).ok_or_else(|| missing(SCALE))?,
        };
        let [rows, columns] = codes.shape[..] else {
            return Err(format!("it has {} dimensions; FP8 matrices have two", codes.shape.len()));
        };
        let grid = [rows.div_ceil(FP8_BLOCK), columns.div_ceil(FP8_BLOCK)];
        let values = read_scales(checkpoint, scales)?;
        let store = match scales.shape[..] {
            _ if values.len() == 1 => Fp8Store::Matrix(values[0]),
            [n] | [n, 1] if n == rows => Fp8Store::Rows(values),
            [n, k] | [n, 1, k, 1] if [n, k] == grid => Fp8Store::Blocks(values),
            _ => {
                let shape = &scales.shape;
                let problem = "fits neither its rows nor its blocks of 128x128";
                return Err(format!("the shape {shape:?} of {:?} {problem}", scales.name));
            }
        };
        let shape = vec![rows, columns];
        Ok(Elements { shape, storage: Storage::Fp8 { codes: place(codes), scales: store } })
    }
}

fn missing(ending: &str) -> String {
    format!("its \"{}\" is missing", &ending[1..])
}

/// A matrix of packed codes with a plane of scales.
fn fp4(
    format: WeightFormat,
    codes: &CheckpointTensor,
    scales: &CheckpointTensor,
    scale: f32,
) -> Result<Elements, String> {
    let [rows, half] = codes.shape[..] else {
        return Err(format!("it has {} dimensions; packed matrices have two", codes.shape.len()));
    };
    if codes.dtype != Dtype::U8 {
        return Err(format!("packed codes are stored as {:?}, not U8", codes.dtype));
    }
    let columns = half.checked_mul(2).ok_or("it is impossibly wide")?;
    let group = Fp4Planes::group(format);
    let (fits, wanted) = match format {
        WeightFormat::Nvfp4 => (scales.dtype == Dtype::F8_E4M3, "F8_E4M3"),
        _ => (matches!(scales.dtype, Dtype::U8 | Dtype::F8_E8M0), "U8"),
    };
    if !fits {
        let (name, dtype) = (&scales.name, scales.dtype);
        return Err(format!(
            "{name:?} is stored as {dtype:?}, but {wanted} is needed (a reordered plane is not read)"
        ));
    }
    if !columns.is_multiple_of(group) {
        return Err(format!("its rows have {columns} elements, which are no whole groups of {group}"));
    }
    if scales.shape != [rows, columns / group] {
        let (name, shape) = (&scales.name, &scales.shape);
        return Err(format!(
            "{name:?} has the shape {shape:?}, but {:?} is needed",
            [rows, columns.div_ceil(group)]
        ));
    }
    let checked = OnceLock::new();
    let storage = Storage::Fp4(Fp4 { format, codes: place(codes), scales: place(scales), scale, checked });
    Ok(Elements { shape: vec![rows, columns], storage })
}

/// Scales in any float type as `f32`. They must be finite.
fn read_scales(checkpoint: &Checkpoint, tensor: &CheckpointTensor) -> Result<Vec<f32>, String> {
    let (part, range) = tensor.place();
    let bytes = checkpoint.bytes(part, range);
    let half = |convert: fn(u16) -> f32| -> Vec<f32> {
        bytes.as_chunks().0.iter().map(|bytes| convert(u16::from_le_bytes(*bytes))).collect()
    };
    let values: Vec<f32> = match tensor.dtype {
        Dtype::F32 => bytes.as_chunks().0.iter().map(|bytes| f32::from_le_bytes(*bytes)).collect(),
        Dtype::BF16 => half(bf16_to_f32),
        Dtype::F16 => half(f16_to_f32),
        other => return Err(format!("{:?} is stored as {other:?}, which is not supported", tensor.name)),
    };
    match values.iter().position(|value| !value.is_finite()) {
        Some(index) => Err(format!("{:?} holds {} at position {index}", tensor.name, values[index])),
        None => Ok(values),
    }
}

pub(super) fn one_scale(checkpoint: &Checkpoint, tensor: &CheckpointTensor) -> Result<f32, String> {
    match read_scales(checkpoint, tensor)?[..] {
        [scale] => Ok(scale),
        ref others => Err(format!("{:?} holds {} scales, but one is needed", tensor.name, others.len())),
    }
}

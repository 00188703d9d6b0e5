//! A folder as models are published: settings, one file of tensors, a tokenizer.

use std::{io::Write, path::Path};

use nearfield_model::{Family, LayerTensor, NamedTensor, TensorRole};
use serde_json::{Map, Value, json};

use super::{
    SynthError, SynthFormat, SynthModel, SynthOptions, check_blocks, create, finish, format_of, source,
    tokenizer,
    values::{bf16_bytes, f32_bytes},
    write_rows,
};

/// A tensor of the file: one of the parts of a matrix, or a whole one.
struct Part {
    name: String,
    dtype: &'static str,
    shape: Vec<usize>,
    kind: Kind,
    /// Which of the model's tensors it is of.
    tensor: usize,
}

#[derive(Clone, Copy)]
enum Kind {
    E2m1,
    Nvfp4Scales,
    Mxfp4Scales,
    One,
    Fp8,
    Fp8Scales,
    Bf16,
    Vector,
}

impl Part {
    fn bytes(&self) -> u64 {
        let elements: u64 = self.shape.iter().map(|size| *size as u64).product();
        elements
            * match self.dtype {
                "F32" => 4,
                "BF16" => 2,
                _ => 1,
            }
    }
}

pub(super) fn sizes(
    model: &SynthModel,
    options: &SynthOptions,
) -> Result<Vec<(TensorRole, u64)>, SynthError> {
    let tensors = model.architecture.published_tensors(model.own_head);
    let parts = parts(&tensors, options)?;
    Ok(parts.iter().filter_map(|part| Some((tensors.get(part.tensor)?.role, part.bytes()))).collect())
}

fn parts(tensors: &[NamedTensor], options: &SynthOptions) -> Result<Vec<Part>, SynthError> {
    let mut parts = Vec::new();
    for (index, tensor) in tensors.iter().enumerate() {
        parts_of(index, tensor, options, &mut parts)?;
    }
    Ok(parts)
}

fn parts_of(
    index: usize,
    tensor: &NamedTensor,
    options: &SynthOptions,
    parts: &mut Vec<Part>,
) -> Result<(), SynthError> {
    let stem = tensor.name.strip_suffix(".weight").unwrap_or(&tensor.name);
    let mut add = |name: String, dtype, shape: &[usize], kind| {
        parts.push(Part { name, dtype, shape: shape.to_vec(), kind, tensor: index });
    };
    let Some(format) = format_of(tensor, options) else {
        // As the recurrent parts are published.
        let single = matches!(
            tensor.role,
            TensorRole::Layer { part: LayerTensor::DeltaDecayRate | LayerTensor::DeltaNorm, .. }
        );
        add(tensor.name.clone(), if single { "F32" } else { "BF16" }, &tensor.shape, Kind::Vector);
        return Ok(());
    };
    let [rows, columns] = tensor.shape[..] else {
        return Err(SynthError::Format { kind: "a checkpoint", format });
    };
    match format {
        SynthFormat::Nvfp4 => {
            check_blocks(tensor, format, 16)?;
            add(format!("{stem}.weight_packed"), "U8", &[rows, columns / 2], Kind::E2m1);
            add(format!("{stem}.weight_scale"), "F8_E4M3", &[rows, columns / 16], Kind::Nvfp4Scales);
            add(format!("{stem}.weight_global_scale"), "F32", &[1], Kind::One);
        }
        SynthFormat::Mxfp4 => {
            check_blocks(tensor, format, 32)?;
            add(format!("{stem}.weight_packed"), "U8", &[rows, columns / 2], Kind::E2m1);
            add(format!("{stem}.weight_scale"), "U8", &[rows, columns / 32], Kind::Mxfp4Scales);
        }
        SynthFormat::Fp8 => {
            let grid = [rows.div_ceil(128), columns.div_ceil(128)];
            add(tensor.name.clone(), "F8_E4M3", &[rows, columns], Kind::Fp8);
            add(format!("{stem}.weight_scale_inv"), "BF16", &grid, Kind::Fp8Scales);
        }
        SynthFormat::Bf16 => add(tensor.name.clone(), "BF16", &tensor.shape, Kind::Bf16),
        SynthFormat::Q4_0 | SynthFormat::Q8_0 => {
            return Err(SynthError::Format { kind: "a checkpoint", format });
        }
    }
    Ok(())
}

pub(super) fn write(
    model: &SynthModel,
    options: &SynthOptions,
    folder: &Path,
    wrote: &mut dyn FnMut(u64) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let tensors = model.architecture.published_tensors(model.own_head);
    let parts = parts(&tensors, options).map_err(std::io::Error::other)?;
    std::fs::create_dir_all(folder)?;
    let mut config = model.config.clone();
    if let Some(settings) = compression(options.format) {
        config.insert("quantization_config".to_owned(), settings);
    }
    let ends = json!({ "eos_token_id": tokenizer::END, "bos_token_id": tokenizer::BEGIN });
    let files = [
        ("config.json", Value::Object(config)),
        ("tokenizer.json", tokenizer::json(model.architecture.vocabulary_size)),
        ("tokenizer_config.json", tokenizer::config()),
        ("generation_config.json", ends),
    ];
    for (name, value) in files {
        std::fs::write(folder.join(name), value.to_string())?;
    }
    let mut out = create(&folder.join("model.safetensors"))?;
    write_header(&mut out, &parts)?;
    let centred = !matches!(model.architecture.family, Family::Gemma4);
    for part in &parts {
        let Some(tensor) = tensors.get(part.tensor) else { continue };
        write_part(&mut out, part, tensor, options, centred)?;
        wrote(part.bytes())?;
    }
    finish(out)
}

/// Settings by which other programs recognise the format.
fn compression(format: SynthFormat) -> Option<Value> {
    let compressed = |format: &str, group: usize| {
        json!({
            "quant_method": "compressed-tensors",
            "format": format,
            "quantization_status": "compressed",
            "config_groups": { "group_0": {
                "format": format,
                "targets": ["Linear"],
                "weights": {
                    "num_bits": 4, "type": "float", "group_size": group, "symmetric": true, "dynamic": false,
                    "strategy": if group == 16 { "tensor_group" } else { "group" },
                },
                "input_activations": null,
                "output_activations": null,
            } },
            "ignore": ["lm_head"],
        })
    };
    match format {
        SynthFormat::Nvfp4 => Some(compressed("nvfp4-pack-quantized", 16)),
        SynthFormat::Mxfp4 => Some(compressed("mxfp4-pack-quantized", 32)),
        SynthFormat::Fp8 => Some(json!({
            "quant_method": "fp8", "fmt": "e4m3", "activation_scheme": "dynamic", "weight_block_size": [128, 128],
        })),
        _ => None,
    }
}

fn write_header(out: &mut impl Write, parts: &[Part]) -> std::io::Result<()> {
    let mut header = Map::new();
    header.insert("__metadata__".to_owned(), json!({ "format": "pt" }));
    let mut offset = 0;
    for part in parts {
        let end = offset + part.bytes();
        let entry = json!({ "dtype": part.dtype, "shape": part.shape, "data_offsets": [offset, end] });
        header.insert(part.name.clone(), entry);
        offset = end;
    }
    let mut text = Value::Object(header).to_string();
    while !text.len().is_multiple_of(8) {
        text.push(' ');
    }
    out.write_all(&(text.len() as u64).to_le_bytes())?;
    out.write_all(text.as_bytes())
}

fn write_part(
    out: &mut impl Write,
    part: &Part,
    tensor: &NamedTensor,
    options: &SynthOptions,
    centred: bool,
) -> std::io::Result<()> {
    let mut numbers = source(tensor, tensor.role, options);
    let elements: usize = part.shape.iter().product();
    let (rows, columns) =
        (tensor.shape.first().copied().unwrap_or(1), tensor.shape.last().copied().unwrap_or(1));
    let mut bytes = Vec::new();
    match part.kind {
        Kind::E2m1 => return write_rows(out, rows, columns, |rows, out| numbers.e2m1(rows, out)),
        Kind::Nvfp4Scales => {
            return write_rows(out, rows, columns, |rows, out| numbers.nvfp4_scales(rows, out));
        }
        Kind::Mxfp4Scales => {
            return write_rows(out, rows, columns, |rows, out| numbers.mxfp4_scales(rows, out));
        }
        Kind::Fp8 => return write_rows(out, rows, columns, |rows, out| numbers.fp8(rows, out)),
        Kind::Bf16 => return write_rows(out, rows, columns, |rows, out| numbers.bf16(rows, out)),
        Kind::Fp8Scales => numbers.fp8_scales(elements, &mut bytes),
        Kind::One => f32_bytes(&[1.0], &mut bytes),
        Kind::Vector => {
            let values = numbers.vector(elements, centred);
            if part.dtype == "F32" { f32_bytes(&values, &mut bytes) } else { bf16_bytes(&values, &mut bytes) }
        }
    }
    out.write_all(&bytes)
}

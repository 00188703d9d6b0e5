//! One GGUF file.

use std::{io::Write, path::Path};

use nearfield_model::{
    Architecture, Attention, DeltaNet, ExpertTensor, Experts, Family, Layer, LayerTensor, NamedTensor,
    RopeScaling, TensorRole,
};

use super::{
    SynthError, SynthFormat, SynthModel, SynthOptions, check_blocks, create, finish, format_of, source,
    tokenizer, values::f32_bytes, write_rows,
};

const ALIGNMENT: u64 = 32;
/// The divisor of a pair that does not turn.
const STILL: f32 = 1e30;
const DIVISORS: &str = "rope_freqs.weight";

/// The number by which files name a format, the elements of its blocks, and their bytes.
fn layout(format: Option<SynthFormat>) -> Option<(u32, u64, u64)> {
    match format {
        None => Some((0, 1, 4)),
        Some(SynthFormat::Q4_0) => Some((2, 32, 18)),
        Some(SynthFormat::Q8_0) => Some((8, 32, 34)),
        Some(SynthFormat::Bf16) => Some((30, 1, 2)),
        Some(SynthFormat::Mxfp4) => Some((39, 32, 17)),
        Some(SynthFormat::Nvfp4) => Some((40, 64, 36)),
        Some(SynthFormat::Fp8) => None,
    }
}

/// A tensor of the file.
struct Entry {
    tensor: NamedTensor,
    format: Option<SynthFormat>,
    type_id: u32,
    bytes: u64,
}

fn entries(model: &SynthModel, options: &SynthOptions) -> Result<Vec<Entry>, SynthError> {
    let entry = |tensor: NamedTensor| {
        let format = format_of(&tensor, options);
        let (type_id, block, bytes) = layout(format)
            .ok_or(SynthError::Format { kind: "GGUF", format: format.unwrap_or(SynthFormat::Bf16) })?;
        if let Some(format) = format {
            check_blocks(&tensor, format, block as usize)?;
        }
        let bytes = tensor.elements() / block * bytes;
        Ok(Entry { tensor, format, type_id, bytes })
    };
    model.architecture.gguf_tensors(model.own_head).into_iter().map(entry).collect()
}

pub(super) fn sizes(
    model: &SynthModel,
    options: &SynthOptions,
) -> Result<Vec<(TensorRole, u64)>, SynthError> {
    Ok(entries(model, options)?.iter().map(|entry| (entry.tensor.role, entry.bytes)).collect())
}

pub(super) fn write(
    model: &SynthModel,
    options: &SynthOptions,
    path: &Path,
    wrote: &mut dyn FnMut(u64) -> std::io::Result<()>,
) -> std::io::Result<()> {
    let entries = entries(model, options).map_err(std::io::Error::other)?;
    let architecture = &model.architecture;
    let mut metadata = Metadata::default();
    describe(architecture, &mut metadata);
    let divisors = divisors(architecture);
    let head = header(&metadata, &entries, divisors.len());
    let mut out = create(path)?;
    let mut written = head.len() as u64;
    out.write_all(&head)?;
    let mut bytes = Vec::new();
    f32_bytes(&divisors, &mut bytes);
    if !divisors.is_empty() {
        pad(&mut out, &mut written)?;
        out.write_all(&bytes)?;
        written += bytes.len() as u64;
    }
    let centred = !matches!(architecture.family, Family::Gemma4);
    for entry in &entries {
        pad(&mut out, &mut written)?;
        write_tensor(&mut out, entry, options, centred)?;
        written += entry.bytes;
        wrote(entry.bytes)?;
    }
    pad(&mut out, &mut written)?;
    finish(out)
}

fn pad(out: &mut impl Write, written: &mut u64) -> std::io::Result<()> {
    let next = written.next_multiple_of(ALIGNMENT);
    out.write_all(&[0; ALIGNMENT as usize][..(next - *written) as usize])?;
    *written = next;
    Ok(())
}

fn write_tensor(
    out: &mut impl Write,
    entry: &Entry,
    options: &SynthOptions,
    centred: bool,
) -> std::io::Result<()> {
    let tensor = &entry.tensor;
    let Some(format) = entry.format else {
        let mut bytes = Vec::new();
        let values = source(tensor, tensor.role, options).gguf_vector(tensor.elements() as usize, centred);
        f32_bytes(&values, &mut bytes);
        return out.write_all(&bytes);
    };
    let [.., rows, columns] = tensor.shape[..] else { return Ok(()) };
    let matrices = if tensor.shape.len() == 3 { tensor.shape[0] } else { 1 };
    for index in 0..matrices {
        let mut numbers = source(tensor, expert(tensor.role, index), options);
        write_rows(out, rows, columns, |rows, out| match format {
            SynthFormat::Nvfp4 => numbers.fp4_blocks(rows, true, out),
            SynthFormat::Mxfp4 => numbers.fp4_blocks(rows, false, out),
            SynthFormat::Q4_0 => numbers.q4_0(rows, out),
            SynthFormat::Q8_0 => numbers.q8_0(rows, out),
            SynthFormat::Fp8 => numbers.fp8(rows, out),
            SynthFormat::Bf16 => numbers.bf16(rows, out),
        })?;
    }
    Ok(())
}

/// The role of one matrix of a stack.
fn expert(role: TensorRole, number: usize) -> TensorRole {
    match role {
        TensorRole::Layer { index, part: LayerTensor::Expert { part, .. } } => {
            let part: ExpertTensor = part;
            let number = u16::try_from(number).unwrap_or(u16::MAX);
            TensorRole::Layer { index, part: LayerTensor::Expert { index: number, part } }
        }
        role => role,
    }
}

/// The keys of a file, as its bytes.
#[derive(Default)]
struct Metadata {
    keys: u64,
    bytes: Vec<u8>,
}

impl Metadata {
    fn key(&mut self, name: &str, type_id: u32) {
        self.keys += 1;
        text(name, &mut self.bytes);
        self.bytes.extend(type_id.to_le_bytes());
    }

    fn size(&mut self, name: &str, value: usize) {
        self.key(name, 4);
        self.bytes.extend((value as u32).to_le_bytes());
    }

    fn float(&mut self, name: &str, value: f32) {
        self.key(name, 6);
        self.bytes.extend(value.to_le_bytes());
    }

    fn flag(&mut self, name: &str, value: bool) {
        self.key(name, 7);
        self.bytes.push(u8::from(value));
    }

    fn text(&mut self, name: &str, value: &str) {
        self.key(name, 8);
        text(value, &mut self.bytes);
    }

    fn list<T>(&mut self, name: &str, type_id: u32, values: &[T], write: impl Fn(&T, &mut Vec<u8>)) {
        self.key(name, 9);
        self.bytes.extend(type_id.to_le_bytes());
        self.bytes.extend((values.len() as u64).to_le_bytes());
        for value in values {
            write(value, &mut self.bytes);
        }
    }

    fn sizes(&mut self, name: &str, values: &[usize]) {
        self.list(name, 5, values, |value, out| out.extend((*value as i32).to_le_bytes()));
    }
}

fn text(value: &str, out: &mut Vec<u8>) {
    out.extend((value.len() as u64).to_le_bytes());
    out.extend(value.as_bytes());
}

fn header(metadata: &Metadata, entries: &[Entry], divisors: usize) -> Vec<u8> {
    let count = entries.len() as u64 + u64::from(divisors > 0);
    let mut out = b"GGUF".to_vec();
    out.extend(3_u32.to_le_bytes());
    out.extend(count.to_le_bytes());
    out.extend(metadata.keys.to_le_bytes());
    out.extend(&metadata.bytes);
    let mut offset = 0_u64;
    let mut add = |name: &str, shape: &[usize], type_id: u32, bytes: u64| {
        text(name, &mut out);
        out.extend((shape.len() as u32).to_le_bytes());
        for size in shape.iter().rev() {
            out.extend((*size as u64).to_le_bytes());
        }
        out.extend(type_id.to_le_bytes());
        out.extend(offset.to_le_bytes());
        offset = (offset + bytes).next_multiple_of(ALIGNMENT);
    };
    if divisors > 0 {
        add(DIVISORS, &[divisors], 0, 4 * divisors as u64);
    }
    for entry in entries {
        add(&entry.tensor.name, &entry.tensor.shape, entry.type_id, entry.bytes);
    }
    out
}

/// Divisors of the frequencies of layers in which only some pairs turn.
fn divisors(architecture: &Architecture) -> Vec<f32> {
    let turning = architecture.rope.iter().find_map(|rope| match rope.scaling {
        RopeScaling::Proportional { pairs } => Some((rope.dimension / 2, pairs)),
        _ => None,
    });
    let Some((pairs, turning)) = turning else { return Vec::new() };
    (0..pairs).map(|pair| if pair < turning { 1.0 } else { STILL }).collect()
}

fn describe(architecture: &Architecture, out: &mut Metadata) {
    let family = architecture.family.to_string();
    let key = |name: &str| format!("{family}.{name}");
    let layers: Vec<&Layer> = architecture.all_layers().collect();
    out.text("general.architecture", &family);
    out.text("general.name", &architecture.name);
    out.size(&key("block_count"), layers.len());
    out.size(&key("context_length"), architecture.context_length);
    out.size(&key("embedding_length"), architecture.hidden_size);
    out.float(&key("attention.layer_norm_rms_epsilon"), architecture.norm_epsilon);
    if let Some(attention) = layers.iter().find_map(|layer| layer.attention()) {
        out.size(&key("attention.head_count"), attention.heads);
    }
    let experts = layers.iter().find_map(|layer| layer.feed_forward.experts.as_ref());
    if let Some(Experts { count, used, size }) = experts {
        out.size(&key("expert_count"), *count);
        out.size(&key("expert_used_count"), *used);
        out.size(&key("expert_feed_forward_length"), *size);
    }
    if architecture.family == Family::Gemma4 {
        describe_gemma(architecture, &layers, out);
    } else {
        describe_qwen(architecture, &layers, &key, out);
    }
    describe_tokenizer(architecture.vocabulary_size, out);
}

fn describe_qwen(
    architecture: &Architecture,
    layers: &[&Layer],
    key: &dyn Fn(&str) -> String,
    out: &mut Metadata,
) {
    if architecture.draft.is_some() {
        out.size(&key("nextn_predict_layers"), 1);
    }
    if let Some(attention) = layers.iter().find_map(|layer| layer.attention()) {
        out.size(&key("attention.head_count_kv"), attention.key_value_heads);
        out.size(&key("attention.key_length"), attention.head_size);
        out.size(&key("attention.value_length"), attention.head_size);
    }
    let interval = layers.iter().position(|layer| layer.attention().is_some()).unwrap_or(0) + 1;
    out.size(&key("full_attention_interval"), interval);
    if let Some(rope) = architecture.rope.first() {
        out.float(&key("rope.freq_base"), rope.theta as f32);
        out.size(&key("rope.dimension_count"), rope.dimension);
        let third = rope.dimension / 6;
        out.sizes(&key("rope.dimension_sections"), &[rope.dimension / 2 - 2 * third, third, third, 0]);
    }
    if let Some(delta) = layers.iter().find_map(|layer| layer.delta_net()) {
        let DeltaNet { key_heads, value_heads, key_size, kernel, .. } = *delta;
        out.size(&key("ssm.conv_kernel"), kernel);
        out.size(&key("ssm.state_size"), key_size);
        out.size(&key("ssm.group_count"), key_heads);
        out.size(&key("ssm.time_step_rank"), value_heads);
        out.size(&key("ssm.inner_size"), delta.value_width());
    }
    if let Some(layer) = layers.first() {
        let experts = layer.feed_forward.experts.is_some();
        let name = if experts { "expert_shared_feed_forward_length" } else { "feed_forward_length" };
        out.size(&key(name), layer.feed_forward.size);
    }
}

fn describe_gemma(architecture: &Architecture, layers: &[&Layer], out: &mut Metadata) {
    let attention: Vec<&Attention> = layers.iter().filter_map(|layer| layer.attention()).collect();
    let sliding: Vec<bool> = attention.iter().map(|attention| attention.window.is_some()).collect();
    let each = |size: &dyn Fn(&Attention) -> usize| -> Vec<usize> {
        attention.iter().map(|attention| size(attention)).collect()
    };
    let wide: Vec<usize> = layers.iter().map(|layer| layer.feed_forward.size).collect();
    out.sizes("gemma4.feed_forward_length", &wide);
    out.sizes("gemma4.attention.head_count_kv", &each(&|attention| attention.key_value_heads));
    for (suffix, is_sliding) in [("", false), ("_swa", true)] {
        let Some(one) = attention.iter().find(|attention| attention.window.is_some() == is_sliding) else {
            continue;
        };
        for name in ["attention.key_length", "attention.value_length", "rope.dimension_count"] {
            out.size(&format!("gemma4.{name}{suffix}"), one.head_size);
        }
        if let Some(rope) = architecture.rope.get(one.rope) {
            out.float(&format!("gemma4.rope.freq_base{suffix}"), rope.theta as f32);
        }
        if let Some(window) = one.window {
            out.size("gemma4.attention.sliding_window", window);
        }
    }
    out.list("gemma4.attention.sliding_window_pattern", 7, &sliding, |value, out| out.push(u8::from(*value)));
    let shared = attention.iter().filter(|attention| attention.shares.is_some()).count();
    out.size("gemma4.attention.shared_kv_layers", shared);
    out.size("gemma4.embedding_length_per_layer_input", architecture.per_layer_input.unwrap_or(0));
    if let Some(cap) = architecture.final_logit_softcap {
        out.float("gemma4.final_logit_softcapping", cap);
    }
}

fn describe_tokenizer(size: usize, out: &mut Metadata) {
    let texts = tokenizer::texts(size);
    let kinds: Vec<usize> =
        (0..texts.len()).map(|id| if tokenizer::is_control(id) { 3 } else { 1 }).collect();
    out.text("tokenizer.ggml.model", "gpt2");
    out.text("tokenizer.ggml.pre", "gpt-2");
    out.list("tokenizer.ggml.tokens", 8, &texts, |token, out| text(token, out));
    out.sizes("tokenizer.ggml.token_type", &kinds);
    out.list("tokenizer.ggml.merges", 8, &[tokenizer::MERGE], |merge, out| text(merge, out));
    out.size("tokenizer.ggml.bos_token_id", tokenizer::BEGIN as usize);
    out.size("tokenizer.ggml.eos_token_id", tokenizer::END as usize);
    out.flag("tokenizer.ggml.add_bos_token", false);
    out.text("tokenizer.chat_template", tokenizer::TEMPLATE);
}

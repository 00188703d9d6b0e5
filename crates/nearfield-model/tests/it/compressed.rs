//! Compressed checkpoints: what is missing or contradicts is refused by the name of a tensor; towers are skipped.

use nearfield_model::{Model, Skipped, TensorRole};
use serde_json::{Map, Value, json};
use tempfile::TempDir;

/// A tensor to be written: element type, shape, bytes.
type Tensor = (&'static str, Vec<usize>, Vec<u8>);

/// The matrix that is stored in different ways: `[16, 32]`.
const STEM: &str = "model.layers.0.self_attn.q_proj";

fn bytes_of(dtype: &str) -> usize {
    match dtype {
        "F32" => 4,
        "BF16" => 2,
        _ => 1,
    }
}

fn zeros(dtype: &'static str, shape: &[usize]) -> Tensor {
    (dtype, shape.to_vec(), vec![0; shape.iter().product::<usize>() * bytes_of(dtype)])
}

fn filled(dtype: &'static str, shape: &[usize], byte: u8) -> Tensor {
    let (dtype, shape, bytes) = zeros(dtype, shape);
    (dtype, shape, vec![byte; bytes.len()])
}

fn f32s(values: &[f32], shape: &[usize]) -> Tensor {
    ("F32", shape.to_vec(), values.iter().flat_map(|value| value.to_le_bytes()).collect())
}

fn config() -> Value {
    json!({"model_type": "llama", "hidden_size": 32, "intermediate_size": 16, "num_hidden_layers": 1,
        "num_attention_heads": 1, "head_dim": 16, "vocab_size": 4, "max_position_embeddings": 16,
        "tie_word_embeddings": true, "quantization_config": {"quant_method": "compressed-tensors"}})
}

/// A checkpoint whose query projection is made of these tensors, by the endings of their names.
fn checkpoint(config: &Value, query: &[(&str, Tensor)], others: &[(&str, Tensor)]) -> TempDir {
    let plain: [(&str, &[usize]); 10] = [
        ("model.embed_tokens.weight", &[4, 32]),
        ("model.norm.weight", &[32]),
        ("model.layers.0.input_layernorm.weight", &[32]),
        ("model.layers.0.self_attn.k_proj.weight", &[16, 32]),
        ("model.layers.0.self_attn.v_proj.weight", &[16, 32]),
        ("model.layers.0.self_attn.o_proj.weight", &[32, 16]),
        ("model.layers.0.post_attention_layernorm.weight", &[32]),
        ("model.layers.0.mlp.gate_proj.weight", &[16, 32]),
        ("model.layers.0.mlp.up_proj.weight", &[16, 32]),
        ("model.layers.0.mlp.down_proj.weight", &[32, 16]),
    ];
    let mut tensors: Vec<(String, Tensor)> =
        plain.iter().map(|(name, shape)| ((*name).to_owned(), zeros("BF16", shape))).collect();
    tensors.extend(query.iter().map(|(ending, tensor)| (format!("{STEM}{ending}"), tensor.clone())));
    tensors.extend(others.iter().map(|(name, tensor)| ((*name).to_owned(), tensor.clone())));
    let (mut header, mut data) = (Map::new(), Vec::new());
    for (name, (dtype, shape, bytes)) in tensors {
        let end = data.len() + bytes.len();
        header.insert(name, json!({"dtype": dtype, "shape": shape, "data_offsets": [data.len(), end]}));
        data.extend(bytes);
    }
    let header = Value::Object(header).to_string();
    let mut file = (header.len() as u64).to_le_bytes().to_vec();
    file.extend(header.as_bytes());
    file.extend(data);
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("model.safetensors"), file).unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

/// What is said of a query projection made of these tensors, when it is opened or first read.
fn refusal(query: &[(&str, Tensor)]) -> String {
    let folder = checkpoint(&config(), query, &[]);
    let error = match Model::open(folder.path()) {
        Err(error) => error,
        Ok(model) => {
            let role = TensorRole::Layer { index: 0, part: nearfield_model::LayerTensor::Query };
            model.tensors().matrix(role).unwrap_err()
        }
    };
    error.to_string()
}

/// The same, which must name the matrix and these words.
fn refused(query: &[(&str, Tensor)], words: &[&str]) {
    let text = refusal(query);
    for word in words.iter().chain(&[STEM]) {
        assert!(text.contains(word), "{word}: {text}");
    }
}

fn scale(value: f32) -> Tensor {
    f32s(&[value], &[1])
}

#[test]
fn scales_that_are_missing_are_named() {
    let packed = || (".weight_packed", zeros("U8", &[16, 16]));
    refused(&[packed()], &["weight_scale", "missing"]);
    refused(&[packed(), (".weight_global_scale", scale(1.0))], &["weight_scale", "missing"]);
    refused(&[(".weight", zeros("F8_E4M3", &[16, 32]))], &["weight_scale", "missing"]);
    refused(&[(".weight", zeros("U8", &[16, 16]))], &["weight_scale", "missing"]);
    let block = || (".weight_scale", filled("F8_E4M3", &[16, 2], 0x38));
    refused(&[(".weight", zeros("U8", &[16, 16])), block()], &["weight_scale_2", "missing"]);
    refused(&[block()], &["no weights"]);
}

#[test]
fn scales_that_contradict_are_named() {
    let plain = || (".weight", zeros("BF16", &[16, 32]));
    refused(&[plain(), (".weight_scale", scale(1.0))], &["weight_scale", "BF16"]);
    refused(&[plain(), (".weight_scale_inv", scale(1.0))], &["weight_scale_inv", "BF16"]);
    refused(&[plain(), (".pre_quant_scale", zeros("BF16", &[32]))], &["pre_quant_scale", "not supported"]);
    let packed = || (".weight_packed", zeros("U8", &[16, 16]));
    refused(&[plain(), packed()], &["twice"]);
    let block = || (".weight_scale", filled("F8_E4M3", &[16, 2], 0x38));
    refused(&[packed(), block(), (".weight_scale_2", scale(1.0))], &["weight_scale_2", "contradicts"]);
    // Two levels of scales without the upper one would be MXFP4, which has another element type.
    refused(&[packed(), block()], &["F8_E4M3", "U8"]);
    let fp8 = || (".weight", zeros("F8_E4M3", &[16, 32]));
    refused(&[fp8(), (".weight_scale", scale(1.0)), (".weight_scale_inv", scale(1.0))], &["contradict"]);
    refused(&[fp8(), (".weight_scale", scale(1.0)), (".weight_scale_2", scale(1.0))], &["weight_scale_2"]);
    refused(&[fp8(), (".weight_scale", zeros("F32", &[3]))], &["[3]", "128x128"]);
    refused(&[fp8(), (".weight_scale", zeros("U8", &[16, 1]))], &["U8"]);
}

#[test]
fn scales_that_are_no_numbers_are_named() {
    let packed = || (".weight_packed", zeros("U8", &[16, 16]));
    let block = |byte| (".weight_scale", filled("F8_E4M3", &[16, 2], byte));
    for value in [0.0, f32::NAN, f32::INFINITY] {
        refused(&[packed(), block(0x38), (".weight_global_scale", scale(value))], &["weight_global_scale"]);
    }
    let global = || (".weight_global_scale", scale(4.0));
    refused(&[packed(), block(0x7F), global()], &["0x7f"]);
    refused(&[packed(), block(0xB8), global()], &["0xb8"]);
    refused(&[packed(), (".weight_scale", filled("U8", &[16, 1], 0xFF))], &["0xff"]);
    let fp8 = || (".weight", zeros("F8_E4M3", &[16, 32]));
    refused(&[fp8(), (".weight_scale", scale(f32::NAN))], &["NaN"]);
    refused(&[packed(), block(0x38), (".weight_global_scale", f32s(&[1.0, 2.0], &[2]))], &["2 scales"]);
}

#[test]
fn planes_of_other_shapes_are_refused() {
    let packed = || (".weight_packed", zeros("U8", &[16, 16]));
    let global = || (".weight_global_scale", scale(4.0));
    for shape in [&[16, 4][..], &[32], &[2, 16], &[17, 2]] {
        refused(&[packed(), (".weight_scale", filled("F8_E4M3", shape, 0x38)), global()], &["[16, 2]"]);
    }
    // One dimension of bytes is how one exporter stores scales in the order of its own kernels.
    refused(&[packed(), (".weight_scale", filled("U8", &[128], 0x38)), global()], &["reordered"]);
    refused(&[(".weight", zeros("F8_E4M3", &[2, 8, 32])), (".weight_scale", scale(1.0))], &["3 dimensions"]);
    let narrow = (".weight_packed", zeros("U8", &[16, 8]));
    refused(&[narrow.clone(), (".weight_scale", zeros("U8", &[16, 1]))], &["16 elements", "32"]);
    let text = refusal(&[narrow, (".weight_scale", filled("F8_E4M3", &[16, 1], 0x38)), global()]);
    assert!(text.contains("[16, 16]") && text.contains("[16, 32]"), "{text}");
}

#[test]
fn both_directions_of_a_matrix_scale_mean_the_same() {
    let block = || (".weight_scale", filled("F8_E4M3", &[16, 2], 0x38));
    let role = TensorRole::Layer { index: 0, part: nearfield_model::LayerTensor::Query };
    let divided = [
        (".weight_packed", filled("U8", &[16, 16], 0x42)),
        block(),
        (".weight_global_scale", scale(8.0)),
        (".input_global_scale", scale(77.0)),
    ];
    let multiplied = [
        (".weight", filled("U8", &[16, 16], 0x42)),
        block(),
        (".weight_scale_2", f32s(&[0.125], &[])),
        (".input_scale", f32s(&[0.01], &[])),
    ];
    for query in [divided, multiplied] {
        let folder = checkpoint(&config(), &query, &[]);
        let model = Model::open(folder.path()).unwrap();
        model.tensors().prepare(2);
        let weights = model.tensors().matrix(role).unwrap();
        let mut row = vec![0.0; weights.columns()];
        weights.dequantize_row(3, &mut row);
        // Code 2 (the low half, first) is 1, code 4 is 2; both times an eighth. The rest of the block is zeros.
        assert_eq!((row.len(), &row[..4], row[32]), (64, &[0.125, 0.25, 0.125, 0.25][..], 0.0));
        assert_eq!(model.tensors().vector(role).unwrap().len(), 16 * 32);
    }
}

#[test]
fn settings_are_a_cross_check() {
    let plain = [(".weight", zeros("BF16", &[16, 32]))];
    let error = |config: &Value| Model::open(checkpoint(config, &plain, &[]).path()).unwrap_err().to_string();
    assert!(error(&config()).contains("all tensors are plain"));
    let with = |settings: Value| {
        let mut config = config();
        config["quantization_config"] = settings;
        config
    };
    let text = error(&with(json!({"quant_method": "gptq"})));
    assert!(text.contains("gptq") && text.contains("not supported"), "{text}");
    let text = error(&with(json!({"quant_method": "fp8", "weight_block_size": [64, 64]})));
    assert!(text.contains("[64,64]"), "{text}");
    let config = with(Value::Null);
    assert!(Model::open(checkpoint(&config, &plain, &[]).path()).is_ok());
    // A compressed matrix is recognised without the settings' help.
    let fp8 = [(".weight", zeros("F8_E4M3", &[16, 32])), (".weight_scale", scale(1.0))];
    assert!(Model::open(checkpoint(&config, &fp8, &[]).path()).is_ok());
}

#[test]
fn an_fp8_cache_is_asked_for_in_one_of_three_places() {
    let fp8 = [(".weight", zeros("F8_E4M3", &[16, 32])), (".weight_scale", scale(1.0))];
    let scales = [("model.layers.0.self_attn.k_scale", scale(0.25))];
    let wants = |settings: Value, export: Option<Value>, scales: &[(&str, Tensor)]| {
        let mut config = config();
        config["quantization_config"] = settings;
        let folder = checkpoint(&config, &fp8, scales);
        if let Some(export) = export {
            std::fs::write(folder.path().join("hf_quant_config.json"), export.to_string()).unwrap();
        }
        Model::open(folder.path()).unwrap().architecture().wants_fp8_cache
    };
    let plain = || json!({ "quant_method": "modelopt" });
    let scheme = json!({ "quant_method": "compressed-tensors", "kv_cache_scheme": { "num_bits": 8, "type": "float" } });
    let algorithm = json!({ "quant_method": "modelopt", "kv_cache_quant_algo": "FP8" });
    let export = json!({ "quantization": { "quant_algo": "FP8", "kv_cache_quant_algo": "FP8" } });
    assert!(wants(scheme.clone(), None, &scales));
    assert!(wants(algorithm, None, &scales));
    assert!(wants(plain(), Some(export), &scales), "some exports say it in a file of their own only");
    assert!(!wants(plain(), None, &scales));
    assert!(!wants(plain(), Some(json!({ "quantization": { "kv_cache_quant_algo": null } })), &scales));
    assert!(!wants(scheme, None, &[]), "without scales 16 bits are better");
    let integers =
        json!({ "quant_method": "compressed-tensors", "kv_cache_scheme": { "num_bits": 8, "type": "int" } });
    assert!(!wants(integers, None, &scales));
}

#[test]
fn towers_are_skipped_and_counted_and_cache_scales_are_known() {
    let fp8 = [(".weight", zeros("F8_E4M3", &[16, 32])), (".weight_scale", scale(1.0))];
    let others = [
        ("model.visual.blocks.0.attn.weight", zeros("BF16", &[4, 4])),
        ("model.visual.pos.weight", zeros("F8_E4M3", &[4])),
        ("model.visual.pos.weight_scale", scale(1.0)),
        ("model.audio_tower.conv", zeros("BF16", &[8])),
        ("model.layers.0.self_attn.k_proj.k_scale", scale(0.25)),
        ("model.layers.0.self_attn.v_scale", scale(0.5)),
        ("mtp.fc.weight", zeros("BF16", &[2, 2])),
    ];
    let folder = checkpoint(&config(), &fp8, &others);
    let model = Model::open(folder.path()).unwrap();
    let attention = model.architecture().layers[0].attention().unwrap();
    assert_eq!(attention.cache_scales, [0.25, 0.5]);
    assert!(!model.architecture().wants_fp8_cache, "scales alone ask for nothing");
    for bad in [0.0, -1.0, f32::INFINITY] {
        let others = [("model.layers.0.self_attn.v_scale", scale(bad))];
        let text = Model::open(checkpoint(&config(), &fp8, &others).path()).unwrap_err().to_string();
        assert!(text.contains("self_attn.v_scale"), "{text}");
    }
    let mut skipped = model.tensors().skipped().to_vec();
    skipped.sort_by_key(|skipped| skipped.what);
    let part = |what, tensors, bytes| Skipped { what, tensors, bytes };
    assert_eq!(skipped, [part("audio tower", 1, 16), part("draft head", 1, 8), part("vision tower", 3, 40),]);
    let line = part("vision tower", 3, 1_200_000).to_string();
    assert!(line.contains("vision tower") && line.contains("3 tensors, 1.2 MB") && line.contains("text"));
}

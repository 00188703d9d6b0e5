//! Published checkpoints: safetensors in one file and sharded, good and hostile, and the text side of such a folder.

use std::path::Path;

use nearfield_model::{ChatMessage, ChatOptions, Model, Text};
use proptest::prelude::*;
use serde_json::{Value, json};
use tempfile::TempDir;

/// Names and shapes of a Llama of one layer.
const TENSORS: [(&str, &[usize]); 11] = [
    ("model.embed_tokens.weight", &[6, 8]),
    ("model.norm.weight", &[8]),
    ("model.layers.0.input_layernorm.weight", &[8]),
    ("model.layers.0.self_attn.q_proj.weight", &[8, 8]),
    ("model.layers.0.self_attn.k_proj.weight", &[8, 8]),
    ("model.layers.0.self_attn.v_proj.weight", &[8, 8]),
    ("model.layers.0.self_attn.o_proj.weight", &[8, 8]),
    ("model.layers.0.post_attention_layernorm.weight", &[8]),
    ("model.layers.0.mlp.gate_proj.weight", &[4, 8]),
    ("model.layers.0.mlp.up_proj.weight", &[4, 8]),
    ("model.layers.0.mlp.down_proj.weight", &[8, 4]),
];

fn config() -> Value {
    json!({"model_type": "llama", "architectures": ["LlamaForCausalLM"], "hidden_size": 8, "intermediate_size": 4,
        "num_hidden_layers": 1, "num_attention_heads": 1, "num_key_value_heads": 1, "vocab_size": 6,
        "max_position_embeddings": 16, "rms_norm_eps": 1e-5, "tie_word_embeddings": true, "eos_token_id": 4})
}

/// The header of a file with these tensors, and their bytes: ones, stored as `dtype` of `size` bytes.
fn layout(tensors: &[(&str, &[usize])], dtype: &str, size: usize) -> (Value, Vec<u8>) {
    let mut header = serde_json::Map::new();
    let mut end = 0;
    for (name, shape) in tensors {
        let start = end;
        end += shape.iter().product::<usize>() * size;
        let entry = json!({"dtype": dtype, "shape": shape, "data_offsets": [start, end]});
        header.insert((*name).to_owned(), entry);
    }
    (Value::Object(header), vec![0; end])
}

fn file(header: &Value, data: &[u8]) -> Vec<u8> {
    let header = header.to_string();
    let mut bytes = (header.len() as u64).to_le_bytes().to_vec();
    bytes.extend(header.as_bytes());
    bytes.extend(data);
    bytes
}

fn folder_with(config: &Value) -> TempDir {
    let folder = tempfile::tempdir().unwrap();
    std::fs::write(folder.path().join("config.json"), config.to_string()).unwrap();
    folder
}

fn write(folder: &TempDir, name: &str, bytes: impl AsRef<[u8]>) {
    std::fs::write(folder.path().join(name), bytes).unwrap();
}

fn error(folder: &TempDir) -> String {
    Model::open(folder.path()).unwrap_err().to_string()
}

fn write_whole(folder: &TempDir) {
    let (header, data) = layout(&TENSORS, "F32", 4);
    write(folder, "model.safetensors", file(&header, &data));
}

/// Two shards and the index that `change` makes of the right one.
fn sharded(change: impl FnOnce(&mut serde_json::Map<String, Value>)) -> TempDir {
    let folder = folder_with(&config());
    let mut map = serde_json::Map::new();
    for (number, part) in TENSORS.chunks(6).enumerate() {
        let (header, data) = layout(part, "BF16", 2);
        let name = format!("model-{:05}-of-00002.safetensors", number + 1);
        write(&folder, &name, file(&header, &data));
        map.extend(part.iter().map(|(tensor, _)| ((*tensor).to_owned(), json!(name))));
    }
    change(&mut map);
    write(&folder, "model.safetensors.index.json", json!({"weight_map": map}).to_string());
    folder
}

#[test]
fn whole_and_sharded_checkpoints_open() {
    for (dtype, size) in [("F32", 4), ("F16", 2), ("BF16", 2)] {
        let folder = folder_with(&config());
        let (header, data) = layout(&TENSORS, dtype, size);
        write(&folder, "model.safetensors", file(&header, &data));
        assert_eq!(Model::open(folder.path()).unwrap().architecture().layers.len(), 1);
    }
    assert!(Model::open(sharded(|_| ()).path()).is_ok());
}

#[test]
fn indexes_that_lie_are_refused() {
    let norm = "model.norm.weight";
    for name in
        ["../model.safetensors", "/etc/passwd", "a/../../b", "..", "", "a\\b", "sub/model.safetensors"]
    {
        let text = error(&sharded(|map| {
            map.insert(norm.to_owned(), json!(name));
        }));
        assert!(text.contains("not a plain file name"), "{name}: {text}");
    }
    let text = error(&sharded(|map| {
        map.insert(norm.to_owned(), json!("model-00003-of-00002.safetensors"));
    }));
    assert!(text.contains("model-00003-of-00002.safetensors is missing"), "{text}");
    let text = error(&sharded(|map| {
        map.insert(norm.to_owned(), json!("model-00002-of-00002.safetensors"));
    }));
    assert!(text.contains(norm), "{text}");
    let text = error(&sharded(|map| {
        map.insert("model.extra.weight".to_owned(), json!("model-00002-of-00002.safetensors"));
    }));
    assert!(text.contains("model.extra.weight") && text.contains("missing"), "{text}");
    let text = error(&sharded(|map| {
        map.remove(norm);
    }));
    assert!(text.contains(norm), "{text}");
    assert!(error(&sharded(serde_json::Map::clear)).contains("names no tensors"));
    let folder = sharded(|_| ());
    write(&folder, "model.safetensors.index.json", "[1]");
    assert!(error(&folder).contains("not a JSON object"));
}

#[test]
fn damaged_headers_are_refused() {
    let folder = folder_with(&config());
    let (header, data) = layout(&TENSORS, "F32", 4);
    let refused = |bytes: Vec<u8>| {
        write(&folder, "model.safetensors", bytes);
        error(&folder)
    };
    let whole = file(&header, &data);
    for length in [0, 4, 8, 20, whole.len() - data.len(), whole.len() - 1] {
        let text = refused(whole[..length].to_vec());
        assert!(text.contains("truncated or damaged"), "{length}: {text}");
    }
    let with_offsets = |start: usize, end: usize| {
        let mut header = header.clone();
        header["model.norm.weight"]["data_offsets"] = json!([start, end]);
        file(&header, &data)
    };
    for (start, end) in [(0, 32), (190, 222), (1 << 40, (1 << 40) + 32), (224, 192)] {
        assert!(refused(with_offsets(start, end)).contains("truncated or damaged"), "{start} to {end}");
    }
    let mut huge = u64::MAX.to_le_bytes().to_vec();
    huge.extend([b'{'; 64]);
    assert!(refused(huge).contains("truncated or damaged"));
    let mut other = header.clone();
    other["model.norm.weight"]["shape"] = json!([usize::MAX, usize::MAX]);
    assert!(!refused(file(&other, &data)).is_empty());
    let (wrong, data) = layout(&TENSORS, "I8", 1);
    assert!(refused(file(&wrong, &data)).contains("I8"));
}

#[test]
fn wrong_tensors_and_families_are_named() {
    let folder = folder_with(&config());
    let refused = |tensors: &[(&str, &[usize])]| {
        let (header, data) = layout(tensors, "F32", 4);
        write(&folder, "model.safetensors", file(&header, &data));
        error(&folder)
    };
    let mut tensors = TENSORS.to_vec();
    tensors.push(("model.layers.0.surprise.weight", &[8]));
    assert!(refused(&tensors).contains("model.layers.0.surprise.weight"));
    assert!(refused(&TENSORS[..10]).contains("mlp.down_proj"));
    tensors = TENSORS.to_vec();
    tensors[1].1 = &[9];
    assert!(refused(&tensors).contains("[9]"));

    for (kind, class) in [
        ("qwen3_next", "Qwen3NextForCausalLM"),
        ("gemma3n", "Gemma3nForConditionalGeneration"),
        ("qwen4_exp", "Qwen4ForCausalLM"),
        ("diffusion_gemma", "DiffusionGemma"),
        ("gemma4_assistant", "Gemma4Assistant"),
        ("llama", "LlamaForSequenceClassification"),
    ] {
        let mut config = config();
        config["model_type"] = json!(kind);
        config["architectures"] = json!([class]);
        let folder = folder_with(&config);
        write_whole(&folder);
        let text = error(&folder);
        assert!(text.contains("not supported") && (text.contains(kind) || text.contains(class)), "{text}");
    }
}

/// A byte-level vocabulary of four letters, one merge, and an end.
fn tokenizer_json() -> Value {
    json!({
        "added_tokens": [{"id": 5, "content": "<|im_end|>", "special": true}],
        "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": false, "use_regex": true},
        "decoder": {"type": "ByteLevel"},
        "model": {"type": "BPE", "vocab": {"a": 0, "b": 1, "Ġ": 2, "c": 3, "ab": 4}, "merges": ["a b"]},
    })
}

#[test]
fn the_text_side_of_a_folder() {
    let folder = folder_with(&config());
    let open = || Text::open(folder.path());
    assert!(open().unwrap_err().to_string().contains("tokenizer.json"));
    write(&folder, "tokenizer.json", tokenizer_json().to_string());
    let text = open().unwrap();
    assert!(text.chat_template().is_none());
    // Ends from config.json, as there is no generation_config.json, and from the vocabulary.
    assert_eq!(text.stop_tokens().ids(), [4, 5]);

    let template = "{% for m in messages %}{{ m.content }}{{ eos_token }}{% endfor %}";
    let settings = json!({"eos_token": {"content": "<|im_end|>"}, "chat_template": template});
    write(&folder, "tokenizer_config.json", settings.to_string());
    write(
        &folder,
        "generation_config.json",
        r#"{"eos_token_id": [3], "temperature": 0.5, "suppress_tokens": [1]}"#,
    );
    let text = open().unwrap();
    assert_eq!(text.stop_tokens().ids(), [3, 5]);
    assert_eq!(
        (text.generation().temperature, text.generation().suppress_tokens.as_slice()),
        (Some(0.5), &[1][..])
    );
    let encode =
        |text: &Text| text.encode_chat(&[ChatMessage::new("user", "ab c")], &ChatOptions::default()).unwrap();
    assert_eq!(encode(&text), [4, 2, 3, 5]);
    // A template in a file of its own goes first.
    write(&folder, "chat_template.jinja", "c{{ messages[0].content }}");
    assert_eq!(encode(&open().unwrap()), [3, 4, 2, 3]);
    write(&folder, "generation_config.json", "{");
    assert!(open().unwrap_err().to_string().contains("generation_config.json"));
}

#[test]
fn unknown_parts_of_tokenizer_json_are_named() {
    let with = |key: &str, value: Value| {
        let folder = folder_with(&config());
        let mut file = tokenizer_json();
        file[key] = value;
        write(&folder, "tokenizer.json", file.to_string());
        Text::open(folder.path()).unwrap_err().to_string()
    };
    assert!(with("pre_tokenizer", json!({"type": "Strange"})).contains("Strange"));
    assert!(with("normalizer", json!({"type": "Lowercase"})).contains("Lowercase"));
    let split = json!({"type": "Sequence", "pretokenizers": [
        {"type": "Split", "pattern": {"Regex": "odd+"}, "behavior": "Isolated"},
        {"type": "ByteLevel", "add_prefix_space": false, "use_regex": false},
    ]});
    assert!(with("pre_tokenizer", split).contains("odd+"));
    assert!(with("model", json!({"type": "Unigram", "vocab": {}, "merges": []})).contains("Unigram"));
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(200))]

    #[test]
    fn damaged_checkpoints_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), any::<u8>()), 1..6),
    ) {
        let folder = folder_with(&config());
        let (header, data) = layout(&TENSORS, "F32", 4);
        let mut bytes = file(&header, &data);
        let tokenizer = tokenizer_json().to_string();
        let mut text = tokenizer.into_bytes();
        let end = bytes.len() - data.len();
        for (at, byte) in edits {
            bytes[at.index(end)] = byte;
            let at = at.index(text.len());
            text[at] = byte;
        }
        write(&folder, "model.safetensors", bytes);
        write(&folder, "tokenizer.json", text);
        let _ = Model::open(folder.path());
        if let Ok(text) = Text::open(Path::new(folder.path())) {
            let _ = text.encode_completion("ab c\u{1}é", None);
        }
    }
}

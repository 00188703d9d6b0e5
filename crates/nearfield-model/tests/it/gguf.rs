//! The GGUF reader on good, split and hostile files.

use std::path::Path;

use nearfield_kernels::WeightFormat;
use nearfield_model::{
    ModelError,
    gguf::{Array, Gguf, GgufError, Value},
};
use nearfield_testkit::gguf_writer::{GgufValue, GgufWriter};
use proptest::prelude::*;

fn error(writer: &GgufWriter) -> String {
    Gguf::from_bytes(writer.build()).unwrap_err().to_string()
}

/// A file with every value type and several tensor types.
fn sample() -> GgufWriter {
    GgufWriter::new()
        .key("a.u8", 200_u8)
        .key("a.i8", -3_i8)
        .key("a.u16", 60_000_u16)
        .key("a.i16", -300_i16)
        .key("a.u32", 4_000_000_000_u32)
        .key("a.i32", -7_i32)
        .key("a.f32", 1.5_f32)
        .key("a.bool", true)
        .key("a.string", "grüße")
        .key("a.u64", u64::MAX)
        .key("a.i64", i64::MIN)
        .key("a.f64", 0.1_f64)
        .key("b.tokens", vec!["a", "ĠB", ""])
        .key("b.scores", vec![0.5_f32, -1.0])
        .key("b.types", vec![1_i32, 3])
        .key("b.flags", vec![true, false])
        .key("b.empty", Vec::<u8>::new())
        .key(
            "b.nested",
            GgufValue::Array(vec![
                GgufValue::from(vec![1_u16, 2]),
                GgufValue::from(vec!["x", "yz"]),
                GgufValue::Array(vec![GgufValue::from(vec![9_u8])]),
            ]),
        )
        .f32_tensor("norm", &[3], &[1.0, 2.0, 3.0])
        .tensor("q", &[64, 3], 2, (0..108).collect())
        .tensor("h", &[2, 2, 2], 1, (0..16).collect())
        .tensor("n", &[64], 40, vec![7; 36])
}

#[test]
fn reads_every_value_type() {
    for version in [2, 3] {
        let gguf = Gguf::from_bytes(sample().version(version).build()).unwrap();
        assert_eq!(gguf.version(), version);
        let metadata = gguf.metadata();
        let value = |key: &str| metadata.value(key).unwrap().unwrap();
        assert_eq!(value("a.u8"), Value::U8(200));
        assert_eq!(value("a.i8"), Value::I8(-3));
        assert_eq!(value("a.u16"), Value::U16(60_000));
        assert_eq!(value("a.i16"), Value::I16(-300));
        assert_eq!(value("a.u32"), Value::U32(4_000_000_000));
        assert_eq!(value("a.i32"), Value::I32(-7));
        assert_eq!(value("a.f32"), Value::F32(1.5));
        assert_eq!(value("a.bool"), Value::Bool(true));
        assert_eq!(value("a.string"), Value::String("grüße"));
        assert_eq!(value("a.u64"), Value::U64(u64::MAX));
        assert_eq!(value("a.i64"), Value::I64(i64::MIN));
        assert_eq!(value("a.f64"), Value::F64(0.1));
        assert_eq!(metadata.value("a.none").unwrap(), None);
        assert_eq!(metadata.keys().count(), 18);
    }
}

#[test]
fn reads_arrays_and_nested_arrays() {
    let gguf = Gguf::from_bytes(sample().build()).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.required::<Vec<&str>>("b.tokens").unwrap(), ["a", "ĠB", ""]);
    assert_eq!(metadata.required::<Vec<f32>>("b.scores").unwrap(), [0.5, -1.0]);
    assert_eq!(metadata.required::<Vec<u32>>("b.types").unwrap(), [1, 3]);
    assert_eq!(metadata.required::<Vec<bool>>("b.flags").unwrap(), [true, false]);
    assert_eq!(metadata.required::<Vec<usize>>("b.empty").unwrap(), Vec::<usize>::new());
    let nested: Vec<Array<'_>> = metadata.required("b.nested").unwrap();
    let texts: Vec<String> =
        nested.iter().flat_map(|array| array.iter().map(|value| value.unwrap().describe())).collect();
    assert_eq!(texts, ["u16 1", "u16 2", "string \"x\"", "string \"yz\"", "array of 1 u8 values"]);
}

#[test]
fn typed_getters_name_key_and_types() {
    let gguf = Gguf::from_bytes(sample().build()).unwrap();
    let metadata = gguf.metadata();
    assert_eq!(metadata.required::<usize>("a.u16").unwrap(), 60_000);
    assert_eq!(metadata.required::<u32>("a.u8").unwrap(), 200);
    assert_eq!(metadata.required::<f64>("a.f32").unwrap(), 1.5);
    let text = |result: Result<u32, GgufError>| result.unwrap_err().to_string();
    assert_eq!(
        text(metadata.required("a.i32")),
        "metadata key \"a.i32\" holds i32 -7, but an integer from 0 to 4294967295 is needed"
    );
    assert_eq!(
        text(metadata.required("a.string")),
        "metadata key \"a.string\" holds string \"grüße\", but an integer from 0 to 4294967295 is needed"
    );
    assert_eq!(text(metadata.required("a.none")), "metadata key \"a.none\" is missing");
    assert_eq!(
        metadata.required::<Vec<&str>>("b.scores").unwrap_err().to_string(),
        "metadata key \"b.scores\" holds array of 2 f32 values, but an array of strings is needed"
    );
    assert_eq!(metadata.optional::<u32>("a.none").unwrap(), None);
}

#[test]
fn tensors_are_borrowed_with_shape_and_format() {
    for alignment in [8, 64] {
        let gguf = Gguf::from_bytes(sample().alignment(alignment).build()).unwrap();
        let tensor = gguf.tensor("q").unwrap();
        assert_eq!((tensor.format, tensor.rows(), tensor.columns()), (WeightFormat::Q4_0, 3, 64));
        assert_eq!(gguf.bytes(tensor), (0..108).collect::<Vec<u8>>());
        let tensor = gguf.tensor("h").unwrap();
        assert_eq!((tensor.format, tensor.rows(), tensor.columns()), (WeightFormat::F16, 4, 2));
        assert_eq!(gguf.bytes(tensor), (0..16).collect::<Vec<u8>>());
        assert_eq!(gguf.tensor("n").unwrap().format, WeightFormat::Nvfp4);
        assert!(gguf.tensor("none").is_none());
        assert_eq!(gguf.tensors().len(), 4);
    }
}

#[test]
fn refuses_other_files_and_versions() {
    assert!(matches!(Gguf::from_bytes(b"PK\x03\x04".to_vec()), Err(GgufError::NotGguf { .. })));
    assert!(matches!(Gguf::from_bytes(Vec::new()), Err(GgufError::NotGguf { .. })));
    assert_eq!(
        error(&sample().version(1)),
        "GGUF version 1 is not supported (2 and 3 are); get a newer conversion of the model"
    );
    assert!(error(&sample().version(3_u32.swap_bytes())).contains("big-endian"));
    assert!(error(&sample().version(77)).contains("version 77"));
}

#[test]
fn refuses_tensors_that_make_no_sense() {
    let one = |dimensions: &[u64], type_id, length| {
        error(&GgufWriter::new().tensor("blk.0.x", dimensions, type_id, vec![0; length]))
    };
    assert_eq!(
        one(&[256], 23, 136),
        "tensor \"blk.0.x\" is stored as IQ4_XS (type 23), which is not supported"
    );
    assert!(one(&[256], 4242, 136).contains("an unknown type (type 4242)"));
    assert!(one(&[33], 2, 18).contains("rows of Q4_0 must be multiples of 32 elements"));
    assert!(one(&[32, 0], 2, 18).contains("one is zero"));
    assert!(one(&[], 0, 4).contains("there is none"));
    assert!(one(&[1, 1, 1, 1, 1], 0, 4).contains("number of dimensions"));
    assert!(one(&[u64::MAX, u64::MAX], 0, 4).contains("tensor \"blk.0.x\""));
    assert!(one(&[1 << 40, 1 << 40], 0, 4).contains("beyond the address space"));
    assert!(one(&[1 << 40], 0, 4).contains("truncated or damaged"));
    assert!(one(&[2], 0, 4).contains("truncated or damaged"));
}

#[test]
fn refuses_misaligned_overlapping_and_duplicate_tensors() {
    let two = |second: &str| {
        GgufWriter::new().f32_tensor("one", &[16], &[0.0; 16]).f32_tensor(second, &[16], &[0.0; 16])
    };
    assert!(error(&two("one")).contains("\"one\" appears twice"));
    // The second tensor's offset is the last field before the padding.
    let mut bytes = two("two").build();
    let offset = bytes.windows(3).position(|window| window == b"two").unwrap() + 3 + 4 + 8 + 4;
    assert_eq!(bytes[offset], 64);
    bytes[offset] = 33;
    assert!(
        Gguf::from_bytes(bytes.clone())
            .unwrap_err()
            .to_string()
            .contains("not a multiple of the alignment 32")
    );
    bytes[offset] = 32;
    assert!(Gguf::from_bytes(bytes).unwrap_err().to_string().contains("\"one\" and \"two\" overlap"));
}

#[test]
fn refuses_broken_metadata() {
    assert!(error(&GgufWriter::new().key("k", 1_u8).key("k", 2_u8)).contains("\"k\" appears twice"));
    assert!(error(&GgufWriter::new().key("general.alignment", 48_u32)).contains("not a power of two"));
    assert!(error(&GgufWriter::new().key("general.alignment", 0_u32)).contains("not a power of two"));
    assert!(error(&GgufWriter::new().key("general.alignment", 1_u32 << 30)).contains("general.alignment"));
    assert!(error(&GgufWriter::new().key("general.alignment", "32")).contains("general.alignment"));
    let deep = (0..20).fold(GgufValue::from(vec![1_u8]), |value, _| GgufValue::Array(vec![value]));
    assert!(error(&GgufWriter::new().key("k", deep)).contains("nests arrays"));

    let patched = |from: usize, with: &[u8]| {
        let mut bytes = GgufWriter::new().key("k", true).key("l", "text").build();
        bytes[from..from + with.len()].copy_from_slice(with);
        Gguf::from_bytes(bytes)
    };
    // Layout: 24 bytes of header; key length, key, type at 24, 32, 33; the boolean at 37.
    assert!(patched(33, &99_u32.to_le_bytes()).unwrap_err().to_string().contains("unknown type 99"));
    assert!(patched(37, &[2]).unwrap_err().to_string().contains("boolean with the byte 2"));
    assert!(patched(32, &[0xff]).unwrap_err().to_string().contains("not valid UTF-8"));
    assert!(patched(24, &u64::MAX.to_le_bytes()).unwrap_err().to_string().contains("limit"));
    assert!(patched(16, &u64::MAX.to_le_bytes()).unwrap_err().to_string().contains("metadata keys"));
    assert!(patched(8, &u64::MAX.to_le_bytes()).unwrap_err().to_string().contains("number of tensors"));
    // A value that is not UTF-8 is found when it is asked for.
    let gguf = patched(59, &[0xff]).unwrap();
    assert!(gguf.metadata().value("l").unwrap_err().to_string().contains("\"l\" is not valid UTF-8"));
}

fn write_parts(folder: &Path, parts: &[(String, Vec<u8>)]) {
    for (name, bytes) in parts {
        std::fs::write(folder.join(name), bytes).unwrap();
    }
}

#[test]
fn split_models_appear_as_one() {
    let folder = tempfile::tempdir().unwrap();
    let parts = sample().alignment(64).build_split("m", 3);
    write_parts(folder.path(), &parts);
    let whole = Gguf::from_bytes(sample().alignment(64).build()).unwrap();
    // Any part may be named.
    for (name, _) in &parts {
        let gguf = Gguf::open(&folder.path().join(name)).unwrap();
        assert_eq!(gguf.part_count(), 3);
        assert_eq!(gguf.metadata().required::<&str>("a.string").unwrap(), "grüße");
        for tensor in whole.tensors() {
            assert_eq!(gguf.bytes(gguf.tensor(&tensor.name).unwrap()), whole.bytes(tensor));
        }
    }
    assert!(Gguf::from_bytes(parts[0].1.clone()).unwrap_err().to_string().contains("part 1 of 3"));
}

#[test]
fn split_models_with_wrong_parts_are_refused() {
    let folder = tempfile::tempdir().unwrap();
    let parts = sample().build_split("m", 3);
    write_parts(folder.path(), &parts);
    let first = folder.path().join(&parts[0].0);
    let third = folder.path().join(&parts[2].0);
    let text = || Gguf::open(&first).unwrap_err().to_string();

    std::fs::remove_file(&third).unwrap();
    assert!(matches!(Gguf::open(&first), Err(ModelError::MissingPart { path, count: 3 }) if path == third));
    std::fs::write(&third, &parts[1].1).unwrap();
    assert!(text().contains("says that it is part 2 of 3, but by its name it is part 3 of 3"), "{}", text());
    std::fs::write(&third, sample().build()).unwrap();
    assert!(text().contains("does not say which part"), "{}", text());
    std::fs::write(&third, &GgufWriter::new().build_split("m", 3)[2].1).unwrap();
    assert!(text().contains("split.tensors.count is 4"), "{}", text());

    let renamed = folder.path().join("renamed.gguf");
    std::fs::write(&renamed, &parts[0].1).unwrap();
    assert!(Gguf::open(&renamed).unwrap_err().to_string().contains("-00001-of-00003.gguf"));
}

#[test]
fn errors_name_the_file() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("broken.gguf");
    assert!(Gguf::open(&path).unwrap_err().to_string().contains("broken.gguf"));
    std::fs::write(&path, b"").unwrap();
    assert!(Gguf::open(&path).unwrap_err().to_string().contains("broken.gguf: not a GGUF file"));
    assert!(Gguf::open(folder.path()).is_err());
}

#[test]
fn a_vocabulary_of_262144_entries_is_read_quickly() {
    let tokens: Vec<String> = (0..262_144).map(|id| format!("token{id}")).collect();
    let bytes = GgufWriter::new().key("tokenizer.ggml.tokens", tokens).build();
    let start = std::time::Instant::now();
    let gguf = Gguf::from_bytes(bytes).unwrap();
    let tokens: Vec<&str> = gguf.metadata().required("tokenizer.ggml.tokens").unwrap();
    let elapsed = start.elapsed();
    assert_eq!((tokens.len(), tokens[262_143]), (262_144, "token262143"));
    // Some 6 ms alone on a slow machine; the bound leaves room for a loaded one.
    assert!(elapsed.as_millis() < 500, "{elapsed:?}");
}

/// Reads all that a file offers, as a model loader would; must never panic.
fn exhaust(bytes: Vec<u8>) {
    let Ok(gguf) = Gguf::from_bytes(bytes) else { return };
    let metadata = gguf.metadata();
    for key in metadata.keys() {
        if let Ok(Some(Value::Array(array))) = metadata.value(key) {
            assert!(array.iter().count() == array.len());
        }
    }
    for tensor in gguf.tensors() {
        assert_eq!(gguf.bytes(tensor).len(), tensor.byte_length());
        assert!(tensor.format.row_bytes(tensor.columns()).unwrap() * tensor.rows() == tensor.byte_length());
    }
}

#[test]
fn every_truncation_is_refused() {
    let bytes = sample().build();
    for length in 0..bytes.len() {
        assert!(Gguf::from_bytes(bytes[..length].to_vec()).is_err(), "{length} of {} bytes", bytes.len());
    }
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn mutated_files_never_panic(
        edits in prop::collection::vec((any::<prop::sample::Index>(), prop_oneof![
            any::<u8>(), Just(0), Just(1), Just(0x7f), Just(0x80), Just(0xff)
        ]), 1..8),
        cut in prop::option::of(any::<prop::sample::Index>()),
    ) {
        let mut bytes = sample().build();
        for (at, byte) in edits {
            let at = at.index(bytes.len());
            bytes[at] = byte;
        }
        if let Some(cut) = cut {
            bytes.truncate(cut.index(bytes.len()));
        }
        exhaust(bytes);
    }

    #[test]
    fn overwritten_fields_never_panic(
        at in any::<prop::sample::Index>(),
        value in prop_oneof![any::<u64>(), Just(u64::MAX), Just(1 << 63), Just(1 << 32), 0..300_u64],
    ) {
        let mut bytes = sample().build();
        let at = at.index(bytes.len() - 8);
        bytes[at..at + 8].copy_from_slice(&value.to_le_bytes());
        exhaust(bytes);
    }

    #[test]
    fn noise_after_the_magic_never_panics(noise in prop::collection::vec(any::<u8>(), 0..400)) {
        let mut bytes = b"GGUF\x03\0\0\0".to_vec();
        bytes.extend(noise);
        exhaust(bytes);
    }
}

#[test]
fn every_promised_tensor_type_is_accepted() {
    // Type number, elements and bytes of a block, as the format's specification has them.
    let types = [
        (0, WeightFormat::F32, 1, 4),
        (1, WeightFormat::F16, 1, 2),
        (30, WeightFormat::Bf16, 1, 2),
        (2, WeightFormat::Q4_0, 32, 18),
        (3, WeightFormat::Q4_1, 32, 20),
        (6, WeightFormat::Q5_0, 32, 22),
        (7, WeightFormat::Q5_1, 32, 24),
        (8, WeightFormat::Q8_0, 32, 34),
        (10, WeightFormat::Q2K, 256, 84),
        (11, WeightFormat::Q3K, 256, 110),
        (12, WeightFormat::Q4K, 256, 144),
        (13, WeightFormat::Q5K, 256, 176),
        (14, WeightFormat::Q6K, 256, 210),
        (20, WeightFormat::Iq4Nl, 32, 18),
        (39, WeightFormat::Mxfp4, 32, 17),
        (40, WeightFormat::Nvfp4, 64, 36),
    ];
    for (id, format, elements, bytes) in types {
        let writer = GgufWriter::new().tensor("t", &[elements * 2, 3], id, vec![1; bytes * 6]);
        let gguf = Gguf::from_bytes(writer.build()).unwrap();
        let tensor = gguf.tensor("t").unwrap();
        assert_eq!((tensor.format, gguf.bytes(tensor).len()), (format, bytes * 6), "{format:?}");
    }
}

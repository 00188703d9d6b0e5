use nearfield_testkit::real_models::model_file;
use serde_json::{Value, json};

use super::support::Home;

/// The models of the catalogue whose sizes it states, and their files among the real models.
const SIZED: [(&str, &str); 4] = [
    ("smollm2:135m", "smollm2-135m"),
    ("gemma3:270m", "gemma3-270m"),
    ("qwen2.5-coder:0.5b", "qwen2.5-coder-0.5b"),
    ("qwen2.5-coder:1.5b", "qwen2.5-coder-1.5b"),
];

/// More than a plan: the program itself, its text side and what the system keeps for it.
const BESIDE_THE_PLAN: u64 = 64 << 20;

#[test]
fn the_plan_is_shown_before_anything_is_loaded() {
    let home = Home::new();
    let model = home.chat_model();
    let settings = ["--context", "64", "--kv", "f32", "--json"];
    let fit = home.run(&[&["fit", &model, "--speculation", "off"][..], &settings].concat()).json();
    assert_eq!((&fit["here"], &fit["fits"], &fit["weights"]), (&json!(true), &json!(true), &json!("memory")));
    // Four layers, keys and values of 2 heads of 16 floats; 64 positions of it.
    let position = 4 * 2 * 2 * 16 * 4;
    assert_eq!((&fit["kv_bytes_per_token"], &fit["kv_bytes"]), (&json!(position), &json!(64 * position)));
    let bytes = |name: &str| fit[name].as_u64().unwrap();
    assert_eq!(bytes("total_bytes"), bytes("weights_bytes") + bytes("kv_bytes") + bytes("scratch_bytes"));
    assert!(fit["bandwidth_bytes_per_second"].as_f64().unwrap() > 1e8, "{fit}");
    let decode = |name: &str| fit["decode"][name].as_f64().unwrap();
    assert!(decode("tokens_per_second") < decode("tokens_per_second_limit"));
    assert!(decode("tokens_per_second_full_context") < decode("tokens_per_second"));
    // A bench, which does not speculate, takes exactly this plan.
    let arguments = ["bench", &model, "--runs", "1", "--prompt-tokens", "8", "--max-tokens", "8"];
    let bench = home.run(&[&arguments[..], &settings].concat()).json();
    assert_eq!(bench["plan_bytes"], fit["total_bytes"]);
    let text = home.run(&["fit", &model]);
    assert!(text.stdout.contains("it fits") && text.stdout.contains("tok/s at the start"), "{text:?}");
}

#[test]
fn what_does_not_fit_is_shown_and_fails() {
    let home = Home::new();
    let model = home.chat_model();
    let config = home.write("small.toml", "[local]\nmemory = \"1 MiB\"\n");
    let done = home.run(&["fit", &model, "--context", "512", "--config", &config]);
    assert_eq!(done.code, 1, "{done:?}");
    assert!(done.stdout.contains("1.0 MiB: it does not fit"), "{done:?}");
    assert!(done.stderr.contains("bytes of memory are needed but 1048576 are available"), "{done:?}");
}

#[test]
fn a_model_that_is_not_here_needs_known_sizes() {
    let home = Home::new();
    let fit = home.run(&["fit", "qwen2.5-coder:1.5b", "--json"]).json();
    assert_eq!((&fit["here"], &fit["kv_bytes_per_token"]), (&json!(false), &json!(28 * 1024)));
    assert!(home.run(&["fit", "gemma4:31b"]).error(1).contains("`nearfield pull gemma4:31b`"));
    assert!(home.run(&["fit", "hf:some/model"]).error(1).contains("not on this machine"));
}

#[test]
fn the_catalogue_knows_the_sizes_of_the_files() {
    let home = Home::new();
    for (name, file) in SIZED {
        let Some(path) = model_file(file) else { continue };
        let plan = |model: &str| -> Vec<Value> {
            let fit = home.run(&["fit", model, "--context", "4096", "--json"]).json();
            let parts = ["weights_bytes", "kv_bytes_per_token", "kv_bytes", "scratch_bytes", "total_bytes"];
            let reads = ["weights_bytes", "kv_bytes_full_context"].map(|part| fit["decode"][part].clone());
            parts.into_iter().map(|part| fit[part].clone()).chain(reads).collect()
        };
        assert_eq!(plan(name), plan(&path.display().to_string()), "{name}");
    }
}

#[test]
#[cfg(target_os = "linux")]
fn the_process_stays_within_its_plan() {
    let Some(path) = model_file("smollm2-135m") else { return };
    let home = Home::new();
    let path = path.display().to_string();
    // A prompt that fills whole steps, and a context that is written to its last page.
    let arguments = ["bench", &path, "--runs", "1", "--prompt-tokens", "600", "--max-tokens", "8", "--json"];
    let bench = home.run(&arguments).json();
    let (plan, peak) = (bench["plan_bytes"].as_u64().unwrap(), bench["peak_bytes"].as_u64().unwrap());
    assert!(peak < plan + BESIDE_THE_PLAN, "{peak} is more than {plan} and 64 MiB");
    // All of the weights were read, and count.
    assert!(peak > 90_000_000, "{peak}");
}

#[test]
fn the_line_up_is_known_without_its_files() {
    let home = Home::new();
    let machine = ["--memory", "24GiB", "--bandwidth", "1008GB/s", "--json"];
    let all = home.run(&[&["fit"][..], &machine].concat()).json();
    let of = |model: &str, format: &str| -> Value {
        let models = all["models"].as_array().unwrap();
        models.iter().find(|one| one["model"] == model && one["format"] == format).unwrap().clone()
    };
    let fits = |model: &str, format: &str| of(model, format)["fits"].as_bool().unwrap();
    assert!(fits("qwen3.6-27b", "NVFP4") && !fits("qwen3.6-27b", "BF16") && !fits("qwen3.6-27b", "FP8"));
    assert!(fits("gemma4-26b-a4b", "NVFP4") && fits("qwen3.5-9b", "BF16") && fits("gemma4-e4b", "BF16"));
    // 18.8 GB beside a draft head of one layer.
    let weights = of("qwen3.6-27b", "NVFP4")["weights_bytes"].as_f64().unwrap() / 1e9;
    assert!((18.7..19.3).contains(&weights), "{weights}");
    // A table of 2.35 billion elements in BF16.
    assert_eq!(of("gemma4-e2b", "NVFP4")["left_in_file_bytes"], 262_144_u64 * 35 * 256 * 2);
    // Few experts are read for a token.
    let speed = |model: &str| of(model, "NVFP4")["tokens_per_second"].as_f64().unwrap();
    assert!(speed("qwen3.6-35b-a3b") > 4.0 * speed("qwen3.6-27b"));
    let one = home.run(&["fit", "Qwen3.6-27B", "--memory", "24GiB", "--bandwidth", "1008GB/s"]);
    for context in ["8192", "32768", "131072"] {
        assert!(one.stdout.contains(context), "{one:?}");
    }
}

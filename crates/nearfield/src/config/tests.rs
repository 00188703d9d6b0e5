use nearfield_api::Usage;
use nearfield_privacy::DataClass;
use nearfield_router::PolicyMode;
use nearfield_router::rules::Address;
use nearfield_store::NanoDollars;

use super::*;

fn read(text: &str) -> Result<Config, ConfigError> {
    Config::read(Some((Path::new("/etc/nearfield.toml"), text)))
}

fn problem(text: &str) -> String {
    read(text).unwrap_err().to_string()
}

const WHOLE: &str = r#"
[policy]
mode = "prefer-local"
cloud = ["zeta", "alpha"]
leaves = "personal"

[local]
threads = 4
context = 4096
kv = "q8"
arithmetic = "exact"
speculation = "off"
slots = 8
queue = 2
prefix_cache = "64MB"
cache_domains = { team = ["key_1", "key_2"] }
memory = "8GB"

[server]
port = 9000
tls_cert = "cert.pem"
tls_key = "/keys/key.pem"
allowed_hosts = ["box.example"]
cors_origins = ["https://chat.example"]

[cost]
watts = 65
dollars_per_kwh = 0.3
reference = "mine/model"

[backend.zeta]
kind = "openai-compatible"
base_url = "https://zeta.example/v1"
key = "file:zeta.key"
model_map = { "our-name" = "their-name" }
prices = "zeta-cloud"

[backend.alpha]
kind = "openai-compatible"
base_url = "https://alpha.example/v1"
key = "env:ALPHA_KEY"
models = ["m"]

[prices."mine/model"]
input = 1
output = 2.5
"#;

#[test]
fn every_setting_is_read() {
    let config = read(WHOLE).unwrap();
    let leaves = Some(DataClass::Personal);
    assert_eq!((config.policy.mode, config.policy.leaves), (PolicyMode::PreferLocal, leaves));
    assert_eq!(config.local.kv, Some(KeyValueName::Q8));
    assert_eq!(config.local.speculation, Some(SpeculationName::Off));
    assert_eq!(config.local.memory.map(|bytes| bytes.0), Some(8_000_000_000));
    assert_eq!(config.local.prefix_cache, Some(PrefixCache(64_000_000)));
    assert_eq!(config.server.tls_cert.as_deref(), Some(Path::new("/etc/cert.pem")));
    assert_eq!(config.server.tls_key.as_deref(), Some(Path::new("/keys/key.pem")));
    assert_eq!(config.tariff, Tariff { watts: Some(65.0), dollars_per_kwh: Some(0.3) });
    let names: Vec<_> = config.backends.iter().map(|backend| backend.name.as_str()).collect();
    assert_eq!(names, ["zeta", "alpha"], "the order of the file");
    assert_eq!(config.backends[0].models().unwrap(), ["our-name"]);
    let facts = &config.facts()[1];
    assert_eq!(facts.upstream_model("our-name"), "their-name");
    assert_eq!(facts.addresses.iter().map(Address::url).collect::<Vec<_>>(), ["https://zeta.example/v1"]);
    assert_eq!(config.backends[0].price_provider().as_deref(), Some("zeta-cloud"));
    let error = config.backends[0].build().err().unwrap().to_string();
    assert!(error.starts_with("/etc/nearfield.toml:31: backend `zeta`: key: /etc/zeta.key: "), "{error}");
    let usage = Usage { input: 1_000_000, output: 1_000_000, ..Usage::default() };
    let cost = config.prices.cost(&config.reference, &usage, jiff::Timestamp::now()).unwrap().cost;
    assert_eq!(cost, NanoDollars(3_500_000_000));
}

#[test]
fn the_documented_file_can_be_read() {
    let manual = include_str!("../../../../docs/configuration.md");
    let example = manual.split("```toml\n").nth(1).unwrap().split("```").next().unwrap();
    let config = read(example).unwrap();
    assert_eq!(config.policy.cloud, ["openai"]);
    assert_eq!(config.backends[0].models().unwrap(), ["gpt-5.4-mini", "qwen2.5-coder:1.5b"]);
}

#[test]
fn nothing_is_needed() {
    let config = Config::read(None).unwrap();
    assert_eq!(config.policy.mode, PolicyMode::LocalOnly);
    assert!(config.local.enabled && config.backends.is_empty());
    assert_eq!(config.reference, DEFAULT_REFERENCE);
}

#[test]
fn mistakes_name_line_and_cure() {
    for (text, expected) in [
        ("[policy]\nmod = \"local-only\"", ":2: there is no setting `mod` here; did you mean `mode`?"),
        ("[polices]\n", ":1: there is no setting `polices` here; did you mean `policy`?"),
        ("[policy]\nmode = \"local\"", ":2: there is no value `local` here; did you mean `local-only`?"),
        ("\n\n[local]\nthreads = 0", ":4: expected a nonzero usize, found integer"),
        ("[local]\nkv = \"f8\"", ":2: there is no value `f8` here"),
        ("[local]\nmemory = \"lots\"", ":2: expected an amount of memory such as 8GB or 512MiB"),
        ("[server]\nport = 70000", ":2: expected u16, found integer"),
        ("[cost]\nwatts = -1", ":2: expected a number from 0 to 1000000"),
        (
            "[cost]\nreference = \"openai/gpt-5.4-nao\"",
            ":2: there is no price for `openai/gpt-5.4-nao`; did you mean",
        ),
        ("[backend.a]\nbase_url = \"https://a\"", ":1: the setting `kind` is missing"),
        (
            "[backend.local]\nkind = \"openai-compatible\"\nbase_url = \"https://a\"",
            ":1: `local` is the name of",
        ),
        (
            "[backend.\"a b\"]\nkind = \"openai-compatible\"\nbase_url = \"https://a\"",
            ":1: a backend's name has",
        ),
        ("[policy]\ncloud = [\"a\"]", "nearfield.toml: the policy's cloud order names `a`"),
        (
            "[policy]\nmode = \"cloud-only\"\n[backend.a]\nkind = \"openai-compatible\"\nbase_url = \"https://a\"",
            "nearfield.toml: the policy `cloud-only` lets requests leave this machine, and no class of data is declared",
        ),
        ("[policy]\nleaves = \"secret\"", "nearfield.toml: leaves = \"secret\" is too much for a mode"),
        ("[policy]\nleaves = \"persnal\"", ":2: there is no value `persnal` here; did you mean `personal`?"),
        (
            "[policy]\nfile = \"p.toml\"\nleaves = \"public\"",
            "takes the place of `mode`, `cloud` and `leaves`",
        ),
        ("x = ", ":1: "),
    ] {
        let found = problem(text);
        assert!(found.starts_with("/etc/nearfield.toml:"), "{found}");
        assert!(found.contains(expected), "{text:?} gives {found}");
        assert!(!found.contains('\n'), "{found}");
    }
}

#[test]
fn a_literal_key_is_refused_and_not_shown() {
    let section = "[backend.a]\nkind = \"openai-compatible\"\nbase_url = \"https://a\"\n";
    for wrong in [
        "key = \"sk-secret\"",
        "key = 1234567",
        "key = 1.5e7",
        "key = [\"sk-secret\"]",
        "key = { value = \"sk-secret\" }",
        "key = \"env:\"",
        "key = \"sk-secret",
        "api_key = \"sk-secret\"",
        "certificates = { a = \"sk-secret\" }",
        "models = \"sk-secret\"",
        "idle_timeout_seconds = \"sk-secret\"",
    ] {
        let found = problem(&format!("{section}{wrong}\n"));
        assert!(!found.contains("secret") && !found.contains("1234567"), "{found}");
        assert!(found.starts_with("/etc/nearfield.toml:4: "), "{wrong}: {found}");
    }
    // A key that is not needed yet is not looked for yet.
    let config = read(&format!("{section}key = \"env:NEARFIELD_NOT_SET\"")).unwrap();
    let error = config.backends[0].build().err().unwrap().to_string();
    assert!(error.contains("NEARFIELD_NOT_SET is not set"), "{error}");
}

#[test]
fn a_file_that_was_named_must_be_there() {
    let folder = tempfile::tempdir().unwrap();
    let path = folder.path().join("missing.toml");
    assert!(matches!(Config::load(Some(&path)), Err(ConfigError::Read { .. })));
    fs::write(&path, [0xff, 0xfe]).unwrap();
    assert!(Config::load(Some(&path)).unwrap_err().to_string().contains("UTF-8"));
}

#[test]
fn a_key_in_two_cache_domains_is_an_error() {
    let text = problem("[local]\ncache_domains = { a = [\"key_1\"], b = [\"key_1\"] }\n");
    assert!(text.contains("key_1") && text.contains("leave it in one"), "{text}");
}

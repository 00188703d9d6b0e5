//! `--offline` on a kernel that cannot do what it promises. The test takes a system call away from a process of its own,
//! as an older kernel would lack it, and starts the program from there.

use std::collections::BTreeMap;
use std::process::Command;

use seccompiler::{BpfProgram, SeccompAction, SeccompFilter, TargetArch, apply_filter_all_threads};

use super::models::pull;
use super::support::Home;

/// Which system call the process lacks.
const LACKS: &str = "OFFLINE_TEST_LACKS";

#[test]
fn offline_refuses_to_start_where_the_kernel_cannot_hold_it() {
    for lacks in ["landlock", "seccomp"] {
        let own = std::env::current_exe().unwrap();
        let output = Command::new(own)
            .args(["--exact", "unfit::on_an_unfit_kernel", "--ignored", "--nocapture", "--test-threads=1"])
            .env(LACKS, lacks)
            .output()
            .unwrap();
        let said = format!(
            "{}\n{}",
            String::from_utf8_lossy(&output.stdout),
            String::from_utf8_lossy(&output.stderr)
        );
        assert!(output.status.success() && said.contains("unfit: complete"), "{lacks}: {said}");
    }
}

#[test]
#[ignore = "loses a system call: offline_refuses_to_start_where_the_kernel_cannot_hold_it starts it in a process of its own"]
fn on_an_unfit_kernel() {
    let Ok(lacks) = std::env::var(LACKS) else { return };
    let home = Home::new();
    let model = pull(&home);
    let before = home.run(&["run", &model, "hello", "--offline", "--max-tokens", "2"]);
    assert_eq!(before.code, 0, "{before:?}");

    let (call, word) = match lacks.as_str() {
        "landlock" => (libc::SYS_landlock_create_ruleset, "Landlock"),
        _ => (libc::SYS_seccomp, "seccomp"),
    };
    let missing = SeccompAction::Errno(libc::ENOSYS.unsigned_abs());
    let architecture = TargetArch::try_from(std::env::consts::ARCH).unwrap();
    let rules = BTreeMap::from([(call, Vec::new())]);
    let filter = SeccompFilter::new(rules, SeccompAction::Allow, missing, architecture).unwrap();
    apply_filter_all_threads(&BpfProgram::try_from(filter).unwrap()).unwrap();

    let online = home.run(&["run", &model, "hello", "--max-tokens", "2"]);
    assert_eq!(online.code, 0, "without --offline it runs: {online:?}");
    for command in [vec!["run", &model, "hello", "--offline"], vec!["serve", "--offline"]] {
        let refused = home.run(&command);
        assert!(refused.code != 0 && refused.stdout.is_empty(), "{refused:?}");
        assert!(
            refused.stderr.contains("--offline needs a kernel") && refused.stderr.contains(word),
            "{refused:?}"
        );
    }
    println!("unfit: complete");
}

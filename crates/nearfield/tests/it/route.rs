//! `nearfield route eval` on public answers of a weak and a strong model.

use std::path::PathBuf;

use serde_json::Value;

use super::support::Home;

/// The folder of public data, where it is here.
fn data() -> Option<PathBuf> {
    let root = std::env::var_os("NEARFIELD_TEST_DATA").map_or_else(
        || PathBuf::from(concat!(env!("CARGO_MANIFEST_DIR"), "/../../../shared/data")),
        PathBuf::from,
    );
    let path = root.join("routellm");
    if path.is_dir() {
        return Some(path);
    }
    assert!(std::env::var_os("CI").is_none(), "{} is missing; set NEARFIELD_TEST_DATA", path.display());
    eprintln!("skipped: {} is missing; set NEARFIELD_TEST_DATA", path.display());
    None
}

fn number(value: &Value) -> f64 {
    value.as_f64().unwrap_or_else(|| panic!("{value} is no number"))
}

#[test]
fn routers_are_judged_on_gsm8k_and_mmlu() {
    let Some(folder) = data() else { return };
    let report = Home::new().run(&["route", "eval", "--json", "--data", folder.to_str().unwrap()]).json();
    eprintln!("{report}");
    let sets = report["sets"].as_array().unwrap();
    // Of 1,319 and 7,700 rows the contaminated prompts are left out.
    let counts: Vec<_> = sets.iter().map(|set| (set["set"].as_str(), set["questions"].as_u64())).collect();
    assert_eq!(counts, [(Some("gsm8k"), Some(1307)), (Some("mmlu"), Some(7655))]);
    let mut better = true;
    for set in sets {
        assert!(number(&set["weak"]) < number(&set["strong"]), "{set}");
        let routers = set["routers"].as_array().unwrap();
        let names: Vec<_> = routers.iter().map(|router| router["router"].as_str().unwrap()).collect();
        assert_eq!(names, ["random", "prompt length", "subject prior", "prompt features"]);
        for router in routers {
            let cpt: Vec<f64> = router["cpt"].as_array().unwrap().iter().map(number).collect();
            assert!(cpt.is_sorted() && cpt.iter().all(|share| (0.0..=1.0).contains(share)), "{router}");
            assert!((0.0..=1.0).contains(&number(&router["apgr"])), "{router}");
        }
        let [length, features] = [1, 3].map(|at| number(&routers[at]["apgr"]));
        let over = &set["features_over_length"];
        let [low, high] = [0, 1].map(|at| number(&over["interval"][at]));
        let difference = number(&over["difference"]);
        assert!((difference - (features - length)).abs() < 1e-9, "{over}");
        assert!(low <= difference && difference <= high, "{over}");
        better &= low > 0.0;
    }
    assert_eq!(report["features_beat_length_on_both"], better);
    assert!(!better, "prompt features became better than length: let rules ask for complexity again");
}

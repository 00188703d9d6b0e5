//! The suite of all backends, for the local engine, and for a cloud that is another Nearfield with the same engine.

use std::sync::Arc;

use nearfield_api::{Backend, Locality};
use nearfield_engine::EngineOptions;
use nearfield_server::local::{LocalBackend, LocalOptions};
use nearfield_testkit::conformance::{Check, FarSide, Models, Subject, run};
use nearfield_testkit::puppet_model::puppet_model;

use crate::backends::cloud;
use crate::local::hub;
use crate::support::Setup;

const MISSING: &str = "/no/such/model";

/// The engine, wherever it is asked from.
struct Engine {
    backend: Arc<LocalBackend>,
    model: String,
}

impl FarSide for Engine {
    fn is_busy(&self) -> bool {
        self.backend.load(&self.model, 0).is_some_and(|load| load.free_cache < 1.0)
    }
}

/// What a model on a machine can be asked for. It cannot be forced, sees nothing, and never says no.
fn of_engine(name: &str, backend: Arc<dyn Backend>, far: Engine, models: Models) -> Subject {
    let mut subject = Subject::new(name, backend, far);
    subject.models = models;
    subject.tokens = None;
    subject.listed = Vec::new();
    subject.is_named_in_errors = false;
    subject
        .refuses_all(&[
            (Check::ForcedCall, "tool_choice"),
            (Check::Form, "response_format"),
            (Check::Picture, "messages[0].content[1].type"),
        ])
        .never(Check::ThoughtReturns, "thoughts of local models are not signed")
        .never(Check::Refusal, "a local model only says that it refuses")
        .never(Check::Overload, "it takes many requests at once to fill the engine")
        .never(Check::CutOff, "nothing lies between the engine and its caller that could break")
        .never(Check::Failure, "no test can make the engine fail halfway")
}

#[tokio::test]
async fn the_local_engine_does_all_of_it_here_and_elsewhere() {
    let folder = tempfile::tempdir().unwrap();
    let write = |name: &str, endless| {
        let path = folder.path().join(name);
        std::fs::write(&path, puppet_model(endless)).unwrap();
        path.display().to_string()
    };
    let (model, endless) = (write("puppet.gguf", false), write("endless.gguf", true));
    let models = Models::with_weights(&model, &endless, MISSING);
    let engine =
        EngineOptions { threads: Some(1), slots: 4, cache_bytes: Some(16 << 20), ..EngineOptions::default() };
    let options = LocalOptions { engine, allow_paths: true, ..LocalOptions::default() };
    let backend = Arc::new(LocalBackend::new(hub(&folder), options));
    let far = || Engine { backend: Arc::clone(&backend), model: endless.clone() };

    let mut here = of_engine("the local engine", Arc::clone(&backend) as _, far(), models.clone());
    here.locality = Locality::Local;
    here.knows_its_load = true;
    let report = run(&here).await;
    println!("{report}");
    assert!(report.passed(), "{report}");

    let server = Setup::local(Arc::clone(&backend) as _).start().await;
    let report = run(&of_engine("another nearfield", cloud(&server), far(), models)).await;
    println!("{report}");
    assert!(report.passed(), "{report}");
}

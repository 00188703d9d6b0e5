use std::path::Path;

use super::*;

fn model() -> Model {
    Model::open(&Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/fixtures/llama")).unwrap()
}

fn options() -> EngineOptions {
    EngineOptions { threads: Some(2), memory_bytes: Some(1 << 30), ..EngineOptions::default() }
}

fn plan(options: &EngineOptions) -> Result<Plan, EngineError> {
    Plan::for_model(&model(), options)
}

/// Bytes of a position in the fixture: 4 layers, keys and values, 2 heads of 16 halves.
const POSITION: u64 = 4 * 2 * 2 * 16 * 2;

#[test]
fn with_room_to_spare_every_slot_has_a_context() {
    let plan = plan(&options()).unwrap();
    assert_eq!((plan.context, plan.cache_positions, plan.slots), (512, 32 * 512, 32));
    assert_eq!(plan.key_value_bytes_per_position, POSITION);
    assert_eq!(plan.cache_bytes(), 32 * 512 * POSITION);
    assert_eq!(plan.total_bytes(), plan.weight_bytes + plan.cache_bytes() + plan.scratch_bytes);
    let text = plan.to_string();
    assert!(text.contains("16384 positions") && text.contains("context 512") && text.contains("32 requests"));
    let short = super::Plan::for_model(&model(), &EngineOptions { context: Some(40), ..options() }).unwrap();
    assert_eq!((short.context, short.cache_positions), (40, 32 * 64), "whole pages");
}

#[test]
fn the_cache_takes_no_more_than_it_may() {
    let allowed = |bytes| plan(&EngineOptions { cache_bytes: Some(bytes), ..options() }).unwrap();
    assert_eq!(allowed(POSITION * 1_000).cache_positions, 992, "whole pages");
    assert_eq!(allowed(0).cache_positions, 512, "never less than a context");
    assert_eq!(allowed(1 << 29).cache_positions, 32 * 512, "nor more than all slots can use");
    let memory = plan(&options()).unwrap().weight_bytes * 40;
    let quarter = plan(&EngineOptions { memory_bytes: Some(memory), ..options() }).unwrap();
    assert!(quarter.cache_bytes() <= memory / 4 && quarter.cache_positions < 32 * 512);
}

#[test]
fn what_does_not_fit_is_refused_with_both_numbers() {
    let least = {
        let all = plan(&options()).unwrap();
        all.weight_bytes + all.scratch_bytes + 512 * POSITION
    };
    let within = |memory_bytes, context| {
        plan(&EngineOptions { memory_bytes: Some(memory_bytes), context, ..options() })
    };
    assert_eq!(within(least, Some(512)).unwrap().total_bytes(), least);
    match within(least - 1, Some(512)) {
        Err(EngineError::OutOfMemory { needed, available }) => {
            assert_eq!((needed, available), (least, least - 1));
        }
        other => panic!("{other:?}"),
    }
    assert!(matches!(within(0, None), Err(EngineError::OutOfMemory { .. })));
}

#[test]
fn a_context_that_nobody_asked_for_gives_way() {
    let mut model = Plan { context: 8192, slots: 4, ..plan(&options()).unwrap() };
    model.scratch_bytes = 0;
    model.weight_bytes = 1000;
    let page = 32 * POSITION;
    let plan = model.divide(&options(), 1000 + 100 * page).unwrap();
    assert_eq!((plan.context, plan.cache_positions), (3200, 3200));
    assert!(plan.total_bytes() <= 1000 + 100 * page);
    let refused = model.divide(&options(), 1000 + 15 * page);
    assert!(matches!(refused, Err(EngineError::OutOfMemory { .. })), "below 512 positions it is no use");
    let asked = EngineOptions { context: Some(8192), ..options() };
    assert!(matches!(model.divide(&asked, 1000 + 100 * page), Err(EngineError::OutOfMemory { .. })));
}

#[test]
fn experts_stay_in_the_file_where_memory_is_short() {
    let architecture = model().architecture().clone();
    let weights = WeightBytes { common: 100 << 20, experts: 900 << 20, table: 50 << 20 };
    let within = |memory_bytes: u64, place| {
        let options = EngineOptions {
            memory_bytes: Some(memory_bytes),
            weights: place,
            slots: 1,
            ..EngineOptions::default()
        };
        Plan::for_architecture(&architecture, weights, &options)
    };
    let roomy = within(2 << 30, WeightsPlace::Automatic).unwrap();
    assert_eq!((roomy.weights, roomy.weight_bytes), (WeightsHeld::Memory, 1000 << 20));
    assert_eq!(roomy.file_bytes, 50 << 20, "a table of rows for single tokens is never copied");
    for bytes in [1060 << 20, 400 << 20] {
        let short = within(bytes, WeightsPlace::Automatic).unwrap();
        assert_eq!((short.weights, short.weight_bytes), (WeightsHeld::ExpertsMapped, 100 << 20), "{bytes}");
        assert_eq!(short.file_bytes, 950 << 20);
        assert!(short.total_bytes() <= bytes);
    }
    let mapped = within(2 << 30, WeightsPlace::Mapped).unwrap();
    assert_eq!((mapped.weights, mapped.weight_bytes), (WeightsHeld::Mapped, 1000 << 20));
    let mapped = within(400 << 20, WeightsPlace::Mapped).unwrap();
    assert_eq!((mapped.weights, mapped.weight_bytes), (WeightsHeld::Mapped, 100 << 20));
    assert!(matches!(within(90 << 20, WeightsPlace::Automatic), Err(EngineError::OutOfMemory { .. })));
}

#[test]
fn a_checkpoint_may_ask_for_a_narrow_cache_and_options_overrule_it() {
    let mut architecture = model().architecture().clone();
    architecture.wants_fp8_cache = true;
    let with = |key_value_type| {
        let options = EngineOptions { key_value_type, ..options() };
        Plan::for_architecture(&architecture, WeightBytes::default(), &options).unwrap()
    };
    let asked = with(None);
    assert_eq!((asked.key_value_type, asked.key_value_bytes_per_position), (KeyValueType::F8, POSITION / 2));
    let chosen = with(Some(KeyValueType::F16));
    assert_eq!((chosen.key_value_type, chosen.key_value_bytes_per_position), (KeyValueType::F16, POSITION));
}

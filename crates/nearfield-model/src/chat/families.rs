//! Templates for files of known families that come without one.

/// The template of a family, by the name of its architecture in GGUF files or its `model_type` in checkpoints. Only of
/// families whose models all answer messages: elsewhere a file without a template is a base model.
pub(crate) fn template_of(architecture: &str) -> Option<&'static str> {
    match architecture {
        "qwen35" | "qwen35moe" | "qwen3_5" | "qwen3_5_text" | "qwen3_5_moe" | "qwen3_5_moe_text" => {
            Some(include_str!("families/qwen3.6.jinja"))
        }
        "gemma4" | "gemma4_text" | "gemma4_unified" | "gemma4_unified_text" => {
            Some(include_str!("families/gemma4.jinja"))
        }
        _ => None,
    }
}

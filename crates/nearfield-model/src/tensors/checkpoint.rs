//! The tensors of a published checkpoint.

use std::path::Path;

use super::{
    Skipped, Source, Tensors,
    binder::{Binder, Found},
    compressed::{CACHE_SCALES, Parts, matrices, one_scale},
};
use crate::{
    architecture::{Description, FamilyDescription, Head, Mixer, Names, Target, TensorRole},
    error::ModelError,
    safetensors::Checkpoint,
};

/// Parts of multimodal checkpoints that a text engine has no use for, and draft heads that the settings do not describe,
/// by how their names start once the text prefix is removed.
const IGNORED_PREFIXES: [(&str, &str); 11] = [
    ("model.visual.", "vision tower"),
    ("model.vision_tower.", "vision tower"),
    ("vision_tower.", "vision tower"),
    ("model.embed_vision.", "vision tower"),
    ("model.vision_embedder.", "vision tower"),
    ("model.multi_modal_projector.", "vision tower"),
    ("multi_modal_projector.", "vision tower"),
    ("model.audio_tower.", "audio tower"),
    ("audio_tower.", "audio tower"),
    ("model.embed_audio.", "audio tower"),
    ("mtp.", "draft head"),
];

/// How the names of a draft head start.
const DRAFT_PREFIX: &str = "mtp.";

impl Tensors {
    /// Gives every tensor of a published checkpoint its role. A draft head that the settings announce but the file does
    /// not have is removed from the description: it is often left out when a checkpoint is saved again. `announced` says
    /// whether the settings announce compressed weights.
    pub(crate) fn from_checkpoint(
        path: &Path,
        checkpoint: Checkpoint,
        family: &FamilyDescription,
        description: &mut Description,
        announced: bool,
    ) -> Result<Self, ModelError> {
        if !checkpoint.tensors().iter().any(|tensor| tensor.name.starts_with(DRAFT_PREFIX)) {
            description.architecture.draft = None;
        }
        cache_scales(path, &checkpoint, description)?;
        let description = &*description;
        let names = Names::published(family, &description.architecture);
        let mut binder = Binder::new(path, family.family, description, names);
        let (mut skipped, mut compressed) = (Vec::new(), false);
        for parts in matrices(&checkpoint) {
            // Multimodal checkpoints put the text model one level down, in one of two places.
            let name = parts.name.replacen("language_model.", "", 1);
            let Some(target) = binder.target(&name) else {
                let ignored = IGNORED_PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix));
                let cache = CACHE_SCALES.iter().any(|ending| name.ends_with(ending));
                match ignored {
                    Some((_, what)) => note_skipped(&mut skipped, what, &parts),
                    None if cache => {}
                    None => return Err(binder.unknown(parts.tensor_name())),
                }
                continue;
            };
            if target == Target::Role(TensorRole::OutputHead)
                && description.head == Head::Tied
                && !parts.is_compressed()
            {
                // The settings win over a copy of the embedding that was saved with the rest. A head that is stored
                // in another form is meant to be used.
                continue;
            }
            compressed |= parts.is_compressed();
            let wrong = |problem: String| ModelError::storage(path, parts.tensor_name(), problem);
            let Some(elements) = parts.elements(&checkpoint).map_err(wrong)? else {
                let (tensor, dtype) = (parts.tensor_name().to_owned(), parts.dtype());
                return Err(ModelError::UnsupportedDtype { path: path.to_owned(), tensor, dtype });
            };
            let found = Found {
                name: parts.tensor_name(),
                shape: &elements.shape,
                storage: elements.storage,
                scales: Vec::new(),
            };
            binder.place(&found, target)?;
        }
        if announced && !compressed {
            let problem = "announces compressed weights, but all tensors are plain";
            return Err(ModelError::Setting {
                path: path.to_owned(),
                setting: "\"quantization_config\"".to_owned(),
                problem: problem.to_owned(),
            });
        }
        let entries = binder.finish()?;
        Ok(Self {
            path: path.to_owned(),
            source: Source::Checkpoint(checkpoint),
            entries,
            conventions: description.conventions,
            skipped,
        })
    }
}

/// Takes over the scales that a checkpoint gives for an FP8 cache of keys and values. They are named after the projection
/// or after the attention that they belong to.
fn cache_scales(
    path: &Path,
    checkpoint: &Checkpoint,
    description: &mut Description,
) -> Result<(), ModelError> {
    for tensor in checkpoint.tensors() {
        let name = tensor.name.replacen("language_model.", "", 1);
        let Some(place) = CACHE_SCALES.iter().position(|ending| name.ends_with(ending)) else { continue };
        let layer = name.strip_prefix("model.layers.").and_then(|rest| rest.split('.').next()?.parse().ok());
        let layers = &mut description.architecture.layers;
        let layer = layer.and_then(|layer: usize| layers.get_mut(layer));
        let Some(Mixer::Attention(attention)) = layer.map(|layer| &mut layer.mixer) else { continue };
        let wrong = |problem: String| ModelError::storage(path, &tensor.name, problem);
        let scale = one_scale(checkpoint, tensor).map_err(wrong)?;
        if !scale.is_normal() || scale < 0.0 {
            return Err(wrong(format!(
                "it is {scale}, but multiplies every cached number; fetch the file again"
            )));
        }
        attention.cache_scales[place] = scale;
        description.architecture.wants_fp8_cache = true;
    }
    Ok(())
}

fn note_skipped(skipped: &mut Vec<Skipped>, what: &'static str, parts: &Parts<'_>) {
    match skipped.iter_mut().find(|part| part.what == what) {
        Some(part) => {
            part.tensors += parts.tensors;
            part.bytes += parts.bytes;
        }
        None => skipped.push(Skipped { what, tensors: parts.tensors, bytes: parts.bytes }),
    }
}

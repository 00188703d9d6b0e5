//! The tensors of a published checkpoint.

use std::path::Path;

use super::{
    Skipped, Source, Tensors,
    binder::{Binder, Found},
    compressed::{CACHE_SCALES, Parts, matrices},
};
use crate::{
    architecture::{Description, FamilyDescription, Head, Names, Target, TensorRole},
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
                    None if cache => note_skipped(&mut skipped, "scales of an FP8 cache", &parts),
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

fn note_skipped(skipped: &mut Vec<Skipped>, what: &'static str, parts: &Parts<'_>) {
    match skipped.iter_mut().find(|part| part.what == what) {
        Some(part) => {
            part.tensors += parts.tensors;
            part.bytes += parts.bytes;
        }
        None => skipped.push(Skipped { what, tensors: parts.tensors, bytes: parts.bytes }),
    }
}

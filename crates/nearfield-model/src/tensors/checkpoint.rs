//! The tensors of a published checkpoint.

use std::path::Path;

use super::{
    Place, Skipped, Source, Tensors,
    binder::{Binder, Found},
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
    /// not have is removed from the description: it is often left out when a checkpoint is saved again.
    pub(crate) fn from_checkpoint(
        path: &Path,
        checkpoint: Checkpoint,
        family: &FamilyDescription,
        description: &mut Description,
    ) -> Result<Self, ModelError> {
        if !checkpoint.tensors().iter().any(|tensor| tensor.name.starts_with(DRAFT_PREFIX)) {
            description.architecture.draft = None;
        }
        let description = &*description;
        let names = Names::published(family, &description.architecture);
        let mut binder = Binder::new(path, family.family, description, names);
        let mut skipped = Vec::new();
        for tensor in checkpoint.tensors() {
            // Multimodal checkpoints put the text model one level down, in one of two places.
            let name = tensor.name.replacen("language_model.", "", 1);
            let Some(target) = binder.target(&name) else {
                let Some((_, what)) = IGNORED_PREFIXES.iter().find(|(prefix, _)| name.starts_with(prefix))
                else {
                    return Err(binder.unknown(&tensor.name));
                };
                note_skipped(&mut skipped, what, tensor.place().1.len() as u64);
                continue;
            };
            if target == Target::Role(TensorRole::OutputHead) && description.head == Head::Tied {
                // The settings win over a copy of the embedding that was saved with the rest.
                continue;
            }
            let Some(format) = tensor.format() else {
                let (tensor, dtype) = (tensor.name.clone(), format!("{:?}", tensor.dtype));
                return Err(ModelError::UnsupportedDtype { path: path.to_owned(), tensor, dtype });
            };
            let (part, range) = tensor.place();
            let found = Found {
                name: &tensor.name,
                shape: &tensor.shape,
                format,
                place: Place { part, range },
                scales: Vec::new(),
            };
            binder.place(&found, target)?;
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

fn note_skipped(skipped: &mut Vec<Skipped>, what: &'static str, bytes: u64) {
    match skipped.iter_mut().find(|part| part.what == what) {
        Some(part) => {
            part.tensors += 1;
            part.bytes += bytes;
        }
        None => skipped.push(Skipped { what, tensors: 1, bytes }),
    }
}

//! An open model.

use std::path::{Path, PathBuf};

use serde_json::{Map, Value};

use crate::{
    architecture::{Architecture, Config, Description, FamilyDescription, GgufSettings},
    error::ModelError,
    files::read_object,
    gguf::{Gguf, Metadata},
    safetensors::Checkpoint,
    tensors::Tensors,
};

/// Largest `config.json` accepted; real ones have some kilobytes.
const MAX_CONFIG_BYTES: u64 = 16 << 20;

/// A model whose files have been mapped and checked. Weights are borrowed from the map for as long as it lives.
#[derive(Debug)]
pub struct Model {
    path: PathBuf,
    architecture: Architecture,
    tensors: Tensors,
}

impl Model {
    /// Opens a GGUF file, any part of a split one, or a folder with a published checkpoint: `config.json` and
    /// safetensors. Every setting, tensor name and shape is checked; no weight is read.
    pub fn open(path: &Path) -> Result<Self, ModelError> {
        if path.is_dir() { Self::open_checkpoint(path) } else { Self::open_gguf(path) }
    }

    fn open_gguf(path: &Path) -> Result<Self, ModelError> {
        Self::from_gguf(path, Gguf::open(path)?)
    }

    /// As [`Model::open`], for the bytes of a single GGUF file in memory. `path` only names it in errors.
    pub fn from_gguf_bytes(path: &Path, bytes: Vec<u8>) -> Result<Self, ModelError> {
        Self::from_gguf(path, Gguf::from_bytes(bytes).map_err(|error| ModelError::gguf(path, error))?)
    }

    fn from_gguf(path: &Path, file: Gguf) -> Result<Self, ModelError> {
        let name: &str = file
            .metadata()
            .required("general.architecture")
            .map_err(|error| ModelError::gguf(path, error))?;
        let family = FamilyDescription::for_gguf(name).ok_or_else(|| unsupported(path, name))?;
        let settings = GgufSettings::new(&file, name);
        let describe = || {
            let description = (family.from_gguf)(&settings)?;
            settings.finish()?;
            description.architecture.check()?;
            Ok(description)
        };
        let description: Description = describe().map_err(|error| ModelError::description(path, error))?;
        let tensors = Tensors::from_gguf(path, file, family, &description)?;
        Ok(Self { path: path.to_owned(), architecture: description.architecture, tensors })
    }

    fn open_checkpoint(folder: &Path) -> Result<Self, ModelError> {
        let path = folder.join("config.json");
        if !path.exists() {
            let problem =
                "it is a folder without a config.json; name a .gguf file, or a folder with a checkpoint";
            return Err(ModelError::not_a_model(folder, problem));
        }
        let object = read_object(&path, MAX_CONFIG_BYTES)?;
        let wrong = |error| ModelError::description(&path, error);
        let config = Config::new(&object).map_err(wrong)?;
        let (family, mut description) = describe(&path, &config)?;
        let announced = config.announces_compression().map_err(wrong)?;
        let name = folder.canonicalize().ok().and_then(|folder| folder.file_name().map(ToOwned::to_owned));
        description.architecture.name =
            name.map_or_else(|| "unnamed".to_owned(), |name| name.to_string_lossy().into_owned());
        let fp8_cache = config.announces_fp8_cache().map_err(wrong)? || export_announces_fp8_cache(folder)?;
        let tensors =
            Tensors::from_checkpoint(folder, Checkpoint::open(folder)?, family, &mut description, announced)?;
        // Without scales, 16 bits keep more of what the model was made with.
        description.architecture.wants_fp8_cache &= fp8_cache;
        Ok(Self { path: folder.to_owned(), architecture: description.architecture, tensors })
    }

    /// The file or folder that was opened.
    pub fn path(&self) -> &Path {
        &self.path
    }

    /// What the model is made of.
    pub fn architecture(&self) -> &Architecture {
        &self.architecture
    }

    /// Its weights.
    pub fn tensors(&self) -> &Tensors {
        &self.tensors
    }

    /// Takes the pages of the files that have been read out of this process's memory. The system may keep them cached,
    /// and reading them again brings them back.
    pub fn release_pages(&self) {
        self.tensors.release_pages();
    }

    /// Asks the system to read bytes of the model's files ahead. Others are left alone.
    pub fn will_need(&self, bytes: &[u8]) {
        self.tensors.will_need(bytes);
    }

    /// The metadata of a GGUF file; `None` for a folder.
    pub fn metadata(&self) -> Option<Metadata<'_>> {
        self.tensors.gguf().map(Gguf::metadata)
    }
}

/// Whether ModelOpt's own settings ask for a cache of keys and values in FP8: some exports say so there only.
fn export_announces_fp8_cache(folder: &Path) -> Result<bool, ModelError> {
    let path = folder.join("hf_quant_config.json");
    if !path.exists() {
        return Ok(false);
    }
    let settings = read_object(&path, MAX_CONFIG_BYTES)?;
    let algorithm = settings.get("quantization").and_then(|inner| inner.get("kv_cache_quant_algo"));
    Ok(algorithm.and_then(|name| name.as_str()) == Some("FP8"))
}

impl Architecture {
    /// What a published `config.json` describes, without the model's files. `path` only names it in errors.
    ///
    /// # Errors
    /// A family that is not supported, or a setting that is missing, malformed or not supported, with its name.
    pub fn from_config(path: &Path, object: &Map<String, Value>) -> Result<Self, ModelError> {
        let config = Config::new(object).map_err(|error| ModelError::description(path, error))?;
        describe(path, &config).map(|(_, description)| description.architecture)
    }
}

/// The family and description that the settings of a published checkpoint give.
fn describe(
    path: &Path,
    config: &Config<'_>,
) -> Result<(&'static FamilyDescription, Description), ModelError> {
    let wrong = |error| ModelError::description(path, error);
    let model_type = config.model_type().map_err(wrong)?;
    let family =
        FamilyDescription::for_model_type(model_type).ok_or_else(|| unsupported(path, model_type))?;
    if let Some(class) = config.class().map_err(wrong)?
        && !family.classes.contains(&class)
    {
        return Err(unsupported(path, class));
    }
    let describe = || {
        let description = (family.from_config)(config)?;
        description.architecture.check()?;
        Ok(description)
    };
    Ok((family, describe().map_err(wrong)?))
}

fn unsupported(path: &Path, name: &str) -> ModelError {
    let (path, name) = (path.to_owned(), name.to_owned());
    ModelError::UnsupportedFamily { path, name, supported: FamilyDescription::supported() }
}

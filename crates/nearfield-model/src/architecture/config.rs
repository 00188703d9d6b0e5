//! Typed access to a published `config.json`. `null` counts as absent everywhere.

use serde_json::{Map, Value};

use super::{DescriptionError, MAX_SIZE, equal_share, layer_count, rope, rope::RopeScaling};

/// A JSON object and its place in the file, for error messages.
#[derive(Clone, Debug)]
pub(super) struct Object<'a> {
    map: &'a Map<String, Value>,
    /// Empty, or the path to the object with a dot at its end.
    place: String,
}

impl<'a> Object<'a> {
    fn new(map: &'a Map<String, Value>, place: impl Into<String>) -> Self {
        Self { map, place: place.into() }
    }

    /// The setting's full name, quoted.
    pub(super) fn label(&self, key: &str) -> String {
        format!("\"{}{key}\"", self.place)
    }

    pub(super) fn keys(&self) -> impl Iterator<Item = &'a str> {
        self.map.keys().map(String::as_str)
    }

    fn value(&self, key: &str) -> Option<&'a Value> {
        self.map.get(key).filter(|value| !value.is_null())
    }

    fn typed<T>(
        &self,
        key: &str,
        wanted: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, DescriptionError> {
        let Some(value) = self.value(key) else { return Ok(None) };
        read(value).map(Some).ok_or_else(|| {
            let text: String = value.to_string().chars().take(60).collect();
            DescriptionError::new(self.label(key), format!("is {text}, but {wanted} is needed"))
        })
    }

    fn missing(&self, key: &str) -> DescriptionError {
        DescriptionError::new(self.label(key), "is missing")
    }

    pub(super) fn number(&self, key: &str) -> Result<Option<f64>, DescriptionError> {
        self.typed(key, "a number", Value::as_f64)
    }

    pub(super) fn required_number(&self, key: &str) -> Result<f64, DescriptionError> {
        self.number(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn size(&self, key: &str) -> Result<Option<usize>, DescriptionError> {
        let read = |value: &Value| {
            value.as_u64().and_then(|size| usize::try_from(size).ok()).filter(|&size| size <= MAX_SIZE)
        };
        self.typed(key, "a whole number that is not negative and not absurdly large", read)
    }

    pub(super) fn required_size(&self, key: &str) -> Result<usize, DescriptionError> {
        self.size(key)?.ok_or_else(|| self.missing(key))
    }

    pub(super) fn flag(&self, key: &str) -> Result<Option<bool>, DescriptionError> {
        self.typed(key, "true or false", Value::as_bool)
    }

    pub(super) fn text(&self, key: &str) -> Result<Option<&'a str>, DescriptionError> {
        self.typed(key, "a string", Value::as_str)
    }

    pub(super) fn object(&self, key: &str) -> Result<Option<Object<'a>>, DescriptionError> {
        let map = self.typed(key, "an object", Value::as_object)?;
        Ok(map.map(|map| Object::new(map, format!("{}{key}.", self.place))))
    }

    pub(super) fn texts(&self, key: &str) -> Result<Option<Vec<&'a str>>, DescriptionError> {
        let read = |value: &'a Value| value.as_array()?.iter().map(Value::as_str).collect();
        self.typed(key, "an array of strings", read)
    }
}

/// A `config.json`: its top level, and the part that describes the text model, which may be the same.
#[derive(Clone, Debug)]
pub(crate) struct Config<'a> {
    top: Object<'a>,
    pub(super) text: Object<'a>,
}

/// What all decoder-only models state in the same way.
#[derive(Debug)]
pub(super) struct ConfigBase {
    pub(super) hidden_size: usize,
    pub(super) layers: usize,
    pub(super) heads: usize,
    pub(super) key_value_heads: usize,
    pub(super) head_size: usize,
    pub(super) vocabulary_size: usize,
    pub(super) context_length: usize,
    pub(super) norm_epsilon: f32,
}

/// What a family's configuration class fills in where a file says nothing.
#[derive(Clone, Copy, Debug, Default)]
pub(super) struct ConfigDefaults {
    pub(super) heads: Option<usize>,
    /// `None` stands for "as many as query heads".
    pub(super) key_value_heads: Option<usize>,
    /// `None` stands for "an equal share of the hidden size".
    pub(super) head_size: Option<usize>,
    pub(super) vocabulary_size: Option<usize>,
    pub(super) context_length: Option<usize>,
}

/// The epsilon of every family's configuration class.
const DEFAULT_NORM_EPSILON: f64 = 1e-6;

impl<'a> Config<'a> {
    pub(crate) fn new(top: &'a Map<String, Value>) -> Result<Self, DescriptionError> {
        let top = Object::new(top, "");
        let text = top.object("text_config")?.unwrap_or_else(|| top.clone());
        Ok(Self { top, text })
    }

    /// `model_type` of the whole model.
    pub(crate) fn model_type(&self) -> Result<&'a str, DescriptionError> {
        self.top.text("model_type")?.ok_or_else(|| self.top.missing("model_type"))
    }

    /// The name of the class that the checkpoint was saved from, if it is said.
    pub(crate) fn class(&self) -> Result<Option<&'a str>, DescriptionError> {
        Ok(self.top.texts("architectures")?.and_then(|classes| classes.first().copied()))
    }

    /// Whether compressed weights are announced. Which tensors are compressed and how is seen from the tensors; methods
    /// whose tensors would not be recognised are refused here by name.
    pub(crate) fn announces_compression(&self) -> Result<bool, DescriptionError> {
        let mut announced = false;
        for (object, key) in [
            (&self.top, "quantization_config"),
            (&self.text, "quantization_config"),
            (&self.top, "compression_config"),
        ] {
            let Some(settings) = object.object(key)? else { continue };
            announced = true;
            if let Some(method) = settings.text("quant_method")?
                && !["compressed-tensors", "modelopt", "fp8"].contains(&method)
            {
                let problem = format!(
                    "is {method:?}, which is not supported (compressed-tensors, modelopt and fp8 are)"
                );
                return Err(DescriptionError::new(settings.label("quant_method"), problem));
            }
            if let Some(block) = settings.value("weight_block_size")
                && *block != serde_json::json!([128, 128])
            {
                let problem = format!("is {block}, but only blocks of [128,128] are supported");
                return Err(DescriptionError::new(settings.label("weight_block_size"), problem));
            }
        }
        Ok(announced)
    }

    /// Whether the settings ask for a cache of keys and values in FP8.
    pub(crate) fn announces_fp8_cache(&self) -> Result<bool, DescriptionError> {
        for object in [&self.top, &self.text] {
            let Some(settings) = object.object("quantization_config")? else { continue };
            let scheme = settings.object("kv_cache_scheme")?;
            let of_eight = match scheme {
                Some(scheme) => {
                    scheme.size("num_bits")? == Some(8)
                        && scheme.text("type")?.is_none_or(|kind| kind == "float")
                }
                None => false,
            };
            if of_eight || settings.text("kv_cache_quant_algo")? == Some("FP8") {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(super) fn base(&self, defaults: ConfigDefaults) -> Result<ConfigBase, DescriptionError> {
        let text = &self.text;
        let or_default = |key: &str, default: Option<usize>| match (text.size(key)?, default) {
            (Some(size), _) | (None, Some(size)) => Ok(size),
            (None, None) => Err(text.missing(key)),
        };
        let hidden_size = text.required_size("hidden_size")?;
        let heads = or_default("num_attention_heads", defaults.heads)?;
        let head_size = match text.size("head_dim")?.or(defaults.head_size) {
            Some(size) => size,
            None => equal_share(hidden_size, heads, text.label("head_dim"))?,
        };
        Ok(ConfigBase {
            hidden_size,
            layers: layer_count(text.label("num_hidden_layers"), text.required_size("num_hidden_layers")?)?,
            heads,
            key_value_heads: or_default("num_key_value_heads", defaults.key_value_heads.or(Some(heads)))?,
            head_size,
            vocabulary_size: or_default("vocab_size", defaults.vocabulary_size)?,
            context_length: or_default("max_position_embeddings", defaults.context_length)?,
            norm_epsilon: text.number("rms_norm_eps")?.unwrap_or(DEFAULT_NORM_EPSILON) as f32,
        })
    }

    /// Whether the output head is the token embedding. Either level may say so; they must not disagree.
    pub(super) fn tied(&self, default: bool) -> Result<bool, DescriptionError> {
        const KEY: &str = "tie_word_embeddings";
        match (self.text.flag(KEY)?, self.top.flag(KEY)?) {
            (Some(inner), Some(outer)) if inner != outer => {
                let problem = format!("is {inner}, but {} is {outer}", self.top.label(KEY));
                Err(DescriptionError::new(self.text.label(KEY), problem))
            }
            (inner, outer) => Ok(inner.or(outer).unwrap_or(default)),
        }
    }

    /// Refuses a flag that is set.
    pub(super) fn refuse_flag(&self, key: &str) -> Result<(), DescriptionError> {
        match self.text.flag(key)? {
            Some(true) => Err(DescriptionError::new(self.text.label(key), "is true, which is not supported")),
            _ => Ok(()),
        }
    }

    /// Checks that a text setting, where it is there, has the one supported value.
    pub(super) fn expect_text(&self, key: &str, wanted: &str) -> Result<(), DescriptionError> {
        match self.text.text(key)? {
            Some(found) if found != wanted => {
                let problem = format!("is {found:?}, which is not supported (only {wanted:?} is)");
                Err(DescriptionError::new(self.text.label(key), problem))
            }
            _ => Ok(()),
        }
    }

    /// The type of each layer, each one of those that the family has.
    pub(super) fn layer_types(
        &self,
        layers: usize,
        possible: &[&str],
    ) -> Result<Vec<&'a str>, DescriptionError> {
        const KEY: &str = "layer_types";
        let wrong = |problem| DescriptionError::new(self.text.label(KEY), problem);
        let types = self.text.texts(KEY)?.ok_or_else(|| self.text.missing(KEY))?;
        if types.len() != layers {
            return Err(wrong(format!("has {} entries for {layers} layers", types.len())));
        }
        match types.iter().find(|kind| !possible.contains(*kind)) {
            Some(kind) => Err(wrong(format!("has {kind:?}, which is not supported in this family"))),
            None => Ok(types),
        }
    }

    /// Checks that `layer_types`, where it is there, has full attention only.
    pub(super) fn refuse_windowed_layers(&self) -> Result<(), DescriptionError> {
        let types = self.text.texts("layer_types")?.unwrap_or_default();
        match types.iter().find(|kind| **kind != "full_attention") {
            Some(kind) => {
                let problem = format!("has {kind:?}, which is not supported in this family");
                Err(DescriptionError::new(self.text.label("layer_types"), problem))
            }
            None => Ok(()),
        }
    }

    /// The object with the rope parameters under its newer or older name; both only when they are the same.
    pub(super) fn rope_object(&self) -> Result<Option<Object<'a>>, DescriptionError> {
        let newer = self.text.object("rope_parameters")?;
        let older = self.text.object("rope_scaling")?;
        match (newer, older) {
            (Some(newer), Some(older)) if newer.map != older.map => {
                let problem = "differs from \"rope_parameters\", which is the newer name of the same setting";
                Err(DescriptionError::new(self.text.label("rope_scaling"), problem))
            }
            (newer, older) => Ok(newer.or(older)),
        }
    }

    /// Theta and scaling where one position encoding serves all layers.
    pub(super) fn rope(&self, default_theta: f64) -> Result<(f64, RopeScaling), DescriptionError> {
        let outside = self.text.number("rope_theta")?;
        let (inside, scaling) = match self.rope_object()? {
            Some(object) => rope::from_object(&object)?,
            None => (None, RopeScaling::None),
        };
        if let (Some(inside), Some(outside)) = (inside, outside)
            && inside != outside
        {
            let problem = format!("is {outside}, but the rope parameters have {inside}");
            return Err(DescriptionError::new(self.text.label("rope_theta"), problem));
        }
        Ok((inside.or(outside).unwrap_or(default_theta), scaling))
    }
}

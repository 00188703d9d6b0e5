//! Writes small GGUF files for tests: by hand with [`GgufWriter`], or from a safetensors checkpoint with
//! [`crate::gguf_conversion`].

pub mod tiny;

/// A metadata value to write.
#[derive(Clone, Debug)]
#[expect(missing_docs, reason = "each variant is the type that its name says")]
pub enum GgufValue {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(String),
    /// An array whose elements all have the type of the first; an empty one is written as `u8`.
    Array(Vec<GgufValue>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl GgufValue {
    /// The type id of the file format.
    fn type_id(&self) -> u32 {
        match self {
            Self::U8(_) => 0,
            Self::I8(_) => 1,
            Self::U16(_) => 2,
            Self::I16(_) => 3,
            Self::U32(_) => 4,
            Self::I32(_) => 5,
            Self::F32(_) => 6,
            Self::Bool(_) => 7,
            Self::String(_) => 8,
            Self::Array(_) => 9,
            Self::U64(_) => 10,
            Self::I64(_) => 11,
            Self::F64(_) => 12,
        }
    }

    fn write(&self, out: &mut Vec<u8>) {
        match self {
            Self::U8(value) => out.push(*value),
            Self::I8(value) => out.extend(value.to_le_bytes()),
            Self::U16(value) => out.extend(value.to_le_bytes()),
            Self::I16(value) => out.extend(value.to_le_bytes()),
            Self::U32(value) => out.extend(value.to_le_bytes()),
            Self::I32(value) => out.extend(value.to_le_bytes()),
            Self::F32(value) => out.extend(value.to_le_bytes()),
            Self::Bool(value) => out.push(u8::from(*value)),
            Self::String(value) => write_string(value, out),
            Self::Array(values) => {
                out.extend(values.first().map_or(0, Self::type_id).to_le_bytes());
                out.extend((values.len() as u64).to_le_bytes());
                for value in values {
                    value.write(out);
                }
            }
            Self::U64(value) => out.extend(value.to_le_bytes()),
            Self::I64(value) => out.extend(value.to_le_bytes()),
            Self::F64(value) => out.extend(value.to_le_bytes()),
        }
    }
}

macro_rules! from {
    ($($type:ty => $variant:ident),* $(,)?) => {$(
        impl From<$type> for GgufValue {
            fn from(value: $type) -> Self {
                Self::$variant(value.into())
            }
        }

        impl From<Vec<$type>> for GgufValue {
            fn from(values: Vec<$type>) -> Self {
                Self::Array(values.into_iter().map(Self::from).collect())
            }
        }
    )*};
}

from!(u8 => U8, i8 => I8, u16 => U16, i16 => I16, u32 => U32, i32 => I32, f32 => F32, bool => Bool, &str => String,
    String => String, u64 => U64, i64 => I64, f64 => F64);

#[derive(Clone, Debug)]
struct Tensor {
    name: String,
    dimensions: Vec<u64>,
    type_id: u32,
    bytes: Vec<u8>,
}

/// Collects keys and tensors and lays them out as a GGUF file.
#[derive(Clone, Debug)]
pub struct GgufWriter {
    version: u32,
    metadata: Vec<(String, GgufValue)>,
    tensors: Vec<Tensor>,
    alignment: usize,
}

impl Default for GgufWriter {
    fn default() -> Self {
        Self { version: 3, metadata: Vec::new(), tensors: Vec::new(), alignment: 32 }
    }
}

impl GgufWriter {
    /// An empty version 3 file with the default alignment of 32.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sets the version number; the layout stays the same, as it does between 2 and 3.
    #[must_use]
    pub fn version(mut self, version: u32) -> Self {
        self.version = version;
        self
    }

    /// Pads tensors to multiples of `alignment` bytes and says so in `general.alignment`.
    #[must_use]
    pub fn alignment(mut self, alignment: u32) -> Self {
        self.alignment = alignment as usize;
        self.key("general.alignment", alignment)
    }

    /// Adds a key.
    #[must_use]
    pub fn key(mut self, key: &str, value: impl Into<GgufValue>) -> Self {
        self.metadata.push((key.to_owned(), value.into()));
        self
    }

    /// Sets a key that is there, or adds it.
    #[must_use]
    pub fn replace_key(self, key: &str, value: impl Into<GgufValue>) -> Self {
        self.without_key(key).key(key, value)
    }

    /// Removes a key.
    #[must_use]
    pub fn without_key(mut self, key: &str) -> Self {
        self.metadata.retain(|(name, _)| name != key);
        self
    }

    /// Adds a tensor. `dimensions` are in file order, fastest first; `type_id` is the format's number for the
    /// storage of `bytes`. Nothing is checked, so that broken files can be written too.
    #[must_use]
    pub fn tensor(mut self, name: &str, dimensions: &[u64], type_id: u32, bytes: Vec<u8>) -> Self {
        self.tensors.push(Tensor { name: name.to_owned(), dimensions: dimensions.to_vec(), type_id, bytes });
        self
    }

    /// Adds an F32 tensor.
    #[must_use]
    pub fn f32_tensor(self, name: &str, dimensions: &[u64], values: &[f32]) -> Self {
        self.tensor(name, dimensions, 0, values.iter().flat_map(|value| value.to_le_bytes()).collect())
    }

    /// Removes a tensor.
    #[must_use]
    pub fn without_tensor(mut self, name: &str) -> Self {
        self.tensors.retain(|tensor| tensor.name != name);
        self
    }

    /// The bytes of the file.
    pub fn build(&self) -> Vec<u8> {
        self.layout(&self.metadata, &self.tensors)
    }

    /// Cuts the file into `count` parts as split models are: the metadata in the first, the tensors dealt out in
    /// order. Returns the name and bytes of each.
    pub fn build_split(&self, stem: &str, count: usize) -> Vec<(String, Vec<u8>)> {
        let boundary = |number: usize| self.tensors.len() * number / count.max(1);
        (0..count)
            .map(|number| {
                let mut metadata = if number == 0 { self.metadata.clone() } else { Vec::new() };
                if number > 0 && self.alignment != 32 {
                    metadata.push(("general.alignment".to_owned(), GgufValue::U32(self.alignment as u32)));
                }
                metadata.push(("split.no".to_owned(), GgufValue::U16(number as u16)));
                metadata.push(("split.count".to_owned(), GgufValue::U16(count as u16)));
                metadata.push(("split.tensors.count".to_owned(), GgufValue::I32(self.tensors.len() as i32)));
                let name = format!("{stem}-{:05}-of-{count:05}.gguf", number + 1);
                (name, self.layout(&metadata, &self.tensors[boundary(number)..boundary(number + 1)]))
            })
            .collect()
    }

    fn layout(&self, metadata: &[(String, GgufValue)], tensors: &[Tensor]) -> Vec<u8> {
        let mut out = b"GGUF".to_vec();
        out.extend(self.version.to_le_bytes());
        out.extend((tensors.len() as u64).to_le_bytes());
        out.extend((metadata.len() as u64).to_le_bytes());
        for (key, value) in metadata {
            write_string(key, &mut out);
            out.extend(value.type_id().to_le_bytes());
            value.write(&mut out);
        }
        let mut offset = 0_usize;
        for tensor in tensors {
            write_string(&tensor.name, &mut out);
            out.extend((tensor.dimensions.len() as u32).to_le_bytes());
            out.extend(tensor.dimensions.iter().flat_map(|size| size.to_le_bytes()));
            out.extend(tensor.type_id.to_le_bytes());
            out.extend((offset as u64).to_le_bytes());
            offset = (offset + tensor.bytes.len()).next_multiple_of(self.alignment);
        }
        for tensor in tensors {
            out.resize(out.len().next_multiple_of(self.alignment), 0);
            out.extend(&tensor.bytes);
        }
        out
    }
}

fn write_string(text: &str, out: &mut Vec<u8>) {
    out.extend((text.len() as u64).to_le_bytes());
    out.extend(text.as_bytes());
}

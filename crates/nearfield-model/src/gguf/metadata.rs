//! Metadata: an index of keys into the file, and values read from it on demand.

use std::{collections::HashMap, ops::Range};

use super::{GgufError, cursor::Cursor};

/// Most keys that a file may have; published models have well under a hundred.
pub const MAX_KEYS: u64 = 1 << 16;
/// Longest key in bytes, as the format's specification has it.
pub const MAX_KEY_LENGTH: u64 = (1 << 16) - 1;
/// Longest single string in bytes. Strings are not copied, so this only catches damage early.
pub const MAX_STRING_LENGTH: u64 = 1 << 28;
/// Deepest nesting of arrays.
pub const MAX_ARRAY_DEPTH: usize = 8;

/// The type of a metadata value, with the ids of the file format.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "each variant is the type that its name says")]
pub enum ValueType {
    U8,
    I8,
    U16,
    I16,
    U32,
    I32,
    F32,
    Bool,
    String,
    Array,
    U64,
    I64,
    F64,
}

impl ValueType {
    /// The type with this id in the file.
    pub fn from_id(id: u32) -> Option<Self> {
        Some(match id {
            0 => Self::U8,
            1 => Self::I8,
            2 => Self::U16,
            3 => Self::I16,
            4 => Self::U32,
            5 => Self::I32,
            6 => Self::F32,
            7 => Self::Bool,
            8 => Self::String,
            9 => Self::Array,
            10 => Self::U64,
            11 => Self::I64,
            12 => Self::F64,
            _ => return None,
        })
    }

    /// Name for people.
    pub fn name(self) -> &'static str {
        match self {
            Self::U8 => "u8",
            Self::I8 => "i8",
            Self::U16 => "u16",
            Self::I16 => "i16",
            Self::U32 => "u32",
            Self::I32 => "i32",
            Self::F32 => "f32",
            Self::Bool => "bool",
            Self::String => "string",
            Self::Array => "array",
            Self::U64 => "u64",
            Self::I64 => "i64",
            Self::F64 => "f64",
        }
    }

    /// Bytes of one value; `None` where it varies.
    fn fixed_size(self) -> Option<u64> {
        match self {
            Self::U8 | Self::I8 | Self::Bool => Some(1),
            Self::U16 | Self::I16 => Some(2),
            Self::U32 | Self::I32 | Self::F32 => Some(4),
            Self::U64 | Self::I64 | Self::F64 => Some(8),
            Self::String | Self::Array => None,
        }
    }
}

/// One metadata value, borrowed from the file.
#[derive(Clone, Copy, Debug, PartialEq)]
#[expect(missing_docs, reason = "each variant is the type that its name says")]
pub enum Value<'a> {
    U8(u8),
    I8(i8),
    U16(u16),
    I16(i16),
    U32(u32),
    I32(i32),
    F32(f32),
    Bool(bool),
    String(&'a str),
    Array(Array<'a>),
    U64(u64),
    I64(i64),
    F64(f64),
}

impl Value<'_> {
    /// Type and, for single values, the value: for error messages and listings.
    pub fn describe(&self) -> String {
        match self {
            Self::U8(value) => format!("u8 {value}"),
            Self::I8(value) => format!("i8 {value}"),
            Self::U16(value) => format!("u16 {value}"),
            Self::I16(value) => format!("i16 {value}"),
            Self::U32(value) => format!("u32 {value}"),
            Self::I32(value) => format!("i32 {value}"),
            Self::F32(value) => format!("f32 {value}"),
            Self::Bool(value) => format!("bool {value}"),
            Self::String(value) if value.chars().count() <= 60 => format!("string {value:?}"),
            Self::String(value) => format!("string of {} bytes", value.len()),
            Self::Array(array) => format!("array of {} {} values", array.len(), array.element_type().name()),
            Self::U64(value) => format!("u64 {value}"),
            Self::I64(value) => format!("i64 {value}"),
            Self::F64(value) => format!("f64 {value}"),
        }
    }

    fn integer(&self) -> Option<i128> {
        Some(match *self {
            Self::U8(value) => value.into(),
            Self::I8(value) => value.into(),
            Self::U16(value) => value.into(),
            Self::I16(value) => value.into(),
            Self::U32(value) => value.into(),
            Self::I32(value) => value.into(),
            Self::U64(value) => value.into(),
            Self::I64(value) => value.into(),
            _ => return None,
        })
    }
}

/// An array value. Its elements are read from the file one by one.
#[derive(Clone, Copy, Debug, PartialEq)]
pub struct Array<'a> {
    element_type: ValueType,
    length: usize,
    bytes: &'a [u8],
    key: &'a str,
}

impl<'a> Array<'a> {
    /// Type of every element.
    pub fn element_type(&self) -> ValueType {
        self.element_type
    }

    /// Number of elements.
    pub fn len(&self) -> usize {
        self.length
    }

    /// Whether there are no elements.
    pub fn is_empty(&self) -> bool {
        self.length == 0
    }

    /// The elements in order. A string that is not UTF-8 gives an error in its place.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, GgufError>> + use<'a> {
        let mut cursor = Cursor::new(self.bytes);
        let (element_type, key) = (self.element_type, self.key);
        (0..self.length).map(move |_| read_value(&mut cursor, element_type, key))
    }
}

/// Where each key's value lies. Owns no value.
#[derive(Debug, Default)]
pub(super) struct MetadataIndex {
    entries: Vec<Entry>,
    by_key: HashMap<String, usize>,
}

#[derive(Debug)]
struct Entry {
    key: String,
    value_type: ValueType,
    range: Range<usize>,
}

impl MetadataIndex {
    /// Reads `count` keys and checks the extent and type of every value, without copying any.
    pub(super) fn parse(cursor: &mut Cursor<'_>, count: u64) -> Result<Self, GgufError> {
        if count > MAX_KEYS {
            return Err(GgufError::OverLimit {
                what: "the number of metadata keys",
                found: count,
                limit: MAX_KEYS,
            });
        }
        let mut index = Self::default();
        for _ in 0..count {
            let key = cursor.string(MAX_KEY_LENGTH, "the length of a metadata key")?;
            let key = std::str::from_utf8(key)
                .map_err(|_| GgufError::InvalidUtf8 { what: "a metadata key".to_owned() })?
                .to_owned();
            let value_type = read_type(cursor, &key)?;
            let start = cursor.position();
            skip_value(cursor, value_type, &key, 0)?;
            if index.by_key.insert(key.clone(), index.entries.len()).is_some() {
                return Err(GgufError::DuplicateKey { key });
            }
            index.entries.push(Entry { key, value_type, range: start..cursor.position() });
        }
        Ok(index)
    }

    pub(super) fn view<'a>(&'a self, bytes: &'a [u8]) -> Metadata<'a> {
        Metadata { index: self, bytes }
    }
}

/// The metadata of a file: keys in file order, values typed on request.
#[derive(Clone, Copy, Debug)]
pub struct Metadata<'a> {
    index: &'a MetadataIndex,
    bytes: &'a [u8],
}

impl<'a> Metadata<'a> {
    /// Keys in file order.
    pub fn keys(&self) -> impl Iterator<Item = &'a str> + use<'a> {
        self.index.entries.iter().map(|entry| entry.key.as_str())
    }

    /// Whether the key is there.
    pub fn contains(&self, key: &str) -> bool {
        self.index.by_key.contains_key(key)
    }

    /// The value of a key, if it is there.
    pub fn value(&self, key: &str) -> Result<Option<Value<'a>>, GgufError> {
        let Some(entry) = self.index.by_key.get(key).and_then(|&number| self.index.entries.get(number))
        else {
            return Ok(None);
        };
        let bytes = self.bytes.get(entry.range.clone()).unwrap_or_default();
        let mut cursor = Cursor::new(bytes);
        if entry.value_type != ValueType::Array {
            return read_value(&mut cursor, entry.value_type, &entry.key).map(Some);
        }
        // The index knows where the array ends: no second walk over a vocabulary's strings.
        let (element_type, length) = (read_type(&mut cursor, &entry.key)?, cursor.u64(VALUE)? as usize);
        let bytes = cursor.take(cursor.remaining() as u64, VALUE)?;
        Ok(Some(Value::Array(Array { element_type, length, bytes, key: &entry.key })))
    }

    /// The value of a key as `T`, if the key is there. Integer types stand for each other where the number fits.
    pub fn optional<T: FromValue<'a>>(&self, key: &str) -> Result<Option<T>, GgufError> {
        let Some(value) = self.value(key)? else { return Ok(None) };
        let wrong =
            || GgufError::WrongType { key: key.to_owned(), wanted: T::WANTED, found: value.describe() };
        T::from_value(value)?.ok_or_else(wrong).map(Some)
    }

    /// The value of a key as `T`; the key must be there.
    pub fn required<T: FromValue<'a>>(&self, key: &str) -> Result<T, GgufError> {
        self.optional(key)?.ok_or_else(|| GgufError::MissingKey { key: key.to_owned() })
    }
}

/// A Rust type that a metadata value can be read as.
pub trait FromValue<'a>: Sized {
    /// The type in words, for error messages.
    const WANTED: &'static str;

    /// The value, or `None` when it is of another type or does not fit.
    fn from_value(value: Value<'a>) -> Result<Option<Self>, GgufError>;
}

macro_rules! integers {
    ($($type:ty: $single:literal, $many:literal;)*) => {$(
        impl FromValue<'_> for $type {
            const WANTED: &'static str = $single;

            fn from_value(value: Value<'_>) -> Result<Option<Self>, GgufError> {
                Ok(value.integer().and_then(|number| number.try_into().ok()))
            }
        }

        impl<'a> FromValue<'a> for Vec<$type> {
            const WANTED: &'static str = $many;

            fn from_value(value: Value<'a>) -> Result<Option<Self>, GgufError> {
                elements(value)
            }
        }
    )*};
}

integers! {
    u16: "an integer from 0 to 65535", "an array of integers from 0 to 65535";
    u32: "an integer from 0 to 4294967295", "an array of integers from 0 to 4294967295";
    i32: "a 32-bit integer", "an array of 32-bit integers";
    u64: "an integer that is not negative", "an array of integers that are not negative";
    usize: "an integer that is not negative", "an array of integers that are not negative";
}

macro_rules! exact {
    ($($type:ty = $variant:ident: $single:literal, $many:literal;)*) => {$(
        impl<'a> FromValue<'a> for $type {
            const WANTED: &'static str = $single;

            fn from_value(value: Value<'a>) -> Result<Option<Self>, GgufError> {
                Ok(if let Value::$variant(value) = value { Some(value) } else { None })
            }
        }

        impl<'a> FromValue<'a> for Vec<$type> {
            const WANTED: &'static str = $many;

            fn from_value(value: Value<'a>) -> Result<Option<Self>, GgufError> {
                elements(value)
            }
        }
    )*};
}

exact! {
    bool = Bool: "a bool", "an array of bools";
    f32 = F32: "an f32", "an array of f32 values";
    &'a str = String: "a string", "an array of strings";
    Array<'a> = Array: "an array", "an array of arrays";
}

impl<'a> FromValue<'a> for Value<'a> {
    const WANTED: &'static str = "any value";

    fn from_value(value: Self) -> Result<Option<Self>, GgufError> {
        Ok(Some(value))
    }
}

impl FromValue<'_> for f64 {
    const WANTED: &'static str = "an f32 or f64";

    fn from_value(value: Value<'_>) -> Result<Option<Self>, GgufError> {
        Ok(match value {
            Value::F32(value) => Some(value.into()),
            Value::F64(value) => Some(value),
            _ => None,
        })
    }
}

/// All elements of an array as `T`; `None` when the value is no array or an element is no `T`.
fn elements<'a, T: FromValue<'a>>(value: Value<'a>) -> Result<Option<Vec<T>>, GgufError> {
    let Value::Array(array) = value else { return Ok(None) };
    let mut elements = Vec::with_capacity(array.len());
    for element in array.iter() {
        match T::from_value(element?)? {
            Some(element) => elements.push(element),
            None => return Ok(None),
        }
    }
    Ok(Some(elements))
}

fn read_type(cursor: &mut Cursor<'_>, key: &str) -> Result<ValueType, GgufError> {
    let id = cursor.u32("the type of a metadata value")?;
    ValueType::from_id(id).ok_or_else(|| GgufError::UnknownValueType { key: key.to_owned(), id })
}

const VALUE: &str = "a metadata value";
const STRING: &str = "the length of a metadata string";

/// Moves past a value and checks that it lies inside the file and that its booleans are 0 or 1.
fn skip_value(
    cursor: &mut Cursor<'_>,
    value_type: ValueType,
    key: &str,
    depth: usize,
) -> Result<(), GgufError> {
    match value_type {
        ValueType::Bool => check_bools(cursor.take(1, VALUE)?, key),
        ValueType::String => cursor.string(MAX_STRING_LENGTH, STRING).map(drop),
        ValueType::Array => skip_array(cursor, key, depth),
        fixed => cursor.take(fixed.fixed_size().unwrap_or_default(), VALUE).map(drop),
    }
}

fn skip_array(cursor: &mut Cursor<'_>, key: &str, depth: usize) -> Result<(), GgufError> {
    if depth == MAX_ARRAY_DEPTH {
        return Err(GgufError::TooDeep { key: key.to_owned(), limit: MAX_ARRAY_DEPTH });
    }
    let element_type = read_type(cursor, key)?;
    let length = cursor.u64("the length of a metadata array")?;
    // Every element takes at least a byte, so a length beyond the file is refused before any loop over it.
    if length > cursor.remaining() as u64 {
        return Err(GgufError::Truncated {
            what: "a metadata array",
            offset: cursor.position(),
            needed: length,
            available: cursor.remaining(),
        });
    }
    if let Some(size) = element_type.fixed_size() {
        let bytes = cursor.take(length.saturating_mul(size), "a metadata array")?;
        return if element_type == ValueType::Bool { check_bools(bytes, key) } else { Ok(()) };
    }
    for _ in 0..length {
        skip_value(cursor, element_type, key, depth + 1)?;
    }
    Ok(())
}

fn check_bools(bytes: &[u8], key: &str) -> Result<(), GgufError> {
    match bytes.iter().find(|&&byte| byte > 1) {
        Some(&found) => Err(GgufError::InvalidBool { key: key.to_owned(), found }),
        None => Ok(()),
    }
}

fn read_value<'a>(
    cursor: &mut Cursor<'a>,
    value_type: ValueType,
    key: &'a str,
) -> Result<Value<'a>, GgufError> {
    Ok(match value_type {
        ValueType::U8 => Value::U8(cursor.u8(VALUE)?),
        ValueType::I8 => Value::I8(i8::from_le_bytes(cursor.array(VALUE)?)),
        ValueType::U16 => Value::U16(u16::from_le_bytes(cursor.array(VALUE)?)),
        ValueType::I16 => Value::I16(i16::from_le_bytes(cursor.array(VALUE)?)),
        ValueType::U32 => Value::U32(cursor.u32(VALUE)?),
        ValueType::I32 => Value::I32(i32::from_le_bytes(cursor.array(VALUE)?)),
        ValueType::F32 => Value::F32(f32::from_le_bytes(cursor.array(VALUE)?)),
        ValueType::Bool => Value::Bool(cursor.u8(VALUE)? != 0),
        ValueType::String => Value::String(read_string(cursor, key)?),
        ValueType::Array => {
            // The extent of an array of strings or arrays is only found by walking it.
            let mut header = cursor.clone();
            skip_array(cursor, key, 0)?;
            let element_type = read_type(&mut header, key)?;
            let length = header.u64(VALUE)? as usize;
            let bytes = header.take((cursor.position() - header.position()) as u64, VALUE)?;
            Value::Array(Array { element_type, length, bytes, key })
        }
        ValueType::U64 => Value::U64(cursor.u64(VALUE)?),
        ValueType::I64 => Value::I64(i64::from_le_bytes(cursor.array(VALUE)?)),
        ValueType::F64 => Value::F64(f64::from_le_bytes(cursor.array(VALUE)?)),
    })
}

fn read_string<'a>(cursor: &mut Cursor<'a>, key: &str) -> Result<&'a str, GgufError> {
    let bytes = cursor.string(MAX_STRING_LENGTH, STRING)?;
    std::str::from_utf8(bytes)
        .map_err(|_| GgufError::InvalidUtf8 { what: format!("a string of metadata key {key:?}") })
}

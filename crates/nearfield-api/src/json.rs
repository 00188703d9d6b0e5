//! Reads untrusted JSON into a tree: bounded in depth and size, and with no key twice in one object.
//!
//! A plain parse keeps one of two equal keys and drops the other without a word, so that a check may look at one value
//! and the answer be made with the other. Here that is an error.

use std::cell::RefCell;
use std::fmt;

use serde::Serialize;
use serde::de::{DeserializeSeed, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};

use crate::{Error, ErrorKind};

/// Room for most bodies of ours, so that they are not moved while they grow.
const USUAL_BODY: usize = 2048;

/// How large a tree may be.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonLimits {
    /// Bytes of the text.
    pub bytes: usize,
    /// Arrays and objects inside one another; the outermost counts 1.
    pub depth: usize,
    /// Values of all kinds, object keys included.
    pub values: usize,
}

/// Parses one JSON document, with nothing after it.
///
/// # Errors
/// [`ErrorKind::InvalidRequest`] when the text is not JSON, passes a limit, or has a key twice in one object; the key
/// is then the error's `param`. Messages never quote values.
pub fn parse_json(text: &[u8], limits: JsonLimits) -> Result<Value, Error> {
    if text.len() > limits.bytes {
        return Err(Error::new(
            ErrorKind::InvalidRequest,
            format!("The body has {} bytes; at most {} are accepted.", text.len(), limits.bytes),
        )
        .with_code("request_too_large"));
    }
    let state = State { values: limits.values.into(), fault: RefCell::new(None) };
    let mut deserializer = serde_json::Deserializer::from_slice(text);
    let parsed =
        Seed { state: &state, depth: limits.depth, limits }.deserialize(&mut deserializer).and_then(|tree| {
            deserializer.end()?;
            Ok(tree)
        });
    parsed.map_err(|e| {
        state.fault.take().unwrap_or_else(|| {
            Error::new(ErrorKind::InvalidRequest, format!("The body is not valid JSON: {e}."))
                .with_code("invalid_json")
        })
    })
}

/// The JSON text of a body of ours.
///
/// # Errors
/// [`ErrorKind::Internal`] when the body holds what JSON has no form for.
pub(crate) fn to_text(body: &impl Serialize) -> Result<String, Error> {
    let mut text = Vec::with_capacity(USUAL_BODY);
    serde_json::to_writer(&mut text, body)
        .and_then(|()| String::from_utf8(text).map_err(serde::ser::Error::custom))
        .map_err(|e| Error::new(ErrorKind::Internal, format!("The body cannot be written as JSON: {e}.")))
}

/// What the visitors of one document share.
struct State {
    /// Values that may still come.
    values: std::cell::Cell<usize>,
    /// The fault of ours that stopped the parse; serde's own error type has room for text only.
    fault: RefCell<Option<Error>>,
}

struct Seed<'a> {
    state: &'a State,
    depth: usize,
    limits: JsonLimits,
}

impl Seed<'_> {
    /// Counts one value against the limit.
    fn count<E: serde::de::Error>(&self) -> Result<(), E> {
        match self.state.values.get().checked_sub(1) {
            Some(left) => {
                self.state.values.set(left);
                Ok(())
            }
            None => Err(self.fail(
                None,
                "request_too_large",
                format!("The body has more than {} JSON values.", self.limits.values),
            )),
        }
    }

    /// The seed of a value inside this one.
    fn inner<E: serde::de::Error>(&self) -> Result<Self, E> {
        match self.depth.checked_sub(1) {
            Some(depth) => Ok(Self { state: self.state, depth, limits: self.limits }),
            None => Err(self.fail(
                None,
                "json_too_deep",
                format!("The body nests JSON deeper than {} levels.", self.limits.depth),
            )),
        }
    }

    /// Keeps the fault for the caller and stops the parse.
    fn fail<E: serde::de::Error>(&self, param: Option<&str>, code: &str, message: String) -> E {
        let error = Error::new(ErrorKind::InvalidRequest, message).with_code(code);
        *self.state.fault.borrow_mut() = Some(match param {
            Some(param) => error.with_param(param),
            None => error,
        });
        E::custom("stopped")
    }
}

impl<'de> DeserializeSeed<'de> for Seed<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Seed<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        self.count()?;
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, value: bool) -> Result<Value, E> {
        self.count()?;
        Ok(Value::Bool(value))
    }

    fn visit_i64<E: serde::de::Error>(self, value: i64) -> Result<Value, E> {
        self.count()?;
        Ok(value.into())
    }

    fn visit_u64<E: serde::de::Error>(self, value: u64) -> Result<Value, E> {
        self.count()?;
        Ok(value.into())
    }

    fn visit_f64<E: serde::de::Error>(self, value: f64) -> Result<Value, E> {
        self.count()?;
        Number::from_f64(value).map(Value::Number).ok_or_else(|| E::custom("number out of range"))
    }

    fn visit_str<E: serde::de::Error>(self, value: &str) -> Result<Value, E> {
        self.visit_string(value.to_owned())
    }

    fn visit_string<E: serde::de::Error>(self, value: String) -> Result<Value, E> {
        self.count()?;
        Ok(Value::String(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.count()?;
        let mut items = Vec::new();
        while let Some(item) = access.next_element_seed(self.inner()?)? {
            items.push(item);
        }
        Ok(Value::Array(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<Value, A::Error> {
        self.count()?;
        let mut map = Map::new();
        while let Some(key) = access.next_key::<String>()? {
            self.count()?;
            if map.contains_key(&key) {
                let shown = shorten(&key);
                return Err(self.fail(
                    Some(&shown),
                    "duplicate_key",
                    format!("The key {shown:?} stands twice in one JSON object; send it once."),
                ));
            }
            let value = access.next_value_seed(self.inner()?)?;
            map.insert(key, value);
        }
        Ok(Value::Object(map))
    }
}

/// A name that came from outside, short enough for a message.
pub(crate) fn shorten(name: &str) -> String {
    const LONGEST: usize = 64;
    if name.chars().count() <= LONGEST {
        return name.to_owned();
    }
    let mut short: String = name.chars().take(LONGEST).collect();
    short.push('…');
    short
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;
    use serde_json::json;

    use super::*;

    const LIMITS: JsonLimits = JsonLimits { bytes: 1 << 16, depth: 4, values: 64 };

    fn code(text: &str) -> (String, Option<String>) {
        let error = parse_json(text.as_bytes(), LIMITS).unwrap_err();
        assert_eq!(error.kind, ErrorKind::InvalidRequest);
        (error.code.unwrap(), error.param)
    }

    #[test]
    fn reads_what_a_plain_parse_reads() {
        let text = r#"{"a":[1,-2,3.5,"x\u00e9",null,true],"b":{"a":1}}"#;
        assert_eq!(
            parse_json(text.as_bytes(), LIMITS).unwrap(),
            serde_json::from_str::<Value>(text).unwrap()
        );
    }

    #[test]
    fn a_key_twice_is_an_error_that_names_it() {
        assert_eq!(code(r#"{"a":1,"a":1}"#), ("duplicate_key".into(), Some("a".into())));
        assert_eq!(
            code(r#"{"x":{"model":1,"mod\u0065l":2}}"#),
            ("duplicate_key".into(), Some("model".into()))
        );
    }

    #[test]
    fn limits_hold_at_their_edge() {
        assert!(parse_json(b"[[[[1]]]]", LIMITS).is_ok());
        assert_eq!(code("[[[[[1]]]]]").0, "json_too_deep");
        assert_eq!(code(&"[".repeat(10_000)).0, "json_too_deep");
        let wide = |n: usize| format!("[{}]", vec!["0"; n].join(","));
        assert!(parse_json(wide(63).as_bytes(), LIMITS).is_ok());
        assert_eq!(code(&wide(64)).0, "request_too_large");
        assert_eq!(code(&" ".repeat((1 << 16) + 1)).0, "request_too_large");
    }

    #[test]
    fn broken_text_is_an_error() {
        for text in ["", "{", "{}{}", "nul", "{\"a\":1e999}", "\"\\ud800\"", "[1,]", "\u{feff}{}"] {
            assert_eq!(code(text).0, "invalid_json", "{text:?}");
        }
        assert!(parse_json(b"\"\xff\"", LIMITS).is_err());
    }

    #[test]
    fn a_long_key_is_shortened_in_the_message() {
        let key = "k".repeat(1000);
        let error = parse_json(format!("{{\"{key}\":1,\"{key}\":2}}").as_bytes(), LIMITS).unwrap_err();
        assert!(error.message.len() < 200);
    }

    fn tree() -> impl Strategy<Value = Value> {
        let leaf = prop_oneof![
            Just(Value::Null),
            any::<bool>().prop_map(Value::from),
            any::<i64>().prop_map(Value::from),
            ".{0,8}".prop_map(Value::from),
        ];
        leaf.prop_recursive(3, 24, 4, |inner| {
            prop_oneof![
                proptest::collection::vec(inner.clone(), 0..4).prop_map(Value::from),
                proptest::collection::hash_map(".{0,4}", inner, 0..4)
                    .prop_map(|map| json!(map.into_iter().collect::<Map<_, _>>())),
            ]
        })
    }

    proptest! {
        #[test]
        fn any_tree_survives(tree in tree()) {
            let limits = JsonLimits { bytes: 1 << 20, depth: 8, values: 10_000 };
            prop_assert_eq!(parse_json(tree.to_string().as_bytes(), limits).unwrap(), tree);
        }

        #[test]
        fn any_bytes_end_in_a_result(bytes in proptest::collection::vec(any::<u8>(), 0..64)) {
            let plain = serde_json::from_slice::<Value>(&bytes).is_ok();
            let ours = parse_json(&bytes, LIMITS).is_ok();
            prop_assert!(plain || !ours);
        }
    }
}

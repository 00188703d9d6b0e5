//! The JSON of `tokenizer.json`. Vocabulary and merges are read into flat buffers, without a string each.

use std::fmt;

use serde::Deserialize;
use serde::de::{Deserializer, Error, MapAccess, SeqAccess, Visitor};
use serde_json::Value;

use crate::tokenizer::vocabulary::{MAX_MERGES, MAX_TOKENS};

/// The whole file.
#[derive(Debug, Deserialize)]
pub(super) struct File {
    #[serde(default)]
    pub(super) added_tokens: Vec<AddedToken>,
    #[serde(default)]
    pub(super) normalizer: Value,
    #[serde(default)]
    pub(super) pre_tokenizer: Value,
    #[serde(default)]
    pub(super) post_processor: Value,
    #[serde(default)]
    pub(super) decoder: Value,
    pub(super) model: ModelPart,
}

impl File {
    /// The id of a token's text as it stands in the file.
    pub(super) fn id_of(&self, text: &str) -> Option<u32> {
        let added = self.added_tokens.iter().find(|token| token.content == text).map(|token| token.id);
        added.or_else(|| self.model.vocab.entries().find(|&(_, entry)| entry == text).map(|(id, _)| id))
    }
}

/// A token that is matched before all others.
#[derive(Debug, Deserialize)]
pub(super) struct AddedToken {
    pub(super) id: u32,
    pub(super) content: String,
    #[serde(default)]
    pub(super) single_word: bool,
    #[serde(default)]
    pub(super) lstrip: bool,
    #[serde(default)]
    pub(super) rstrip: bool,
    #[serde(default)]
    pub(super) special: bool,
}

/// The BPE model.
#[derive(Debug, Deserialize)]
pub(super) struct ModelPart {
    #[serde(rename = "type")]
    pub(super) kind: Option<String>,
    #[serde(default)]
    pub(super) dropout: Value,
    pub(super) unk_token: Option<String>,
    #[serde(default)]
    pub(super) continuing_subword_prefix: Value,
    #[serde(default)]
    pub(super) end_of_word_suffix: Value,
    #[serde(default)]
    pub(super) byte_fallback: bool,
    #[serde(default)]
    pub(super) ignore_merges: bool,
    pub(super) vocab: VocabList,
    pub(super) merges: MergeList,
}

/// Texts with their ids.
#[derive(Debug, Default)]
pub(super) struct VocabList {
    text: String,
    /// Id, and where its text ends; it starts where the one before ends.
    ends: Vec<(u32, usize)>,
}

impl VocabList {
    /// Ids and texts in the order of the file.
    pub(super) fn entries(&self) -> impl Iterator<Item = (u32, &str)> {
        let mut start = 0;
        self.ends.iter().map(move |&(id, end)| {
            let text = self.text.get(start..end).unwrap_or_default();
            start = end;
            (id, text)
        })
    }

    /// Bytes of all texts together.
    pub(super) fn bytes(&self) -> usize {
        self.text.len()
    }
}

impl<'de> Deserialize<'de> for VocabList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct VocabVisitor;
        impl<'de> Visitor<'de> for VocabVisitor {
            type Value = VocabList;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("an object from token texts to ids")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<VocabList, A::Error> {
                let mut list = VocabList::default();
                while map.next_key_seed(Append(&mut list.text))?.is_some() {
                    if list.ends.len() >= MAX_TOKENS {
                        return Err(A::Error::custom("the vocabulary is too large"));
                    }
                    let id = map.next_value()?;
                    list.ends.push((id, list.text.len()));
                }
                Ok(list)
            }
        }
        deserializer.deserialize_map(VocabVisitor)
    }
}

/// Pairs of texts.
#[derive(Debug, Default)]
pub(super) struct MergeList {
    text: String,
    pub(super) spans: Vec<MergeSpan>,
}

/// Where a merge's halves lie in the list's text.
#[derive(Debug, Clone, Copy)]
pub(super) struct MergeSpan {
    start: usize,
    /// End of the left half and start of the right one, when the file gives them apart.
    middle: Option<usize>,
    end: usize,
}

impl MergeList {
    /// Both halves of a merge.
    pub(super) fn halves(&self, span: &MergeSpan) -> Option<(&str, &str)> {
        match span.middle {
            Some(middle) => Some((self.text.get(span.start..middle)?, self.text.get(middle..span.end)?)),
            None => crate::tokenizer::gguf::split_merge(self.text.get(span.start..span.end)?),
        }
    }
}

impl<'de> Deserialize<'de> for MergeList {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct MergesVisitor;
        impl<'de> Visitor<'de> for MergesVisitor {
            type Value = MergeList;

            fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
                formatter.write_str("a list of merges")
            }

            fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<MergeList, A::Error> {
                let mut list = MergeList::default();
                loop {
                    let start = list.text.len();
                    let Some(middle) = sequence.next_element_seed(OneMerge(&mut list.text))? else {
                        return Ok(list);
                    };
                    if list.spans.len() >= MAX_MERGES {
                        return Err(A::Error::custom("there are too many merges"));
                    }
                    list.spans.push(MergeSpan { start, middle, end: list.text.len() });
                }
            }
        }
        deserializer.deserialize_seq(MergesVisitor)
    }
}

/// Appends a string to a buffer.
struct Append<'b>(&'b mut String);

impl<'de> serde::de::DeserializeSeed<'de> for Append<'_> {
    type Value = ();

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<(), D::Error> {
        deserializer.deserialize_str(self)
    }
}

impl Visitor<'_> for Append<'_> {
    type Value = ();

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a string")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<(), E> {
        self.0.push_str(text);
        Ok(())
    }
}

/// Appends a merge, `"a b"` or `["a", "b"]`; gives where the halves meet in the second form.
struct OneMerge<'b>(&'b mut String);

impl<'de> serde::de::DeserializeSeed<'de> for OneMerge<'_> {
    type Value = Option<usize>;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Option<usize>, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for OneMerge<'_> {
    type Value = Option<usize>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("a merge: two halves, in one string or in a list")
    }

    fn visit_str<E: Error>(self, text: &str) -> Result<Option<usize>, E> {
        self.0.push_str(text);
        Ok(None)
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut sequence: A) -> Result<Option<usize>, A::Error> {
        let wrong = || A::Error::custom("a merge must have two halves");
        sequence.next_element_seed(Append(self.0))?.ok_or_else(wrong)?;
        let middle = self.0.len();
        sequence.next_element_seed(Append(self.0))?.ok_or_else(wrong)?;
        if sequence.next_element::<serde::de::IgnoredAny>()?.is_some() {
            return Err(wrong());
        }
        Ok(Some(middle))
    }
}

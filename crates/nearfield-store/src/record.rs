//! Records of the journal and their framing: one line each, `crc32 json`, where the checksum is of the JSON's bytes in
//! eight hexadecimal digits. JSON escapes line feeds, so a line feed always ends a record, and a record that a crash
//! or a full disk cut short is told by its missing end or its checksum.

use std::time::Duration;

use nearfield_api::Usage;
use serde::{Deserialize, Serialize};

use crate::row::{Counterfactual, Outcome};
use crate::{NanoDollars, StoreError};

/// The most bytes of one record, its line feed included.
pub(crate) const MAX_RECORD: usize = 64 * 1024;
/// About how many bytes a record takes.
pub(crate) const USUAL_RECORD: usize = 384;

/// One thing that happened to a request.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
#[serde(tag = "record", rename_all = "snake_case")]
pub(crate) enum Record {
    /// The request was admitted.
    Admitted(Admitted),
    /// A backend is about to get it.
    AttemptStarted(AttemptStarted),
    /// That backend is done with it.
    AttemptEnded(AttemptEnded),
    /// The request is over.
    Ended(Ended),
}

impl Record {
    /// The id of the request.
    pub(crate) fn id(&self) -> &str {
        match self {
            Self::Admitted(record) => &record.id,
            Self::AttemptStarted(record) => &record.id,
            Self::AttemptEnded(record) => &record.id,
            Self::Ended(record) => &record.id,
        }
    }
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Admitted {
    pub(crate) id: String,
    /// Microseconds since 1970, UTC.
    pub(crate) time: i64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) key_id: Option<String>,
    pub(crate) model: String,
    pub(crate) reason: String,
    pub(crate) policy_hash: String,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) retention: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reserved: Option<NanoDollars>,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AttemptStarted {
    pub(crate) id: String,
    /// Position in the request's list of attempts, from 0.
    pub(crate) position: u32,
    pub(crate) backend: String,
    pub(crate) locality: String,
    pub(crate) why: String,
    pub(crate) bytes_out: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct AttemptEnded {
    pub(crate) id: String,
    pub(crate) position: u32,
    pub(crate) outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Tokens>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cost: Option<NanoDollars>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) price: Option<String>,
    pub(crate) duration_us: u64,
}

#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(crate) struct Ended {
    pub(crate) id: String,
    pub(crate) outcome: Outcome,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) reason: Option<String>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) usage: Option<Tokens>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) ttft_us: Option<u64>,
    pub(crate) duration_us: u64,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) cost: Option<NanoDollars>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) counterfactual: Option<Counterfactual>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) energy_joules: Option<f64>,
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) numerics: Option<String>,
    /// The attempt that answered, where it is not the one that began last.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub(crate) answered: Option<u32>,
}

/// [`Usage`] as it is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Tokens {
    pub(crate) input: u64,
    pub(crate) cached_input: u64,
    // Journals of the first version do not have the next three.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) cache_write: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) cache_write_1h: u64,
    #[serde(default, skip_serializing_if = "is_zero")]
    pub(crate) unattributed: u64,
    pub(crate) output: u64,
    pub(crate) reasoning: u64,
    pub(crate) measured: bool,
}

impl From<Usage> for Tokens {
    fn from(usage: Usage) -> Self {
        Self {
            input: usage.input,
            cached_input: usage.cached_input,
            cache_write: usage.cache_write,
            cache_write_1h: usage.cache_write_1h,
            unattributed: usage.unattributed,
            output: usage.output,
            reasoning: usage.reasoning,
            measured: usage.measured,
        }
    }
}

/// Whether there is nothing to write down.
#[expect(clippy::trivially_copy_pass_by_ref, reason = "as serde asks")]
const fn is_zero(count: &u64) -> bool {
    *count == 0
}

/// Whole microseconds.
pub(crate) fn microseconds(time: Duration) -> u64 {
    u64::try_from(time.as_micros()).unwrap_or(u64::MAX)
}

/// The bytes of some records, one line each.
pub(crate) fn encode(records: &[Record]) -> Result<Vec<u8>, StoreError> {
    let mut lines = Vec::with_capacity(records.len() * USUAL_RECORD);
    records.iter().try_for_each(|record| encode_into(&mut lines, record))?;
    Ok(lines)
}

/// Adds the line of a record, or nothing of it.
pub(crate) fn encode_into(lines: &mut Vec<u8>, record: &Record) -> Result<(), StoreError> {
    let start = lines.len();
    let added = add_line(lines, record);
    if added.is_err() {
        lines.truncate(start);
    }
    added
}

fn add_line(lines: &mut Vec<u8>, record: &Record) -> Result<(), StoreError> {
    let start = lines.len();
    lines.extend_from_slice(b"00000000 ");
    serde_json::to_writer(&mut *lines, record)?;
    lines.push(b'\n');
    let bytes = lines.len() - start;
    if bytes > MAX_RECORD {
        return Err(StoreError::RecordTooLarge { bytes });
    }
    let (head, json) = lines.split_at_mut(start + 9);
    let digits = checksum(json.strip_suffix(b"\n").unwrap_or(json));
    if let Some(place) = head.get_mut(start..start + 8) {
        place.copy_from_slice(&digits);
    }
    Ok(())
}

/// The checksum of a record's JSON, in small hexadecimal digits.
fn checksum(json: &[u8]) -> [u8; 8] {
    let sum = crc32fast::hash(json);
    std::array::from_fn(|at| {
        char::from_digit(sum >> (28 - 4 * at) & 15, 16).map_or(b'0', |digit| digit as u8)
    })
}

/// Reads one line without its line feed; `None` when it is damaged.
pub(crate) fn decode(line: &[u8]) -> Option<Record> {
    let (digits, json) = line.split_at_checked(8)?;
    let json = json.strip_prefix(b" ")?;
    if checksum(json) != digits {
        return None;
    }
    // The tag stands first in what we write; to find it anywhere takes several times as long.
    let tag = json.strip_prefix(b"{\"record\":\"").and_then(|rest| rest.split(|&byte| byte == b'"').next());
    match tag {
        Some(b"admitted") => serde_json::from_slice(json).ok().map(Record::Admitted),
        Some(b"attempt_started") => serde_json::from_slice(json).ok().map(Record::AttemptStarted),
        Some(b"attempt_ended") => serde_json::from_slice(json).ok().map(Record::AttemptEnded),
        Some(b"ended") => serde_json::from_slice(json).ok().map(Record::Ended),
        _ => serde_json::from_slice(json).ok(),
    }
}

/// Records for the tests of this crate.
#[cfg(test)]
pub(crate) mod samples {
    use super::{Admitted, AttemptStarted, Ended, Outcome, Record};

    /// An admission at a time in microseconds.
    pub(crate) fn admitted(id: &str, time: i64) -> Record {
        Record::Admitted(Admitted {
            id: id.to_owned(),
            time,
            key_id: None,
            model: "m".to_owned(),
            reason: "local-only".to_owned(),
            policy_hash: "0".to_owned(),
            retention: None,
            reserved: None,
        })
    }

    pub(crate) fn attempt_started(id: &str, position: u32) -> Record {
        Record::AttemptStarted(AttemptStarted {
            id: id.to_owned(),
            position,
            backend: "b".to_owned(),
            locality: "cloud".to_owned(),
            why: "w".to_owned(),
            bytes_out: 0,
        })
    }

    pub(crate) fn ended(id: &str) -> Record {
        Record::Ended(Ended {
            id: id.to_owned(),
            outcome: Outcome::Done,
            reason: None,
            usage: None,
            ttft_us: None,
            duration_us: 1,
            cost: None,
            counterfactual: None,
            energy_joules: None,
            numerics: None,
            answered: None,
        })
    }
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    #[test]
    fn checksum_is_the_common_one() {
        assert_eq!(crc32fast::hash(b"123456789"), 0xCBF4_3926);
    }

    #[test]
    fn a_checksum_is_read_only_as_it_is_written() {
        // So many that digits of all kinds are among them.
        for position in 0..64 {
            let line = encode(&[samples::attempt_started("a", position)]).unwrap();
            let (digits, json) = line.strip_suffix(b"\n").unwrap().split_at(8);
            assert!(decode(&[digits, json].concat()).is_some());
            let capitals = digits.to_ascii_uppercase();
            assert_eq!(decode(&[&capitals, json].concat()).is_some(), capitals == digits);
        }
    }

    fn any_record() -> impl Strategy<Value = Record> {
        let text = ".{0,40}";
        let admitted =
            (text, any::<i64>(), proptest::option::of(text), text).prop_map(|(id, time, key_id, model)| {
                Record::Admitted(Admitted {
                    id,
                    time,
                    key_id,
                    model,
                    reason: "local-only".to_owned(),
                    policy_hash: "0".repeat(16),
                    retention: Some("short".to_owned()),
                    reserved: Some(NanoDollars(time)),
                })
            });
        let ended =
            (text, any::<[u64; 5]>(), any::<i64>(), proptest::option::of(any::<u32>().prop_map(f64::from)))
                .prop_map(|(id, [input, cached_input, output, reasoning, time], cost, energy_joules)| {
                    Record::Ended(Ended {
                        id,
                        outcome: Outcome::Error("upstream".to_owned()),
                        reason: None,
                        usage: Some(Tokens {
                            input,
                            cached_input,
                            cache_write: 0,
                            cache_write_1h: 1,
                            unattributed: 2,
                            output,
                            reasoning,
                            measured: true,
                        }),
                        ttft_us: None,
                        duration_us: time,
                        cost: Some(NanoDollars(cost)),
                        counterfactual: None,
                        energy_joules,
                        numerics: None,
                        answered: None,
                    })
                });
        prop_oneof![admitted, ended]
    }

    proptest! {
        #[test]
        fn records_survive_a_round_trip(record in any_record()) {
            let bytes = encode(std::slice::from_ref(&record)).unwrap();
            let (end, line) = bytes.split_last().unwrap();
            prop_assert_eq!(*end, b'\n');
            prop_assert!(!line.contains(&b'\n'));
            prop_assert_eq!(decode(line), Some(record));
        }

        #[test]
        fn any_flipped_byte_is_noticed(record in any_record(), at in any::<prop::sample::Index>(), flip in 1_u8..) {
            let mut bytes = encode(&[record]).unwrap();
            bytes.pop();
            let at = at.index(bytes.len());
            bytes[at] ^= flip;
            prop_assert_eq!(decode(&bytes), None);
        }

        #[test]
        fn noise_is_never_a_record(noise in proptest::collection::vec(any::<u8>(), 0..200)) {
            prop_assert_eq!(decode(&noise), None);
        }
    }

    #[test]
    fn a_record_without_bounds_is_refused() {
        let record = Record::Admitted(Admitted {
            id: "x".to_owned(),
            time: 0,
            key_id: None,
            model: "m".repeat(MAX_RECORD),
            reason: String::new(),
            policy_hash: String::new(),
            retention: None,
            reserved: None,
        });
        assert!(matches!(encode(std::slice::from_ref(&record)), Err(StoreError::RecordTooLarge { .. })));
        let small = samples::ended("a");
        let mut lines = encode(std::slice::from_ref(&small)).unwrap();
        assert!(encode_into(&mut lines, &record).is_err());
        assert_eq!(lines, encode(&[small]).unwrap(), "nothing of it stays");
    }
}

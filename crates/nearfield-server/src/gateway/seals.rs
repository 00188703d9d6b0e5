//! Tags on what providers want back unread: signatures and encrypted reasoning.
//!
//! Nobody can look into such a value, so where a rule masks it must not leave, with one exception: the backend that
//! issued it to this key knows what it holds. Answers carry each value with a tag under the key of pseudonyms; a request
//! that brings one back is believed only as far as the tag goes. Tags never leave the machine.

use std::collections::BTreeMap;
use std::sync::Arc;

use aws_lc_rs::constant_time;
use nearfield_api::{Event, Place, Request};
use nearfield_privacy::HashKey;

use crate::keys::hex;

/// Begins every tagged value.
const MARK: &str = "nf1.";
/// Hexadecimal digits of a tag.
const DIGITS: usize = 32;

/// Tags what one backend issues to one key.
#[derive(Clone)]
pub(super) struct Seal {
    pub(super) key: Arc<HashKey>,
    pub(super) backend: String,
    pub(super) key_id: String,
}

impl Seal {
    /// Tags what cannot be looked into of an event.
    pub(super) fn put(&self, event: &mut Event) {
        let (Event::Reasoning { opaque: Some(opaque), .. } | Event::ToolCall { opaque: Some(opaque), .. }) =
            event
        else {
            return;
        };
        let value = &mut opaque.value;
        *value = format!("{MARK}{}.{value}", tag(&self.key, &self.backend, &self.key_id, value));
    }
}

fn tag(key: &HashKey, backend: &str, key_id: &str, value: &str) -> String {
    let parts = [b"nearfield seal".as_slice(), backend.as_bytes(), key_id.as_bytes(), value.as_bytes()];
    let mut text = hex(&key.code(&parts));
    text.truncate(DIGITS);
    text
}

/// Takes the tags off a request. How many of its values each of these backends issued to this key; a value whose tag
/// says nothing of the kind stays as it is, and counts for nobody.
pub(super) fn unseal<'a>(
    key: &HashKey,
    backends: impl Iterator<Item = &'a str> + Clone,
    key_id: &str,
    request: &mut Request,
) -> BTreeMap<String, usize> {
    let mut issued = BTreeMap::new();
    request.visit_strings(&mut |place, text| {
        if place != Place::Opaque {
            return;
        }
        let Some((given, value)) = text.strip_prefix(MARK).and_then(|rest| rest.split_once('.')) else {
            return;
        };
        let issuer = backends.clone().find(|backend| {
            let own = tag(key, backend, key_id, value);
            constant_time::verify_slices_are_equal(own.as_bytes(), given.as_bytes()).is_ok()
        });
        if let Some(backend) = issuer {
            *issued.entry(backend.to_owned()).or_default() += 1;
            *text = value.to_owned();
        }
    });
    issued
}

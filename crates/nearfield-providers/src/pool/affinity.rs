//! Which endpoint has read the beginning of a conversation before.

use std::collections::HashMap;
use std::collections::hash_map::RandomState;
use std::fmt::{self, Write as _};
use std::hash::{BuildHasher as _, Hasher};

use nearfield_api::{Prompt, Request, Role};

/// Beginnings that are remembered; twice as many at most.
const KNOWN: usize = 8192;
/// Beginnings of one request, the last of which are taken.
const MOST: usize = 64;
/// Bytes of a text after which a beginning is noted.
const BLOCK: usize = 2048;

/// Remembers beginnings by hashes under a key of this process, so that nobody outside can make two of them meet.
#[derive(Debug, Default)]
pub(super) struct Affinity {
    key: RandomState,
    young: HashMap<u64, usize>,
    /// What was young before; what is asked for moves back.
    old: HashMap<u64, usize>,
}

impl Affinity {
    /// Hashes of a request's beginnings, the shortest first: up to each message from the first of the user's on, or each
    /// block of a text. Requests of different cache domains or models have none in common.
    pub(super) fn beginnings(&self, request: &Request) -> Vec<u64> {
        let mut hasher = self.key.build_hasher();
        hasher.write(request.cache_domain.as_bytes());
        hasher.write_u8(0xff);
        hasher.write(request.model.as_bytes());
        hasher.write_u8(0xff);
        let mut hashes = Vec::new();
        match &request.prompt {
            Prompt::Chat(messages) => {
                let mut asked = false;
                for message in messages {
                    // What a debug text tells apart is told apart here; nothing of it is kept.
                    let _ = write!(Hashed(&mut hasher), "{message:?}");
                    // Instructions alone are shared by conversations that have nothing else in common.
                    asked |= message.role == Role::User;
                    if asked {
                        hashes.push(hasher.finish());
                    }
                }
            }
            Prompt::Text { text, .. } => {
                for block in text.as_bytes().chunks(BLOCK) {
                    hasher.write(block);
                    hashes.push(hasher.finish());
                }
            }
            Prompt::Tokens(tokens) => {
                for block in tokens.chunks(BLOCK / 4) {
                    for token in block {
                        hasher.write_u32(*token);
                    }
                    hashes.push(hasher.finish());
                }
            }
        }
        let first = hashes.len().saturating_sub(MOST);
        hashes.split_off(first)
    }

    /// The endpoint that has read the longest of these beginnings.
    pub(super) fn find(&self, beginnings: &[u64]) -> Option<usize> {
        let known = |hash: &u64| self.young.get(hash).or_else(|| self.old.get(hash)).copied();
        beginnings.iter().rev().find_map(known)
    }

    /// Notes who reads them now.
    pub(super) fn note(&mut self, beginnings: &[u64], endpoint: usize) {
        if self.young.len() + beginnings.len() > KNOWN {
            self.old = std::mem::take(&mut self.young);
        }
        self.young.extend(beginnings.iter().map(|hash| (*hash, endpoint)));
    }

    /// A salt for the prefix cache of a server that many keys share: the same for a cache domain, and no use to anybody
    /// who does not have this process's key.
    pub(super) fn salt(&self, cache_domain: &str) -> String {
        let one = |part: u8| {
            let mut hasher = self.key.build_hasher();
            hasher.write_u8(part);
            hasher.write(cache_domain.as_bytes());
            hasher.finish()
        };
        format!("{:016x}{:016x}", one(1), one(2))
    }
}

struct Hashed<'a, H>(&'a mut H);

impl<H: Hasher> fmt::Write for Hashed<'_, H> {
    fn write_str(&mut self, text: &str) -> fmt::Result {
        self.0.write(text.as_bytes());
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use nearfield_api::Message;

    use super::*;

    fn chat(domain: &str, messages: &[(Role, &str)]) -> Request {
        let messages = messages.iter().map(|(role, text)| Message::new(*role, *text)).collect();
        Request { cache_domain: domain.to_owned(), ..Request::new("m", Prompt::Chat(messages)) }
    }

    #[test]
    fn a_conversation_is_found_again_and_no_other() {
        let mut affinity = Affinity::default();
        let (system, user, assistant) = (Role::System, Role::User, Role::Assistant);
        let first = chat("a", &[(system, "be kind"), (user, "one")]);
        let next = chat("a", &[(system, "be kind"), (user, "one"), (assistant, "1"), (user, "two")]);
        let other = chat("a", &[(system, "be kind"), (user, "else")]);
        let foreign = chat("b", &[(system, "be kind"), (user, "one")]);
        let beginnings = affinity.beginnings(&first);
        affinity.note(&beginnings, 2);
        let find = |request: &Request| affinity.find(&affinity.beginnings(request));
        assert_eq!((find(&first), find(&next)), (Some(2), Some(2)));
        assert_eq!((find(&other), find(&foreign)), (None, None));
        // Another process has another key.
        assert_ne!(Affinity::default().beginnings(&first), beginnings);
    }

    #[test]
    fn the_memory_is_bounded_and_keeps_the_young() {
        let mut affinity = Affinity::default();
        for at in 0..10 * KNOWN as u64 {
            affinity.note(&[at], 1);
        }
        assert!(affinity.young.len() + affinity.old.len() <= 2 * KNOWN);
        assert_eq!(affinity.find(&[10 * KNOWN as u64 - 1]), Some(1));
        assert_eq!(affinity.find(&[0]), None);
        let text = "x".repeat(300 * BLOCK);
        let long = Request::new("m", Prompt::Text { text, suffix: None });
        assert_eq!(affinity.beginnings(&long).len(), MOST);
    }

    #[test]
    fn salts_are_of_domains() {
        let affinity = Affinity::default();
        assert_eq!(affinity.salt("a"), affinity.salt("a"));
        assert_ne!(affinity.salt("a"), affinity.salt("b"));
        assert_ne!(affinity.salt("a"), Affinity::default().salt("a"));
    }
}

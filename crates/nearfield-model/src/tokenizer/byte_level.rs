//! The byte alphabet of byte-level vocabularies: every byte is written as one printable character.
//!
//! Bytes that are printable in Latin-1 stand for themselves; the others, in order, are written as U+0100, U+0101, ...

/// Whether a byte is written as itself.
const fn is_printable(byte: u8) -> bool {
    matches!(byte, 0x21..=0x7E | 0xA1..=0xAC | 0xAE..=0xFF)
}

/// First character of the alphabet's shifted part.
const SHIFTED: usize = 0x100;

/// Bytes that are not written as themselves, in order.
const SHIFTED_BYTES: [u8; 68] = {
    let mut bytes = [0; 68];
    let (mut byte, mut place) = (0_u16, 0);
    while byte < 256 {
        if !is_printable(byte as u8) {
            bytes[place] = byte as u8;
            place += 1;
        }
        byte += 1;
    }
    bytes
};

/// The byte that a character of the alphabet stands for.
pub(super) fn byte_of(character: char) -> Option<u8> {
    let code = u32::from(character) as usize;
    match u8::try_from(code) {
        Ok(byte) => is_printable(byte).then_some(byte),
        Err(_) => SHIFTED_BYTES.get(code.checked_sub(SHIFTED)?).copied(),
    }
}

/// Bytes of a text in the alphabet, or `None` when a character is not part of it.
pub(super) fn decode(text: &str, into: &mut Vec<u8>) -> bool {
    into.clear();
    for character in text.chars() {
        match byte_of(character) {
            Some(byte) => into.push(byte),
            None => return false,
        }
    }
    true
}

/// A text in the alphabet, for tests that build vocabularies.
#[cfg(test)]
pub(super) fn encode(bytes: &[u8]) -> String {
    bytes
        .iter()
        .map(|&byte| match SHIFTED_BYTES.iter().position(|&shifted| shifted == byte) {
            Some(place) => char::from_u32((SHIFTED + place) as u32).unwrap_or_default(),
            None => char::from(byte),
        })
        .collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn alphabet_is_a_bijection() {
        let all: Vec<u8> = (0..=255).collect();
        let text = encode(&all);
        assert_eq!(text.chars().count(), 256);
        let mut back = Vec::new();
        assert!(decode(&text, &mut back));
        assert_eq!(back, all);
        assert_eq!(encode(b" \n"), "\u{120}\u{10A}");
        assert!(!decode("\u{144}", &mut back));
        assert!(!decode(" ", &mut back));
    }
}

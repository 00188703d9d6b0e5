//! What a prompt looks like, in numbers.

/// How many features there are: the plain ones and the words, hashed.
pub(super) const COUNT: usize = PLAIN + WORDS;
const PLAIN: usize = 14;
const WORDS: usize = 192;

/// The features of a prompt: lengths, shares of kinds of characters, and which words it holds (hashed into 192 places).
/// Counts are taken as square roots, so that a long prompt does not drown the rest.
pub fn features(prompt: &str) -> Vec<f64> {
    let mut values = vec![0.0; COUNT];
    let chars = prompt.chars().count().max(1) as f64;
    let count = |test: &dyn Fn(char) -> bool| prompt.chars().filter(|&letter| test(letter)).count() as f64;
    let words: Vec<&str> =
        prompt.split(|letter: char| !letter.is_alphanumeric()).filter(|word| !word.is_empty()).collect();
    let word_count = words.len().max(1) as f64;
    let digits = count(&|letter| letter.is_ascii_digit());
    let numbers = words.iter().filter(|word| word.bytes().all(|byte| byte.is_ascii_digit())).count() as f64;
    let letters: f64 = words.iter().map(|word| word.chars().count() as f64).sum();
    let plain: [f64; PLAIN] = [
        1.0,
        chars.sqrt(),
        word_count.sqrt(),
        letters / word_count,
        numbers.sqrt(),
        digits / chars,
        count(&|letter| matches!(letter, '.' | '!' | '?')).sqrt(),
        count(&|letter| letter == '?').sqrt(),
        count(&|letter| matches!(letter, '=' | '+' | '*' | '^' | '<' | '>' | '/' | '%' | '$')).sqrt(),
        count(&|letter| letter == '\n').sqrt(),
        count(&char::is_uppercase) / chars,
        count(&|letter| !letter.is_ascii()).sqrt(),
        count(&|letter| matches!(letter, '(' | ')' | '{' | '}' | '[' | ']' | '_')).sqrt(),
        count(&|letter| letter == ',').sqrt(),
    ];
    values[..PLAIN].copy_from_slice(&plain);
    for word in words {
        if word.len() >= 3 && !word.bytes().all(|byte| byte.is_ascii_digit()) {
            values[PLAIN + place(word)] += 1.0;
        }
    }
    for value in &mut values[PLAIN..] {
        *value = value.sqrt() / word_count.sqrt();
    }
    values
}

/// The place of a word: FNV-1a over its small letters.
fn place(word: &str) -> usize {
    let mut hash = 0xcbf2_9ce4_8422_2325_u64;
    for letter in word.chars().flat_map(char::to_lowercase) {
        hash = (hash ^ u64::from(u32::from(letter))).wrapping_mul(0x0100_0000_01b3);
    }
    (hash >> 20) as usize % WORDS
}

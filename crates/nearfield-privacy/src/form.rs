//! The form of placeholders: one that no text of the request already holds.

/// How placeholders of a request are written: `[EMAIL_1]`, or with a tag, `[EMAIL_1_B]`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Form {
    /// 0 for none, else the letter's place in the alphabet, from 1; two letters follow one.
    tag: u16,
}

/// The most tags: none, A to Z, AA to ZZ.
const TAGS: u16 = 1 + 26 + 26 * 26;

impl Form {
    /// A placeholder.
    pub(crate) fn placeholder(self, kind: &str, number: usize) -> String {
        match self.tag {
            0 => format!("[{kind}_{number}]"),
            tag => format!("[{kind}_{number}_{}]", letters(tag)),
        }
    }

    /// The first form that is not taken.
    pub(crate) fn free(taken: &[Self]) -> Option<Self> {
        (0..TAGS).map(|tag| Self { tag }).find(|form| !taken.contains(form))
    }

    /// Adds the forms that a text holds something of.
    pub(crate) fn note_taken(text: &str, taken: &mut Vec<Self>) {
        for (open, _) in text.match_indices('[') {
            if let Some(form) = text.as_bytes().get(open + 1..).and_then(Self::of)
                && !taken.contains(&form)
            {
                taken.push(form);
            }
        }
    }

    /// The form of the placeholder whose inside begins here: a name in capitals, a number, perhaps a tag, a bracket. Case
    /// does not matter: a model may change it.
    fn of(inside: &[u8]) -> Option<Self> {
        let close = inside.iter().take(64).position(|&byte| byte == b']')?;
        let inside = &inside[..close];
        let mut parts = inside.rsplit(|&byte| byte == b'_');
        let last = parts.next()?;
        let is_number = |part: &[u8]| !part.is_empty() && part.iter().all(u8::is_ascii_digit);
        if is_number(last) && parts.next().is_some() {
            return Some(Self { tag: 0 });
        }
        let number =
            inside[..inside.len() - last.len()].strip_suffix(b"_")?.rsplit(|&byte| byte == b'_').next()?;
        let tag = tag(last)?;
        is_number(number).then_some(Self { tag })
    }
}

fn letters(tag: u16) -> String {
    let letter = |place: u16| char::from(b'A' + (place % 26) as u8);
    let place = tag - 1;
    if place < 26 {
        letter(place).to_string()
    } else {
        format!("{}{}", letter((place - 26) / 26), letter((place - 26) % 26))
    }
}

fn tag(letters: &[u8]) -> Option<u16> {
    let place = |byte: u8| byte.is_ascii_alphabetic().then(|| u16::from(byte.to_ascii_uppercase() - b'A'));
    match letters {
        [one] => Some(place(*one)? + 1),
        [one, two] => Some(27 + place(*one)? * 26 + place(*two)?),
        _ => None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_form_is_recognised_as_its_own() {
        for tag in 0..TAGS {
            let form = Form { tag };
            let mut taken = Vec::new();
            Form::note_taken(&format!("see {} there", form.placeholder("IP_ADDRESS", 12)), &mut taken);
            assert_eq!(taken, [form]);
        }
    }

    #[test]
    fn the_first_free_form_is_taken() {
        let mut taken = Vec::new();
        assert_eq!(Form::free(&taken).unwrap().placeholder("EMAIL", 1), "[EMAIL_1]");
        Form::note_taken("[email_7] and [PHONE_1_A] and [1] and [x]", &mut taken);
        assert_eq!(Form::free(&taken).unwrap().placeholder("EMAIL", 1), "[EMAIL_1_B]");
        let all: Vec<Form> = (0..TAGS).map(|tag| Form { tag }).collect();
        assert_eq!(Form::free(&all), None);
    }
}

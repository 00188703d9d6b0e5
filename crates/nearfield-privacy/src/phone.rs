//! Telephone and fax numbers.

use crate::context::{CARD, Context, IDENTITY, PHONE, word_after};
use crate::entity::{Entity, Span};
use crate::number::{Number, extension};

/// What speaks for a telephone number.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Form {
    /// Digits in groups; a word must say the rest.
    Loose,
    /// A trunk prefix and groups.
    Trunk,
    /// A form that is used for nothing else.
    Certain,
}

/// The telephone number whose first group is that of `number`.
pub(crate) fn phone(text: &[u8], number: &Number, context: Context) -> Option<Span> {
    let before = |back: usize| number.start.checked_sub(back).and_then(|at| text.get(at)).copied();
    let (start, plus, parenthesis) = match (before(1), before(2)) {
        (Some(b'('), Some(b'+')) | (Some(b'+'), Some(b'(')) => (number.start - 2, true, true),
        (Some(b'('), _) => (number.start - 1, false, true),
        (Some(b'+'), _) => (number.start - 1, true, false),
        _ => (number.start, false, false),
    };
    let groups = extent(text, number)?;
    let total = number.total(groups);
    let last = groups - 1;
    let form = form(text, number, groups, plus, parenthesis)?;
    let says = context.near(PHONE) || word_after(text, number.end(last)) == PHONE;
    let sure = match form {
        Form::Certain => 85,
        Form::Trunk if says => 80,
        Form::Trunk if (9..=12).contains(&total) && !runs_into_word(text, number.end(last)) => 55,
        Form::Loose if says && !context.label(CARD | IDENTITY) => {
            let led = context.label(PHONE) || word_after(text, number.end(last)) == PHONE;
            if !led && runs_into_word(text, number.end(last)) {
                return None;
            }
            60
        }
        Form::Trunk | Form::Loose => return None,
    };
    let end = extension(text, number.end(last)).unwrap_or_else(|| number.end(last));
    Some(Span::new(start, end, Entity::Phone, sure))
}

/// How many of the groups belong to the number: up to fifteen digits, with plain separators between.
fn extent(text: &[u8], number: &Number) -> Option<usize> {
    let mut groups = 1;
    while groups < number.count() {
        let plain = matches!(
            number.gap(text, groups - 1),
            b" " | b"-" | b"." | b"/" | b") " | b")" | b")-" | b" (" | b"-(" | b"(" | b" - "
        );
        if !plain || number.total(groups + 1) > 15 {
            break;
        }
        groups += 1;
    }
    (7..=15).contains(&number.total(groups)).then_some(groups)
}

fn form(text: &[u8], number: &Number, groups: usize, plus: bool, parenthesis: bool) -> Option<Form> {
    let total = number.total(groups);
    let first = text[number.start];
    let international = text[number.start..].starts_with(b"00") && first == b'0' && number.len(0) >= 3;
    if plus && (8..=15).contains(&total) && first != b'0' {
        return Some(Form::Certain);
    }
    if parenthesis && groups >= 2 && number.gap(text, 0).starts_with(b")") {
        return Some(if total >= 9 { Form::Certain } else { Form::Loose });
    }
    let american = |skip: usize| {
        groups == skip + 3 && number.len(skip) == 3 && number.len(skip + 1) == 3 && number.len(skip + 2) == 4
    };
    let opening = |group: usize| {
        let end = number.end(group);
        text[end - number.len(group)]
    };
    let nanp = |skip: usize| american(skip) && opening(skip) >= b'2' && opening(skip + 1) >= b'2';
    if nanp(0) && number.gap(text, 0) == number.gap(text, 1) && number.gap(text, 0) != b"/" {
        return Some(Form::Certain);
    }
    if number.len(0) <= 3 && nanp(1) && (first == b'1' || text[number.start..].starts_with(b"001")) {
        return Some(Form::Certain);
    }
    if groups >= 2 && international && total >= 10 {
        return Some(Form::Trunk);
    }
    // Groups of four and more figures first, or one figure alone, are addresses, amounts and dates far more often.
    let grouped = groups >= 2 && (2..=5).contains(&number.len(0));
    let slashes = (0..groups - 1).filter(|&group| number.gap(text, group) == b"/").count();
    if first == b'0' && grouped && total >= 8 && slashes <= 1 {
        return Some(Form::Trunk);
    }
    let single = groups == 1 && (7..=12).contains(&total);
    ((grouped && total <= 13 && slashes == 0) || single).then_some(Form::Loose)
}

/// Whether a capitalised word follows, as after a house number.
fn runs_into_word(text: &[u8], end: usize) -> bool {
    text.get(end) == Some(&b' ')
        && text.get(end + 1).is_some_and(u8::is_ascii_alphabetic)
        && word_after(text, end) != PHONE
        && text[end + 1].is_ascii_uppercase()
}

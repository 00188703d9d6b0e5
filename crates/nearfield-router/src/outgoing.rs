//! A request on its way out: looked at, string by string, before the decision; masked, string by string, after it.

use nearfield_api::{Place, Prompt, Request};
use nearfield_privacy::{DataClass, Detector, HashKey, MaskError, Masked, Masker, Survey, Treatments};

/// How a string is looked at.
enum Look {
    /// As text.
    Text,
    /// As the value of the field whose key came last.
    Field,
    /// As a key.
    Key,
    /// As a name that must stay as it is: what is found in it cannot be masked.
    Fixed,
    /// Not at all: nothing can be said of it.
    Blind,
}

fn look(place: Place, text: &str) -> Look {
    match place {
        Place::Key => Look::Key,
        Place::ToolArguments | Place::Extra | Place::Label => Look::Field,
        Place::Model => Look::Fixed,
        Place::Media | Place::Opaque => Look::Blind,
        Place::Url if text.get(..5).is_some_and(|scheme| scheme.eq_ignore_ascii_case("data:")) => Look::Blind,
        _ => Look::Text,
    }
}

/// Looks at every string of a request. The request is the same afterwards, but for a tool's arguments in which a key
/// stands twice: of these only the values that were looked at stay.
pub fn survey_request(detector: &Detector, request: &mut Request) -> Survey {
    let mut survey = Survey::new();
    if matches!(request.prompt, Prompt::Tokens(_)) {
        survey.unscannable();
    }
    let mut key = String::new();
    request.visit_strings(&mut |place, text| match look(place, text) {
        Look::Text => survey.json_text(detector, None, text),
        Look::Field => survey.json_text(detector, Some(key.as_str()).filter(|key| !key.is_empty()), text),
        Look::Key => {
            survey.text(detector, None, text);
            key.clone_from(text);
        }
        Look::Fixed => {
            if detector.find(text).iter().any(|span| span.class >= DataClass::Personal) {
                survey.unscannable();
            }
        }
        Look::Blind => survey.unscannable(),
    });
    survey
}

/// Masks a request that was surveyed.
///
/// # Errors
/// [`MaskError`]; the request is worth nothing then, and must not leave.
pub fn mask_request(
    request: &mut Request,
    survey: &Survey,
    treatments: &Treatments,
    key: Option<&HashKey>,
) -> Result<Masked, MaskError> {
    let mut masker = Masker::new(survey, treatments, key)?;
    let mut failed = None;
    request.visit_strings(&mut |place, text| {
        if failed.is_some() {
            return;
        }
        let masked = match look(place, text) {
            Look::Text | Look::Field => masker.json_text(text),
            Look::Key => masker.text(text),
            Look::Fixed | Look::Blind => return,
        };
        match masked {
            Ok(None) => {}
            Ok(Some(masked)) => *text = masked,
            Err(error) => failed = Some(error),
        }
    });
    match failed {
        Some(error) => Err(error),
        None => masker.finish(),
    }
}

#[cfg(test)]
mod tests {
    use nearfield_api::{Content, Message, Part, Role, ToolCall, ToolResult};
    use serde_json::json;

    use super::*;

    fn masked(mut request: Request) -> (Request, Survey, Masked) {
        let mut treatments = Treatments::none();
        for name in ["personal", "health", "secret"] {
            assert!(treatments.set(name, false));
        }
        let survey = survey_request(&Detector::new(), &mut request);
        let masked = mask_request(&mut request, &survey, &treatments, None).unwrap();
        (request, survey, masked)
    }

    fn with_call(arguments: &str) -> Request {
        let mut message = Message::new(Role::Assistant, "calling jo@x.org");
        message.content.push(Part::from(Content::ToolCall(ToolCall {
            id: "call_1".to_owned(),
            name: "send".to_owned(),
            arguments: arguments.to_owned(),
            opaque: None,
        })));
        Request::new("m", Prompt::Chat(vec![message]))
    }

    #[test]
    fn nothing_planted_is_left_in_any_string() {
        let planted = ["jo@x.org", "4111111111111111", "12345678", "hunter2!"];
        let mut request = with_call(
            r#"{"to":"jo\u0040x.org","card":4111111111111111,"patientMrn":"12345678","jo@x.org":1}"#,
        );
        request.labels.user = Some("jo@x.org".to_owned());
        request.extra.insert("note".to_owned(), json!({"deep": ["password: hunter2!"]}));
        request.stop.push("jo@x.org".to_owned());
        let before = request.clone();
        survey_request(&Detector::new(), &mut request);
        assert_eq!(request, before, "a look changes nothing");
        let (request, survey, _) = masked(request);
        let text = format!("{request:?}");
        for value in planted {
            assert!(!text.contains(value), "{value} in {text}");
        }
        assert!(survey.classes().contains(DataClass::Health) && survey.classes().contains(DataClass::Secret));
    }

    #[test]
    fn a_key_that_stands_twice_in_arguments_hides_nothing() {
        let (request, ..) = masked(with_call(r#"{"a":"mail jo\u0040x.org","a":"nothing"}"#));
        let text = format!("{request:?}");
        assert!(!text.contains("u0040") && !text.contains("jo@x.org"), "{text}");
    }

    #[test]
    fn json_in_a_tools_result_is_looked_into() {
        let text = r#"{"rows":[{"mail":"jo\u0040x.org","card":4111111111111111}],"n":1.50}"#;
        let result = ToolResult {
            call_id: "call_1".to_owned(),
            name: None,
            content: vec![Part::from(Content::Text(text.to_owned()))],
            is_error: None,
        };
        let mut message = Message::new(Role::Tool, text);
        message.content.push(Part::from(Content::ToolResult(result)));
        let mut request = Request::new("m", Prompt::Chat(vec![message]));
        request.extra.insert("note".to_owned(), json!(text));
        let (request, survey, _) = masked(request);
        let said = r#"{"rows":[{"mail":"[EMAIL_1]","card":"[CREDIT_CARD_1]"}],"n":1.50}"#;
        let mut texts = 0;
        request.clone().visit_strings(&mut |_, text| texts += usize::from(text == said));
        assert_eq!(texts, 3, "{request:?}");
        assert!(survey.classes().contains(DataClass::Personal));
    }

    #[test]
    fn what_cannot_be_looked_into_is_counted() {
        let mut request = Request::new("m", Prompt::Tokens(vec![1, 2]));
        assert_eq!(survey_request(&Detector::new(), &mut request).unscannable_parts(), 1);
        request.model = "jo@x.org".to_owned();
        assert_eq!(survey_request(&Detector::new(), &mut request).unscannable_parts(), 2);
    }
}

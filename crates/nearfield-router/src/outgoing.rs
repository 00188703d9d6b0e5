//! A request on its way out: looked at, string by string, before the decision; masked, string by string, after it.

use nearfield_api::{Place, Prompt, Request, is_data_url, is_encoded};
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
    /// Not at all: there is nothing to read.
    Skip,
}

fn look(place: Place, text: &str) -> Look {
    match place {
        Place::Key => Look::Key,
        Place::Model => Look::Fixed,
        Place::Media | Place::Opaque => Look::Skip,
        Place::Url | Place::File | Place::Extra if is_data_url(text) => Look::Skip,
        Place::ToolArguments | Place::Extra | Place::Label => Look::Field,
        _ => Look::Text,
    }
}

/// Whether a string is, or leads to, what nobody can look into here. An address or an id is read as text all the same:
/// it may hold something of its own.
fn is_blind(place: Place, text: &str) -> bool {
    match place {
        Place::Media | Place::Opaque | Place::Url | Place::File => true,
        Place::Extra | Place::ToolArguments => is_encoded(text),
        _ => false,
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
    request.visit_strings(&mut |place, text| {
        if is_blind(place, text) {
            survey.unscannable();
        }
        match look(place, text) {
            Look::Text => survey.text(detector, None, text),
            Look::Field => survey.text(detector, Some(key.as_str()).filter(|key| !key.is_empty()), text),
            Look::Key => {
                survey.text(detector, None, text);
                key.clone_from(text);
            }
            Look::Fixed => {
                if detector.find(text).iter().any(|span| span.class >= DataClass::Personal) {
                    survey.unscannable();
                }
            }
            Look::Skip => {}
        }
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
        if failed.is_some() || matches!(look(place, text), Look::Fixed | Look::Skip) {
            return;
        }
        match masker.text(text) {
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
    use nearfield_api::{Content, Media, MediaSource, Message, Part, Role, ToolCall, ToolResult};
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
    fn what_cannot_be_looked_into_is_counted() {
        let mut request = Request::new("m", Prompt::Tokens(vec![1, 2]));
        assert_eq!(survey_request(&Detector::new(), &mut request).unscannable_parts(), 1);
        request.model = "jo@x.org".to_owned();
        assert_eq!(survey_request(&Detector::new(), &mut request).unscannable_parts(), 2);
    }

    fn media(source: MediaSource) -> Media {
        Media { source, media_type: None, name: None }
    }

    #[test]
    fn files_cannot_be_looked_into_wherever_they_are() {
        let url = || media(MediaSource::Url("https://host.example/a.png".to_owned()));
        let id = || media(MediaSource::FileId("file-1".to_owned()));
        let inline = || media(MediaSource::Inline("QUJD".to_owned()));
        let result = |content: Content| {
            Content::ToolResult(ToolResult {
                call_id: "c".to_owned(),
                name: None,
                content: vec![content.into()],
                is_error: None,
            })
        };
        let long = "QUJD".repeat(60);
        for content in [
            Content::Image(url()),
            Content::Image(id()),
            Content::Image(inline()),
            Content::Image(media(MediaSource::Url("data:image/svg+xml,x".to_owned()))),
            Content::Document(url()),
            Content::Document(id()),
            Content::Audio(inline()),
            result(Content::Image(url())),
            Content::Other(json!({"type": "video_url", "video_url": {"url": "https://host.example/a.mp4"}})),
            Content::Other(json!({"type": "container_upload", "file_id": "file-1"})),
            Content::Other(json!({"type": "new_kind", "payload": long})),
        ] {
            let said = format!("{content:?}");
            let message = Message::of(Role::User, vec![Part::text("what is this?"), content.into()]);
            let mut request = Request::new("m", Prompt::Chat(vec![message]));
            assert!(survey_request(&Detector::new(), &mut request).unscannable_parts() > 0, "{said}");
        }
        let mut message = Message::new(Role::Assistant, "as I said");
        message.extra.insert("audio".to_owned(), json!({"id": "audio_1"}));
        let mut request = Request::new("m", Prompt::Chat(vec![message]));
        assert!(survey_request(&Detector::new(), &mut request).unscannable_parts() > 0);
    }

    #[test]
    fn text_is_looked_into_whoever_knows_its_kind() {
        let text = media(MediaSource::Text("a, b".to_owned()));
        for content in [
            Content::Document(text),
            Content::Other(json!({"type": "new_kind", "new_kind": {"a": 1, "text": "hello"}})),
            Content::Other(json!({"type": "custom", "custom": {"name": "profile", "input": "say hello"}})),
        ] {
            let said = format!("{content:?}");
            let mut message = Message::of(Role::User, vec![content.into()]);
            message.extra.insert("audio".to_owned(), json!(null));
            message.extra.insert("cache_control".to_owned(), json!({"type": "ephemeral"}));
            let mut request = Request::new("m", Prompt::Chat(vec![message]));
            request.extra.insert("verbosity".to_owned(), json!("low"));
            assert_eq!(survey_request(&Detector::new(), &mut request).unscannable_parts(), 0, "{said}");
        }
    }

    #[test]
    fn an_address_is_read_too() {
        let image = Content::Image(media(MediaSource::Url("https://host.example/?to=jo@x.org".to_owned())));
        let mut request = Request::new("m", Prompt::Chat(vec![Message::of(Role::User, vec![image.into()])]));
        assert!(survey_request(&Detector::new(), &mut request).classes().contains(DataClass::Personal));
    }
}

//! A request on its way out: looked at, string by string, before the decision; masked, string by string, after it.

use nearfield_api::{Place, Prompt, Request, is_data_url, is_encoded};
use nearfield_privacy::{DataClass, Detector, HashKey, MaskError, Masked, Masker, Survey, Treatments};

/// How a string is looked at.
pub(crate) enum Look {
    /// As text.
    Text,
    /// As the value of the field whose key came last.
    Field,
    /// As text, or, where the last key leads to a value of the property that a schema describes, as that property's value.
    Schema,
    /// As a key.
    Key,
    /// As a name that must stay as it is: what is found in it cannot be masked.
    Fixed,
    /// Not at all: there is nothing to read.
    Skip,
}

pub(crate) fn look(place: Place, text: &str) -> Look {
    match place {
        Place::Key => Look::Key,
        Place::Model => Look::Fixed,
        Place::Media | Place::Opaque => Look::Skip,
        Place::Url | Place::File | Place::Extra if is_data_url(text) => Look::Skip,
        Place::ToolArguments | Place::Extra | Place::Label => Look::Field,
        Place::ToolDefinition | Place::Format => Look::Schema,
        _ => Look::Text,
    }
}

/// Keys behind which a value of the key before them stands.
const VALUES: [&str; 7] = ["const", "default", "enum", "example", "examples", "value", "values"];
/// Other keys that describe the key before them.
const DESCRIPTIONS: [&str; 18] = [
    "allOf",
    "anyOf",
    "description",
    "exclusiveMaximum",
    "exclusiveMinimum",
    "format",
    "items",
    "maxItems",
    "maxLength",
    "maximum",
    "minItems",
    "minLength",
    "minimum",
    "multipleOf",
    "oneOf",
    "pattern",
    "title",
    "type",
];

/// The keys that came last: what a value stands under says what it is.
#[derive(Default)]
struct Keys {
    last: String,
    /// The last that names something of the caller's.
    own: String,
}

impl Keys {
    fn note(&mut self, key: &str) {
        key.clone_into(&mut self.last);
        if !self.leads_to_a_value() && !DESCRIPTIONS.contains(&key) {
            key.clone_into(&mut self.own);
        }
    }

    fn leads_to_a_value(&self) -> bool {
        VALUES.contains(&self.last.as_str())
    }

    /// The name of the field that a value is looked at as; in a schema only where it is a value of a property.
    fn field(&self, schema: bool) -> Option<&str> {
        let own = self.leads_to_a_value();
        let key = if own { &self.own } else { &self.last };
        Some(key.as_str()).filter(|key| !key.is_empty() && (own || !schema))
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
    let mut keys = Keys::default();
    request.visit_strings(&mut |place, text| {
        if is_blind(place, text) {
            survey.unscannable();
        }
        match look(place, text) {
            Look::Text => survey.json_text(detector, None, text),
            Look::Field => survey.json_text(detector, keys.field(false), text),
            Look::Schema => survey.json_text(detector, keys.field(true), text),
            Look::Key => {
                survey.text(detector, None, text);
                keys.note(text);
            }
            Look::Fixed => {
                let mut spans = Vec::new();
                detector.find_every(text, &mut spans);
                if spans.iter().any(|span| span.class >= DataClass::Personal) {
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
        if failed.is_some() {
            return;
        }
        let masked = match look(place, text) {
            Look::Text | Look::Field | Look::Schema => masker.json_text(text),
            Look::Key => masker.text(text),
            Look::Fixed | Look::Skip => return,
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
    use nearfield_api::{
        Content, Function, Media, MediaSource, Message, Part, Role, Tool, ToolCall, ToolResult,
    };
    use nearfield_privacy::Entity;
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

    fn found(mut request: Request) -> Vec<Entity> {
        let survey = survey_request(&Detector::new(), &mut request);
        survey.counts().keys().copied().filter(|kind| *kind != Entity::Email).collect()
    }

    #[test]
    fn numbers_are_what_their_keys_say() {
        for (arguments, kind) in [
            (json!({"mrn": 123_456}), Some(Entity::Mrn)),
            (json!({"patient": {"mrn": 4711}}), Some(Entity::Mrn)),
            (json!({"mrn": [5, 98_765]}), Some(Entity::Mrn)),
            (json!({"mrn": {"type": "number", "value": 123_456}}), Some(Entity::Mrn)),
            (json!({"ssn": 78_051_120}), None),
            (json!({"ssn": 219_099_999}), Some(Entity::UsSsn)),
            (json!({"accountNumber": 12_345}), Some(Entity::Account)),
            (json!({"zip": 90_210}), Some(Entity::ZipCode)),
            (json!({"age": 93}), Some(Entity::Age)),
            (json!({"age": 43}), None),
            (json!({"count": 123_456, "price": 12.99, "ratio": 0.123_456, "year": 2026, "mrn": 7}), None),
        ] {
            let kinds: Vec<Entity> = kind.into_iter().collect();
            assert_eq!(found(with_call(&arguments.to_string())), kinds, "{arguments}");
            let mut request = Request::new("m", Prompt::Chat(vec![Message::new(Role::User, "hello")]));
            request.extra.insert("context".to_owned(), arguments.clone());
            assert_eq!(found(request), kinds, "{arguments}");
        }
        let (request, ..) = masked(with_call(r#"{"mrn":123456,"count":123456}"#));
        assert!(
            format!("{request:?}").contains(r#"{\"mrn\":\"[MRN_1]\",\"count\":\"[MRN_1]\"}"#),
            "{request:?}"
        );
    }

    fn with_tool(parameters: serde_json::Value) -> Request {
        let function =
            Function { name: "look".to_owned(), parameters: Some(parameters), ..Function::default() };
        let mut request = Request::new("m", Prompt::Chat(vec![Message::new(Role::User, "hello")]));
        request.tools.push(Tool::Function(function));
        request
    }

    #[test]
    fn numbers_in_schemas_are_what_their_property_says() {
        for mrn in [
            json!({"type": "integer", "enum": [123_456, 234_567]}),
            json!({"type": "integer", "default": 123_456}),
            json!({"const": 123_456, "type": "integer"}),
            json!({"anyOf": [{"type": "integer", "examples": [123_456]}]}),
            json!({"type": "string", "enum": ["123456"]}),
        ] {
            let request = with_tool(json!({"type": "object", "properties": {"mrn": mrn}}));
            assert_eq!(found(request.clone()), [Entity::Mrn], "{mrn}");
            assert!(!format!("{:?}", masked(request).0).contains("123456"), "{mrn}");
        }
        let card = json!({"type": "object", "properties": {"paid": {"default": 4_111_111_111_111_111_u64}}});
        assert_eq!(found(with_tool(card)), [Entity::CreditCard]);
    }

    #[test]
    fn limits_in_schemas_stay_as_they_are() {
        let limits =
            [9, 99, 100, 1000, 65_535, 16_777_216, 2_147_483_647, 4_294_967_295, 9_007_199_254_740_991_u64];
        let account = limits.map(|limit| {
            json!({"type": "integer", "minimum": 10, "maximum": limit, "maxLength": limit, "multipleOf": 0.01})
        });
        let request = with_tool(json!({"type": "object", "properties": {"account": {"anyOf": account}}}));
        assert_eq!(masked(request.clone()).0, request);
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

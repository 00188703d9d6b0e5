//! The wire dialects.

use serde_json::{Map, Value};

use crate::openai::{Limits, UpstreamOptions};
use crate::{AnswerDecoder, Error, Event, Request, Usage, anthropic, bedrock, gemini, openai, responses};

/// Fields of one object that its dialect has and the tree has no name for. They are kept as they came, so that they
/// survive on the way to a backend of the same dialect.
pub type Extra = Map<String, Value>;

/// A way to write requests and answers as JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Dialect {
    /// OpenAI's chat completions (and completions), and all that call themselves compatible.
    OpenAiChat,
    /// OpenAI's Responses.
    OpenAiResponses,
    /// Anthropic's Messages.
    Anthropic,
    /// Google's generateContent, of the Gemini API and of Vertex AI.
    Gemini,
    /// Converse of AWS Bedrock.
    Bedrock,
}

impl Dialect {
    /// All of them.
    pub const ALL: [Self; 5] =
        [Self::OpenAiChat, Self::OpenAiResponses, Self::Anthropic, Self::Gemini, Self::Bedrock];

    /// The name in messages, tags and configuration.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::OpenAiChat => "openai-chat",
            Self::OpenAiResponses => "openai-responses",
            Self::Anthropic => "anthropic",
            Self::Gemini => "gemini",
            Self::Bedrock => "bedrock",
        }
    }

    /// The dialect of a name.
    pub fn parse(name: &str) -> Option<Self> {
        Self::ALL.into_iter().find(|dialect| dialect.as_str() == name)
    }
}

impl Dialect {
    /// Writes the body of a request for a backend of this dialect.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidRequest`] for what the dialect cannot say.
    pub fn encode_request(self, request: &Request, options: &UpstreamOptions) -> Result<String, Error> {
        match self {
            Self::OpenAiChat => openai::encode_request(request, options),
            Self::OpenAiResponses => responses::encode_request(request, options),
            Self::Anthropic => anthropic::encode_request(request, options),
            Self::Gemini => gemini::encode_request(request, options),
            Self::Bedrock => bedrock::encode_request(request, options),
        }
    }

    /// Reads the body of a request. `model` and `stream` are what the address says, where it says it.
    ///
    /// # Errors
    /// [`crate::ErrorKind::InvalidRequest`], with the field at fault as `param`.
    pub fn decode_request(
        self,
        body: &[u8],
        model: &str,
        stream: bool,
        limits: &Limits,
    ) -> Result<Request, Error> {
        match self {
            Self::OpenAiChat => openai::parse_chat_request(body, limits).map(|(request, _)| request),
            Self::OpenAiResponses => responses::decode_request(body, limits),
            Self::Anthropic => anthropic::decode_request(body, limits),
            Self::Gemini => gemini::decode_request(body, model, stream, limits),
            Self::Bedrock => bedrock::decode_request(body, model, stream, limits),
        }
    }

    /// Reads the body of a reply with status 200 to `request`, which was sent for the model `upstream_model`.
    ///
    /// # Errors
    /// Those of [`AnswerDecoder::whole`].
    pub fn decode_reply(
        self,
        body: &[u8],
        request: &Request,
        upstream_model: &str,
    ) -> Result<Vec<Event>, Error> {
        let mut events = Vec::new();
        self.decoder(request, upstream_model).whole(body, &mut events)?;
        Ok(events)
    }

    /// A decoder for the answer to `request`, which was sent for the model `upstream_model`.
    pub fn decoder(self, request: &Request, upstream_model: &str) -> Box<dyn AnswerDecoder> {
        match self {
            Self::OpenAiChat => Box::new(openai::ChunkDecoder::new(request, upstream_model)),
            Self::OpenAiResponses => Box::new(responses::StreamDecoder::new(request, upstream_model)),
            Self::Anthropic => Box::new(anthropic::StreamDecoder::new(request, upstream_model)),
            Self::Gemini => Box::new(gemini::StreamDecoder::new(request, upstream_model)),
            Self::Bedrock => Box::new(bedrock::StreamDecoder::new(request, upstream_model)),
        }
    }

    /// Reads the counts of an answer: the object that stands under `usage`, or under `usageMetadata`, or, in Cohere's
    /// embeddings, under `meta`.
    pub fn decode_usage(self, value: &Value) -> Option<Usage> {
        match self {
            Self::OpenAiChat => openai::decode_usage(value),
            Self::OpenAiResponses => responses::decode_usage(value),
            Self::Anthropic => anthropic::decode_usage(value),
            Self::Gemini => gemini::decode_usage(value),
            Self::Bedrock => bedrock::decode_usage(value),
        }
    }
}

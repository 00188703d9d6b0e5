//! How a request shows who sends it.

use std::sync::Arc;
use std::time::SystemTime;

use hyper::header::{AUTHORIZATION, HeaderName, HeaderValue};
use nearfield_api::{Error, ErrorKind};

use crate::client::{Client, Request};
use crate::google_token::TokenSource;
use crate::sigv4::Signer;
use crate::{ProviderError, Secret, SecretError};

/// What is put into the headers of every attempt.
#[derive(Clone, Debug)]
pub(crate) enum Auth {
    /// Nothing.
    None,
    /// A key in a header of its own.
    Header(HeaderName, HeaderValue, Secret),
    /// A token of Google's cloud, renewed when it ends.
    Google(Arc<TokenSource>),
    /// A signature of each request.
    Aws(Signer),
}

impl Auth {
    /// A key as a bearer token.
    pub(crate) fn bearer(backend: &str, key: &Secret) -> Result<Self, ProviderError> {
        let value = key.bearer().ok_or_else(|| unusable(backend))?;
        Ok(Self::Header(AUTHORIZATION, value, key.clone()))
    }

    /// A key in a header of this (lower-case) name.
    pub(crate) fn header(backend: &str, name: &'static str, key: &Secret) -> Result<Self, ProviderError> {
        let value = key.header().ok_or_else(|| unusable(backend))?;
        Ok(Self::Header(HeaderName::from_static(name), value, key.clone()))
    }

    /// Puts it into a request with this body that is complete but for this.
    pub(crate) async fn put(&self, request: &mut Request, body: &[u8], client: &Client) -> Result<(), Error> {
        match self {
            Self::None => {}
            Self::Header(name, value, _) => {
                request.headers_mut().insert(name, value.clone());
            }
            Self::Google(source) => {
                let value = source.bearer(client).await?;
                request.headers_mut().insert(AUTHORIZATION, value);
            }
            Self::Aws(signer) => signer.sign(request, body, SystemTime::now()).ok_or_else(|| {
                Error::new(
                    ErrorKind::Upstream,
                    "The backend cannot be asked: its AWS credentials hold characters that no header carries.",
                )
            })?,
        }
        Ok(())
    }

    /// An error without what would show the secret.
    pub(crate) fn conceal(&self, error: Error) -> Error {
        match self {
            Self::None | Self::Google(_) => error,
            Self::Header(_, _, key) => key.conceal(error),
            Self::Aws(signer) => {
                let error = signer.secret.conceal(error);
                match &signer.session_token {
                    Some(token) => token.conceal(error),
                    None => error,
                }
            }
        }
    }
}

fn unusable(backend: &str) -> ProviderError {
    ProviderError::Key {
        backend: backend.to_owned(),
        source: SecretError::Unusable {
            origin: "the key".to_owned(),
            reason: "is empty or holds characters that an HTTP header does not carry: only letters, digits and punctuation of ASCII",
        },
    }
}

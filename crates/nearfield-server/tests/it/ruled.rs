//! A gateway under a policy file, before two scripted backends.

use std::sync::Arc;

use futures_util::StreamExt as _;
use nearfield_api::{Backend, Error, Event, Message, Prompt, Request, Role};
use nearfield_privacy::HashKey;
use nearfield_router::Policy;
use nearfield_router::rules::Rules;
use nearfield_server::gateway::{Caller, Gateway};
use nearfield_store::Ledger;

use crate::scripted::{Script, Scripted};
use crate::support::gateway;

/// The rules of these tests stand in JSON, which the same types read.
pub(crate) fn rules(text: &str) -> Rules {
    serde_json::from_str(text).unwrap()
}

pub(crate) fn asking(text: &str) -> Request {
    Request::new("m", Prompt::Chat(vec![Message::new(Role::User, text)]))
}

pub(crate) struct Case {
    _folder: tempfile::TempDir,
    pub(crate) ledger: Ledger,
    pub(crate) gateway: Arc<Gateway>,
    /// The cloud `far`.
    pub(crate) far: Arc<Scripted>,
    /// The local `local`.
    pub(crate) local: Arc<Scripted>,
}

impl Case {
    pub(crate) async fn new(
        policy: &str,
        far: impl IntoIterator<Item = Script>,
        local: impl IntoIterator<Item = Script>,
    ) -> Self {
        Self::beside(Vec::new(), policy, far, local).await
    }

    /// The same beside other backends.
    pub(crate) async fn beside(
        others: Vec<Arc<dyn Backend>>,
        policy: &str,
        far: impl IntoIterator<Item = Script>,
        local: impl IntoIterator<Item = Script>,
    ) -> Self {
        let folder = tempfile::tempdir().unwrap();
        let ledger = Ledger::open(folder.path().join("ledger")).await.unwrap();
        let (far, local) = (Scripted::cloud("far", far), Scripted::local(local));
        let own: [Arc<dyn Backend>; 2] = [local.clone(), far.clone()];
        let backends = own.into_iter().chain(others).collect();
        let gateway = gateway(backends, Policy::default(), ledger.clone());
        let gateway = Arc::new(gateway.with_rules(rules(policy), HashKey::new([3; 32])).unwrap());
        Self { _folder: folder, ledger, gateway, far, local }
    }

    /// Who answers, and its text and arguments.
    pub(crate) async fn ask(&self, caller: &Caller, request: Request) -> Result<(String, String), Error> {
        let mut answer = self.gateway.answer(caller, request).await?;
        let mut text = String::new();
        while let Some(event) = answer.events.next().await {
            match event? {
                Event::Delta { text: more, .. } => text.push_str(&more),
                Event::ToolCall { arguments, .. } => text.push_str(&arguments),
                _ => {}
            }
        }
        Ok((answer.backend, text))
    }
}

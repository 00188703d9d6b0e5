//! What was said so far.

use nearfield_api::{Message, Role};

/// A conversation with an optional instruction before it.
#[derive(Debug, Default)]
pub(crate) struct Conversation {
    system: Option<String>,
    turns: Vec<Message>,
}

impl Conversation {
    pub(crate) fn new(system: Option<String>) -> Self {
        Self { system, turns: Vec::new() }
    }

    /// All messages, as the model gets them.
    pub(crate) fn messages(&self) -> Vec<Message> {
        let system = self.system.as_ref().map(|text| message(Role::System, text));
        system.into_iter().chain(self.turns.iter().cloned()).collect()
    }

    /// Adds a question.
    pub(crate) fn ask(&mut self, text: String) {
        self.turns.push(Message::new(Role::User, text));
    }

    /// Adds the answer, also one that was stopped. A question without any answer is taken back.
    pub(crate) fn answered(&mut self, text: &str) {
        if text.is_empty() {
            self.turns.pop();
        } else {
            self.turns.push(message(Role::Assistant, text));
        }
    }

    /// Forgets everything but the instruction.
    pub(crate) fn clear(&mut self) {
        self.turns.clear();
    }

    /// Replaces the instruction, or removes it when `text` is empty; says what holds now.
    pub(crate) fn set_system(&mut self, text: Option<String>) -> String {
        match text {
            None => match &self.system {
                Some(system) => format!("the system prompt is: {system}"),
                None => "there is no system prompt; /system TEXT sets one".to_owned(),
            },
            Some(text) => {
                self.system = Some(text);
                self.clear();
                "the system prompt is set, and the conversation begins anew".to_owned()
            }
        }
    }
}

fn message(role: Role, text: &str) -> Message {
    Message::new(role, text)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn said(conversation: &Conversation) -> Vec<(Role, String)> {
        conversation
            .messages()
            .into_iter()
            .map(|message| (message.role, message.text().into_owned()))
            .collect()
    }

    #[test]
    fn an_unanswered_question_leaves_no_trace() {
        let mut conversation = Conversation::new(None);
        conversation.ask("a".into());
        conversation.answered("");
        conversation.ask("b".into());
        conversation.answered("c");
        assert_eq!(said(&conversation), [(Role::User, "b".into()), (Role::Assistant, "c".into())]);
        conversation.set_system(Some("s".into()));
        assert_eq!(said(&conversation), [(Role::System, "s".into())]);
    }
}

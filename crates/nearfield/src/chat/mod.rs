//! The conversation of `nearfield chat`: what was said, and how the keyboard is read.

mod conversation;
mod editor;
mod gather;
mod slash;

pub(crate) use conversation::Conversation;
pub(crate) use editor::{Editor, Input};
pub(crate) use slash::{HELP, Slash};

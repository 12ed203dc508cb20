//! Calls about signals: actions, masks, waiting, and the ways out of a handler.

pub mod action;
pub mod jump;
pub mod mask;
pub mod sets;
pub mod wait;

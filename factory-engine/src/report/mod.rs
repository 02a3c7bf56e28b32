//! What people and programs are told about factories.

pub mod counting;
pub mod drawing;
pub mod history;
pub mod progress;
pub mod standing;
pub mod statement;

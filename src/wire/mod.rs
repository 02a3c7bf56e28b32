//! Bytes ⇄ messages. Pure: no IO, no clock.

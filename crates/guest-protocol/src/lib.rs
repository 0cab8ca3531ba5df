//! What host and guest may say to each other over the channel
//! `org.infinibay.agent`: the types and the codec, and nothing that does I/O.
//!
//! Neither program owns this crate, so that neither can change the contract
//! alone. The dialect is QMP's: UTF-8 JSON objects, streamed. `docs/channel.md`
//! is the same contract in prose.

pub mod codec;
pub mod facts;
pub mod limits;
pub mod merge_patch;
pub mod message;

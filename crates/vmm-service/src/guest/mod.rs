//! Guests as they are spoken to: the hub owns the host's end of every channel
//! and is the only client of each socket.

mod budget;
mod channel;
mod facts;
pub mod hub;
mod packed;
mod session;
mod state;

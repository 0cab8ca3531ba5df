//! Guests as they are spoken to: the hub owns the host's end of every channel
//! and is the only client of each socket.

pub mod hub;

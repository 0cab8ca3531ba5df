//! The channel over a real unix socket.

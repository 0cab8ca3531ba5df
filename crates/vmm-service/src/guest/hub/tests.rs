//! The hub against guests on real sockets.

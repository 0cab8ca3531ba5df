//! A typed client over the daemon's unix socket.

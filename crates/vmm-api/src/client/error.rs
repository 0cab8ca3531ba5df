//! What can go wrong between a client and the daemon, and what to do about it.

use std::io;
use std::path::PathBuf;
use std::time::Duration;

use crate::problem::Problem;

/// Why a request brought no result.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// Nobody listens on the socket, or it may not be opened. Nothing was
    /// asked of the daemon.
    #[error("vmm-service is not reachable at {}", socket.display())]
    NotReachable {
        /// The socket.
        socket: PathBuf,
        /// What the operating system said.
        #[source]
        source: io::Error,
    },
    /// The connection broke before the answer was whole. Whether the daemon did
    /// what was asked is unknown.
    #[error("the connection to vmm-service broke")]
    Lost(#[source] Box<dyn std::error::Error + Send + Sync>),
    /// No whole answer came in time. Whether the daemon did what was asked is
    /// unknown.
    #[error("vmm-service did not answer within {} s", .0.as_secs())]
    TimedOut(Duration),
    /// The daemon refused, and says why.
    #[error("{}", .0.detail)]
    Problem(Box<Problem>),
    /// The daemon answered what this client does not understand.
    #[error("vmm-service answered unexpectedly: {0}")]
    Protocol(String),
}

impl Error {
    /// The HTTP status of a refusal.
    pub fn status(&self) -> Option<u16> {
        match self {
            Self::Problem(problem) => Some(problem.status),
            _ => None,
        }
    }

    /// What the operator can do about it, where the daemon has not said it.
    pub fn advice(&self) -> Option<String> {
        match self {
            Self::NotReachable { source, .. } => Some(reach_advice(source)),
            Self::Lost(_) => Some("look whether it was done, then try again".to_owned()),
            Self::TimedOut(_) => Some(
                "the daemon hangs or the host is overloaded: `journalctl -u vmm-service` says more"
                    .to_owned(),
            ),
            Self::Problem(_) => None,
            Self::Protocol(_) => Some(
                "is something else listening there, or a vmm-service of another version?"
                    .to_owned(),
            ),
        }
    }
}

fn reach_advice(source: &io::Error) -> String {
    match source.kind() {
        io::ErrorKind::NotFound => "start the daemon (`systemctl start vmm-service`), or name its \
             socket with --socket or VMM_SOCKET"
            .to_owned(),
        io::ErrorKind::PermissionDenied => "run as root, whom alone the daemon serves".to_owned(),
        io::ErrorKind::ConnectionRefused => "nobody listens there: start the daemon \
             (`systemctl start vmm-service`), or name its socket with --socket or VMM_SOCKET"
            .to_owned(),
        _ => format!("the system said: {source}"),
    }
}

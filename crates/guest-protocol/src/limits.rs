//! The limits of the channel. Both sides apply them to what they receive,
//! because each may be hostile to the other.

/// The longest object that either side accepts, in bytes, braces included.
pub const MAX_OBJECT_BYTES: usize = 1024 * 1024;

/// How deeply objects and arrays may nest in one object; the outermost object
/// is depth 1.
pub const MAX_DEPTH: usize = 32;

/// How large the merged facts of one guest may grow, in bytes of compact JSON.
pub const MAX_FACTS_BYTES: usize = 1024 * 1024;

/// How many keys, at all levels together, the merged facts of one guest may
/// hold.
pub const MAX_FACTS_KEYS: usize = 10_000;

/// How many values, at all levels together, the merged facts of one guest may
/// hold: array elements included, and the facts themselves. A parsed value
/// takes 32 bytes of memory however short its text.
pub const MAX_FACTS_VALUES: usize = 4 * MAX_FACTS_KEYS;

/// How many of those values may be objects and arrays. A parsed object with one
/// member takes 600 bytes of memory, and eight of text.
pub const MAX_FACTS_CONTAINERS: usize = 4_000;

/// How many more keys, values and containers an object may hold than the facts
/// in it: what a report has around them, with room for a later version's.
pub const ENVELOPE_VALUES: usize = 64;

/// The protocol versions that this crate speaks, best first. The host keeps
/// the current version and the one before it.
pub const PROTOCOLS: &[u32] = &[1];

/// How often each side says that it is there when it has nothing else to say,
/// in seconds, unless the host's hello names another interval.
pub const DEFAULT_HEARTBEAT_S: u32 = 10;

/// The name of the virtio-serial port.
pub const CHANNEL_NAME: &str = "org.infinibay.agent";

/// The version that both sides use: the highest that this crate and the peer
/// have in common, or `None` when there is none.
pub fn negotiate(peer: &[u32]) -> Option<u32> {
    PROTOCOLS.iter().filter(|version| peer.contains(version)).max().copied()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_highest_common_version_is_used() {
        assert_eq!(negotiate(&[1]), Some(1));
        assert_eq!(negotiate(&[3, 2, 1, 0]), Some(1));
        assert_eq!(negotiate(&[2, 3]), None);
        assert_eq!(negotiate(&[]), None);
    }
}

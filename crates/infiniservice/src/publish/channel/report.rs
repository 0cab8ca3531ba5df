//! Cutting a report that is longer than a message may be. The first piece
//! replaces what the host holds, the others are patches upon it.

use guest_protocol::merge_patch;
use serde_json::{Map, Value};

/// Cuts `facts` (or a patch of them) into pieces of at most `limit` bytes of
/// compact JSON, which merged in order are the whole. A single value that is
/// longer by itself is left out: the host could not take it.
pub(super) fn split(facts: Value, limit: usize) -> Vec<Value> {
    if merge_patch::measure(&facts).bytes <= limit {
        return vec![facts];
    }
    let mut pieces = Vec::new();
    cut(facts, limit, &mut Vec::new(), &mut pieces);
    // A full report must be heard even when nothing of it fits.
    if pieces.is_empty() {
        pieces.push(Value::Object(Map::new()));
    }
    pieces
}

fn cut(value: Value, limit: usize, path: &mut Vec<String>, pieces: &mut Vec<Value>) {
    let whole = wrap(value, path);
    if merge_patch::measure(&whole).bytes <= limit {
        pieces.push(whole);
        return;
    }
    let Value::Object(members) = unwrap(whole, path.len()) else {
        tracing::warn!(fact = %path.join("/").escape_debug(), "A fact is too long to be told.");
        return;
    };
    for (key, member) in members {
        path.push(key);
        cut(member, limit, path, pieces);
        path.pop();
    }
}

fn wrap(value: Value, path: &[String]) -> Value {
    path.iter()
        .rev()
        .fold(value, |inner, key| Value::Object(Map::from_iter([(key.clone(), inner)])))
}

/// Takes `depth` wrappings off again.
fn unwrap(mut value: Value, depth: usize) -> Value {
    for _ in 0..depth {
        if let Value::Object(members) = value {
            value = members.into_iter().next().map_or(Value::Null, |(_, inner)| inner);
        } else {
            break;
        }
    }
    value
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    #[test]
    fn the_pieces_merge_to_the_whole() {
        let facts = json!({
            "os": {"id": "debian"},
            "disks": {"vda": {"size_bytes": 1}, "vdb": {"size_bytes": 2}, "vdc": {"size_bytes": 3}},
            "interfaces": {"eth0": {"addresses": ["10.0.2.15/24"]}},
        });
        for limit in [60, 80, 100, 1000] {
            let pieces = split(facts.clone(), limit);
            let mut merged = json!({});
            for piece in &pieces {
                assert!(merge_patch::measure(piece).bytes <= limit);
                merge_patch::apply(&mut merged, piece);
            }
            assert_eq!(merged, facts, "{limit}");
        }
    }

    #[test]
    fn a_fact_that_never_fits_costs_only_itself() {
        let facts = json!({"os": {"id": "x".repeat(100), "hostname": "h"}});
        assert_eq!(split(facts, 50), [json!({"os": {"hostname": "h"}})]);
        assert_eq!(split(json!({"a": "x".repeat(100)}), 50), [json!({})]);
    }
}

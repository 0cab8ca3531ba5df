//! Which user ids are whose. Two machines never share one while either has
//! anything on the host.

use std::collections::HashMap;

use uuid::Uuid;

use crate::sys::confine::User;

/// How many user ids a machine takes: QEMU's, and its companions'.
const PER_MACHINE: u32 = 2;

/// The users of one machine.
pub(super) struct Users {
    /// QEMU's.
    pub(super) qemu: User,
    /// passt's.
    pub(super) companion: User,
}

/// The range that was configured.
pub(super) struct UserPool {
    first: u32,
    places: u32,
    taken: HashMap<Uuid, u32>,
}

impl UserPool {
    /// `count` user ids from `first` on, all free.
    pub(super) fn new(first: u32, count: u32) -> Self {
        Self { first, places: count / PER_MACHINE, taken: HashMap::new() }
    }

    /// Notes that a machine runs under `uid` already. One outside of the range
    /// takes no place in it.
    pub(super) fn note(&mut self, id: Uuid, uid: u32) {
        let place = uid.checked_sub(self.first).map(|offset| offset / PER_MACHINE);
        if let Some(place) = place.filter(|&place| place < self.places) {
            self.taken.insert(id, place);
        }
    }

    /// A machine's users: those that it has, or free ones. `None` when the range
    /// is used up. `groups` are QEMU's besides its own.
    pub(super) fn take(&mut self, id: Uuid, groups: Vec<u32>) -> Option<Users> {
        let place = match self.taken.get(&id) {
            Some(&place) => place,
            None => {
                let place = (0..self.places)
                    .find(|place| !self.taken.values().any(|taken| taken == place))?;
                self.taken.insert(id, place);
                place
            }
        };
        let uid = self.first + place * PER_MACHINE;
        Some(Users {
            qemu: User { uid, gid: uid, groups },
            companion: User { uid: uid + 1, gid: uid + 1, groups: Vec::new() },
        })
    }

    /// A machine has nothing on the host any more.
    pub(super) fn give_back(&mut self, id: Uuid) {
        self.taken.remove(&id);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_two_machines_share_a_user() {
        let mut pool = UserPool::new(1000, 5);
        let id = Uuid::from_u128;
        pool.note(id(9), 1000);
        pool.note(id(8), 999);
        let users = pool.take(id(1), vec![7]).unwrap();
        assert_eq!((users.qemu.uid, users.companion.uid), (1002, 1003));
        assert_eq!(pool.take(id(1), vec![]).unwrap().qemu.uid, 1002);
        assert!(pool.take(id(2), vec![]).is_none(), "the fifth id makes no pair");
        pool.give_back(id(9));
        assert_eq!(pool.take(id(2), vec![]).unwrap().qemu.uid, 1000);
    }
}

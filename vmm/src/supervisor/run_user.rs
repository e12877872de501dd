//! Whom the processes of a run become when root started it and named nobody: a user that no other run has, so that one which a
//! guest has taken over finds no other guest's processes of its own user.
//!
//! The number is this process's own (pid), above [`FIRST`]: as long as it lives nobody else has that, and a run's processes
//! end with it.

use super::words::User;
use log::warn;
use std::fs;

/// Where the numbers begin. Linux has pids below 2^22, so they end below 0x7f40_0000: in what systemd documents as used by nobody
/// (`UIDS-GIDS`: 0x7000_0000 to 0x7ffd_ffff), above what directory services hand out (sssd and `FreeIPA`: up to 2,000,200,000), and
/// below 2^31, where some programs take numbers for negative ones.
const FIRST: u32 = 0x7f00_0000;

/// A user of this run's own, where this user namespace has it.
pub(crate) fn of_this_run() -> User {
    if !nix::unistd::geteuid().is_root() {
        // Who is not root cannot become anybody.
        return User::NOBODY;
    }
    let number = FIRST.saturating_add(std::process::id());
    if is_here(number) {
        return User {
            uid: number,
            gid: number,
        };
    }
    warn!(
        "this user namespace has no user {number}: the processes become user {}, as those of other runs do; \
         --user gives each run its own",
        User::NOBODY.uid
    );
    User::NOBODY
}

/// Whether this user namespace has a user and a group of this number.
fn is_here(number: u32) -> bool {
    ["/proc/self/uid_map", "/proc/self/gid_map"]
        .iter()
        .all(|map| fs::read_to_string(map).is_ok_and(|map| is_mapped(&map, number)))
}

/// Whether a map (`user_namespaces(7)`: lines of first inside, first outside, how many) has this number.
fn is_mapped(map: &str, number: u32) -> bool {
    map.lines().any(|line| {
        let mut words = line.split_ascii_whitespace().map(str::parse::<u32>);
        match (words.next(), words.next(), words.next()) {
            (Some(Ok(first)), Some(Ok(_)), Some(Ok(count))) => {
                number.checked_sub(first).is_some_and(|index| index < count)
            }
            _ => false,
        }
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_is_there_if_the_namespace_has_it() {
        assert!(is_mapped("         0          0 4294967295\n", FIRST));
        assert!(is_mapped("0 1000 1\n1 100000 65536\n", 65534));
        assert!(!is_mapped("0 1000 1\n1 100000 65536\n", FIRST));
        assert!(!is_mapped("0 1000 1\n1 100000 65536\n", 65537));
        assert!(!is_mapped("", 0));
        assert!(!is_mapped("0 0\nx y z\n", 0));
    }

    #[test]
    fn root_gives_a_run_a_user_of_its_own() {
        let user = of_this_run();

        let number = FIRST + std::process::id();
        if nix::unistd::geteuid().is_root() && is_here(number) {
            assert_eq!((user.uid, user.gid), (number, number));
        } else {
            assert_eq!(user, User::NOBODY);
        }
        const { assert!(FIRST + (1 << 22) < 0x7ffe_0000) };
    }
}

//! The keys that are for the supervisor and not for the guest, as QEMU has them: C-a, then one more. Pure.

/// What the keys ask for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Action {
    /// C-a x.
    Quit,
    /// C-a c.
    Status,
    /// C-a h.
    Help,
    /// C-a s.
    Save,
    /// What was answered to a question.
    Answer(String),
}

/// C-a.
const ESCAPE: u8 = 1;

/// What C-a h shows.
pub(crate) const HELP: &str = "C-a h  this help\n\
                               C-a x  quit; what the guest wrote is burnt, or kept as --on-exit says\n\
                               C-a c  status: processes, and how full the overlays are\n\
                               C-a s  save a disk to a new file, or make it the new base; or call that off\n\
                               C-a C-a  send C-a to the guest\n";

/// Whether C-a was pressed last.
#[derive(Debug, Default)]
pub(crate) struct Keys {
    escaped: bool,
}

impl Keys {
    /// One byte from the terminal: for the guest, for us, or neither.
    pub(crate) fn press(&mut self, byte: u8) -> (Option<u8>, Option<Action>) {
        if !self.escaped {
            self.escaped = byte == ESCAPE;
            return ((!self.escaped).then_some(byte), None);
        }
        self.escaped = false;
        match byte {
            ESCAPE => (Some(ESCAPE), None),
            b'x' => (None, Some(Action::Quit)),
            b'c' => (None, Some(Action::Status)),
            b'h' | b'?' => (None, Some(Action::Help)),
            b's' => (None, Some(Action::Save)),
            // Neither ours nor meant for the guest.
            _ => (None, None),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn press(bytes: &[u8]) -> (Vec<u8>, Vec<Action>) {
        let mut keys = Keys::default();
        let (mut typed, mut actions) = (Vec::new(), Vec::new());
        for &byte in bytes {
            let (to_guest, action) = keys.press(byte);
            typed.extend(to_guest);
            actions.extend(action);
        }
        (typed, actions)
    }

    #[test]
    fn what_has_no_escape_is_for_the_guest() {
        let all: Vec<u8> = (0..=255).filter(|byte| *byte != ESCAPE).collect();
        assert_eq!(press(&all), (all, vec![]));
    }

    #[test]
    fn the_keys_are_qemus() {
        assert_eq!(press(b"a\x01xb"), (b"ab".to_vec(), vec![Action::Quit]));
        assert_eq!(
            press(b"\x01c\x01h\x01?\x01s").1,
            [Action::Status, Action::Help, Action::Help, Action::Save]
        );
    }

    #[test]
    fn an_escape_twice_is_one_for_the_guest() {
        assert_eq!(press(b"\x01\x01x"), (b"\x01x".to_vec(), vec![]));
        assert_eq!(press(b"\x01\x01\x01\x01"), (vec![1, 1], vec![]));
    }

    #[test]
    fn an_unknown_key_after_the_escape_is_nobodys() {
        assert_eq!(press(b"\x01zx"), (b"x".to_vec(), vec![]));
    }
}

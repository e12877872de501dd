//! The registers themselves, as a value: no lock, no descriptor, no device.
//!
//! What a driver may not do is ignored, as real hardware would: there is nobody to complain to. Every register is four bytes
//! wide; the transport sees to that.
//!
//! ```text
//!          DRIVER_OK            it works
//!  Idle ─────────────▶ Starting ────────▶ Running
//!   ▲  ▲                │  │ it does not     │
//!   │  └────────────────┼──┘ (NEEDS_RESET)   │
//!   │     reset done    │      status = 0    │
//!   └───────────── Stopping ◀────────────────┘
//! ```

use super::super::{QueueSetup, VERSION_1};
use vm_memory::GuestAddress;

/// "virt".
const MAGIC: u32 = u32::from_le_bytes(*b"virt");
/// The version after the legacy one.
const VERSION: u32 = 2;
/// Whose device it is. Not assigned by anybody; drivers only show it.
const VENDOR: u32 = u32::from_le_bytes(*b"MYFL");
/// Interrupt status: a queue was used. See the head of `mmio` for why it is always set.
const USED: u32 = 1;
/// Interrupt status: the configuration (here: the status) changed.
const CHANGED: u32 = 2;

/// Device status bits (virtio 1.2, 2.1).
pub(super) mod status {
    /// The guest found the device.
    pub(in super::super) const ACKNOWLEDGE: u32 = 1;
    /// The guest has a driver for it.
    pub(in super::super) const DRIVER: u32 = 2;
    /// The driver is ready.
    pub(in super::super) const DRIVER_OK: u32 = 4;
    /// The features are agreed.
    pub(in super::super) const FEATURES_OK: u32 = 8;
    /// The device gave up. Only the device sets it.
    pub(in super::super) const NEEDS_RESET: u32 = 64;
    /// The driver gave up.
    pub(in super::super) const FAILED: u32 = 128;
    /// What a driver may set.
    pub(in super::super) const DRIVERS: u32 = ACKNOWLEDGE | DRIVER | DRIVER_OK | FEATURES_OK | FAILED;
}

use status::{ACKNOWLEDGE, DRIVER, DRIVER_OK, DRIVERS, FAILED, FEATURES_OK, NEEDS_RESET};

/// How far the device is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Phase {
    /// No queue is in use.
    Idle,
    /// The control thread is to activate it.
    Starting,
    /// The device may use the queues.
    Running,
    /// The control thread is to stop it.
    Stopping,
}

/// What a write needs beyond itself.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Effect {
    /// Nothing.
    None,
    /// The control thread has an activation to perform.
    Start,
    /// The control thread has a reset to perform, and the writer waits for it.
    Stop,
}

/// What the control thread is to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Work {
    /// Bring the device to life.
    Activate {
        /// With these features.
        acked: u64,
        /// On these queues.
        queues: Vec<QueueSetup>,
    },
    /// Stop it.
    Reset,
}

/// The registers of one device.
#[derive(Debug)]
pub(super) struct Registers {
    id: u32,
    offered: u64,
    sizes: Box<[u16]>,
    state: State,
    phase: Phase,
}

/// What a reset forgets.
#[derive(Debug)]
struct State {
    status: u32,
    offered_word: u32,
    acked_word: u32,
    acked: u64,
    selected: u32,
    queues: Vec<QueueSetup>,
    changed: bool,
}

impl State {
    fn new(sizes: &[u16]) -> Self {
        let queue = |&size| QueueSetup {
            size,
            ..QueueSetup::default()
        };
        Self {
            status: 0,
            offered_word: 0,
            acked_word: 0,
            acked: 0,
            selected: 0,
            queues: sizes.iter().map(queue).collect(),
            changed: false,
        }
    }
}

impl Registers {
    /// A device nobody has touched.
    pub(super) fn new(id: u32, offered: u64, sizes: &[u16]) -> Self {
        Self {
            id,
            offered,
            sizes: sizes.into(),
            state: State::new(sizes),
            phase: Phase::Idle,
        }
    }

    /// The register at `offset`. Those that only a driver writes, and places without one, read as zero.
    pub(super) fn read(&self, offset: u64) -> u32 {
        let queue = self.selected();
        match offset {
            0x000 => MAGIC,
            0x004 => VERSION,
            0x008 => self.id,
            0x00c => VENDOR,
            0x010 => word(self.offered, self.state.offered_word),
            0x034 => self.selected_max().map_or(0, u32::from),
            0x044 => queue.map_or(0, |queue| u32::from(queue.ready)),
            0x060 => USED | if self.state.changed { CHANGED } else { 0 },
            0x070 => self.state.status,
            // Shared memory regions: there is none, so length and base are all ones (4.2.2.1).
            0x0b0..=0x0bc if offset.is_multiple_of(4) => u32::MAX,
            // ConfigGeneration (0x0fc) is zero for ever: the configuration never changes.
            _ => 0,
        }
    }

    /// Writes the register at `offset`.
    pub(super) fn write(&mut self, offset: u64, value: u32) -> Effect {
        match offset {
            0x070 => return self.write_status(value),
            0x014 => self.state.offered_word = value,
            0x024 => self.state.acked_word = value,
            0x020 if self.has(DRIVER) && !self.has(FEATURES_OK) && !self.is_beyond_help() => {
                set_word(&mut self.state.acked, self.state.acked_word, value);
            }
            0x030 => self.state.selected = value,
            // Acknowledging that a queue was used changes nothing: see USED.
            0x064 => self.state.changed &= value & CHANGED == 0,
            0x038 | 0x044 | 0x080..=0x0a4 => self.write_queue(offset, value),
            _ => {}
        }
        Effect::None
    }

    /// Whether a reset is under way.
    pub(super) fn is_stopping(&self) -> bool {
        self.phase == Phase::Stopping
    }

    /// What the control thread is to do now, if anything; it says when it is done with `activated` or `reset`.
    pub(super) fn work(&self) -> Option<Work> {
        match self.phase {
            Phase::Idle | Phase::Running => None,
            Phase::Starting => Some(Work::Activate {
                acked: self.state.acked,
                queues: self.state.queues.clone(),
            }),
            Phase::Stopping => Some(Work::Reset),
        }
    }

    /// The device was activated, or could not be. Whether the guest has to be told.
    pub(super) fn activated(&mut self, works: bool) -> bool {
        // Unless the guest reset it in the meantime: then stopping it is next, and forgets how this went.
        if self.phase == Phase::Starting {
            self.phase = if works { Phase::Running } else { Phase::Idle };
            if !works {
                self.state.status |= NEEDS_RESET;
                self.state.changed = true;
            }
            !works
        } else {
            false
        }
    }

    /// The device is stopped: as if nobody had touched it.
    pub(super) fn reset(&mut self) {
        self.state = State::new(&self.sizes);
        self.phase = Phase::Idle;
    }

    fn has(&self, bits: u32) -> bool {
        self.state.status & bits == bits
    }

    /// Whether only a reset helps.
    fn is_beyond_help(&self) -> bool {
        self.state.status & (FAILED | NEEDS_RESET) != 0
    }

    fn write_status(&mut self, value: u32) -> Effect {
        if value == 0 {
            match self.phase {
                Phase::Idle => {
                    self.reset();
                    return Effect::None;
                }
                Phase::Starting | Phase::Running | Phase::Stopping => {
                    self.phase = Phase::Stopping;
                    return Effect::Stop;
                }
            }
        }
        // A driver only ever adds bits (2.1.1). NEEDS_RESET, which it reads, it may write back.
        let kept = self.state.status & DRIVERS;
        if self.is_stopping() || self.is_beyond_help() || value & kept != kept {
            return Effect::None;
        }
        let mut status = value & DRIVERS;
        if status & FEATURES_OK != 0 && kept & FEATURES_OK == 0 && !self.may_agree(status) {
            status &= !FEATURES_OK;
        }
        let starts = status & DRIVER_OK != 0 && kept & DRIVER_OK == 0;
        if starts && (status & FEATURES_OK == 0 || status & FAILED != 0) {
            status &= !DRIVER_OK;
        }
        self.state.status = status;
        if status & !kept & DRIVER_OK == 0 {
            return Effect::None;
        }
        self.phase = Phase::Starting;
        Effect::Start
    }

    /// Whether a driver in the state `status` may say FEATURES_OK.
    fn may_agree(&self, status: u32) -> bool {
        let acked = self.state.acked;
        status & (ACKNOWLEDGE | DRIVER) == ACKNOWLEDGE | DRIVER && acked & !self.offered == 0 && acked & VERSION_1 != 0
    }

    fn selected(&self) -> Option<&QueueSetup> {
        self.state.queues.get(usize::try_from(self.state.selected).ok()?)
    }

    fn selected_max(&self) -> Option<u16> {
        self.sizes.get(usize::try_from(self.state.selected).ok()?).copied()
    }

    /// Writes a register of the selected queue: between the features and DRIVER_OK, and all but the last only while the queue is
    /// not ready.
    fn write_queue(&mut self, offset: u64, value: u32) {
        let now = self.has(FEATURES_OK) && !self.has(DRIVER_OK) && !self.is_beyond_help() && !self.is_stopping();
        let Some(max) = self.selected_max().filter(|_| now) else {
            return;
        };
        let selected = usize::try_from(self.state.selected).unwrap_or(usize::MAX);
        let Some(queue) = self.state.queues.get_mut(selected) else {
            return;
        };
        match (offset, queue.ready) {
            (0x044, _) => queue.ready = value & 1 != 0,
            (0x038, false) => {
                if let Some(size) = u16::try_from(value)
                    .ok()
                    .filter(|size| size.is_power_of_two() && *size <= max)
                {
                    queue.size = size;
                }
            }
            (0x080, false) => set_address(&mut queue.descriptors, 0, value),
            (0x084, false) => set_address(&mut queue.descriptors, 1, value),
            (0x090, false) => set_address(&mut queue.driver, 0, value),
            (0x094, false) => set_address(&mut queue.driver, 1, value),
            (0x0a0, false) => set_address(&mut queue.device, 0, value),
            (0x0a4, false) => set_address(&mut queue.device, 1, value),
            _ => {}
        }
    }
}

/// The 32-bit word `index` of `bits`, zero past the end.
fn word(bits: u64, index: u32) -> u32 {
    let bits = match index {
        0 => bits & 0xffff_ffff,
        1 => bits >> 32,
        _ => 0,
    };
    u32::try_from(bits).expect("it has been cut to 32 bits")
}

/// Replaces the 32-bit word `index` of `bits`; past the end there is nothing to replace.
fn set_word(bits: &mut u64, index: u32, value: u32) {
    let value = u64::from(value);
    match index {
        0 => *bits = *bits & !0xffff_ffff | value,
        1 => *bits = *bits & 0xffff_ffff | value << 32,
        _ => {}
    }
}

fn set_address(address: &mut GuestAddress, index: u32, value: u32) {
    set_word(&mut address.0, index, value);
}

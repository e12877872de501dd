//! What a guest can do to the VMM's devices: registers in any order and width, queues anywhere, memory that says anything.
#![no_main]

use arbitrary::Arbitrary;
use libfuzzer_sys::fuzz_target;
use vmm::machine::fuzzing::{DEVICES, MEMORY, Machine, REGISTERS, STEP};

/// Where a polite driver has its queues: so many bytes for each.
const QUEUES: u64 = 0x1_0000;
const QUEUE_BYTES: u64 = 0x8000;

/// Turns in which a device may find more to do. Each is bounded; a queue of 256 entries is through long before.
const TURNS: usize = 2000;

#[derive(Arbitrary, Debug)]
enum Act {
    /// A register that exists, as a driver would write it.
    Register {
        device: bool,
        register: u8,
        value: Value,
    },
    /// Any offset, any width.
    Write {
        device: bool,
        offset: u16,
        data: [u8; 8],
        width: u8,
    },
    Read {
        device: bool,
        offset: u16,
        width: u8,
    },
    /// All that a driver does up to DRIVER_OK.
    Start {
        device: bool,
        features: u8,
        shift: u8,
    },
    Descriptor {
        device: bool,
        queue: bool,
        index: u8,
        at: u32,
        bytes: u16,
        flags: u8,
        next: u8,
    },
    Offer {
        device: bool,
        queue: bool,
        slot: u8,
        head: u8,
        index: u16,
    },
    Put {
        at: u32,
        data: Vec<u8>,
    },
    Serve,
    Frame(Vec<u8>),
    Perform,
}

#[derive(Arbitrary, Clone, Copy, Debug)]
enum Value {
    Likely(u8),
    Any(u32),
}

const KNOWN: [u16; 16] = [
    0x14, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xc0,
];
const LIKELY: [u32; 16] = [
    0,
    1,
    2,
    3,
    4,
    8,
    11,
    15,
    16,
    64,
    128,
    256,
    0x1000,
    0x1_0000,
    0x2000_0020,
    u32::MAX,
];

/// The parts of a queue: descriptors, driver area, device area.
fn parts(device: bool, queue: bool) -> [u64; 3] {
    let base = QUEUES + QUEUE_BYTES * (u64::from(device) * 2 + u64::from(queue));
    [base, base + 0x2000, base + 0x4000]
}

fn set(machine: &mut Machine, device: bool, offset: u64, value: u32) {
    machine.write(REGISTERS + STEP * u64::from(device) + offset, &value.to_le_bytes());
}

fn start(machine: &mut Machine, device: bool, features: u8, shift: u8) {
    for status in [0, 1, 3] {
        set(machine, device, 0x70, status);
    }
    let event_idx = u32::from(features & 1 != 0) << 29;
    let own = if device { u32::from(features & 2 != 0) | 0x20 } else { 0 };
    for (word, bits) in [(0, event_idx | own), (1, 1)] {
        set(machine, device, 0x24, word);
        set(machine, device, 0x20, bits);
    }
    set(machine, device, 0x70, 11);
    for queue in [false, true] {
        set(machine, device, 0x30, queue.into());
        set(machine, device, 0x38, 1 << (shift % 9));
        for (offset, part) in [0x80, 0x90, 0xa0].into_iter().zip(parts(device, queue)) {
            set(machine, device, offset, u32::try_from(part).expect("it is low"));
            set(machine, device, offset + 4, 0);
        }
        set(machine, device, 0x44, u32::from(features & 4 == 0));
    }
    set(machine, device, 0x70, 15);
    machine.perform();
}

fn serve(machine: &mut Machine) {
    for device in 0..DEVICES {
        let busy = (0..TURNS).all(|_| machine.serve(device));
        assert!(!busy, "device {device} never rests");
    }
    let busy = (0..TURNS).all(|_| machine.turn());
    assert!(!busy, "the card never rests");
}

fn act(machine: &mut Machine, act: Act) {
    let base = |device: bool| REGISTERS + STEP * u64::from(device);
    match act {
        Act::Register {
            device,
            register,
            value,
        } => {
            let value = match value {
                Value::Likely(which) => LIKELY[usize::from(which) % LIKELY.len()],
                Value::Any(value) => value,
            };
            set(
                machine,
                device,
                KNOWN[usize::from(register) % KNOWN.len()].into(),
                value,
            );
        }
        Act::Write {
            device,
            offset,
            data,
            width,
        } => {
            machine.write(
                base(device) + u64::from(offset) % (2 * STEP),
                &data[..usize::from(width % 9)],
            );
        }
        Act::Read { device, offset, width } => {
            machine.read(
                base(device) + u64::from(offset) % (2 * STEP),
                &mut vec![0; usize::from(width % 17)],
            );
        }
        Act::Start {
            device,
            features,
            shift,
        } => start(machine, device, features, shift),
        Act::Descriptor {
            device,
            queue,
            index,
            at,
            bytes,
            flags,
            next,
        } => {
            let mut raw = [0; 16];
            // Sometimes beyond the end of memory.
            raw[..8].copy_from_slice(&(u64::from(at) % (MEMORY + 0x1000)).to_le_bytes());
            raw[8..10].copy_from_slice(&bytes.to_le_bytes());
            raw[12] = flags % 8;
            raw[14] = next;
            machine.put(parts(device, queue)[0] + u64::from(index) * 16, &raw);
        }
        Act::Offer {
            device,
            queue,
            slot,
            head,
            index,
        } => {
            let driver = parts(device, queue)[1];
            machine.put(driver + 4 + u64::from(slot) * 2, &[head, 0]);
            machine.put(driver + 2, &(index % 300).to_le_bytes());
        }
        Act::Put { at, data } => machine.put(u64::from(at) % MEMORY, &data),
        Act::Serve => serve(machine),
        Act::Frame(frame) => machine.arrive(&frame),
        Act::Perform => machine.perform(),
    }
}

fuzz_target!(|acts: Vec<Act>| {
    let mut machine = Machine::new();
    for one in acts.into_iter().take(64) {
        act(&mut machine, one);
        machine.check();
    }
    machine.perform();
    serve(&mut machine);
    machine.check();
});

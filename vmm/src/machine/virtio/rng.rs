//! Virtio entropy device (virtio 1.2, 5.4): the host kernel's random bytes, a little at a time.
//!
//! Served on the control thread, which has other things to do: a request gets so many bytes at most (the driver asks again), a
//! turn takes so many requests at most.

use super::ring::{Ring, RingError};
use super::{Complaints, Device, DeviceError, EVENT_IDX, INDIRECT_DESC, QueueSetup, VERSION_1};
use crate::machine::irq::Lines;
use policy::Descriptor;
use rustix::rand::{GetRandomFlags, getrandom};
use std::sync::Arc;
use vm_memory::GuestMemoryMmap;
use vmm_sys_util::eventfd::EventFd;

/// The device's queues.
pub(crate) const QUEUES: usize = 1;
/// Entries of the queue. Linux asks for one buffer at a time.
const QUEUE_SIZE: u16 = 16;
/// Bytes for one request. Linux asks for 64 or fewer; up to 256 the kernel gives what it is asked without being interrupted.
const REQUEST_BYTES: usize = 256;
/// Requests in one turn. A guess.
const TURN: usize = 16;

/// The device.
#[derive(Debug)]
pub(crate) struct Rng {
    memory: GuestMemoryMmap,
    lines: Arc<Lines>,
    ring: Option<Ring>,
    complaints: Complaints,
}

impl Rng {
    /// A device whose queue has the [`QUEUES`] kicks of `lines`.
    pub(crate) fn new(memory: GuestMemoryMmap, lines: Arc<Lines>) -> Self {
        Self {
            memory,
            lines,
            ring: None,
            complaints: Complaints::default(),
        }
    }
}

impl Device for Rng {
    fn name(&self) -> &'static str {
        "entropy"
    }

    fn id(&self) -> u32 {
        4
    }

    fn offered(&self) -> u64 {
        VERSION_1 | EVENT_IDX | INDIRECT_DESC
    }

    fn queue_sizes(&self) -> &[u16] {
        &[QUEUE_SIZE; QUEUES]
    }

    fn config(&self) -> &[u8] {
        &[]
    }

    fn descriptors(&self) -> Vec<Descriptor> {
        self.lines.descriptors(self.name())
    }

    fn activate(&mut self, acked: u64, queues: &[QueueSetup]) -> Result<(), DeviceError> {
        if let Some(setup) = queues.first().filter(|setup| setup.ready) {
            let ring = Ring::new(setup, acked, &self.memory).map_err(|error| DeviceError::Refused(error.into()))?;
            self.ring = Some(ring);
            // Whatever was kicked before is looked at now.
            self.lines.kick(0);
        }
        Ok(())
    }

    fn reset(&mut self) -> Result<(), DeviceError> {
        self.ring = None;
        Ok(())
    }

    fn kicks(&self) -> &[EventFd] {
        &self.lines.kicks
    }

    fn serve(&mut self) -> bool {
        let Some(ring) = &mut self.ring else {
            return false;
        };
        match turn(ring, &self.lines) {
            Ok(more) => more,
            Err(error) => {
                self.complaints.say(self.name(), &error);
                self.ring = None;
                // Requests before that were answered, and their driver may sleep.
                self.lines.interrupt();
                false
            }
        }
    }
}

/// Answers some requests. Whether there may be more.
fn turn(ring: &mut Ring, lines: &Lines) -> Result<bool, RingError> {
    let mut random = [0; REQUEST_BYTES];
    let mut more = true;
    let mut answered = false;
    for _ in 0..TURN {
        let Some(head) = ring.pop()? else {
            more = false;
            break;
        };
        let wanted = ring.room().min(REQUEST_BYTES);
        let (bytes, _) = random.split_at_mut(wanted);
        // Where the kernel has no entropy yet (early in the host's own boot) the request gets nothing, as a malformed one.
        let got = getrandom(&mut *bytes, GetRandomFlags::NONBLOCK).unwrap_or(0);
        let written = ring.scatter(bytes.get(..got).unwrap_or_default()).unwrap_or(0);
        ring.complete(head, written)?;
        answered = true;
    }
    if answered && ring.wants_call()? {
        lines.interrupt();
    }
    Ok(more)
}

#[cfg(test)]
mod tests {
    use super::super::driver::{BUFFERS, Driver, NEXT, WRITE, memory};
    use super::*;
    use proptest::prelude::{any, prop, proptest};
    use vm_memory::{Bytes, GuestAddress};

    fn running() -> (Rng, Driver, GuestMemoryMmap) {
        let (_, memory) = memory();
        let driver = Driver::new(&memory, 0x1_0000, QUEUE_SIZE);
        let mut rng = Rng::new(memory.clone(), Arc::new(Lines::unconnected(QUEUES).unwrap()));
        rng.activate(VERSION_1, &[driver.setup()]).unwrap();
        (rng, driver, memory)
    }

    #[test]
    fn a_request_is_filled_with_random_bytes() {
        let (mut rng, mut driver, memory) = running();
        driver.describe(3, (BUFFERS, 64), WRITE, 0);
        driver.offer(3);

        assert!(!rng.serve());

        assert_eq!(driver.used(), [(3, 64)]);
        let mut bytes = [0; 65];
        memory.read_slice(&mut bytes, GuestAddress(BUFFERS)).unwrap();
        assert_ne!(bytes[..64], [0; 64]);
        assert_eq!(bytes[64], 0, "no more than asked for");
        assert_eq!(rng.lines.call.read().unwrap(), 1);
    }

    #[test]
    fn a_request_for_very_much_gets_a_little() {
        let (mut rng, mut driver, _) = running();
        driver.describe(0, (BUFFERS, 100), WRITE | NEXT, 1);
        driver.describe(1, (BUFFERS + 0x1000, 1 << 20), WRITE, 0);
        driver.offer(0);

        rng.serve();

        assert_eq!(driver.used(), [(0, 256)]);
    }

    #[test]
    fn malformed_requests_come_back_empty() {
        let (mut rng, mut driver, _) = running();
        driver.describe(0, (BUFFERS, 8), 0, 0);
        driver.describe(1, (u64::MAX - 4, 8), WRITE, 0);
        driver.describe(2, (BUFFERS, 8), WRITE | NEXT, 2);
        driver.describe(4, (BUFFERS, 8), WRITE | NEXT, 5);
        driver.describe(5, (BUFFERS, 8), 0, 0);
        for head in [0, 1, 2, 4] {
            driver.offer(head);
        }

        rng.serve();

        assert_eq!(driver.used(), [(0, 0), (1, 0), (2, 0), (4, 0)]);
    }

    #[test]
    fn a_turn_ends_although_there_is_more() {
        let (mut rng, mut driver, _) = running();
        driver.describe(0, (BUFFERS, 8), WRITE, 0);
        (0..QUEUE_SIZE).for_each(|_| driver.offer(0));

        assert!(rng.serve());
        assert_eq!(driver.used().len(), TURN);
        assert!(!rng.serve());
    }

    #[test]
    fn a_broken_queue_rests_until_a_reset() {
        let (mut rng, mut driver, memory) = running();
        driver.claim(QUEUE_SIZE + 1);
        assert!(!rng.serve());
        driver.describe(0, (BUFFERS, 8), WRITE, 0);
        driver.claim(0);
        driver.offer(0);
        assert!(!rng.serve());
        assert!(driver.used().is_empty());

        rng.reset().unwrap();
        let mut driver = Driver::new(&memory, 0x2_0000, 8);
        rng.activate(VERSION_1, &[driver.setup()]).unwrap();
        driver.describe(0, (BUFFERS, 8), WRITE, 0);
        driver.offer(0);
        rng.serve();

        assert_eq!(driver.used(), [(0, 8)]);
    }

    #[test]
    fn a_queue_outside_of_memory_is_refused() {
        let (mut rng, driver, _) = running();
        let bad = [
            GuestAddress(super::super::driver::MEMORY),
            GuestAddress(1),
            GuestAddress(u64::MAX - 15),
        ];
        for descriptors in bad {
            let setup = QueueSetup {
                descriptors,
                ..driver.setup()
            };
            assert!(matches!(
                rng.activate(VERSION_1, &[setup]),
                Err(DeviceError::Refused(_))
            ));
        }
    }

    proptest! {
        #[test]
        fn no_scribble_keeps_the_control_thread(
            bytes in prop::collection::vec(any::<u8>(), 1..64),
            index in any::<u16>(),
            acked in prop::sample::select(vec![VERSION_1, VERSION_1 | EVENT_IDX]),
        ) {
            let (mut rng, driver, _) = running();
            rng.reset().unwrap();
            rng.activate(acked, &[driver.setup()]).unwrap();
            driver.scribble(&bytes);
            driver.claim(index);
            for _ in 0..4 {
                rng.serve();
            }
        }
    }
}

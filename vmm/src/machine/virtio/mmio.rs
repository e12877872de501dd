//! The virtio-mmio transport, version 2 (virtio 1.2, 4.2): the registers of one device, as a processor's thread meets them.
//!
//! An access only reads or changes `registers`, under a lock that nobody holds for long. What a device has to do about it,
//! coming to life or stopping, it does on the control thread: a write leaves a note in the registers and rings the control
//! thread's bell, [`Transport::perform`] does what the note says. Of this the guest notices nothing, with one exception: drivers
//! (Linux) take a reset for done when the write of the status returns, so that write waits until it is. It waits for the
//! control thread only, which always answers, if with the end of the process.
//!
//! Doorbells normally do not come here (`irq`). Interrupt status: with irqfd nobody is asked when a queue calls, so the status
//! says always that a queue may have. A guest's driver then looks, which costs it little.
//!
//! Knows nothing of any device's queues or configuration.

mod registers;
#[cfg(test)]
mod tests;

use super::{Complaints, Device, DeviceError};
use crate::machine::bus::{BusDevice, Written};
use crate::machine::irq::{Lines, QUEUE_NOTIFY};
use registers::{Effect, Registers, Work};
use std::ops::ControlFlow;
use std::sync::{Arc, Condvar, Mutex, MutexGuard, PoisonError};
use vmm_sys_util::eventfd::EventFd;

/// Where the configuration space begins.
const CONFIG: u64 = 0x100;

/// One device's registers. Shared by all processors' threads and the control thread.
#[derive(Debug)]
pub(crate) struct Transport {
    registers: Mutex<Registers>,
    /// A reset is done.
    stopped: Condvar,
    config: Box<[u8]>,
    lines: Arc<Lines>,
    /// Wakes the control thread.
    bell: Arc<EventFd>,
    complaints: Complaints,
}

impl Transport {
    /// The registers of `device`. Whenever there is something to [`perform`](Transport::perform), `bell` is written.
    pub(crate) fn new(device: &dyn Device, lines: Arc<Lines>, bell: Arc<EventFd>) -> Self {
        Self {
            registers: Mutex::new(Registers::new(device.id(), device.offered(), device.queue_sizes())),
            stopped: Condvar::new(),
            config: device.config().into(),
            lines,
            bell,
            complaints: Complaints::default(),
        }
    }

    /// Does what the guest asked of `device`, if it asked: one thing, after which the bell has been rung again if there is
    /// more. On the control thread, and with the device that this transport was made for.
    ///
    /// # Errors
    /// The device is gone: the run ends.
    pub(crate) fn perform(&self, device: &mut dyn Device) -> Result<(), DeviceError> {
        let work = self.registers().work();
        match work {
            None => {}
            Some(Work::Activate { acked, queues }) => {
                let works = match device.activate(acked, &queues) {
                    Ok(()) => true,
                    Err(refused @ DeviceError::Refused(_)) => {
                        self.complaints.say(device.name(), &refused);
                        false
                    }
                    Err(gone @ DeviceError::Gone { .. }) => return Err(gone),
                };
                if self.registers().activated(works) {
                    self.lines.interrupt();
                }
            }
            Some(Work::Reset) => {
                device.reset()?;
                self.registers().reset();
                self.stopped.notify_all();
            }
        }
        Ok(())
    }

    fn registers(&self) -> MutexGuard<'_, Registers> {
        self.registers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn ring(&self) {
        // Fails only where the counter is full, and then the control thread has been woken already.
        let _ = self.bell.write(1);
    }

    /// Waits until the control thread has stopped the device.
    fn wait_until_stopped(&self, mut registers: MutexGuard<'_, Registers>) {
        while registers.is_stopping() {
            registers = self.stopped.wait(registers).unwrap_or_else(PoisonError::into_inner);
        }
    }
}

impl BusDevice for Transport {
    fn read(&self, offset: u64, data: &mut [u8]) {
        data.fill(0);
        if let Some(offset) = offset.checked_sub(CONFIG) {
            let config = self.config.iter().skip(usize::try_from(offset).unwrap_or(usize::MAX));
            data.iter_mut().zip(config).for_each(|(to, from)| *to = *from);
        } else if let Ok(word) = <&mut [u8; 4]>::try_from(data) {
            *word = self.registers().read(offset).to_le_bytes();
        }
    }

    fn write(&self, offset: u64, data: &[u8]) -> Written {
        if offset == QUEUE_NOTIFY {
            // Of a width, or for a queue, that no ioeventfd waits for.
            self.lines.kick(little_endian(data));
        } else if let Ok(word) = <[u8; 4]>::try_from(data) {
            let mut registers = self.registers();
            match registers.write(offset, u32::from_le_bytes(word)) {
                Effect::None => {}
                Effect::Start => self.ring(),
                Effect::Stop => {
                    self.ring();
                    self.wait_until_stopped(registers);
                }
            }
        }
        ControlFlow::Continue(())
    }
}

/// A number of any width; too large a one is larger than any queue's.
fn little_endian(data: &[u8]) -> usize {
    let fold = |number: usize, byte: &u8| number.saturating_mul(256).saturating_add(usize::from(*byte));
    data.iter().rev().fold(0, fold)
}

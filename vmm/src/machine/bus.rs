//! Which device an access belongs to. One bus for ports, one for memory that is not RAM.
//!
//! Nothing here trusts the guest: any address, any length. Where no device is, reads are all ones and writes go nowhere, as
//! on a real machine's bus; no access is an error and none is logged.

use crate::contract::MachineExit;
use std::fmt;
use std::ops::{ControlFlow, Range};
use std::sync::Arc;
use thiserror::Error;

/// What a write leads to: usually nothing, sometimes the end of the machine.
pub(crate) type Written = ControlFlow<MachineExit>;

/// A device on a bus. Called by any processor's thread, by several at once.
pub(crate) trait BusDevice: Send + Sync + fmt::Debug {
    /// Fills `data`, which arrives as all ones, with what is at `offset` from the device's first address.
    fn read(&self, offset: u64, data: &mut [u8]);

    /// Takes `data` at `offset`.
    fn write(&self, offset: u64, data: &[u8]) -> Written;
}

/// Two devices want the same address.
#[derive(Debug, Error)]
#[error("a device at {wanted:#x?} overlaps the one at {taken:#x?}")]
pub(crate) struct OverlapError {
    wanted: Range<u64>,
    taken: Range<u64>,
}

/// A bus.
#[derive(Debug, Default)]
pub(crate) struct Bus {
    /// In order, without overlaps.
    places: Vec<(Range<u64>, Arc<dyn BusDevice>)>,
}

impl Bus {
    /// Puts `device` at `range`.
    ///
    /// # Errors
    /// Some of it is taken.
    pub(crate) fn add(&mut self, range: Range<u64>, device: Arc<dyn BusDevice>) -> Result<(), OverlapError> {
        let at = self.places.partition_point(|(place, _)| place.end <= range.start);
        if let Some((taken, _)) = self.places.get(at)
            && taken.start < range.end
        {
            return Err(OverlapError {
                wanted: range,
                taken: taken.clone(),
            });
        }
        self.places.insert(at, (range, device));
        Ok(())
    }

    /// Reads `data.len()` bytes at `address`.
    pub(crate) fn read(&self, address: u64, data: &mut [u8]) {
        data.fill(0xff);
        if let Some((offset, device)) = self.find(address, data.len()) {
            device.read(offset, data);
        }
    }

    /// Writes `data` at `address`.
    pub(crate) fn write(&self, address: u64, data: &[u8]) -> Written {
        match self.find(address, data.len()) {
            Some((offset, device)) => device.write(offset, data),
            None => ControlFlow::Continue(()),
        }
    }

    /// The device that has all of `length` bytes at `address`: an access across a device's edge belongs to nobody.
    fn find(&self, address: u64, length: usize) -> Option<(u64, &dyn BusDevice)> {
        let at = self.places.partition_point(|(place, _)| place.end <= address);
        let (place, device) = self.places.get(at)?;
        let offset = address.checked_sub(place.start)?;
        let room = place.end - address;
        (u64::try_from(length).ok()? <= room).then_some((offset, device.as_ref()))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::sync::Mutex;

    /// Remembers what it was asked.
    #[derive(Debug, Default)]
    struct Diary(Mutex<Vec<(u64, usize)>>);

    impl BusDevice for Diary {
        fn read(&self, offset: u64, data: &mut [u8]) {
            self.0.lock().unwrap().push((offset, data.len()));
            data.fill(0x5a);
        }

        fn write(&self, offset: u64, data: &[u8]) -> Written {
            self.0.lock().unwrap().push((offset, data.len()));
            ControlFlow::Break(MachineExit::PoweredOff)
        }
    }

    fn bus(ranges: &[Range<u64>]) -> (Bus, Vec<Arc<Diary>>) {
        let mut bus = Bus::default();
        let diaries = ranges
            .iter()
            .map(|range| {
                let diary = Arc::new(Diary::default());
                bus.add(range.clone(), diary.clone()).unwrap();
                diary
            })
            .collect();
        (bus, diaries)
    }

    #[test]
    fn an_access_reaches_the_device_that_has_all_of_it() {
        let (bus, diaries) = bus(&[0x20..0x28, 0x10..0x20]);
        let mut data = [0; 4];

        bus.read(0x20, &mut data);

        assert_eq!(data, [0x5a; 4]);
        assert_eq!(*diaries[0].0.lock().unwrap(), [(0, 4)]);
        assert!(diaries[1].0.lock().unwrap().is_empty());
    }

    #[test]
    fn nobody_there_reads_as_ones_and_swallows_writes() {
        let (bus, _) = bus(std::slice::from_ref(&(0x10..0x20)));
        let mut data = [0; 2];

        bus.read(0x1f, &mut data);

        assert_eq!(data, [0xff; 2], "half of the access is past the device's end");
        assert_eq!(bus.write(0x20, &[1]), ControlFlow::Continue(()));
        assert_eq!(bus.write(u64::MAX, &[1; 8]), ControlFlow::Continue(()));
    }

    #[test]
    fn a_device_may_end_the_machine() {
        let (bus, _) = bus(std::slice::from_ref(&(0x10..0x20)));
        assert_eq!(bus.write(0x10, &[0]), ControlFlow::Break(MachineExit::PoweredOff));
    }

    #[test]
    fn neighbours_are_welcome_and_overlaps_are_not() {
        let (mut bus, _) = bus(&[0x10..0x20, 0x30..0x40]);
        bus.add(0x20..0x30, Arc::new(Diary::default())).unwrap();
        for wanted in [0x0f..0x11, 0x1f..0x21, 0x12..0x13, 0x00..0x50, 0x3f..0x41] {
            bus.add(wanted, Arc::new(Diary::default())).unwrap_err();
        }
    }

    proptest! {
        /// Against the dumbest model: look at every device.
        #[test]
        fn any_access_finds_what_a_search_of_all_finds(
            starts in prop::collection::vec((0_u64..64, 1_u64..16), 0..8),
            address in 0_u64..96,
            length in 0_usize..20,
        ) {
            let mut bus = Bus::default();
            let mut model: Vec<(Range<u64>, Arc<Diary>)> = Vec::new();
            for (start, size) in starts {
                let range = start..start + size;
                let diary = Arc::new(Diary::default());
                let free = model.iter().all(|(taken, _)| taken.end <= range.start || range.end <= taken.start);
                prop_assert_eq!(bus.add(range.clone(), diary.clone()).is_ok(), free);
                if free {
                    model.push((range, diary));
                }
            }
            let end = address + u64::try_from(length).unwrap();

            bus.read(address, &mut vec![0; length]);

            for (range, diary) in &model {
                let hit = range.contains(&address) && end <= range.end;
                let expected: &[_] = if hit { &[(address - range.start, length)] } else { &[] };
                prop_assert_eq!(&diary.0.lock().unwrap()[..], expected);
            }
        }
    }
}

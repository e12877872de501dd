//! A guest that writes anything anywhere, in any width and order.

use super::{Fake, OFFER, READY, agree, get, machine};
use crate::machine::bus::BusDevice;
use crate::machine::virtio::mmio::Transport;
use crate::machine::virtio::mmio::registers::Effect;
use crate::machine::virtio::mmio::registers::status::DRIVER_OK;
use crate::machine::virtio::{Device, VERSION_1};
use proptest::prelude::*;

/// One thing that a hostile guest, or the control thread, does.
#[derive(Clone, Debug)]
enum Act {
    Write(u64, Vec<u8>),
    Read(u64, usize),
    Perform,
}

fn acts() -> impl Strategy<Value = Act> {
    let register = prop::sample::select(vec![
        0x14_u64, 0x20, 0x24, 0x30, 0x38, 0x44, 0x50, 0x64, 0x70, 0x80, 0x84, 0x90, 0x94, 0xa0, 0xa4, 0xc0,
    ]);
    let likely = prop::sample::select(vec![0_u32, 1, 2, 3, 8, 11, 15, 64, 128, 0x2000_0020]);
    let value = prop_oneof![3 => likely, 1 => any::<u32>()].prop_map(|value| value.to_le_bytes().to_vec());
    prop_oneof![
        8 => (register, value).prop_map(|(offset, value)| Act::Write(offset, value)),
        1 => (0_u64..0x1000, prop::collection::vec(any::<u8>(), 0..9)).prop_map(|(offset, data)| Act::Write(offset, data)),
        1 => (0_u64..0x1000, 0_usize..9).prop_map(|(offset, length)| Act::Read(offset, length)),
        2 => Just(Act::Perform),
    ]
}

/// What must hold after every act.
fn check(transport: &Transport, fake: &Fake) -> Result<(), TestCaseError> {
    let status = get(transport, 0x70);
    if status & DRIVER_OK != 0 {
        prop_assert_eq!(status & READY, READY);
    }
    if let Some((acked, queues)) = &fake.active {
        prop_assert_eq!(acked & !OFFER, 0);
        prop_assert!(acked & VERSION_1 != 0);
        prop_assert!(status & DRIVER_OK != 0, "active means that the driver said so");
        for (queue, max) in queues.iter().zip(fake.queue_sizes()) {
            prop_assert!(queue.size.is_power_of_two() && queue.size <= *max);
        }
    }
    prop_assert_eq!(get(transport, 0x60) & 1, 1);
    Ok(())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(2000))]

    #[test]
    fn whatever_is_written_in_whatever_order_the_invariants_hold(
        polite in any::<bool>(),
        acts in prop::collection::vec(acts(), 0..60),
    ) {
        let (transport, mut fake) = machine();
        if polite {
            agree(&transport, VERSION_1);
        }
        for act in acts {
            match act {
                Act::Write(0x70, data) if data == [0; 4] => {
                    // On one thread: the processor would wait for the control thread.
                    if transport.registers().write(0x70, 0) == Effect::Stop {
                        transport.perform(&mut fake).unwrap();
                    }
                    prop_assert_eq!(get(&transport, 0x70), 0);
                    prop_assert!(fake.active.is_none());
                }
                Act::Write(offset, data) => prop_assert!(transport.write(offset, &data).is_continue()),
                Act::Read(offset, length) => transport.read(offset, &mut vec![0; length]),
                Act::Perform => transport.perform(&mut fake).unwrap(),
            }
            check(&transport, &fake)?;
        }
    }
}

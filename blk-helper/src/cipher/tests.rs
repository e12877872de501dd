use super::*;
use proptest::prelude::*;
use std::collections::HashSet;
use std::fs;
use std::ops::Range;
use std::os::unix::fs::FileExt;

const PAGE: NonZeroUsize = NonZeroUsize::new(4096).unwrap();

fn cipher(key: &[u8; KEY_BYTES]) -> Cipher {
    let memory = KeyMemory::new(PAGE).unwrap();
    let given = Key::new(memory, |bytes| {
        *bytes = *key;
        Ok(())
    });
    Cipher::new(&Arc::new(given.unwrap())).unwrap()
}

fn bytes<const N: usize>(hex: &str) -> [u8; N] {
    let digits = |index: usize| u8::from_str_radix(&hex[2 * index..2 * index + 2], 16).unwrap();
    std::array::from_fn(digits)
}

/// IEEE 1619, annex B, vectors 10 to 14 (XTS-AES-256): the data unit, and of its 512 bytes the first 32 and the last 16.
const KNOWN: [(u64, &str, &str); 5] = [
    (
        0xff,
        "1c3b3a102f770386e4836c99e370cf9bea00803f5e482357a4ae12d414a3e63b",
        "c4f36ffda9fcea70b9c6e693e148c151",
    ),
    (
        0xffff,
        "77a31251618a15e6b92d1d66dffe7b50b50bad552305ba0217a610688eff7e11",
        "a4f9e27b42af8100cb9d59cef9645803",
    ),
    (
        0xff_ffff,
        "e387aaa58ba483afa7e8eb469778317ecf4cf573aa9d4eac23f2cdf914e4e200",
        "2263a1eef52dd6888c309f5a7d712826",
    ),
    (
        0xffff_ffff,
        "bf53d2dade78e822a4d949a9bc6766b01b06a8ef70d26748c6a7fc36d80ae4c5",
        "4c82f335abb152c4a93411373aaa8220",
    ),
    (
        0xff_ffff_ffff,
        "64497e5a831e4a932c09be3e5393376daa599548b816031d224bbf50a818ed23",
        "d609d273ad5b0d59631c531f6a0a57b9",
    ),
];

#[test]
fn it_is_the_standards_xts() {
    let key = bytes(
        "2718281828459045235360287471352662497757247093699959574966967627\
         3141592653589793238462643383279502884197169399375105820974944592",
    );
    let mut cipher = cipher(&key);
    let plain: Vec<u8> = (0..=255).chain(0..=255).collect();
    for (unit, first, last) in KNOWN {
        let mut data = plain.clone();
        cipher.encrypt(unit, &mut data).unwrap();
        assert_eq!(data[..32], bytes::<32>(first), "{unit:x}");
        assert_eq!(data[496..], bytes::<16>(last), "{unit:x}");
        cipher.decrypt(unit, &mut data).unwrap();
        assert_eq!(data, plain, "{unit:x}");
    }
}

#[test]
fn a_renewed_key_is_another_for_all_that_use_it() {
    let (mut ciphers, _) = Cipher::with_new_key(2).unwrap();
    let mut before = [7; 64];
    ciphers[0].encrypt(3, &mut before).unwrap();

    ciphers[1].key().renew().unwrap();

    let mut after = [7; 64];
    ciphers[0].encrypt(3, &mut after).unwrap();
    assert_ne!(after, before);
    ciphers[1].decrypt(3, &mut after).unwrap();
    assert_eq!(after, [7; 64]);
    ciphers[0].decrypt(3, &mut before).unwrap();
    assert_ne!(before, [7; 64]);
}

#[test]
fn ciphers_made_together_have_one_key_and_others_another() {
    let (mut ours, _) = Cipher::with_new_key(2).unwrap();
    let (mut others, _) = Cipher::with_new_key(1).unwrap();
    let mut data = [7; 64];
    ours[0].encrypt(3, &mut data).unwrap();
    assert_ne!(data, [7; 64]);

    let mut again = data;
    ours[1].decrypt(3, &mut again).unwrap();
    assert_eq!(again, [7; 64]);
    others[0].decrypt(3, &mut data).unwrap();
    assert_ne!(data, [7; 64]);
}

#[test]
fn what_is_not_whole_blocks_is_refused() {
    let mut cipher = cipher(&std::array::from_fn(|i| u8::try_from(i).unwrap()));
    for length in [0, 1, 15, 17, 4095] {
        cipher.encrypt(0, &mut vec![0; length]).unwrap_err();
    }
}

proptest! {
    /// What the overlay relies on where it writes a part of a cluster.
    #[test]
    fn a_block_depends_on_its_own_bytes_and_place_only(
        unit: u64, start in 0usize..256, count in 1usize..256, old: u8, new: u8
    ) {
        let mut cipher = cipher(&std::array::from_fn(|i| u8::try_from(i).unwrap()));
        let changed = start * 16..(start + count).min(256) * 16;
        let mut before = vec![old; 4096];
        cipher.encrypt(unit, &mut before).unwrap();

        // Around the change is something else altogether, and behind it nothing.
        let mut after = vec![!old; changed.end];
        after[changed.clone()].fill(new);
        cipher.encrypt(unit, &mut after).unwrap();

        before[changed.clone()].copy_from_slice(&after[changed.clone()]);
        cipher.decrypt(unit, &mut before).unwrap();
        let mut expected = vec![old; 4096];
        expected[changed].fill(new);
        prop_assert_eq!(before, expected);
    }
}

/// Every writable mapping of this process.
fn writable_memory() -> Vec<Range<u64>> {
    let maps = fs::read_to_string("/proc/self/maps").unwrap();
    let address = |text| u64::from_str_radix(text, 16).unwrap();
    maps.lines()
        .filter(|line| line.contains(" rw"))
        .map(|line| line.split_once(' ').unwrap().0.split_once('-').unwrap())
        .map(|(start, end)| address(start)..address(end))
        .collect()
}

/// Neither the key nor a round key of a schedule is anywhere but in key memory, also after it was used.
#[test]
fn key_and_schedules_are_in_key_memory_only() {
    let (mut ciphers, _) = Cipher::with_new_key(1).unwrap();
    let mut data = vec![1; 4096];
    for unit in 0..100 {
        ciphers[0].encrypt(unit, &mut data).unwrap();
        ciphers[0].decrypt(unit + 1, &mut data).unwrap();
    }
    let keys = ciphers[0].encrypting.key.memory.content();
    let home = keys.as_ptr().addr() as u64..keys.as_ptr().addr() as u64 + keys.len() as u64;
    // Inverted, so that this list is not what is found. Two keys, and four schedules of fifteen round keys.
    let wanted: HashSet<[u8; 16]> = keys
        .windows(16)
        .step_by(8)
        .filter(|window| window.iter().collect::<HashSet<_>>().len() > 11)
        .map(|window| std::array::from_fn(|i| !window[i]))
        .collect();
    assert!((60..260).contains(&wanted.len()), "{}", wanted.len());
    // No key, and must be found: so that finding none of the others means something.
    let sought: [u8; 16] = std::array::from_fn(|i| u8::try_from(i * 13 + 5).unwrap());
    let planted = vec![sought.map(|byte| !byte); 2];
    let mut seen = 0_usize;
    let begins: HashSet<u16> = wanted.iter().map(|w| u16::from_le_bytes([!w[0], !w[1]])).collect();

    let process = fs::File::open("/proc/self/mem").unwrap();
    let mut chunk = vec![0; 1 << 20];
    let mut found = 0;
    for range in writable_memory()
        .into_iter()
        .filter(|range| !range.contains(&home.start))
    {
        for at in range.clone().step_by(chunk.len()) {
            let length = usize::try_from((range.end - at).min(1 << 20)).unwrap();
            if process.read_exact_at(&mut chunk[..length], at).is_err() {
                continue;
            }
            for window in chunk[..length].windows(16).step_by(8) {
                let begins = begins.contains(&u16::from_le_bytes([window[0], window[1]]));
                seen += usize::from(window.iter().zip(sought).all(|(byte, sought)| *byte == !sought));
                found += u32::from(begins && wanted.contains(&std::array::from_fn(|i| !window[i])));
            }
        }
    }
    assert!(
        seen >= std::hint::black_box(planted).len(),
        "the search does not find what is there"
    );
    assert_eq!(found, 0);
}

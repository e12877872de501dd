//! AES-256-XTS, with every byte of the key and of its schedules in key memory.
//!
//! The library (AWS-LC) expands keys into memory that it asks its allocator for. The allocator it is given here knows one
//! place only: the key memory of the ciphers that are just being made. Besides that, and after that, it has none to give.
//!
//! A *unit* is what one tweak covers. XTS treats the 16-byte blocks of a unit one by one, each by its position: a block that
//! keeps its bytes and its place keeps its ciphertext, whatever its neighbours become. It does not authenticate.
//!
//! Knows nothing of disks.
#![allow(unsafe_code, reason = "listed: the library's interface is unsafe")]

use crate::key_memory::{KeyMemory, KeyMemoryError, KeyMemoryFacts};
use crate::transfer::GuestSlice;
use aws_lc_sys::{
    CRYPTO_set_mem_functions, EVP_CIPHER_CTX, EVP_CIPHER_CTX_new, EVP_Cipher, EVP_CipherInit_ex, EVP_aes_256_xts,
};
use rustix::rand::{GetRandomFlags, getrandom};
use std::cell::RefCell;
use std::ffi::{c_char, c_int, c_void};
use std::io;
use std::num::NonZeroUsize;
use std::ptr::{NonNull, null, null_mut};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, LazyLock, Mutex, PoisonError};
use thiserror::Error;

/// Bytes of a key: one for the blocks, one for the tweaks.
const KEY_BYTES: usize = 64;

/// Key memory for a cipher: two contexts of some 750 bytes. One that does not fit is an error at the start.
const CIPHER_BYTES: usize = 2048;

/// Bytes of a block.
const BLOCK_BYTES: usize = 16;

/// Why there is no cipher.
#[derive(Debug, Error)]
pub(crate) enum CipherError {
    #[error(transparent)]
    Memory(#[from] KeyMemoryError),
    #[error("cannot get random bytes for the overlay's key")]
    Random(#[source] io::Error),
    #[error(
        "the overlay's key cannot be set up: the cryptographic library refuses it, or asks for more key memory than there is"
    )]
    Library,
}

/// A key that several threads use, and that can be replaced: each notices when it next uses its cipher, and from then on the old
/// one is nowhere in its contexts.
#[derive(Debug)]
pub(crate) struct Key {
    bytes: Mutex<KeyBytes>,
    /// Which key it is, by number.
    generation: AtomicU64,
    memory: Arc<KeyMemory>,
}

/// The place of a key in key memory.
#[derive(Debug)]
struct KeyBytes(NonNull<[u8; KEY_BYTES]>);

// SAFETY: the compiler says no because of the raw pointer. The bytes belong to this value alone, and are no thread's.
unsafe impl Send for KeyBytes {}

impl KeyBytes {
    fn bytes(&mut self) -> &mut [u8; KEY_BYTES] {
        // SAFETY: `Key::new` took these bytes for this value alone, zeroed, from the memory that the key keeps.
        unsafe { self.0.as_mut() }
    }
}

impl Key {
    /// A key in `memory`, which `fill` makes up.
    fn new(
        memory: KeyMemory,
        fill: impl FnOnce(&mut [u8; KEY_BYTES]) -> Result<(), CipherError>,
    ) -> Result<Self, CipherError> {
        let place = memory.take(KEY_BYTES).ok_or(CipherError::Library)?;
        let mut bytes = KeyBytes(place.cast());
        fill(bytes.bytes())?;
        Ok(Self {
            bytes: Mutex::new(bytes),
            generation: AtomicU64::new(0),
            memory: Arc::new(memory),
        })
    }

    /// Replaces it by a new one, which nobody has seen. What was encrypted under the old one cannot be read any more.
    ///
    /// # Errors
    /// [`CipherError`]: the old one is still in force.
    pub(crate) fn renew(&self) -> Result<(), CipherError> {
        let mut bytes = self.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        fill_random(bytes.bytes())?;
        self.generation.fetch_add(1, Ordering::Release);
        Ok(())
    }
}

/// One thread's use of a key.
#[derive(Debug)]
pub(crate) struct Cipher {
    encrypting: Context,
    decrypting: Context,
}

impl Cipher {
    /// `count` ciphers with one new key, which nobody has seen, and what the kernel says of the memory they live in.
    ///
    /// # Errors
    /// [`CipherError`].
    pub(crate) fn with_new_key(count: usize) -> Result<(Vec<Self>, KeyMemoryFacts), CipherError> {
        let bytes = count.saturating_mul(CIPHER_BYTES).saturating_add(KEY_BYTES);
        let pages = NonZeroUsize::new(bytes.next_multiple_of(4096)).ok_or(CipherError::Library)?;
        let memory = KeyMemory::new(pages)?;
        let facts = memory.facts().clone();
        let key = Arc::new(Key::new(memory, fill_random)?);
        let ciphers = (0..count).map(|_| Self::new(&key)).collect::<Result<_, _>>()?;
        Ok((ciphers, facts))
    }

    fn new(key: &Arc<Key>) -> Result<Self, CipherError> {
        Ok(Self {
            encrypting: Context::new(key, 1)?,
            decrypting: Context::new(key, 0)?,
        })
    }

    /// The key that it has in common with those it was made with.
    pub(crate) fn key(&self) -> Arc<Key> {
        Arc::clone(&self.encrypting.key)
    }

    /// Encrypts `bytes`, whole blocks from the beginning of `unit` on, in place.
    ///
    /// # Errors
    /// They are not whole blocks. What `bytes` then holds must not be used.
    pub(crate) fn encrypt(&mut self, unit: u64, bytes: &mut [u8]) -> io::Result<()> {
        let (place, len) = (bytes.as_mut_ptr(), bytes.len());
        self.encrypting.apply(unit, place, place, len)
    }

    /// Undoes [`Self::encrypt`].
    ///
    /// # Errors
    /// As there.
    pub(crate) fn decrypt(&mut self, unit: u64, bytes: &mut [u8]) -> io::Result<()> {
        let (place, len) = (bytes.as_mut_ptr(), bytes.len());
        self.decrypting.apply(unit, place, place, len)
    }

    /// As [`Self::encrypt`], from a guest's buffer `into` as many bytes of our own. A guest that changes its buffer meanwhile
    /// spoils what it writes there, and nothing else.
    ///
    /// # Errors
    /// As there, or that the two differ in length.
    pub(crate) fn encrypt_from(&mut self, unit: u64, from: &GuestSlice<'_>, into: &mut [u8]) -> io::Result<()> {
        let len = equal(from.len(), into.len())?;
        self.encrypting
            .apply(unit, from.ptr_guard().as_ptr(), into.as_mut_ptr(), len)
    }

    /// As [`Self::decrypt`], from bytes of our own into a guest's buffer. Only the result is ever written there.
    ///
    /// # Errors
    /// As there, or that the two differ in length.
    pub(crate) fn decrypt_into(&mut self, unit: u64, from: &[u8], into: &GuestSlice<'_>) -> io::Result<()> {
        let len = equal(from.len(), into.len())?;
        self.decrypting
            .apply(unit, from.as_ptr(), into.ptr_guard_mut().as_ptr(), len)
    }
}

fn equal(from: usize, into: usize) -> io::Result<usize> {
    if from == into {
        Ok(from)
    } else {
        Err(io::ErrorKind::InvalidInput.into())
    }
}

fn fill_random(key: &mut [u8; KEY_BYTES]) -> Result<(), CipherError> {
    let random = |errno: rustix::io::Errno| CipherError::Random(errno.into());
    // So few bytes come whole, once the kernel's generator is seeded; until then the call waits.
    match getrandom(&mut *key, GetRandomFlags::empty()).map_err(random)? {
        KEY_BYTES => Ok(()),
        _ => Err(CipherError::Random(io::ErrorKind::UnexpectedEof.into())),
    }
}

/// A key, expanded for one direction. It is never freed by itself: its memory goes with the key memory.
#[derive(Debug)]
struct Context {
    context: NonNull<EVP_CIPHER_CTX>,
    /// Which key is expanded.
    generation: u64,
    key: Arc<Key>,
}

// SAFETY: the compiler says no because of the raw pointer. What it points to belongs to this value alone (no function hands
// the pointer out), and the library ties no context to a thread.
unsafe impl Send for Context {}

impl Context {
    fn new(key: &Arc<Key>, direction: c_int) -> Result<Self, CipherError> {
        if !*ALLOCATOR_IS_OURS {
            return Err(CipherError::Library);
        }
        let mut bytes = key.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        MAKING.set(Some(Arc::clone(&key.memory)));
        let context = expand(bytes.bytes(), direction);
        MAKING.set(None);
        drop(bytes);
        Ok(Self {
            context: context.ok_or(CipherError::Library)?,
            generation: key.generation.load(Ordering::Acquire),
            key: Arc::clone(key),
        })
    }

    /// Expands the key that is in force, over the one that was, if that is another.
    fn follow(&mut self) -> io::Result<()> {
        if self.generation == self.key.generation.load(Ordering::Acquire) {
            return Ok(());
        }
        let mut bytes = self.key.bytes.lock().unwrap_or_else(PoisonError::into_inner);
        let context = self.context.as_ptr();
        // SAFETY: `new` made the context, which has its cipher: without another the library allocates nothing and writes the
        // expanded key where the old one was. It reads the 64 bytes of a key, and keeps no pointer to them.
        let set = unsafe { EVP_CipherInit_ex(context, null(), null_mut(), bytes.bytes().as_ptr(), null(), -1) };
        if set != 1 {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        // Under the lock under which both change.
        self.generation = self.key.generation.load(Ordering::Acquire);
        Ok(())
    }

    /// Converts `len` bytes at `from` into as many at `into`, which may be the same.
    ///
    /// Pointers, since one of the two may be a guest's, of which there can be no reference. The four functions that call this
    /// made them of a live slice each, of `len` bytes.
    fn apply(&mut self, unit: u64, from: *const u8, into: *mut u8, len: usize) -> io::Result<()> {
        if len == 0 || !len.is_multiple_of(BLOCK_BYTES) {
            return Err(io::ErrorKind::InvalidInput.into());
        }
        self.follow()?;
        let tweak = u128::from(unit).to_le_bytes();
        let context = self.context.as_ptr();
        // SAFETY: `new` made the context, which lives in the key memory that `self` keeps; the tweak has the 16 bytes that
        // this cipher reads and copies.
        let set = unsafe { EVP_CipherInit_ex(context, null(), null_mut(), null(), tweak.as_ptr(), -1) };
        // SAFETY: as above; this cipher reads `len` bytes and writes as many, which the callers vouch for, and
        // may do so in place. The bytes of a guest's buffer are only data to it.
        let done = unsafe { EVP_Cipher(context, into, from, len) };
        if (set, done) == (1, 1) {
            Ok(())
        } else {
            Err(io::ErrorKind::InvalidInput.into())
        }
    }
}

/// Makes a context where [`MAKING`] says, with the key expanded inside.
fn expand(key: &[u8; KEY_BYTES], direction: c_int) -> Option<NonNull<EVP_CIPHER_CTX>> {
    // SAFETY: it takes nothing, and gives a context that nobody else knows, or null, which is looked at.
    let context = NonNull::new(unsafe { EVP_CIPHER_CTX_new() })?;
    // SAFETY: it takes nothing, and gives a pointer to a constant of the library, which is never freed.
    let cipher = unsafe { EVP_aes_256_xts() };
    // SAFETY: a fresh context, and a key of the 64 bytes that this cipher reads; it keeps no pointer to them.
    let made = unsafe { EVP_CipherInit_ex(context.as_ptr(), cipher, null_mut(), key.as_ptr(), null(), direction) };
    (made == 1).then_some(context)
}

thread_local! {
    /// Where the library allocates on this thread: the key memory of the context that is being made.
    static MAKING: RefCell<Option<Arc<KeyMemory>>> = const { RefCell::new(None) };
}

/// Whether the library allocates as it is told to here. It is told before it first allocates.
static ALLOCATOR_IS_OURS: LazyLock<bool> = LazyLock::new(|| {
    // SAFETY: the three functions do what `malloc`, `realloc` and `free` promise, of which failing is a part.
    unsafe { CRYPTO_set_mem_functions(Some(allocate), Some(reallocate), Some(free)) == 1 }
});

extern "C" fn allocate(bytes: usize, _file: *const c_char, _line: c_int) -> *mut c_void {
    let place = MAKING.try_with(|making| making.borrow().as_ref()?.take(bytes));
    place.ok().flatten().map_or(null_mut(), |place| place.as_ptr().cast())
}

/// Nothing that holds a key grows.
extern "C" fn reallocate(_place: *mut c_void, _bytes: usize, _file: *const c_char, _line: c_int) -> *mut c_void {
    null_mut()
}

/// Key memory goes as a whole.
extern "C" fn free(_place: *mut c_void, _file: *const c_char, _line: c_int) {}

#[cfg(test)]
mod tests;

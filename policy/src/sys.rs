//! The few raw calls that nix lacks or marks unsafe, each as small as it can be; the only unsafe code of this crate.
//!
//! It does not know what the calls are for: policy is in the files that call it.

use nix::errno::Errno;
use nix::sys::signal::{SaFlags, SigAction, SigHandler, SigSet, Signal};
use nix::unistd::{ForkResult, Pid};
use std::os::fd::{FromRawFd, OwnedFd, RawFd};

/// `PR_SET_MDWE`: no mapping may gain the right to execute (Linux 6.3; not in the libc crate).
const PR_SET_MDWE: libc::c_int = 65;
/// `PR_GET_MDWE`.
const PR_GET_MDWE: libc::c_int = 66;
/// `PR_MDWE_REFUSE_EXEC_GAIN`.
const PR_MDWE_REFUSE_EXEC_GAIN: libc::c_ulong = 1;

/// Closes every descriptor from `first` to `last`, both included.
pub(crate) fn close_range(first: u32, last: u32) -> Result<(), Errno> {
    // SAFETY: closing a number under a Rust owner would be unsound; `prepare` is documented to run before the program opens
    // anything, and `fds::close_all_but` leaves out 0, 1, 2 and what the caller inherited and named. The child that makes a user
    // namespace closes all, and drops nothing that it inherited: it ends by `exit_now` or a signal.
    let result = unsafe { libc::syscall(libc::SYS_close_range, first, last, 0) };
    Errno::result(result).map(drop)
}

/// Whether a descriptor of that number is open.
pub(crate) fn is_open(number: RawFd) -> bool {
    // SAFETY: F_GETFD takes no pointer and changes nothing, whatever the number names.
    let flags = unsafe { libc::fcntl(number, libc::F_GETFD) };
    flags >= 0
}

/// Takes over a descriptor that was inherited, by its number. Called once for each number on a command line; who calls has made
/// sure that they are above 2 and distinct.
///
/// # Errors
///
/// EBADF when it is not open.
pub fn adopt(number: RawFd) -> Result<OwnedFd, Errno> {
    if !is_open(number) {
        return Err(Errno::EBADF);
    }
    // SAFETY: it is open, it was inherited, and whoever calls does so once for each number (`resources` of `blk-helper`; `machine`,
    // `import` and `supervisor::tap` of `vmm`): nothing else in the process owns it.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Removes every variable of the environment.
pub(crate) fn clear_environment() -> Result<(), Errno> {
    // SAFETY: nobody reads the environment at the same time: `prepare` has checked that this is the only thread.
    let result = unsafe { nix::env::clearenv() };
    result.map_err(|_| Errno::ENOMEM)
}

/// A `prctl` whose arguments are plain numbers.
fn prctl(option: libc::c_int, first: libc::c_ulong) -> Result<libc::c_int, Errno> {
    // SAFETY: the callers below, and nobody else, choose the option, and each takes numbers, never an address.
    let result = unsafe { libc::prctl(option, first, 0, 0, 0) };
    Errno::result(result)
}

/// The seccomp mode of the calling thread: 0 none, 2 filter.
pub(crate) fn seccomp_mode() -> Result<libc::c_int, Errno> {
    prctl(libc::PR_GET_SECCOMP, 0)
}

/// `PR_GET_DUMPABLE`: 0 and 2 not (to the user), 1 dumpable.
pub(crate) fn dumpability() -> Result<libc::c_int, Errno> {
    prctl(libc::PR_GET_DUMPABLE, 0)
}

/// Loads a filter for the calling thread. It needs no-new-privs, and says so with EACCES.
pub(crate) fn load_filter_for_this_thread(program: &[seccompiler::sock_filter]) -> Result<(), Errno> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| Errno::EINVAL)?,
        filter: program.as_ptr().cast_mut().cast(),
    };
    // SAFETY: `program`'s length and address are a slice's that is borrowed until the call returns, of a type that seccompiler and
    // libc both lay out as the kernel does; the kernel copies it and writes nothing.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, &raw const program) };
    Errno::result(result).map(drop)
}

/// Asks to load a filter from nowhere, for this thread: EFAULT where that is allowed at all.
pub(crate) fn load_no_filter() -> Result<(), Errno> {
    let nowhere = std::ptr::null::<libc::sock_fprog>();
    // SAFETY: the kernel reads a program from the address, and finds that there is none; it changes nothing then.
    let result = unsafe { libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, 0, nowhere) };
    Errno::result(result).map(drop)
}

/// Refuses from now on that a mapping gains the right to execute.
pub(crate) fn refuse_exec_gain() -> Result<(), Errno> {
    prctl(PR_SET_MDWE, PR_MDWE_REFUSE_EXEC_GAIN).map(drop)
}

/// Whether mappings are refused the right to execute.
pub(crate) fn refuses_exec_gain() -> Result<bool, Errno> {
    prctl(PR_GET_MDWE, 0).map(|flags| flags & 1 == 1)
}

/// Whether the bounding set has capability `number`; `EINVAL` beyond the last one this kernel knows.
pub(crate) fn bounding_has(number: u8) -> Result<bool, Errno> {
    prctl(libc::PR_CAPBSET_READ, libc::c_ulong::from(number)).map(|held| held == 1)
}

/// Drops capability `number` from the bounding set.
pub(crate) fn bounding_drop(number: u8) -> Result<(), Errno> {
    prctl(libc::PR_CAPBSET_DROP, libc::c_ulong::from(number)).map(drop)
}

/// Installs `handler`, which runs on the alternate stack (where there is one) with every signal blocked.
///
/// `handler` must be async-signal-safe; `signals::on_signal` is the only one.
pub(crate) fn install_handler(signal: Signal, handler: extern "C" fn(libc::c_int)) -> Result<(), Errno> {
    let action = SigAction::new(SigHandler::Handler(handler), SaFlags::SA_ONSTACK, SigSet::all());
    // SAFETY: the handler is `signals::on_signal`, whose head says why each thing it does is async-signal-safe.
    let result = unsafe { nix::sys::signal::sigaction(signal, &action) };
    result.map(drop)
}

/// Ignores a signal, or gives it back what the kernel does with it by default.
pub(crate) fn dispose(signal: Signal, disposition: Disposition) -> Result<(), Errno> {
    let handler = match disposition {
        Disposition::Ignore => SigHandler::SigIgn,
        Disposition::Default => SigHandler::SigDfl,
    };
    let action = SigAction::new(handler, SaFlags::empty(), SigSet::empty());
    // SAFETY: neither SIG_IGN nor SIG_DFL runs code of this process.
    let result = unsafe { nix::sys::signal::sigaction(signal, &action) };
    result.map(drop)
}

/// What the kernel does with a signal that has no handler.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Disposition {
    /// Nothing.
    Ignore,
    /// What the manual says.
    Default,
}

/// The errno as the kernel counts it.
#[expect(clippy::as_conversions, reason = "the discriminants are the numbers")]
pub(crate) const fn errno_number(errno: Errno) -> i32 {
    errno as i32
}

/// Starts a process that does `work` and exits with the code that it chose.
pub(crate) fn child(work: impl FnOnce() -> u8) -> Result<Pid, Errno> {
    // SAFETY: the child may do anything the parent may: `prepare`, the only caller, has checked that this is the only thread, so
    // no lock is held by a thread that the child does not have.
    let fork = unsafe { nix::unistd::fork() };
    match fork? {
        ForkResult::Child => exit_now(work()),
        ForkResult::Parent { child } => Ok(child),
    }
}

/// A descriptor that stands for a process, a child of ours that was not waited for yet: it becomes readable when that ends.
///
/// # Errors
///
/// Whatever the kernel says; older than 5.3, it has no such thing.
pub fn pidfd(process: Pid) -> Result<OwnedFd, Errno> {
    // SAFETY: the call takes two numbers and no address.
    let result = unsafe { libc::syscall(libc::SYS_pidfd_open, process.as_raw(), 0) };
    let number = RawFd::try_from(Errno::result(result)?).map_err(|_| Errno::EBADF)?;
    // SAFETY: the kernel has just made it for this call, and nobody else knows its number.
    Ok(unsafe { OwnedFd::from_raw_fd(number) })
}

/// Ends the process at once: no destructors, no `atexit` functions.
pub(crate) fn exit_now(code: u8) -> ! {
    // SAFETY: `_exit` never returns, runs no code of ours, and may be called in a signal handler.
    unsafe { libc::_exit(libc::c_int::from(code)) }
}

/// One argument of a raw system call.
#[derive(Debug)]
pub(crate) enum Argument<'a> {
    /// A number.
    Number(i64),
    /// An address of bytes that the kernel reads.
    Bytes(&'a [u8]),
    /// An address of bytes that the kernel may write.
    Buffer(&'a mut [u8]),
}

impl Argument<'_> {
    /// The register's value.
    fn register(&mut self) -> i64 {
        let address = match self {
            Self::Number(number) => return *number,
            Self::Bytes(bytes) => bytes.as_ptr().addr(),
            Self::Buffer(bytes) => bytes.as_mut_ptr().addr(),
        };
        i64::try_from(address).expect("user addresses on x86-64 have 47 or 56 bits")
    }
}

/// A raw system call, for [`crate::forbidden`] and the filters' own tests only: they must be able to make calls that no library
/// offers.
pub(crate) fn attempt<const N: usize>(number: libc::c_long, mut arguments: [Argument<'_>; N]) -> Result<i64, Errno> {
    let mut registers = [0_i64; 6];
    for (register, argument) in registers.iter_mut().zip(&mut arguments) {
        *register = argument.register();
    }
    let [a, b, c, d, e, f] = registers;
    // SAFETY: every address comes from a borrow in `arguments`, which lives until the call has returned, and the acts in
    // `forbidden` size their buffers for what the kernel writes; none passes the address of memory that is in use as a
    // number, and the process that performs one is thrown away after it.
    let result = unsafe { libc::syscall(number, a, b, c, d, e, f) };
    Errno::result(result)
}

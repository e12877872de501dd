//! The order of the steps, in three types: [`prepare`], [`Prepared::enter`] and [`Entered::seal`] are the only functions that
//! take the steps, and the only constructors of [`Prepared`], [`Entered`] and [`Confined`].

use nix::sys::signal::Signal;
use nix::sys::stat::{Mode, umask};
use std::os::fd::RawFd;

use crate::caps;
use crate::empty_root;
use crate::error::{SealError, StepError};
use crate::fds::{self, Descriptors};
use crate::hidden;
use crate::identity::{self, Authority, User};
use crate::landlock;
use crate::limits::{self, Bond, ParentDeath};
use crate::namespaces;
use crate::probe::{ThreadEvidence, read_back_thread, seccomp_mode};
use crate::report::{Layer, Report};
use crate::seccomp::Filter;
use crate::signals;
use crate::sys;

/// What a process keeps when it prepares.
#[derive(Clone, Debug, Default)]
pub struct PrepareSpec {
    /// Inherited descriptors above 2 that stay open. All others are closed.
    pub keep: Vec<RawFd>,
    /// RLIMIT_NOFILE from now on, also after [`Prepared::enter`].
    pub max_descriptors: u64,
    /// Whether the process ends with its parent. Asked for now and again after every change of credentials.
    pub die_with_parent: Option<ParentDeath>,
}

/// What a process becomes when it enters.
#[derive(Clone, Copy, Debug)]
pub struct EnterSpec {
    /// Whom root becomes; an ordinary user stays who it is. Uid 0 is refused.
    pub user: User,
    /// RLIMIT_FSIZE in bytes, with SIGXFSZ ignored: beyond it a write gives EFBIG. It holds for every regular file the process
    /// writes, a log that standard error was redirected to included.
    pub file_size_limit: Option<u64>,
    /// Whether RLIMIT_NPROC becomes 0 when the process is sealed: a second fence, for the filter has no call that makes a process.
    /// Not where the kernel itself makes a thread later: since Linux 6.14 KVM does, when a guest first runs.
    pub no_new_processes: bool,
}

/// A process that nobody of the same user can inspect any more, with nothing but what it was told to keep. Opening things,
/// above all anything secret, comes now.
#[derive(Debug)]
#[must_use = "the process is prepared but not confined"]
pub struct Prepared {
    /// Who started us.
    authority: Authority,
    /// The bond to the parent, to be renewed.
    bond: Bond,
    /// What was inherited and kept.
    kept: Vec<RawFd>,
    /// What was achieved so far.
    report: Report,
}

/// Gives up what was inherited. The first thing a program does: before it opens anything and while it has one thread.
///
/// Standard input reads nothing afterwards, the environment is empty, the umask 077, no signal is blocked.
///
/// # Errors
///
/// Somebody traces a process that nobody of its user could reach; there is more than one thread; a descriptor to keep is not
/// open; real and effective ids differ; the parent is gone; the user namespace that was joined is another one than was made;
/// a call that always works did not.
pub fn prepare(spec: &PrepareSpec) -> Result<Prepared, StepError> {
    let bond = Bond::to_parent(spec.die_with_parent);
    let authority = Authority::read()?;
    let hidden = hidden::from_the_start(authority)?;
    if !namespaces::is_single_threaded() {
        return Err(StepError::ManyThreads);
    }
    fds::close_all_but(&spec.keep)?;
    fds::stdin_from_null()?;
    signals::forget_inherited().map_err(StepError::system("unblock signals"))?;
    sys::clear_environment().map_err(StepError::system("clear the environment"))?;
    umask(Mode::from_bits_truncate(0o077));

    let mut report = Report::default();
    report.layers.push(hidden);
    report.layers.push(limits::no_core_files());
    report.layers.push(limits::descriptors(spec.max_descriptors));
    report.layers.push(match authority {
        // It would take away root's access to other users' files before they are opened.
        Authority::Root => Layer::where_permitted(
            "user namespace",
            Err("not used by root, who becomes another user instead".to_owned()),
        ),
        Authority::Ordinary { uid, gid } => namespaces::user(uid, gid)?,
    });
    bond.tie()?;
    Ok(Prepared {
        authority,
        bond,
        kept: spec.keep.clone(),
        report,
    })
}

/// A process that gave up everything but its system calls. Only [`Entered::seal`] gets at what is inside.
#[derive(Debug)]
#[must_use = "the process has no filter yet"]
pub struct Entered<R> {
    /// What the program opened.
    resources: R,
    /// What was inherited and kept.
    kept: Vec<RawFd>,
    /// Whether RLIMIT_NPROC becomes 0.
    no_new_processes: bool,
    /// What was achieved so far.
    report: Report,
}

impl Prepared {
    /// Limits the address space (RLIMIT_AS) from now on: beyond `bytes` an allocation fails, which ends the process.
    pub fn limit_memory(mut self, bytes: u64) -> Self {
        self.report.layers.push(limits::memory(bytes));
        self
    }

    /// Gives up everything that needs a path, an authority or a namespace, and reads each thing back from the kernel.
    ///
    /// # Errors
    ///
    /// A required state does not hold: the user, no capabilities, no-new-privs, not dumpable, landlock.
    pub fn enter<R: Descriptors>(self, resources: R, spec: &EnterSpec) -> Result<Entered<R>, StepError> {
        let Self {
            authority,
            bond,
            kept,
            mut report,
        } = self;
        let layers = &mut report.layers;
        layers.extend(namespaces::others());
        let own_mounts = layers
            .iter()
            .any(|layer| layer.name == namespaces::MOUNT && layer.achieved);
        layers.push(empty_root::enter(own_mounts));

        let bounding = caps::drop_bounding();
        let user = authority.assume(spec.user)?;
        caps::empty()?;
        hidden::hide()?;
        bond.tie()?;
        limits::no_new_privs()?;
        let landlock = landlock::deny_all()?;
        let memory = limits::refuse_exec_gain();
        if let Some(bytes) = spec.file_size_limit {
            signals::ignore(Signal::SIGXFSZ).map_err(StepError::system("ignore SIGXFSZ"))?;
            layers.push(limits::file_size(bytes));
        }

        let main = read_back_thread("main")?;
        layers.push(identity::read_back(user, authority)?);
        layers.push(caps::bounding_layer(&main.capabilities, bounding));
        layers.extend(read_back(&main, bond)?);
        layers.extend([landlock, memory]);
        report.add_thread(main);
        Ok(Entered {
            resources,
            kept,
            no_new_processes: spec.no_new_processes,
            report,
        })
    }
}

/// What else must hold, in the kernel's words.
fn read_back(main: &ThreadEvidence, bond: Bond) -> Result<Vec<Layer>, StepError> {
    let mut layers = vec![
        caps::layer(&main.capabilities)?,
        hidden::read_back()?,
        // `read_back_thread` does not return without it.
        Layer::required("no-new-privs", "PR_GET_NO_NEW_PRIVS = 1"),
    ];
    layers.extend(bond.read_back()?);
    Ok(layers)
}

/// What is inside runs confined: no other function makes one of these.
#[derive(Debug)]
pub struct Confined<S> {
    /// What the program serves with.
    parts: S,
    /// What was achieved.
    report: Report,
}

impl<S> Confined<S> {
    /// What the program serves with.
    #[must_use]
    pub const fn get(&self) -> &S {
        &self.parts
    }

    /// What was achieved.
    #[must_use]
    pub const fn report(&self) -> &Report {
        &self.report
    }

    /// Adds what a worker thread read back under the filter.
    ///
    /// # Errors
    ///
    /// The kernel says that the thread has no filter.
    pub fn add_thread(&mut self, thread: ThreadEvidence) -> Result<(), StepError> {
        if thread.seccomp_mode != FILTERED {
            return Err(StepError::NotInForce {
                layer: "seccomp",
                found: thread.to_string(),
            });
        }
        self.report.add_thread(thread);
        Ok(())
    }

    /// Puts a filter of its own over the calling thread, which must be the one that sealed the process.
    ///
    /// # Errors
    ///
    /// Those of [`ThreadEvidence::narrow`].
    pub fn narrow(&mut self, filter: &Filter) -> Result<(), StepError> {
        let main = self.report.threads.first_mut();
        main.expect("`enter` put the main thread there").narrow(filter)
    }

    /// What the program serves with, and the report.
    #[must_use]
    pub fn into_parts(self) -> (S, Report) {
        (self.parts, self.report)
    }
}

impl<R: Descriptors> Entered<R> {
    /// Lets `start` create the worker threads, proves that exactly the listed descriptors are open, then loads the filter for
    /// all threads.
    ///
    /// The threads must not open or close anything until this has returned: a barrier does. They inherit every layer; each
    /// should call [`read_back_thread`] before it meets the others, and add its evidence to the report afterwards.
    ///
    /// The filter must allow `prctl(PR_GET_SECCOMP)` and what the memory allocator does; if not, the process dies here (SIGSYS).
    ///
    /// # Errors
    ///
    /// `start` failed; a descriptor is open and not listed, or the reverse; the filter is empty or was refused.
    pub fn seal<S: Descriptors, E: std::error::Error + 'static>(
        self,
        start: impl FnOnce(R, &Report) -> Result<S, E>,
        filter: impl FnOnce(&S) -> Filter,
    ) -> Result<Confined<S>, SealError<E>> {
        let Self {
            resources,
            kept,
            no_new_processes,
            mut report,
        } = self;
        let parts = start(resources, &report).map_err(SealError::Start)?;
        if no_new_processes {
            report.layers.push(limits::no_new_processes());
        }

        let listed = parts.descriptors();
        fds::verify(&listed, &kept).map_err(SealError::Descriptors)?;
        report.descriptors.extend(fds::standard_streams());
        report.descriptors.extend(listed);
        report.layers.push(Layer::required(
            "descriptors",
            format!("exactly {} are open, all listed", report.descriptors.len()),
        ));

        let filter = filter(&parts);
        report.filter_lines = filter.rows().len();
        filter.load().map_err(SealError::Filter)?;
        report.layers.push(read_back_filter(&filter).map_err(SealError::Step)?);
        if let Some(main) = report.threads.first_mut() {
            main.seccomp_mode = FILTERED;
        }
        Ok(Confined { parts, report })
    }
}

/// What PR_GET_SECCOMP says of a thread with a filter.
const FILTERED: u32 = 2;

/// Reads back that the calling thread has a filter. TSYNC gives it to all threads or to none.
fn read_back_filter(filter: &Filter) -> Result<Layer, StepError> {
    let mode = seccomp_mode().map_err(StepError::system("read the seccomp mode back"))?;
    if mode != FILTERED {
        return Err(StepError::NotInForce {
            layer: "seccomp",
            found: format!("PR_GET_SECCOMP says {mode}"),
        });
    }
    let lines = filter.rows().len();
    Ok(Layer::required(
        "seccomp",
        format!("PR_GET_SECCOMP = {mode}, {lines} lines, all threads, everything else kills the process"),
    ))
}

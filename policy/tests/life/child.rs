//! What a child does: one scenario, named by its arguments.

use crate::launcher::deny;
use nix::fcntl::{OFlag, open};
use nix::sys::stat::Mode;
use nix::unistd::{Pid, getppid};
use policy::forbidden::{Act, Outcome, Targets};
use policy::seccomp::helper::{HelperDescriptors, helper_filter};
use policy::{
    Confined, Descriptor, Descriptors, EnterSpec, ParentDeath, PrepareSpec, Prepared, Report, StepError,
    ThreadEvidence, User, prepare, read_back_thread, seccomp_mode, signals,
};
use std::error::Error;
use std::io::Read;
use std::os::fd::{AsRawFd, IntoRawFd, OwnedFd, RawFd};
use std::process::ExitCode;
use std::sync::mpsc::{Receiver, Sender, channel};
use std::thread;
use std::time::Duration;

use nix::sys::signal::{SigSet, Signal};

/// An act was refused with an errno.
pub(crate) const REFUSED: u8 = 77;
/// An act got as far as its arguments.
pub(crate) const REACHED: u8 = 78;
/// What SIGTERM ends with.
pub(crate) const TERMINATED: u8 = 42;

type Failure = Box<dyn Error>;

/// Runs the scenario and prints the chain of a failure.
pub(crate) fn run(arguments: &[String]) -> ExitCode {
    let arguments: Vec<&str> = arguments.iter().map(String::as_str).collect();
    match scenario(&arguments) {
        Ok(code) => code,
        Err(failure) => {
            let mut text = failure.to_string();
            let mut next = failure.source();
            while let Some(error) = next {
                text = format!("{text}: {error}");
                next = error.source();
            }
            eprintln!("{text}");
            ExitCode::FAILURE
        }
    }
}

fn scenario(arguments: &[&str]) -> Result<ExitCode, Failure> {
    match arguments {
        ["report"] => report(Twist::None),
        ["wait"] => wait(Twist::None),
        ["act", name] => act(name, &live(Twist::None)?),
        ["act-read-only", name] => act(name, &live(Twist::ReadOnly)?),
        ["unfiltered", name] => {
            // The other layers are in force when the work starts, the filter is not.
            let prepared = prepare(&prepare_spec())?;
            let parent = getppid();
            let entered = prepared.enter(Files::open(false)?, &enter_spec(Twist::None))?;
            let attempt = |files: Files, _: &Report| -> Result<Parts, StepError> {
                signals::exit_now(attempt(name, &files.targets(parent)))
            };
            let _never = entered.seal(attempt, |_| policy::seccomp::Filter::default())?;
            Ok(ExitCode::FAILURE)
        }
        ["unconfined", name] => signals::exit_now(attempt(name, &Files::open(false)?.targets(getppid()))),
        ["deny", errno, calls @ ..] => {
            deny(errno.parse()?, calls)?;
            report(Twist::None)
        }
        ["no-new-privs"] => {
            nix::sys::prctl::set_no_new_privs()?;
            report(Twist::None)
        }
        ["stray"] => report(Twist::StrayDescriptor),
        ["absent"] => report(Twist::AbsentDescriptor),
        ["no-filter"] => report(Twist::EmptyFilter),
        ["uid-0"] => report(Twist::Uid0),
        ["threads"] => {
            let _sleeper = thread::spawn(|| thread::sleep(Duration::from_secs(600)));
            report(Twist::None)
        }
        ["worker-breaks-out"] => wait(Twist::WorkerBreaksOut),
        ["signals"] => {
            signals::exit_on(Signal::SIGTERM, TERMINATED, "terminated\n")?;
            wait(Twist::None)
        }
        ["blocked-signals"] => {
            // As a careless launcher leaves them.
            SigSet::all().thread_set_mask()?;
            signals::ignore(Signal::SIGCHLD)?;
            signals::exit_on(Signal::SIGTERM, TERMINATED, "terminated\n")?;
            wait(Twist::None)
        }
        ["bound"] => bound(),
        ["nurse"] => {
            let mut child = std::process::Command::new("/proc/self/exe")
                .args(["child", "bound"])
                .spawn()?;
            child.wait()?;
            Ok(ExitCode::FAILURE)
        }
        ["prepared"] => prepared(),
        ["crew", rest @ ..] => crate::narrow::crew(rest),
        ["keep-closed"] => {
            let spec = PrepareSpec {
                keep: vec![200],
                ..prepare_spec()
            };
            let _prepared = prepare(&spec)?;
            Ok(ExitCode::SUCCESS)
        }
        other => Err(format!("no scenario {other:?}").into()),
    }
}

/// How a life differs from an ordinary one.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
enum Twist {
    /// Not at all.
    #[default]
    None,
    /// It has no overlay.
    ReadOnly,
    /// It leaves a descriptor open that nobody lists.
    StrayDescriptor,
    /// It lists a descriptor that is not open.
    AbsentDescriptor,
    /// Its filter is empty.
    EmptyFilter,
    /// A worker makes a call that the filter does not know.
    WorkerBreaksOut,
    /// It is told to run as uid 0.
    Uid0,
    /// It ends with its parent.
    Bound,
}

fn prepare_spec() -> PrepareSpec {
    PrepareSpec {
        keep: Vec::new(),
        max_descriptors: 256,
        die_with_parent: None,
    }
}

fn enter_spec(twist: Twist) -> EnterSpec {
    let id = if twist == Twist::Uid0 { 0 } else { 65533 };
    EnterSpec {
        user: User { uid: id, gid: id },
        file_size_limit: Some(1 << 20),
        no_new_processes: true,
    }
}

/// A base and an overlay.
struct Files {
    base: OwnedFd,
    overlay: Option<OwnedFd>,
}

impl Files {
    fn open(read_only: bool) -> Result<Self, Failure> {
        let close = OFlag::O_CLOEXEC;
        let base = open("/etc/passwd", OFlag::O_RDONLY | close, Mode::empty())?;
        let nameless = OFlag::O_TMPFILE | OFlag::O_EXCL | OFlag::O_RDWR | close;
        let overlay = if read_only {
            None
        } else {
            Some(open("/tmp", nameless, Mode::empty())?)
        };
        Ok(Self { base, overlay })
    }

    fn overlay(&self) -> Option<RawFd> {
        self.overlay.as_ref().map(AsRawFd::as_raw_fd)
    }

    /// The filter has no getppid, so whoever asks has asked for the parent before.
    fn targets(&self, parent: Pid) -> Targets {
        Targets {
            base: Some(self.base.as_raw_fd()),
            overlay: self.overlay(),
            ..Targets::new(parent)
        }
    }
}

impl Descriptors for Files {
    fn descriptors(&self) -> Vec<Descriptor> {
        let base = Descriptor {
            number: self.base.as_raw_fd(),
            what: "base, read-only".to_owned(),
        };
        let overlay = self.overlay().map(|number| Descriptor {
            number,
            what: "overlay, nameless, read-write".to_owned(),
        });
        std::iter::once(base).chain(overlay).collect()
    }
}

/// What a confined child has.
struct Parts {
    files: Files,
    parent: Pid,
    extra: Vec<Descriptor>,
    threads: Vec<ThreadEvidence>,
    sealed: Vec<Sender<()>>,
    modes: Receiver<u32>,
}

impl Descriptors for Parts {
    fn descriptors(&self) -> Vec<Descriptor> {
        let mut list = self.files.descriptors();
        list.extend(self.extra.clone());
        list
    }
}

/// Goes through the whole life.
fn live(twist: Twist) -> Result<Confined<Parts>, Failure> {
    let prepared = prepare(&PrepareSpec {
        die_with_parent: (twist == Twist::Bound).then_some(ParentDeath {
            signal: Signal::SIGUSR1,
        }),
        ..prepare_spec()
    })?;
    let parent = getppid();
    let files = Files::open(twist == Twist::ReadOnly)?;
    let stray = (twist == Twist::StrayDescriptor)
        .then(|| open("/dev/null", OFlag::O_RDONLY, Mode::empty()))
        .transpose()?;
    let entered = prepared.enter(files, &enter_spec(twist))?;
    let confined = entered.seal(
        |files, report| start(files, report, parent, twist),
        |parts| {
            if twist == Twist::EmptyFilter {
                return policy::seccomp::Filter::new(Vec::new());
            }
            helper_filter(&HelperDescriptors {
                base: parts.files.base.as_raw_fd(),
                overlay: parts.files.overlay().map(|number| [number; 2]),
                encrypted: true,
                output: None,
                listener: None,
                control: None,
                control_listener: None,
            })
        },
    )?;
    // The filter has no close for descriptors that nobody listed; a stray one never gets here.
    drop(stray);
    Ok(confined)
}

/// Two workers: each reads back what holds for it, waits for the seal and reads its mode back.
fn start(files: Files, _: &Report, parent: Pid, twist: Twist) -> Result<Parts, StepError> {
    let (evidence_sender, evidence) = channel();
    let (mode_sender, modes) = channel();
    let mut sealed = Vec::new();
    for number in 0..2 {
        let (seal_sender, seal) = channel();
        let (evidence, mode) = (evidence_sender.clone(), mode_sender.clone());
        let breaks_out = twist == Twist::WorkerBreaksOut;
        let work = move || {
            evidence
                .send(read_back_thread(&format!("worker-{number}")))
                .expect("the main thread waits for it");
            let _seal = seal.recv();
            if breaks_out {
                let _pid = getppid();
            }
            let _sent = mode.send(seccomp_mode().unwrap_or(u32::MAX));
            thread::sleep(Duration::from_secs(600));
        };
        thread::spawn(work);
        sealed.push(seal_sender);
    }
    let threads = [evidence.recv(), evidence.recv()]
        .into_iter()
        .map(|evidence| evidence.expect("both workers send it"))
        .collect::<Result<_, _>>()?;
    let extra = (twist == Twist::AbsentDescriptor).then(|| Descriptor {
        number: 99,
        what: "nothing".to_owned(),
    });
    Ok(Parts {
        files,
        parent,
        extra: extra.into_iter().collect(),
        threads,
        sealed,
        modes,
    })
}

/// Lets the workers go on, and prints what holds for everybody. Returns what must stay open: the filter allows the disk's
/// descriptors no close.
fn print_report(confined: Confined<Parts>) -> Parts {
    let (parts, mut report) = confined.into_parts();
    for sealed in &parts.sealed {
        let _sent = sealed.send(());
    }
    for mut thread in parts.threads.clone() {
        thread.seccomp_mode = parts.modes.recv().expect("every worker sends its mode");
        report.add_thread(thread);
    }
    println!(
        "{}",
        serde_json::to_string(&report).expect("a report can be serialised")
    );
    parts
}

/// Prints the report and ends.
fn report(twist: Twist) -> Result<ExitCode, Failure> {
    let _parts = print_report(live(twist)?);
    signals::exit_now(0)
}

/// Prints the report and waits for what the test does to it.
fn wait(twist: Twist) -> Result<ExitCode, Failure> {
    let _parts = print_report(live(twist)?);
    thread::sleep(Duration::from_secs(600));
    signals::exit_now(1)
}

/// Attempts an act in a confined process.
fn act(name: &str, confined: &Confined<Parts>) -> ! {
    let parts = confined.get();
    signals::exit_now(attempt(name, &parts.files.targets(parts.parent)))
}

/// Attempts an act and says how it went.
fn attempt(name: &str, targets: &Targets) -> u8 {
    attempt_of(policy::forbidden::all(), name, targets)
}

/// The same for one of `acts`.
pub(crate) fn attempt_of(acts: &[Act], name: &str, targets: &Targets) -> u8 {
    let act = acts
        .iter()
        .chain([&policy::forbidden::CONTROL])
        .find(|act| act.name == name)
        .expect("the test names acts of the table");
    match act.attempt(targets) {
        Outcome::Possible => 0,
        Outcome::Reached(_) => REACHED,
        Outcome::Refused(_) | Outcome::NoTarget => REFUSED,
    }
}

/// Lives bound to the parent.
fn bound() -> Result<ExitCode, Failure> {
    signals::exit_on(Signal::SIGUSR1, 8, "the parent is gone\n")?;
    wait(Twist::Bound)
}

/// Prepares, and looks at what is left.
fn prepared() -> Result<ExitCode, Failure> {
    let kept = open("/dev/null", OFlag::O_RDONLY, Mode::empty())?.into_raw_fd();
    let closed = open("/dev/null", OFlag::O_RDONLY, Mode::empty())?.into_raw_fd();
    let spec = PrepareSpec {
        keep: vec![kept],
        ..prepare_spec()
    };
    let _prepared: Prepared = prepare(&spec)?;
    let is_open = |number: RawFd| std::path::Path::new(&format!("/proc/self/fd/{number}")).exists();
    let mut input = Vec::new();
    std::io::stdin().read_to_end(&mut input)?;
    let facts = [
        ("kept descriptor is open", is_open(kept)),
        ("other descriptor is closed", !is_open(closed)),
        ("environment is empty", std::env::vars_os().next().is_none()),
        ("standard input is empty", input.is_empty()),
        ("umask is 077", nix::sys::stat::umask(Mode::empty()).bits() == 0o077),
    ];
    for (fact, holds) in facts {
        if !holds {
            return Err(format!("not so: {fact}").into());
        }
    }
    Ok(ExitCode::SUCCESS)
}

//! `mayfly`: starts the processes, owns the terminal, and takes the decision at the end.
//!
//! Reading order. What is wanted: `args` and `config` (in `words`) → `settings`, and what the host has (`host`) →
//! `plan` (with `qemu` as the other VMM). How it is done: `kit` and `tap` open, `spawn` starts, `crew` connects,
//! `run` is the life, `events` what it waits for, `keeper`, `fate` and `decision` what becomes of a disk. A process: `run_user`
//! for whom it becomes, `child`, with `relay` for what it logs, `reports` for what it says at READY, `control` for what a helper
//! is asked, and `socket_identity` for where it listens. The operator: `terminal`, `console`, `keys`, `status`.
//! How it ends: `end`. Before a run, or without one: `import`.
//!
//! It is the operator's, runs with the operator's rights and is not confined. So it touches as little as it can of what a guest
//! controls: console bytes, which it passes on unread, and log lines and reports of processes that a guest may have taken over.

mod args;
mod check;
mod child;
mod config;
mod console;
mod control;
mod crew;
mod decision;
mod end;
mod events;
mod fate;
mod host;
mod import;
mod keeper;
mod keys;
mod kit;
mod plan;
mod qemu;
mod relay;
mod reports;
mod run;
mod run_user;
mod settings;
mod socket_identity;
mod spawn;
mod status;
mod tap;
mod terminal;
pub(crate) mod words;

use self::args::{Cli, Command, DiskSource};
use self::config::ConfigError;
use self::end::Code;
use self::fate::OnExit;
use self::host::{Host, HostError};
use self::import::ImportError;
use self::kit::{Kit, KitError, open_image};
use self::plan::{Facts, Plan, Programs};
use self::reports::Reports;
use self::run::{Outcome, Run, RunError};
use self::settings::{Settings, SettingsError};
use crate::contract::Mac;
use crate::signals::{self, Signals};
use crate::{ctl, sys};
use log::{error, info, warn};
use nix::errno::Errno;
use nix::sys::resource::{Resource, setrlimit};
use policy::StepError;
use policy::logging::{self, chain};
use protocol::size::show;
use std::fs::File;
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use thiserror::Error;

/// Why there is no guest.
#[derive(Debug, Error)]
enum StartError {
    #[error(transparent)]
    Config(#[from] ConfigError),
    #[error(transparent)]
    Settings(#[from] SettingsError),
    #[error(transparent)]
    Host(#[from] HostError),
    #[error(transparent)]
    Kit(#[from] KitError),
    #[error(transparent)]
    Import(#[from] ImportError),
    #[error(transparent)]
    Run(#[from] RunError),
    #[error("cannot write the report to {}", path.display())]
    Report {
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    #[error("{0}")]
    Decision(String),
    #[error("cannot hide from other processes of this user")]
    Hide(#[source] StepError),
    #[error("cannot take over the signals")]
    Signals(#[source] Errno),
    #[error("cannot {doing}")]
    System {
        doing: &'static str,
        #[source]
        source: io::Error,
    },
}

impl StartError {
    /// What `exit` gets.
    fn code(&self) -> u8 {
        match self {
            Self::Config(_) | Self::Settings(_) | Self::Decision(_) => Code::Usage.number(),
            Self::Host(_)
            | Self::Kit(_)
            | Self::Report { .. }
            | Self::Hide(_)
            | Self::Signals(_)
            | Self::System { .. } => Code::CannotStart.number(),
            Self::Import(error) => error.number(),
            Self::Run(error) => error.code().number(),
        }
    }
}

/// `mayfly`, from its command line to its exit code.
#[must_use]
pub fn main() -> u8 {
    let cli = match Cli::read(std::env::args_os()) {
        Ok(cli) => cli,
        Err(refusal) => return refusal.tell().number(),
    };
    let verbose = match &cli.command {
        Some(Command::Run(run)) => run.options.verbose,
        Some(Command::Import(import)) => import.verbose,
        Some(Command::Ctl(_)) | None => false,
    };
    logging::start("mayfly", &["vmm", "policy"], verbose);
    std::panic::set_hook(Box::new(|panic| {
        terminal::restore();
        error!("a bug: {panic}; the guest is killed, and its disks are burnt");
        // Processes that are left end with this one.
        policy::signals::exit_now(Code::Panicked.number());
    }));
    // It will hold the disks' control channels, and what it starts is a copy of it until it is another program.
    let outcome = policy::hide()
        .map_err(StartError::Hide)
        .and_then(|()| signals::settle().map_err(StartError::Signals))
        .and_then(|()| match cli.command {
            Some(Command::Run(run)) => start(*run),
            Some(Command::Import(import)) => {
                let done = import::run(&import, &programs()?.import)?;
                Ok(done.number())
            }
            Some(Command::Ctl(ctl)) => Ok(ctl::main(*ctl)),
            None => programs().map(|programs| check::run(&programs).number()),
        });
    outcome.unwrap_or_else(|error| {
        error!("{}", chain(&error));
        error.code()
    })
}

/// Puts together what is wanted and what is there, and runs it.
fn start(run: args::Run) -> Result<u8, StartError> {
    let file = run.config.as_deref().map(config::read).transpose()?.unwrap_or_default();
    let mut settings = Settings::new(run.options.or(file), run_user::of_this_run)?;
    sys::pass_nothing_on().map_err(|errno| failed("keep what was inherited from other processes")(errno.into()))?;
    // Helpers and mayfly-vmm see to that themselves; QEMU's core file would hold the guest's memory.
    setrlimit(Resource::RLIMIT_CORE, 0, 0).map_err(|errno| failed("rule out core files")(errno.into()))?;
    // Before anything else is opened: a tap may have been inherited.
    let taps = if run.dry_run {
        Vec::new()
    } else {
        Kit::open_taps(&settings)?
    };
    let programs = programs()?;
    import::cache::settle(&mut settings, &programs.import, run.dry_run)?;
    let host = Host::look();
    let (engine, notice) = host.choose(settings.accel)?;
    let warnings = host.carries(&settings)?;
    let facts = Facts {
        engine,
        programs,
        partitioned: is_first_disk_partitioned(&settings)?,
        root: nix::unistd::geteuid().is_root(),
        macs: macs(&settings)?,
    };
    let plan = Plan::new(&settings, &facts);
    for line in notice.iter().chain(&warnings) {
        warn!("{line}");
    }
    check_wishes(&settings, &plan, run.report.as_deref(), run.dry_run)?;
    if run.dry_run {
        let printed = write!(io::stdout(), "{plan}");
        return printed.map(|()| Code::Done.number()).map_err(failed("print the plan"));
    }
    let kit = Kit::open(&settings, engine, facts.root, taps)?;
    // Before signals are only heard by who waits for them: it may be a FIFO, which waits for a reader.
    let reports = run.report.as_deref().map(reports).transpose()?;
    let signals = Signals::take().map_err(StartError::Signals)?;
    info!("{}", introduction(&settings, &plan));
    let outcome = Run::new(&plan, kit, signals, reports, &settings).go()?;
    Ok(tell(&outcome))
}

/// Says how a run ended; what `exit` gets.
fn tell(Outcome { end, is_kept }: &Outcome) -> u8 {
    if !end.is_wanted() {
        error!("{end}; the disks are burnt");
        return end.code();
    }
    info!("{end}; the disks are burnt");
    if *is_kept { end.code() } else { Code::NotKept.number() }
}

/// Refuses at the start what could not be done later.
fn check_wishes(settings: &Settings, plan: &Plan, report: Option<&Path>, dry_run: bool) -> Result<(), StartError> {
    let refused = |why: &str| Err(StartError::Decision(why.into()));
    if settings.on_exit == OnExit::Ask && !dry_run && !terminal::is_there() {
        return refused("--on-exit ask needs a terminal: say burn, commit or save=OUT");
    }
    if settings.reset_on_reboot && plan.engine == host::Engine::Qemu {
        return refused("with QEMU a reboot stays inside it, so --reset-on-reboot needs KVM");
    }
    decision::check(plan, &settings.on_exit, report).map_err(StartError::Decision)
}

fn reports(path: &Path) -> Result<Reports, StartError> {
    Reports::create(path).map_err(|source| {
        let path = path.to_owned();
        StartError::Report { path, source }
    })
}

/// One line of what is about to start.
fn introduction(settings: &Settings, plan: &Plan) -> String {
    let engine = match plan.engine {
        host::Engine::Kvm => "kvm".to_owned(),
        host::Engine::Qemu => format!("qemu (emulation; weaker confinement: {})", qemu::CONFINEMENT),
    };
    let disks: Vec<_> = plan.disks.iter().map(|disk| disk.name.as_str()).collect();
    let disks = if disks.is_empty() {
        "none".to_owned()
    } else {
        disks.join(", ")
    };
    format!(
        "starting a guest with {engine}: {} processor{}, {} of memory, disks: {disks}",
        settings.cpus,
        if settings.cpus == 1 { "" } else { "s" },
        show(settings.memory_bytes)
    )
}

/// The programs beside this one; each can be named by a variable instead, which the tests do.
fn programs() -> Result<Programs, StartError> {
    let this = std::env::current_exe().map_err(failed("find this program's own file"))?;
    let named = |variable: &str| std::env::var_os(variable).map(PathBuf::from);
    let beside = |name: &str| this.with_file_name(name);
    Ok(Programs {
        helper: named("MAYFLY_BLK_HELPER").unwrap_or_else(|| beside("blk-helper")),
        vmm: named("MAYFLY_VMM").unwrap_or_else(|| beside("mayfly-vmm")),
        import: named("MAYFLY_IMPORT").unwrap_or_else(|| beside("mayfly-import")),
        qemu: named("MAYFLY_QEMU").unwrap_or_else(|| "qemu-system-x86_64".into()),
    })
}

/// Whether the guest's first disk has a partition table. One that others serve is not looked at.
fn is_first_disk_partitioned(settings: &Settings) -> Result<bool, StartError> {
    match settings.disks.first() {
        Some(DiskSource::Image(disk)) if settings.cmdline.is_none() => {
            if disk.imported_from.is_some() && !disk.image.exists() {
                // A dry run, which imports nothing.
                return Ok(false);
            }
            let image = open_image(&disk.image)?;
            // What cannot be read is for the helper to refuse.
            Ok(host::is_partitioned(&image).unwrap_or(false))
        }
        Some(DiskSource::Image(_) | DiskSource::Socket(_)) | None => Ok(false),
    }
}

/// An address for each network card: the one that is asked for, or a random one of those that nobody hands out.
fn macs(settings: &Settings) -> Result<Vec<Mac>, StartError> {
    let mut random = File::open("/dev/urandom").map_err(failed("open /dev/urandom"))?;
    let mut choose = || {
        let mut address = [0; 6];
        random.read_exact(&mut address)?;
        // Locally administered, and a single card's.
        address[0] = address[0] & 0xfc | 2;
        Ok(Mac(address))
    };
    let macs = settings.nets.iter().map(|net| net.mac.map_or_else(&mut choose, Ok));
    macs.collect::<io::Result<_>>().map_err(failed("make up an address"))
}

fn failed(doing: &'static str) -> impl Fn(io::Error) -> StartError {
    move |source| StartError::System { doing, source }
}

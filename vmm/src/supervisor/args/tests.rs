//! What is read from the command line, and what help says.

use super::*;

fn run(line: &str) -> Result<Run, String> {
    let words = ["mayfly", "run"].into_iter().chain(line.split_whitespace());
    match Cli::read(words.map(Into::into))
        .map_err(|refusal| refusal.0.to_string())?
        .command
    {
        Some(Command::Run(run)) => Ok(*run),
        Some(Command::Import(_) | Command::Ctl(_)) | None => panic!("{line}"),
    }
}

fn names(options: &Options) -> Vec<String> {
    options
        .disks
        .iter()
        .map(|disk| match disk {
            DiskSource::Image(disk) => disk.image.display().to_string(),
            DiskSource::Socket(path) => format!("socket {}", path.display()),
        })
        .collect()
}

#[test]
fn the_command_line_is_consistent() {
    Cli::command().debug_assert();
}

#[test]
fn disks_and_sockets_keep_their_order() {
    let run = run("--disk a --disk-socket b --disk c,ro --disk-socket d").unwrap();

    assert_eq!(names(&run.options), ["a", "socket b", "c", "socket d"]);
}

#[test]
fn the_command_line_wins_over_the_file() {
    let file = run("--disk file --kernel file --cpus 2 --net tap=file --verbose")
        .unwrap()
        .options;
    let own = run("--disk own --cpus 4").unwrap().options;

    let both = own.or(file.clone());

    assert_eq!(names(&both), ["own"], "a list is taken whole");
    assert_eq!(
        (both.cpus, both.kernel.clone(), both.verbose),
        (Some(4), file.kernel, true)
    );
    assert_eq!(both.net, file.net);
}

#[test]
fn what_makes_no_sense_is_refused_with_what_would() {
    for (line, expected) in [
        ("--disk a,rw", "\"rw\" is not an option of a disk"),
        ("--cpus 0", "0"),
        ("--cpus 256", "256"),
        ("--memory lots", "512M"),
        ("--accel xen", "[possible values: auto, kvm, qemu]"),
        ("--user 0", "root"),
        ("--on-exit keep", "burn, commit or save=PATH, nor ask"),
        ("--net tap=a,mac=1", "six pairs"),
        ("--drive a", "--drive"),
        ("extra", "extra"),
    ] {
        let error = run(line).expect_err(line);
        assert!(error.contains(expected), "{line}: {error}");
    }
}

#[test]
fn the_manual_page_has_every_option_key_and_exit_code() {
    let page = include_str!("../../../../docs/mayfly.1.md");
    let command = Cli::command();
    let subcommands = command.get_subcommands();

    for option in subcommands
        .flat_map(clap::Command::get_arguments)
        .filter_map(clap::Arg::get_long)
    {
        assert!(page.contains(&format!("`--{option}")), "--{option}");
    }
    for code in Code::ALL {
        let line = format!("| {} | {} |", code.number(), code.meaning());
        assert!(page.contains(&line), "put this into docs/mayfly.1.md: {line}");
    }
    let keys = crate::supervisor::keys::HELP;
    assert!(page.contains(keys), "put this into docs/mayfly.1.md:\n{keys}");
}

#[test]
fn the_manual_page_has_every_order_and_exit_code_of_ctl() {
    let page = include_str!("../../../../docs/mayfly.1.md");
    let command = Cli::command();
    let ctl = command.find_subcommand("ctl").unwrap();

    for order in ctl.get_subcommands() {
        assert!(
            page.contains(&format!("| `{}", order.get_name())),
            "{}",
            order.get_name()
        );
        for option in order.get_arguments().filter_map(clap::Arg::get_long) {
            assert!(page.contains(&format!("--{option}")), "--{option}");
        }
    }
    for code in crate::ctl::code::Code::ALL {
        let line = format!("| {} | {} |", code.number(), code.meaning());
        assert!(page.contains(&line), "put this into docs/mayfly.1.md: {line}");
    }
}

#[test]
fn help_names_the_burn_every_option_and_every_exit_code() {
    let error = Cli::read(["mayfly", "run", "--help"].map(Into::into)).unwrap_err();
    let help = error.0.to_string();

    for code in Code::ALL {
        assert!(help.contains(code.meaning()), "{code:?}\n{help}");
    }
    for option in [
        "--disk-socket",
        "--overlay-limit",
        "--dry-run",
        "--config",
        "--accel",
        "--append",
        "128+N",
        "C-a x",
    ] {
        assert!(help.contains(option), "{option}\n{help}");
    }
    let import = Cli::read(["mayfly", "import", "--help"].map(Into::into)).unwrap_err();
    let import = import.0.to_string();
    for code in ImportCode::ALL {
        assert!(import.contains(code.meaning()), "{code:?}\n{import}");
    }
    let top = Cli::read(["mayfly", "--help"].map(Into::into))
        .unwrap_err()
        .0
        .to_string();
    assert!(
        top.contains("EVERYTHING THE GUEST WRITES IS LOST") && top.contains("--check-confinement"),
        "{top}"
    );
}

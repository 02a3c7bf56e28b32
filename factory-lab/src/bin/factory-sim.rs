//! `factory-sim`: many worlds, each with an operator, clients and a random schedule of faults.

use std::process::ExitCode;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Instant;

use factory_lab::fault::{Kind, Rates};
use factory_lab::sim::many::many;
use factory_lab::sim::shrink::shrink;
use factory_lab::sim::{Options, Outcome, play};
use factory_lab::years::Settings;

#[cfg(modelled_signatures)]
#[global_allocator]
static ALLOCATOR: mimalloc::MiMalloc = mimalloc::MiMalloc;

const USAGE: &str = "\
factory-sim: the real engine of every member in one process, with random faults and a judge.

  --runs N           runs (default 100)
  --seed S           seed of the first run (default 1); run i has seed S + i
  --jobs N           threads (default 1); what comes out doesn't depend on it
  --clients N        clients of each run (default 4)
  --mode MODE        real: every signature and script check is real; fast: they are modelled, which
                     takes a build with RUSTFLAGS='--cfg modelled_signatures' (the mode is the build's)
  --fault NAME=RATE  how often a fault happens, from 0 to 1
  --no-fault NAME    never
  --no-faults        none at all; --fault after it switches single ones on
  --only 3,17,..     faults at these points only, as a violation prints them (none: `--only -`)
  --trace            print what happens, line by line
  --coverage         print every transition and commit that was reached
  --list-faults      names, usual rates, meanings
  --years N          no random runs, but N years of a ladder of factories, and what they cost: 1,000 clients unless
                     --clients says another number; with --trace each factory and each eviction is told
  --lies             with --years: the operator, and one client out of eight, lie about keys, go away, publish what
                     isn't theirs any more
  --planted [NAME]   plant bugs and look for them: where planted/run has built this
";

#[cfg(not(modelled_signatures))]
const MODE: &str = "real";
#[cfg(not(modelled_signatures))]
const OTHER_MODE: &str = "for fast build it with RUSTFLAGS='--cfg modelled_signatures'";
#[cfg(modelled_signatures)]
const MODE: &str = "fast";
#[cfg(modelled_signatures)]
const OTHER_MODE: &str = "for real build it without --cfg modelled_signatures";

/// Runs between two lines on stderr.
const PROGRESS: u64 = 50_000;

struct Arguments {
    runs: u64,
    jobs: usize,
    options: Options,
    coverage: bool,
    years: Option<u32>,
    lies: bool,
    planted: Option<Option<String>>,
}

fn arguments() -> Result<Arguments, String> {
    let rates = Rates::default();
    let options = Options { seed: 1, clients: 0, rates, only: None, lines: false };
    let mut parsed =
        Arguments { runs: 100, jobs: 1, options, coverage: false, years: None, lies: false, planted: None };
    let mut args = std::env::args().skip(1).peekable();
    while let Some(arg) = args.next() {
        match arg.as_str() {
            "--trace" => parsed.options.lines = true,
            "--coverage" => parsed.coverage = true,
            "--lies" => parsed.lies = true,
            "--no-faults" => parsed.options.rates = Rates::none(),
            "--planted" => {
                let name = args.next_if(|next| !next.starts_with("--"));
                parsed.planted = Some(name);
            }
            "--list-faults" => return Err(faults()),
            "--help" | "-h" => return Err(USAGE.into()),
            _ => {
                let value = args.next().ok_or_else(|| format!("{arg} needs a value\n{USAGE}"))?;
                set(&mut parsed, &arg, &value)?;
            }
        }
    }
    if parsed.lies && parsed.years.is_none() {
        return Err("--lies: it goes with --years; random runs have their own (--list-faults)\n".into());
    }
    if parsed.options.clients == 0 {
        parsed.options.clients = if parsed.years.is_some() { 1_000 } else { 4 };
    }
    Ok(parsed)
}

fn set(parsed: &mut Arguments, arg: &str, value: &str) -> Result<(), String> {
    let number = || value.parse::<u64>().map_err(|_| format!("{arg}: {value:?} is no number"));
    let kind =
        |name: &str| Kind::named(name).ok_or_else(|| format!("{arg}: no fault {name:?}\n{}", faults()));
    match arg {
        "--runs" => parsed.runs = number()?,
        "--years" => {
            parsed.years = Some(u32::try_from(number()?).map_err(|error| error.to_string())?);
        }
        "--seed" => parsed.options.seed = number()?,
        "--jobs" => {
            parsed.jobs = usize::try_from(number()?).map_err(|error| error.to_string())?;
            if !(1..=64).contains(&parsed.jobs) {
                return Err("--jobs: from 1 to 64\n".into());
            }
        }
        "--clients" => {
            parsed.options.clients = usize::try_from(number()?).map_err(|error| error.to_string())?;
            if !(1..=2_000).contains(&parsed.options.clients) {
                return Err("--clients: from 1 to 2000\n".into());
            }
        }
        "--mode" if value == MODE => {}
        "--mode" => return Err(format!("--mode {value}: this build is {MODE}: {OTHER_MODE}\n")),
        "--no-fault" => parsed.options.rates.set(kind(value)?, 0),
        "--fault" => {
            let (name, rate) = value.split_once('=').ok_or("--fault: NAME=RATE")?;
            let rate: f64 = rate.parse().map_err(|_| format!("--fault: {rate:?} is no rate"))?;
            if !(0.0..=1.0).contains(&rate) {
                return Err("--fault: rates go from 0 to 1".into());
            }
            #[expect(clippy::cast_possible_truncation, clippy::cast_sign_loss, reason = "from 0 to 10^6")]
            parsed.options.rates.set(kind(name)?, (rate * 1e6).round() as u32);
        }
        "--only" => {
            let points = value.split(',').filter(|point| *point != "-");
            let points = points.map(|point| point.parse().map_err(|_| format!("--only: {point:?}")));
            parsed.options.only = Some(points.collect::<Result<_, String>>()?);
        }
        other => return Err(format!("unknown option {other}\n{USAGE}")),
    }
    Ok(())
}

fn faults() -> String {
    let line = |kind: &Kind| format!("  {:15} {:>9.6}  {}\n", kind.name(), rate(kind.usual()), kind.what());
    Kind::ALL.iter().map(line).collect()
}

fn rate(ppm: u32) -> f64 {
    f64::from(ppm) / 1e6
}

#[expect(clippy::disallowed_methods, reason = "the time it took is for people; nothing depends on it")]
fn now() -> Instant {
    Instant::now()
}

fn main() -> ExitCode {
    let arguments = match arguments() {
        Ok(arguments) => arguments,
        Err(text) => {
            eprint!("{text}");
            return ExitCode::from(2);
        }
    };
    // What panics in a run is reported with its seed.
    std::panic::set_hook(Box::new(|_| {}));
    if arguments.planted.is_some() {
        return planted(&arguments);
    }
    if let Some(years) = arguments.years {
        return play_years(&arguments, years);
    }
    let began = now();
    let (alone, done) = (arguments.runs == 1, AtomicU64::new(0));
    let seen = |outcome: &Outcome| {
        outcome.lines.iter().for_each(|line| println!("{line}"));
        let done = done.fetch_add(1, Ordering::Relaxed).saturating_add(1);
        if done.is_multiple_of(PROGRESS) {
            eprintln!("{done} runs, {:.0} s", began.elapsed().as_secs_f64());
        }
    };
    let (sum, found) = many(&arguments.options, arguments.runs, arguments.jobs, || {}, seen);
    let seconds = began.elapsed().as_secs_f64();
    #[expect(clippy::cast_precision_loss, reason = "for people")]
    let speed = sum.runs as f64 / seconds.max(0.001);
    println!("runs              {} ({MODE} mode, {speed:.1} a second, {} jobs)", sum.runs, arguments.jobs);
    println!("{sum}");
    if arguments.coverage {
        print!("{}", sum.coverage.list());
    }
    if let Some(found) = found {
        report(&found.options, &found.outcome);
        return ExitCode::FAILURE;
    }
    if alone {
        let hash: String = play(&arguments.options).trace.iter().map(|byte| format!("{byte:02x}")).collect();
        println!("trace             {hash}");
    }
    println!("violations        0");
    println!(
        "replay any run    factory-sim --runs 1 --clients {} --seed SEED --trace",
        arguments.options.clients
    );
    ExitCode::SUCCESS
}

/// Years of a ladder.
fn play_years(arguments: &Arguments, years: u32) -> ExitCode {
    let options = &arguments.options;
    let lies = arguments.lies;
    let settings = Settings { lies, ..Settings::new(options.seed, options.clients, years) };
    let began = now();
    let mut say = |line: String| {
        if options.lines {
            println!("{line}");
        }
    };
    match factory_lab::years::play(&settings, &mut say) {
        Ok(economy) => {
            println!("{economy}");
            println!("violations        0 ({MODE} mode, {:.0} s)", began.elapsed().as_secs_f64());
            ExitCode::SUCCESS
        }
        Err(error) => {
            println!("VIOLATION with seed {}: {error}", options.seed);
            ExitCode::FAILURE
        }
    }
}

/// A violation, as short as it gets.
fn report(options: &Options, outcome: &Outcome) {
    println!("\nVIOLATION with seed {}: {}", options.seed, outcome.violation.as_deref().unwrap_or_default());
    println!("shrinking {} faults ...", outcome.fired.len());
    let (short, shown) = shrink(options, outcome);
    println!("{}", shown.violation.as_deref().unwrap_or_default());
    println!("with {} faults:", shown.fired.len());
    for fired in &shown.fired {
        println!("  {:6}  {:15} {}", fired.point, fired.kind.name(), fired.text);
    }
    let points = short.only.unwrap_or_default();
    let points: Vec<String> = points.iter().map(u64::to_string).collect();
    let points = if points.is_empty() { "-".to_owned() } else { points.join(",") };
    let none = Kind::ALL.iter().all(|kind| options.rates.get(*kind) == 0);
    let mut rates = String::from(if none { " --no-faults" } else { "" });
    for kind in Kind::ALL {
        if !none && options.rates.get(*kind) != kind.usual() {
            rates += &format!(" --fault {}={}", kind.name(), rate(options.rates.get(*kind)));
        }
    }
    println!(
        "replay: factory-sim --runs 1 --clients {} --seed {}{rates} --only {points} --trace",
        options.clients, options.seed
    );
}

#[cfg(not(planted_bugs))]
fn planted(_arguments: &Arguments) -> ExitCode {
    eprintln!("factory-sim: there are no bugs in this build to find: planted/run makes one that has some");
    ExitCode::from(2)
}

/// Each bug until it is found.
#[cfg(planted_bugs)]
fn planted(arguments: &Arguments) -> ExitCode {
    use factory_engine::planted::{Bug, plant};
    use factory_lab::sim::many::Found;
    /// Most runs in which a bug has to be found.
    const LIMIT: u64 = 10_000;
    let limit = LIMIT.min(if arguments.runs == 100 { LIMIT } else { arguments.runs });
    let wanted = arguments.planted.clone().flatten();
    let mut missed = 0;
    println!("{:24} {:>6}  {:8} what was seen", "bug", "runs", "property");
    // One that tests find may be looked for by its name all the same.
    let all = if wanted.is_some() { Bug::ALL } else { Bug::SIMULATED };
    for bug in all.iter().filter(|bug| wanted.as_deref().is_none_or(|name| name == bug.name())) {
        plant(Some(*bug));
        let (_, found) = many(&arguments.options, limit, arguments.jobs, || plant(Some(*bug)), |_| ());
        match found {
            Some(Found { runs, options, outcome }) => {
                let property = outcome.property().unwrap_or_default();
                let text: String = outcome.violation.clone().unwrap_or_default().chars().take(100).collect();
                println!("{:24} {runs:>6}  {property:8} {text}", bug.name());
                if wanted.is_some() {
                    report(&options, &outcome);
                }
            }
            None => {
                missed += 1;
                println!("{:24} {limit:>6}  NOT FOUND: {}", bug.name(), bug.what());
            }
        }
    }
    plant(None);
    if missed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}

//! A factory from invitation to exit on one machine, with nothing installed: one operator, N clients,
//! a simulated network and an embedded regtest chain whose scripts are judged by real consensus code.

use std::cell::RefCell;
use std::collections::BTreeMap;
use std::path::Path;
use std::process::{Command as Process, ExitCode};
use std::rc::Rc;
use std::time::Instant;

use factory_engine::State;
use factory_engine::report::drawing;
use factory_engine::tx::plan::Profile;
use factory_engine::types::{Amount, InstanceId, OutPoint};
use factory_lab::LabError;
use factory_lab::offer::Offer;
use factory_lab::scenario::Scenario;
use factory_lab::world::{Account, Exit, Fate, LSP, World};
use factory_lab::years::Settings;

const USAGE: &str =
    "usage: factory-lab [--clients N] [--profile static|stateful|flat] [--seed S] [--exit CLIENT] [--real]
                    [--raw [--coin TXID:OUTNUM]] [--years N]

  --clients N     clients of the factory (default 8)
  --profile P     static, stateful or flat (default static)
  --seed S        decides everything; the same seed gives the same run (default 1)
  --exit CLIENT   who leaves after the operator has vanished, from 1 (default: the last)
  --real          with real lightningd and bitcoind, by the pytest harness: four clients, one leaves
  --years N       N years of a ladder instead: factories that follow each other, clients that come and go, and
                  what a year costs (24 clients unless --clients says another number; a minute)
  --raw           no show: as JSON, the script and the amount (sat) of the coin that the operator needs;
                  with --coin, real transactions on a coin of a real chain, for tests";

/// Capacity of every channel and stock of every sub-factory, sat.
const CAPACITY: u64 = 100_000;
const STOCK: u64 = 20_000;
/// What `--real` shows: a factory of four clients, payments, and an exit after the operator has gone for good.
const REAL: &str = "pytest/test_exit.py::test_exit_without_the_operator_to_the_satoshi";
/// Above these many clients a recovery after every step, or a whole drawing, is too much.
const MANY: usize = 32;

struct Options {
    clients: usize,
    profile: Profile,
    seed: u64,
    exit: usize,
    real: bool,
    raw: bool,
    years: Option<u32>,
    coin: Option<OutPoint>,
}

fn options() -> Result<Options, String> {
    let mut options = Options {
        clients: 8,
        profile: Profile::Static,
        seed: 1,
        exit: 0,
        real: false,
        raw: false,
        years: None,
        coin: None,
    };
    let mut given = false;
    let mut args = std::env::args().skip(1);
    while let Some(arg) = args.next() {
        if arg == "--real" || arg == "--raw" {
            options.real |= arg == "--real";
            options.raw |= arg == "--raw";
            continue;
        }
        let mut value = || args.next().ok_or_else(|| format!("{arg} needs a value"));
        let number = |text: String| text.parse().map_err(|_| format!("{arg}: {text:?} is no number"));
        match arg.as_str() {
            "--clients" => {
                options.clients = number(value()?)?;
                given = true;
            }
            "--years" => {
                let years = u32::try_from(number(value()?)?).map_err(|error| error.to_string())?;
                options.years = Some(years);
            }
            "--coin" => {
                let text = value()?;
                let coin = text.parse().map_err(|_| format!("--coin: {text:?} is not TXID:OUTNUM"))?;
                options.coin = Some(coin);
            }
            "--exit" => options.exit = number(value()?)?,
            "--seed" => {
                let text = value()?;
                options.seed = text.parse().map_err(|_| format!("--seed: {text:?} is no number"))?;
            }
            "--profile" => {
                options.profile = value()?
                    .parse()
                    .map_err(|error: factory_engine::tx::plan::PlanError| error.to_string())?;
            }
            "--help" | "-h" => return Err(USAGE.into()),
            other => return Err(format!("unknown option {other}\n{USAGE}")),
        }
    }
    if !(1..=2_000).contains(&options.clients) {
        return Err("--clients: from 1 to 2000".into());
    }
    if options.years.is_some() && !given {
        options.clients = 24;
    }
    if options.exit == 0 {
        options.exit = options.clients;
    }
    if options.exit > options.clients {
        return Err(format!("--exit: clients count from 1 to {}", options.clients));
    }
    Ok(options)
}

fn main() -> ExitCode {
    let options = match options() {
        Ok(options) => options,
        Err(text) => {
            eprintln!("{text}");
            return ExitCode::from(2);
        }
    };
    if options.real {
        return real();
    }
    if options.raw {
        return match raw(&options) {
            Ok(json) => {
                println!("{json}");
                ExitCode::SUCCESS
            }
            Err(error) => {
                eprintln!("factory-lab: {error}");
                ExitCode::FAILURE
            }
        };
    }
    let played = match options.years {
        Some(years) => play_years(&options, years),
        None => run(&options),
    };
    match played {
        Ok(()) => ExitCode::SUCCESS,
        Err(error) => {
            eprintln!("factory-lab: {error}");
            ExitCode::FAILURE
        }
    }
}

fn raw(options: &Options) -> Result<serde_json::Value, LabError> {
    let (seed, clients) = (options.seed, options.clients);
    match options.coin {
        Some(coin) => factory_lab::raw::transactions(seed, clients, coin),
        None => {
            let script = factory_lab::raw::script(seed, clients)?;
            let amount = factory_lab::raw::AMOUNT.to_sat();
            Ok(serde_json::json!({"script": script.to_hex_string(), "amount_sat": amount}))
        }
    }
}

/// The pytest harness on real nodes, where there are any.
fn real() -> ExitCode {
    let missing: Vec<&str> = ["lightningd", "lightning-cli", "bitcoind", "bitcoin-cli"]
        .into_iter()
        .filter(|program| !on_path(program))
        .collect();
    if !missing.is_empty() {
        eprintln!(
            "factory-lab: --real needs lightningd and bitcoind on PATH; missing: {}.\n\
             Without --real the same engine runs on a simulated network and chain.",
            missing.join(", ")
        );
        return ExitCode::FAILURE;
    }
    // Where tests/run has its own.
    let venv = std::env::var_os("CLN_FACTORY_VENV").unwrap_or_else(|| "target/pytest-venv".into());
    let python = Path::new(&venv).join("bin/python");
    let python = if python.exists() { python } else { "python3".into() };
    let built = Process::new("cargo").args(["build", "--locked", "--bin", "cln-factory"]).status();
    if !built.is_ok_and(|status| status.success()) {
        eprintln!("factory-lab: the plugin doesn't build");
        return ExitCode::FAILURE;
    }
    match Process::new(&python).args(["-m", "pytest", "-v", "-s", "-rs", REAL]).status() {
        Ok(status) if status.success() => ExitCode::SUCCESS,
        Ok(_) => ExitCode::FAILURE,
        Err(error) => {
            eprintln!("factory-lab: {} doesn't start: {error}", python.display());
            ExitCode::FAILURE
        }
    }
}

fn on_path(program: &str) -> bool {
    let path = std::env::var_os("PATH").unwrap_or_default();
    std::env::split_paths(&path).any(|folder| folder.join(program).is_file())
}

fn run(options: &Options) -> Result<(), LabError> {
    let clients = options.clients;
    println!(
        "One operator, {clients} clients, profile {}, seed {}. Channels of {CAPACITY} sat, stock of {STOCK} sat.\n",
        options.profile, options.seed
    );
    let mut world = Scenario::new(options.seed).clients(clients).world()?;
    world.check_recovery = clients <= MANY;
    let instance = create(&mut world, options)?;
    show(&world, instance)?;
    pay(&mut world, clients, options.exit)?;

    println!("\nThe operator is gone for good. Client {} leaves: factory-exit.", options.exit);
    world.stop(LSP);
    let exit = world.exit(options.exit, instance)?;
    report(&world, options.exit, instance, &exit)
}

/// Years of a ladder, as they go by.
#[expect(clippy::disallowed_methods, reason = "the time it took is for people; nothing depends on it")]
fn play_years(options: &Options, years: u32) -> Result<(), LabError> {
    let (clients, began) = (options.clients, Instant::now());
    let settings = Settings::new(options.seed, clients, years);
    println!(
        "One operator, {clients} clients, seed {}: the same engine in each member, a simulated network and chain.\n\
         A block is an hour here. A rung every 14 days; a factory is due after 56 days and ends after 112.\n\
         Of 100 clients 60 are always there, 30 twice a day, 8 weekly, 2 monthly.\n",
        options.seed
    );
    let economy = factory_lab::years::play(&settings, &mut |line| println!("{line}"))?;
    println!("\n{economy}");
    println!(
        "\n0 property violations; every millisatoshi of every client is where it belongs. {} s on this machine.",
        began.elapsed().as_secs()
    );
    Ok(())
}

/// The ceremony, a line for each phase.
#[expect(clippy::disallowed_methods, reason = "the time it took is for people; nothing depends on it")]
fn create(world: &mut World, options: &Options) -> Result<InstanceId, LabError> {
    let (capacity, stock) = (Amount::from_sat(CAPACITY), Amount::from_sat(STOCK));
    let offer = Offer { profile: options.profile, capacity, stock, ..Offer::default() };
    let counts: Rc<RefCell<BTreeMap<&'static str, (usize, usize)>>> = Rc::default();
    let counting = counts.clone();
    world.tamper(move |out| {
        let mut counts = counting.borrow_mut();
        let count = counts.entry(out.message.name()).or_default();
        count.0 += 1;
        count.1 += out.message.encode().len();
        Fate::Deliver
    });
    let began = Instant::now();
    let instance = world.begin(&offer)?;
    let phases = [
        ("join", "keys and nonces"),
        ("expecting", "channels announced"),
        ("partial_signatures", "partial signatures"),
        ("stored", "paths verified and stored"),
        ("channel_checked", "channels committed and checked"),
    ];
    for (message, what) in phases {
        let so_far = |counts: &RefCell<BTreeMap<&'static str, (usize, usize)>>| {
            counts.borrow().get(message).copied().unwrap_or_default()
        };
        let counts = counts.clone();
        let shown = RefCell::new(0);
        world.run_until(what, |world| {
            let (done, _) = so_far(&counts);
            if options.clients > MANY && done >= *shown.borrow() + options.clients / 20 {
                *shown.borrow_mut() = done;
                eprint!("\r{}", bar(what, done, options.clients));
            }
            done >= options.clients || world.state(LSP, instance) == Some(State::Aborted)
        })?;
        let (done, bytes) = so_far(&counts);
        if options.clients > MANY {
            eprint!("\r");
        }
        println!("{}  {bytes} bytes", bar(what, done.min(options.clients), options.clients));
    }
    world.activate(instance)?;
    world.heal();
    println!(
        "Active at height {}: {} messages, {} ms on this machine for all members together{}.\n",
        world.chain.height(),
        world.delivered,
        began.elapsed().as_millis(),
        if world.check_recovery { ", each step checked by a recovery from the store" } else { "" }
    );
    Ok(instance)
}

fn bar(what: &str, done: usize, all: usize) -> String {
    let full = (done * 20).checked_div(all).unwrap_or(0);
    format!("{what:32} [{}{}] {done}/{all}", "#".repeat(full), ".".repeat(20_usize.saturating_sub(full)))
}

fn show(world: &World, instance: InstanceId) -> Result<(), LabError> {
    let factory = world.factory(LSP, instance)?;
    if factory.current.clients.len() <= MANY {
        print!("{}", drawing::text(factory));
    } else {
        let layout = &factory.current.layout;
        println!(
            "{} transactions in the tree, {} n-of-n outputs; too many to draw here.",
            layout.nodes().len(),
            layout.coins().len()
        );
    }
    Ok(())
}

fn pay(world: &mut World, clients: usize, leaver: usize) -> Result<(), LabError> {
    println!("\nPayments (modelled; each HTLC is admitted by the engine on both sides):");
    let mut pay = |what: String, from, to, sat: u64| {
        let result = world.pay(from, to, sat * 1000);
        result.map(|()| println!("  {what}: {sat} sat")).map_err(|error| LabError(format!("{what}: {error}")))
    };
    for client in 1..=clients.min(3) {
        pay(format!("operator -> client {client}"), LSP, client, 30_000)?;
    }
    // Whoever leaves has something to take along.
    pay(format!("operator -> client {leaver}"), LSP, leaver, 40_000)?;
    if clients > 1 {
        pay("client 1 -> client 2".into(), 1, 2, 5_000)?;
    }
    pay("client 1 -> operator".into(), 1, LSP, 2_000)
}

fn report(world: &World, at: usize, instance: InstanceId, exit: &Exit) -> Result<(), LabError> {
    let factory = world.factory(at, instance)?;
    let mut vbytes = 0;
    for (what, tx, height) in &exit.transactions {
        vbytes += tx.vsize();
        let txid = tx.compute_txid().to_string();
        let txid = txid.get(..8).unwrap_or_default();
        println!("  height {height:5}  {txid}  {:4} vB  {what}", tx.vsize());
    }
    println!(
        "Out after {} blocks, {} transactions, {vbytes} vB (blocks_early promised at most {}).",
        exit.ended.saturating_sub(exit.began),
        exit.transactions.len(),
        factory.blocks_early()
    );
    let funding = factory.funding().ok_or_else(|| LabError("nothing was funded".into()))?;
    let account = world.account(funding, factory.current.layout.funding_value())?;
    print_account(&account, at)?;
    let judged = world.chain.script_checks();
    let failed = world.sent.iter().filter(|sent| sent.result.is_err()).count();
    println!(
        "\n{judged} inputs were judged by consensus code; {failed} broadcasts were refused; {} nonces signed \
         once each; {} property violations.",
        world.judge.nonces_used(),
        world.judge.violations.len()
    );
    Ok(())
}

fn print_account(account: &Account, at: usize) -> Result<(), LabError> {
    println!("\nWhere the {} sat of the funding output are:", account.total.to_sat());
    let line = |what: String, amount: Amount| {
        if amount > Amount::ZERO {
            println!("  {:>12} sat  {what}", amount.to_sat());
        }
    };
    for (member, amount) in &account.wallets {
        let whose = match *member {
            LSP => "the operator's wallet, from the channel's commitment".into(),
            member if member == at => format!("client {member}'s wallet"),
            member => format!("client {member}'s wallet, though it didn't leave"),
        };
        line(whose, *amount);
    }
    line("channels next to it, whose leaf is on chain too: still open".into(), account.channels);
    line("in outputs of the tree that nobody has spent: everybody else's".into(), account.tree);
    line("in anchors, for whoever raises a fee".into(), account.anchors);
    line("fees of the exit's transactions".into(), account.fees);
    line("in outputs that nobody knows".into(), account.unknown);
    let sum = account.sum()?;
    println!("  {:>12} sat  together", sum.to_sat());
    if sum == account.total { Ok(()) } else { Err(LabError("the account doesn't add up".into())) }
}

#[cfg(test)]
mod tests {
    use std::fs;

    /// pytest with a name that nothing has runs nothing.
    #[test]
    fn what_real_runs_is_there() {
        let (file, test) = super::REAL.split_once("::").unwrap();
        let text = fs::read_to_string(format!("{}/../{file}", env!("CARGO_MANIFEST_DIR"))).unwrap();
        assert!(text.contains(&format!("def {test}(node_factory, bitcoind):")), "{test}");
    }
}

//! The run: cells and broken engines as trials, and what they leave behind.

use std::cell::RefCell;
use std::future::Future;
use std::panic::{self, AssertUnwindSafe};
use std::path::Path;
use std::process::ExitCode;
use std::sync::{Arc, Mutex, PoisonError};
use std::time::Duration;

use futures_util::FutureExt;
use libtest_mimic::{Arguments, Trial};
use tokio::runtime::{Builder, Runtime};

use crate::broken::{BROKEN, Broken, Wrap};
use crate::case::{Case, Class, Need, Run};
use crate::results::{Caught, Outcome, Results, Row};
use crate::target::{TARGETS, Target};
use crate::tools::set_lease;
use crate::world::{Issuer, SOUND, Space, World};
use crate::{absent, broken, bus, coord, ids, server};

/// How long a case may take.
const DEADLINE: Duration = Duration::from_secs(60);
/// How long one may take that restarts servers.
const LONG_DEADLINE: Duration = Duration::from_secs(240);
/// With this in the environment, what can't be run fails.
const REQUIRE_ALL: &str = "LINCHPIN_REQUIRE_ALL";
/// Cells at a time: most of them wait.
const THREADS: usize = 8;

/// Those that keep every processor busy go one at a time, so that they don't make the others late.
static BUSY: Mutex<()> = Mutex::new(());

/// In the order in which they are run: those that wait first, so that the others have something to do meanwhile.
const CLASSES: [Class; 7] =
    [Class::Outage, Class::Failover, Class::Cut, Class::Timing, Class::Fault, Class::Basic, Class::Race];

type Book = Arc<Mutex<Results>>;

/// Runs what the command line asks for, writes `results` and says how it went. `child` is the program of
/// [`protocol`](crate::protocol).
pub fn run(child: &'static str, results: &Path) -> ExitCode {
    let mut args = Arguments::from_args();
    args.test_threads.get_or_insert(THREADS);
    let book = Book::default();
    keep_panics();
    let mut trials = Vec::new();
    for class in CLASSES {
        for (case, target) in cells().filter(|(case, _)| case.class == class) {
            trials.push(cell(case, target, child, &book));
        }
    }
    let broken = BROKEN.iter().chain(coord::BROKEN).chain(ids::BROKEN);
    trials.extend(broken.map(|broken| catch(broken, child, &book)));
    // Nothing fails over on the memory engine.
    let needs = Need::OF_THE_BUS.into_iter().filter(|need| *need != Need::Failover);
    trials.extend(needs.map(|need| understated(need, child)));
    trials.extend(ids::UNDERSTATED.iter().map(|(need, on)| understated_ids(*need, on, child)));
    let conclusion = libtest_mimic::run(&args, trials);
    server::stop_all();
    if !args.list {
        let mut found = std::mem::take(&mut *book.lock().unwrap());
        complete(&mut found);
        std::fs::create_dir_all(results.parent().unwrap()).unwrap();
        std::fs::write(results, serde_json::to_string_pretty(&found).unwrap()).unwrap();
    }
    conclusion.exit_code()
}

fn cases() -> impl Iterator<Item = &'static Case> {
    bus::CASES.iter().chain(coord::CASES).chain(ids::CASES)
}

fn targets() -> impl Iterator<Item = &'static Target> {
    TARGETS.iter().chain(ids::TARGETS)
}

fn cells() -> impl Iterator<Item = (&'static Case, &'static Target)> {
    let all = cases().flat_map(|case| targets().map(move |target| (case, target)));
    all.filter(|(case, target)| case.fits(target))
}

/// Why this machine can't run the cell.
fn missing(case: &Case, target: &Target) -> Option<String> {
    let engine = case.class.server(target)?;
    if case.class.does_harm() { server::victim_absence(engine) } else { server::absence(engine) }
}

fn row(case: &Case, target: &Target, outcome: Outcome, reason: &str) -> Row {
    Row {
        capability: case.capability().into(),
        target: target.name.into(),
        case: case.name.into(),
        class: case.class.to_string(),
        outcome,
        reason: reason.into(),
    }
}

/// Adds what wasn't run, and sorts: the file doesn't depend on who was faster.
fn complete(found: &mut Results) {
    for (case, target) in cells() {
        let is_it = |row: &Row| {
            row.capability == case.capability() && row.case == case.name && row.target == target.name
        };
        if !found.rows.iter().any(is_it) {
            let why = missing(case, target).unwrap_or_else(|| "filtered out of the last run".to_owned());
            found.rows.push(row(case, target, Outcome::NotRun, &why));
        }
    }
    found.rows.sort();
    found.broken.sort();
}

fn cell(case: &'static Case, target: &'static Target, child: &'static str, book: &Book) -> Trial {
    let book = book.clone();
    let name = format!("{}::{}::{}", case.capability(), target.name, case.name);
    let missing = missing(case, target);
    // What no machine can install is never required.
    let required = std::env::var_os(REQUIRE_ALL).is_some()
        && case.class.server(target).is_none_or(server::is_installable);
    let ignored = missing.is_some() && !required;
    let trial = Trial::test(name, move || {
        if let Some(why) = missing {
            return Err(why.into());
        }
        let turn = |mutex: &'static Mutex<()>| mutex.lock().unwrap_or_else(PoisonError::into_inner);
        let _busy = (case.class == Class::Race).then(|| turn(&BUSY));
        let _harm = case.class.server(target).filter(|_| case.class.does_harm()).map(server::turn);
        let deadline = if case.class.does_harm() { LONG_DEADLINE } else { DEADLINE };
        let result = attempt(real(target.lease), deadline, judge(case, target, child));
        let (outcome, reason) = match &result {
            Ok(Ok(())) => (Outcome::Pass, String::new()),
            Ok(Err(absence)) => (Outcome::DeclaredAbsent, absence.clone()),
            Err(failure) => (Outcome::Fail, in_short(failure)),
        };
        book.lock().unwrap().rows.push(row(case, target, outcome, &reason));
        result.map(drop).map_err(Into::into)
    });
    trial.with_kind(case.class.to_string()).with_ignored_flag(ignored)
}

/// One line that a table can hold.
fn in_short(failure: &str) -> String {
    let line = failure.split_whitespace().collect::<Vec<_>>().join(" ").replace('|', "/");
    line.chars().take(200).collect()
}

/// `Ok`: the case passed. `Err`: the engine declares that it can't, and that is so.
async fn judge(case: &Case, target: &'static Target, child: &'static str) -> Result<(), String> {
    let unmet = |is_met: &dyn Fn(Need) -> bool| case.needs.iter().copied().find(|need| !is_met(*need));
    let (need, proof) = match case.run {
        Run::Bus(run) => {
            let world = World::open(target, case.class, child, |bus| bus).await;
            let caps = world.bus.caps();
            match unmet(&|need| need.is_met_by_bus(caps)) {
                None => {
                    run(world).await;
                    return Ok(());
                }
                Some(need) => (need, absent::prove(world, need).await),
            }
        }
        Run::Coord(run) => {
            let space = Space::open(target, case.class, child, |coord| coord).await;
            let caps = space.coord.caps();
            match unmet(&|need| need.is_met_by_coord(caps)) {
                None => {
                    run(space).await;
                    return Ok(());
                }
                Some(need) => (need, coord::absent::prove(space, need).await),
            }
        }
        Run::Ids(run) => {
            let issuer = Issuer::make(target, case.class, child, &SOUND).await;
            let can = issuer.source.can;
            match unmet(&|need| can.contains(&need)) {
                None => {
                    run(issuer).await;
                    return Ok(());
                }
                Some(need) => (need, ids::absent::prove(issuer, need).await),
            }
        }
    };
    Err(format!("not {}: {proof}", need.name()))
}

/// The named case passes on the sound engine and fails on the broken one.
fn catch(broken: &'static Broken, child: &'static str, book: &Book) -> Trial {
    let book = book.clone();
    let trial = Trial::test(format!("broken::{}", broken.name), move || {
        let case = cases().find(|case| case.name == broken.caught_by && broken.wrap.fits(case));
        let case = case.ok_or_else(|| format!("no case is named {}", broken.caught_by))?;
        let target = targets().find(|target| target.name == broken.on && case.fits(target));
        let target = target.ok_or_else(|| format!("it isn't tried on {}", broken.on))?;
        alone(case, target, child, Wrap::None).map_err(|e| format!("the sound engine fails: {e}"))?;
        if alone(case, target, child, broken.wrap).is_ok() {
            return Err(format!("{} doesn't see it", case.name).into());
        }
        let caught = Caught { engine: broken.name.into(), caught_by: case.name.into() };
        book.lock().unwrap().broken.push(caught);
        Ok(())
    });
    trial.with_kind("broken")
}

/// An engine that says it can't, but can, is caught by the check that goes with it.
fn understated(need: Need, child: &'static str) -> Trial {
    let trial = Trial::test(format!("broken::hides_that_it_is_{}", need.name()), move || {
        let check = async move {
            let world = World::open(&TARGETS[0], Class::Basic, child, broken::understate).await;
            absent::prove(world, need).await
        };
        // What memory really lacks is proven absent; all else is there, and the proof fails.
        let lacks = matches!(need, Need::Durable | Need::Shared);
        match attempt(if lacks { real(TARGETS[0].lease) } else { paused() }, DEADLINE, check) {
            Ok(proof) if !lacks => Err(format!("passed for absent: {proof}").into()),
            Err(failure) if lacks => Err(failure.into()),
            _ => Ok(()),
        }
    });
    trial.with_kind("broken")
}

/// The same for what can be said of ids.
fn understated_ids(need: Need, on: &'static str, child: &'static str) -> Trial {
    let trial = Trial::test(format!("broken::hides_that_ids_are_{}", need.name()), move || {
        let target = ids::TARGETS.iter().find(|target| target.name == on).ok_or("no such target")?;
        let check = async move {
            ids::absent::prove(Issuer::make(target, Class::Basic, child, &SOUND).await, need).await
        };
        match attempt(real(target.lease), DEADLINE, check) {
            Ok(proof) => Err(format!("passed for absent: {proof}").into()),
            Err(_) => Ok(()),
        }
    });
    trial.with_kind("broken")
}

/// On a target that lives in this process, in no time.
fn alone(
    case: &'static Case,
    target: &'static Target,
    child: &'static str,
    wrap: Wrap,
) -> Result<(), String> {
    attempt(paused(), DEADLINE, async move {
        match case.run {
            Run::Bus(run) => run(World::open(target, case.class, child, wrap.bus()).await).await,
            Run::Coord(run) => run(Space::open(target, case.class, child, wrap.coord()).await).await,
            Run::Ids(run) => run(Issuer::make(target, case.class, child, wrap.ids()).await).await,
        }
    })
}

fn real(lease: Duration) -> Runtime {
    set_lease(lease);
    let mut threads = Builder::new_multi_thread();
    threads.worker_threads(2).enable_all().on_thread_start(move || set_lease(lease)).build().unwrap()
}

/// Time passes at once when nothing else can happen.
fn paused() -> Runtime {
    set_lease(TARGETS[0].lease);
    Builder::new_current_thread().enable_all().start_paused(true).build().unwrap()
}

thread_local! {
    /// Inside an attempt: where the last panic came from, and what it said.
    static LAST_PANIC: RefCell<Option<String>> = const { RefCell::new(None) };
}

/// Keeps what a failing case says for its trial, instead of printing it in the middle of the others.
fn keep_panics() {
    let print = panic::take_hook();
    panic::set_hook(Box::new(move |info| {
        let kept = LAST_PANIC.with_borrow_mut(|last| {
            last.as_mut().map(|last| {
                let text = info.payload_as_str().unwrap_or("panicked");
                *last = info.location().map_or_else(|| text.to_owned(), |at| format!("{text}\n  at {at}"));
            })
        });
        if kept.is_none() {
            print(info);
        }
    }));
}

fn attempt<T>(runtime: Runtime, limit: Duration, case: impl Future<Output = T>) -> Result<T, String> {
    LAST_PANIC.set(Some(String::new()));
    let case = AssertUnwindSafe(case).catch_unwind();
    let outcome = runtime.block_on(async { tokio::time::timeout(limit, case).await });
    runtime.shutdown_timeout(Duration::from_secs(1));
    let panic = LAST_PANIC.take().unwrap_or_default();
    match outcome {
        Ok(Ok(value)) => Ok(value),
        Ok(Err(_)) => Err(panic),
        Err(_) => Err(format!("still running after {limit:?}")),
    }
}

//! What the person reads before and after.

use console::{StyledObject, style};
use indicatif::HumanCount;
use linchpin::{Bus, Error, Kind, Result};

use super::DemoArgs;
use super::audit::{Expected, Findings};
use super::data::Source;
use super::place::Place;
use crate::out;

/// Says what is about to happen, on standard error.
pub(super) fn opening(args: &DemoArgs, source: &Source, expected: &Expected, place: &Place, bus: &Bus) {
    let (orders, malformed) =
        (out::count(expected.orders(), "order"), out::count(expected.malformed(), "malformed row"));
    let bold = |text: &str| style(text.to_owned()).bold().for_stderr();
    out::say(format_args!("{}  {}: {orders}, {malformed}", bold("orders "), source.name()));
    out::say(format_args!("{}  {}", bold("bus    "), bus.info().url));
    out::say(format_args!("         {}", bus.info().durability));
    out::say(format_args!("{}  {}", bold("tables "), place.shop.display()));
    let (workers, kills) = (args.workers, out::count(args.kills.into(), "SIGKILL"));
    out::say(format_args!("{}  {workers} × stock, {workers} × tables; {kills} to come\n", bold("workers")));
}

/// Says how it went: the audit on standard output, the rest on standard error.
///
/// # Errors
/// What writing says.
pub(super) fn closing(findings: &Findings, place: &Place, json: bool) -> Result<()> {
    if json {
        let json = serde_json::to_string(&findings.audit);
        return out::line(
            json.map_err(|e| Error::new(Kind::Unexpected, "the audit has no JSON form").source(e))?,
        );
    }
    out::line(table(findings))?;
    if findings.audit.ok {
        next_steps(place);
    }
    Ok(())
}

fn table(findings: &Findings) -> String {
    let audit = &findings.audit;
    let row = |name: &str, file: Option<u64>, found: u64, good: bool| {
        let file = file.map(|n| HumanCount(n).to_string()).unwrap_or_default();
        format!("  {name:<16}{file:>10}{:>10}   {}\n", HumanCount(found).to_string(), mark(good))
    };
    let right = findings.stock_codes.saturating_sub(audit.stock_mismatches);
    let mut text = format!("\n{}\n", style("Audit: the tables against the input file").bold());
    text += &format!("  {:<16}{:>10}{:>10}\n", "", "file", "tables");
    text += &row("orders", Some(audit.orders_in), audit.orders_out, audit.orders_in == audit.orders_out);
    text += &row("order lines", Some(audit.lines_in), audit.lines_out, audit.lines_in == audit.lines_out);
    text += &row("stock balances", Some(findings.stock_codes), right, audit.stock_mismatches == 0);
    text += &row(
        "dead letters",
        Some(findings.malformed),
        audit.dead_letters,
        audit.dead_letters == findings.malformed,
    );
    text += &row("lost", None, audit.lost, audit.lost == 0);
    text += &row("applied twice", None, audit.duplicated, audit.duplicated == 0);
    for wrong in &findings.wrong {
        text += &format!("  {} {wrong}\n", mark(false));
    }
    let (kills, again) = (out::count(audit.kills.into(), "kill"), HumanCount(audit.redelivered));
    let verdict =
        if audit.ok { style("everything once").green() } else { style("not as it should be").red() };
    text + &format!("\n  {} {verdict}: {kills}, {again} redelivered, {:.1} s", mark(audit.ok), audit.seconds)
}

fn mark(good: bool) -> StyledObject<&'static str> {
    if good { style("✓").green() } else { style("✗").red() }
}

fn next_steps(place: &Place) {
    let Place { topic, shop, .. } = place;
    let steps = if place.stays() {
        let url = place.shown();
        vec![
            format!("linchpin topic stat {url} {topic}"),
            format!("linchpin topic tail {url} {topic}.stock.dead -n 3"),
            format!("linchpin doctor {url}"),
            format!("sqlite3 {} 'SELECT * FROM stock LIMIT 5'", shop.display()),
        ]
    } else {
        [
            "linchpin demo --kills 20 --rate 0     # harder: everything at once",
            "linchpin demo --keep ./demo           # the same again, and the databases stay",
            "linchpin topic --help                 # topics of your own",
            "cargo xtask test                      # every claim, checked on this machine",
        ]
        .map(str::to_owned)
        .into()
    };
    out::say(format_args!("\nNext:\n  {}", steps.join("\n  ")));
}

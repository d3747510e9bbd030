//! `icbd bench`: what clients get, measured from their side. Asks no daemon.

use std::io;
use std::time::Duration;

use anyhow::Result;
use icbd_storm::{Outcome, Storm, StormError, Trace, TraceError, replay};
use serde::Serialize;

use crate::args::{BenchCommand, StormArgs};
use crate::failure::{Exit, Failure};
use crate::output::{bytes, table};
use crate::settings::Settings;

/// What a storm came to, as `--json` prints it. Times are in seconds, latencies in microseconds.
#[derive(Debug, Serialize)]
struct StormReport {
    target: String,
    clients: u32,
    reads: usize,
    think: bool,
    first_done_s: f64,
    median_done_s: f64,
    last_done_s: f64,
    /// What the clients read, without the scan.
    bytes: u64,
    scan_bytes: Option<u64>,
    latency_p50_us: u128,
    latency_p99_us: u128,
    latency_p100_us: u128,
    digest: Option<String>,
    cache: &'static str,
}

pub(crate) fn run(settings: &Settings, command: BenchCommand) -> Result<()> {
    let BenchCommand::Storm(args) = command;
    let report = storm(settings, &args).map_err(|error| Failure::new(exit(&error), error.to_string()))?;
    settings.talk().result(&report, show)
}

fn storm(settings: &Settings, args: &StormArgs) -> Result<StormReport, StormError> {
    let trace = match &args.trace {
        Some(path) => Trace::load(path)?,
        None => Trace::debian(),
    };
    let StormArgs { clients, think, scan, page_cache, digest, .. } = *args;
    settings.talk().say(format_args!(
        "{clients} × {} reads of {}{}",
        trace.reads().len(),
        bytes(trace.bytes()),
        if think { format!(", {:.1} s of thought each", trace.think().as_secs_f64()) } else { String::new() }
    ));
    let outcome = replay(&args.target, &trace, &Storm { clients, think, scan, page_cache, digest })?;
    Ok(report(args, &trace, &outcome))
}

fn report(args: &StormArgs, trace: &Trace, outcome: &Outcome) -> StormReport {
    StormReport {
        target: args.target.to_string(),
        clients: args.clients,
        reads: trace.reads().len(),
        think: args.think,
        first_done_s: outcome.done_at(0.0).as_secs_f64(),
        median_done_s: outcome.done_at(0.5).as_secs_f64(),
        last_done_s: outcome.done_at(1.0).as_secs_f64(),
        bytes: outcome.bytes,
        scan_bytes: outcome.scan_bytes,
        latency_p50_us: outcome.latency_at(0.5).as_micros(),
        latency_p99_us: outcome.latency_at(0.99).as_micros(),
        latency_p100_us: outcome.latency_at(1.0).as_micros(),
        digest: outcome.digest.clone(),
        cache: outcome.cache_note,
    }
}

fn show(report: &StormReport) -> String {
    let seconds = |seconds: f64| format!("{seconds:.2} s");
    let latency = |micros: u128| {
        let latency = Duration::from_micros(micros as u64);
        if micros < 10_000 { format!("{micros} µs") } else { format!("{} ms", latency.as_millis()) }
    };
    let row = vec![
        report.clients.to_string(),
        seconds(report.first_done_s),
        seconds(report.median_done_s),
        seconds(report.last_done_s),
        bytes(report.bytes),
        latency(report.latency_p50_us),
        latency(report.latency_p99_us),
        latency(report.latency_p100_us),
    ];
    let headings = [">CLIENTS", ">FIRST DONE", ">MEDIAN", ">LAST", ">READ", ">P50", ">P99", ">P100"];
    let mut text = table(&headings, [row]);
    text.push_str(&format!("\n{}", report.cache));
    if let Some(scanned) = report.scan_bytes {
        text.push_str(&format!("\nthe scan beside them read {}", bytes(scanned)));
    }
    if let Some(digest) = &report.digest {
        text.push_str(&format!("\nevery client read {digest}"));
    }
    text
}

/// What a failed storm means to a script.
fn exit(error: &StormError) -> Exit {
    match error {
        StormError::Trace(TraceError::Absent(_)) => Exit::Absent,
        StormError::Trace(TraceError::Io { .. }) => Exit::Failed,
        StormError::Trace(TraceError::Malformed { .. }) | StormError::Target(_) | StormError::TooMuch(_) => Exit::Usage,
        StormError::TooSmall { .. } => Exit::Refused,
        StormError::Differs { .. } => Exit::Verification,
        StormError::Io { source, .. } => match source.kind() {
            io::ErrorKind::NotFound => Exit::Absent,
            io::ErrorKind::IsADirectory => Exit::Usage,
            io::ErrorKind::ConnectionRefused
            | io::ErrorKind::HostUnreachable
            | io::ErrorKind::NetworkUnreachable
            | io::ErrorKind::TimedOut => Exit::Unreachable,
            _ => Exit::Failed,
        },
    }
}

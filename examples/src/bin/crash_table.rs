//! Kills a process before and after each of its stores to shared memory, and checks everybody who lives on.
//!
//! ```text
//! cargo run --release --bin crash_table
//! ```
//!
//! Prints where a process died and what came of it, a line each, and ends with success only if everything held everywhere and
//! every point was reached. It first builds itself again with those points in it: no other build has them.

use std::os::unix::process::CommandExt;
use std::path::Path;
use std::process::{Command, ExitCode};

use clap::Parser;
use nodeset_examples::crash::{points, roles, table};
use nodeset_examples::measure::worker::WorkError;

/// Kill a process before and after each of its stores to shared memory, and check everybody who lives on.
#[derive(Debug, Parser)]
#[command(name = "crash_table", version)]
struct Arguments {
    /// One JSON object a line
    #[arg(long)]
    json: bool,
}

fn main() -> ExitCode {
    let mut arguments = std::env::args();
    let outcome = if arguments.nth(1).as_deref() == Some(table::VICTIM) {
        die(arguments.next())
    } else {
        let arguments = Arguments::parse();
        if points::BUILT_IN { survive(&arguments) } else { build_again() }
    };
    match outcome {
        Ok(code) => code,
        Err(error) => {
            eprintln!("crash_table: {error}");
            ExitCode::FAILURE
        }
    }
}

fn die(task: Option<String>) -> Result<ExitCode, WorkError> {
    let task = task.ok_or("a victim needs a task")?;
    roles::play(&serde_json::from_str(&task)?)?;
    Ok(ExitCode::SUCCESS)
}

fn survive(arguments: &Arguments) -> Result<ExitCode, WorkError> {
    let (mut rows, mut failures) = (0, 0);
    table::make(|row| {
        rows += 1;
        failures += u32::from(row.failure.is_some());
        if arguments.json {
            println!("{}", serde_json::json!(row));
        } else {
            let outcome = row.failure.as_deref().unwrap_or("held");
            println!(
                "{:<20} {:<18} {:<40} pass {:<6} {outcome}",
                row.role,
                row.function,
                row.step.to_string(),
                row.pass
            );
        }
    })?;
    eprintln!("crash_table: {rows} deaths, {failures} of them not survived by all");
    Ok(if failures == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// Builds this program with points in it, into a folder of its own, and becomes it.
fn build_again() -> Result<ExitCode, WorkError> {
    let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("this program lies in no workspace")?;
    let target = root.join("target/failpoints");
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut build = Command::new(cargo);
    build.current_dir(root).args(["build", "--quiet", "--bin", "crash_table", "--target-dir"]).arg(&target);
    let profile = if cfg!(debug_assertions) {
        "debug"
    } else {
        build.arg("--release");
        "release"
    };
    let flags = std::env::var("RUSTFLAGS").unwrap_or_default();
    build.env("RUSTFLAGS", format!("{flags} --cfg nodeset_failpoints"));
    // What counts is where it dies, not how fast it gets there.
    build.envs([("CARGO_PROFILE_RELEASE_LTO", "off"), ("CARGO_PROFILE_RELEASE_CODEGEN_UNITS", "16")]);
    eprintln!("crash_table: building with points to die at, in {}", target.display());
    let status = build.status().map_err(|error| format!("cargo, which builds it again, cannot be started: {error}"))?;
    if !status.success() {
        return Err(format!("cargo ended with {status}").into());
    }
    let error = Command::new(target.join(profile).join("crash_table")).args(std::env::args_os().skip(1)).exec();
    Err(error.into())
}

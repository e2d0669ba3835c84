//! Runs into each limit that there is, one after the other, and shows what is said: of the dispatcher, of each user, of rights,
//! of one publication, of the kernel.
//!
//! ```text
//! cargo run --release --bin limits
//! ```
//!
//! Prints a line a limit. Ends with success only if each error named its limit, and nobody died, hung or said anything else.
//! What needs root or a control group is skipped without, and says so.

use std::ffi::OsString;
use std::fs;
use std::io;
use std::os::unix::fs::PermissionsExt;
use std::path::PathBuf;
use std::process::ExitCode;

use clap::Parser;
use nodeset_examples::limits::{AnyError, CASES, Outcome, act, dispatch, examine, run};

/// Meet every limit and show the error.
#[derive(Debug, Parser)]
#[command(name = "limits", version)]
struct Arguments {
    /// Only limits whose name contains this
    #[arg(long, value_name = "TEXT")]
    only: Option<String>,
}

fn main() -> ExitCode {
    let arguments: Vec<OsString> = std::env::args_os().skip(1).collect();
    let outcome = match arguments.split_first() {
        Some((first, rest)) if first == run::MEET => act(rest).map(|()| ExitCode::SUCCESS),
        Some((first, rest)) if first == run::DISPATCH => dispatch(rest),
        _ => limits(&Arguments::parse()),
    };
    outcome.unwrap_or_else(|error| {
        eprintln!("limits: {error}");
        ExitCode::FAILURE
    })
}

fn limits(arguments: &Arguments) -> Result<ExitCode, AnyError> {
    let wanted = |name: &str| arguments.only.as_deref().is_none_or(|only| name.contains(only));
    let cases: Vec<_> = CASES.iter().filter(|case| wanted(case.name)).collect();
    if cases.is_empty() {
        let names: Vec<_> = CASES.iter().map(|case| case.name).collect();
        return Err(format!("no limit is called so; there are: {}", names.join(", ")).into());
    }
    let (mut held, mut skipped, mut failed) = (0, 0, 0);
    for case in cases {
        let place = Place::new()?;
        let (word, text) = match examine(case, &place.0) {
            Outcome::Held { said } => {
                held += 1;
                ("held", said)
            }
            Outcome::Skipped { why } => {
                skipped += 1;
                ("skipped", why)
            }
            Outcome::Failed { why } => {
                failed += 1;
                ("FAILED", why)
            }
        };
        println!("{:<28}  {word:<7}  {}", case.name, text.replace(&*place.0.to_string_lossy(), "..."));
    }
    println!("{held} held, {skipped} skipped, {failed} failed");
    Ok(if failed == 0 { ExitCode::SUCCESS } else { ExitCode::FAILURE })
}

/// A folder of one case's own, which others may enter.
struct Place(PathBuf);

impl Place {
    fn new() -> io::Result<Place> {
        let path = std::env::temp_dir().join(format!("nodeset-limits-{}", std::process::id()));
        fs::create_dir(&path)?;
        let place = Place(path);
        fs::set_permissions(&place.0, fs::Permissions::from_mode(0o755))?;
        Ok(place)
    }
}

impl Drop for Place {
    fn drop(&mut self) {
        // What is left of it harms nobody.
        let _ = fs::remove_dir_all(&self.0);
    }
}

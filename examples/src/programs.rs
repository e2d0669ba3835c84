//! The real programs, run beside an example that shows two hosts, and what they print.

use std::io::{BufRead, BufReader};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::time::Instant;

use rustix::process::{Pid, Signal, kill_process};
use serde_json::Value;

use crate::measure::worker::WorkError;

/// Where the programs are.
#[derive(Debug)]
pub struct Programs {
    pub(crate) nodeset: PathBuf,
    pub(crate) mnode: PathBuf,
    pub(crate) mnode_publish: PathBuf,
}

impl Programs {
    /// Those in `directory`.
    ///
    /// # Errors
    ///
    /// When one is missing.
    pub fn of(directory: &Path) -> Result<Programs, WorkError> {
        let program = |name: &str| {
            let path = directory.join(name);
            if path.is_file() {
                return Ok(path);
            }
            Err(format!("there is no program {}: leave out --programs, and cargo builds it", path.display()))
        };
        Ok(Programs {
            nodeset: program("nodeset")?,
            mnode: program("mnode")?,
            mnode_publish: program("mnode_publish")?,
        })
    }

    /// Has cargo build them, beside this program and as it was built.
    ///
    /// # Errors
    ///
    /// When that fails.
    pub fn built() -> Result<Programs, WorkError> {
        let root = Path::new(env!("CARGO_MANIFEST_DIR")).parent().ok_or("this program lies in no workspace")?;
        let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
        let mut build = Command::new(cargo);
        build.current_dir(root).args([
            "build",
            "--quiet",
            "--bin",
            "nodeset",
            "--bin",
            "mnode",
            "--bin",
            "mnode_publish",
        ]);
        if !cfg!(debug_assertions) {
            build.arg("--release");
        }
        // What `cargo run` says of this package is not that one's: build scripts that look at it would run again.
        let of_package = |name: &str| name.starts_with("CARGO_PKG_") || name.starts_with("CARGO_MANIFEST_");
        for name in std::env::vars_os().filter_map(|(name, _)| name.into_string().ok()).filter(|name| of_package(name))
        {
            build.env_remove(name);
        }
        check(&mut build)?;
        let own = std::env::current_exe()?;
        Programs::of(own.parent().ok_or("this program lies nowhere")?)
    }
}

/// Runs it to its end, which must be a good one.
pub(crate) fn check(command: &mut Command) -> Result<(), WorkError> {
    let program = command.get_program().to_string_lossy().into_owned();
    let output =
        command.stdin(Stdio::null()).output().map_err(|error| format!("`{program}` cannot be started: {error}"))?;
    if output.status.success() {
        return Ok(());
    }
    let why = String::from_utf8_lossy(&output.stderr);
    Err(format!("`{program}` ended with {}: {}", output.status, why.trim()).into())
}

/// A program that runs beside, killed with this.
pub(crate) struct Program {
    name: String,
    child: Child,
    lines: Receiver<String>,
    errors: Receiver<String>,
}

impl Program {
    pub(crate) fn start(name: &str, mut command: Command) -> Result<Program, WorkError> {
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = command.spawn().map_err(|error| format!("{name} cannot be started: {error}"))?;
        let (out, err) = (child.stdout.take(), child.stderr.take());
        let (lines, errors) = (read(out.ok_or("no output")?)?, read(err.ok_or("no output")?)?);
        Ok(Program { name: name.to_owned(), child, lines, errors })
    }

    /// The next line that it prints.
    pub(crate) fn line(&self, until: Instant) -> Result<String, WorkError> {
        next(&self.lines, until).map_err(|why| format!("{} printed nothing{why}", self.name).into())
    }

    pub(crate) fn lines_so_far(&self) -> Vec<String> {
        self.lines.try_iter().collect()
    }

    /// Of a dispatcher that logs JSON: the next event of that kind.
    pub(crate) fn event(&mut self, event: &str, until: Instant) -> Result<Value, WorkError> {
        let mut before = Vec::new();
        loop {
            let line = next(&self.errors, until)
                .map_err(|why| format!("{} did not say `{event}`{why}, but:\n{}", self.name, before.join("\n")))?;
            let value: Value = serde_json::from_str(&line).map_err(|_| format!("{} logged {line:?}", self.name))?;
            if value["event"] == event {
                return Ok(value);
            }
            before.push(line);
        }
    }

    pub(crate) fn must_run(&mut self) -> Result<(), WorkError> {
        match self.child.try_wait()? {
            None => Ok(()),
            Some(status) => {
                let errors: Vec<String> = self.errors.try_iter().collect();
                Err(format!("{} ended with {status}: {}", self.name, errors.join("\n")).into())
            }
        }
    }

    pub(crate) fn kill(&mut self) -> Result<(), WorkError> {
        self.child.kill()?;
        self.child.wait()?;
        Ok(())
    }

    /// Ends it as a user would. Gives what it printed, and what it said of errors, since somebody looked.
    pub(crate) fn end(&mut self, until: Instant) -> Result<(Vec<String>, Vec<String>), WorkError> {
        self.must_run()?;
        kill_process(Pid::from_child(&self.child), Signal::INT)?;
        let rest = [&self.lines, &self.errors].map(|lines| rest(lines, until));
        let [Some(lines), Some(errors)] = rest else { return Err(format!("{} does not end", self.name).into()) };
        let status = self.child.wait()?;
        if status.success() { Ok((lines, errors)) } else { Err(format!("{} ended with {status}", self.name).into()) }
    }
}

impl Drop for Program {
    fn drop(&mut self) {
        // It may have ended before.
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

fn next(lines: &Receiver<String>, until: Instant) -> Result<String, &'static str> {
    lines.recv_timeout(until.saturating_duration_since(Instant::now())).map_err(|error| match error {
        RecvTimeoutError::Timeout => " in time",
        RecvTimeoutError::Disconnected => " before it ended",
    })
}

/// All up to the end; `None` if that does not come in time.
fn rest(lines: &Receiver<String>, until: Instant) -> Option<Vec<String>> {
    let mut rest = Vec::new();
    loop {
        match lines.recv_timeout(until.saturating_duration_since(Instant::now())) {
            Ok(line) => rest.push(line),
            Err(RecvTimeoutError::Disconnected) => return Some(rest),
            Err(RecvTimeoutError::Timeout) => return None,
        }
    }
}

fn read(pipe: impl std::io::Read + Send + 'static) -> Result<Receiver<String>, WorkError> {
    let (sender, receiver) = channel();
    std::thread::Builder::new().name("lines".to_owned()).spawn(move || {
        for line in BufReader::new(pipe).lines().map_while(Result::ok) {
            if sender.send(line).is_err() {
                return;
            }
        }
    })?;
    Ok(receiver)
}

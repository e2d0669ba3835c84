//! The processes of a case.

use std::ffi::OsStr;
use std::fs;
use std::io::{self, BufRead, BufReader, Read};
use std::os::unix::process::{CommandExt, ExitStatusExt};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitCode, ExitStatus, Stdio};
use std::time::Duration;

use clap::Parser;
use rustix::event::{PollFd, PollFlags, Timespec, poll};
use rustix::process::{Pid, PidfdFlags, Resource, Rlimit, pidfd_open, setrlimit};

use super::cases::chain;
use super::group::{GROUP, Group};
use super::{AnyError, CASES, Case, Setting};
use crate::limits::cases::Needs;

/// The hidden first arguments.
pub const MEET: &str = "meet";
/// For the dispatcher of a case.
pub const DISPATCH: &str = "dispatch";

/// How long a case may take; most take milliseconds.
const DEADLINE: Duration = Duration::from_secs(120);
/// The user `nobody`.
const NOBODY: u32 = 65_534;

/// How a case went.
#[derive(Debug)]
pub enum Outcome {
    /// What was said names the limit.
    Held {
        /// What was said.
        said: String,
    },
    /// It cannot be tried on this machine.
    Skipped {
        /// Why.
        why: String,
    },
    /// Something else happened.
    Failed {
        /// What.
        why: String,
    },
}

/// Tries a case, with `folder` for what it needs.
pub fn examine(case: &Case, folder: &Path) -> Outcome {
    match try_case(case, folder) {
        Ok(outcome) => outcome,
        Err(error) => Outcome::Failed { why: chain(error.as_ref()) },
    }
}

fn try_case(case: &Case, folder: &Path) -> Result<Outcome, AnyError> {
    let socket = folder.join("d.sock");
    let mut command = this_program();
    command.arg(MEET).arg(case.name).arg(&socket);
    let mut group = None;
    match case.needs {
        Needs::Nothing => {}
        Needs::AnotherUser => {
            if !rustix::process::geteuid().is_root() {
                return Ok(Outcome::Skipped { why: "only root can start a program as another user".to_owned() });
            }
            command.uid(NOBODY).gid(NOBODY);
        }
        Needs::MemoryGroup => match Group::make() {
            Ok(made) => {
                command.env(GROUP, made.folder());
                group = Some(made);
            }
            Err(error) => return Ok(Outcome::Skipped { why: format!("no control group can be made ({error})") }),
        },
    }
    let mut dispatcher = case.setting.map(|setting| Dispatcher::start(setting, &socket)).transpose()?;
    let (status, said, errors) = finish(command.stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?)?;
    if let Some(dispatcher) = &mut dispatcher {
        if let Some(status) = dispatcher.0.try_wait()? {
            return Ok(Outcome::Failed { why: format!("the dispatcher ended: {status}") });
        }
    }
    // Before its group is removed.
    drop(dispatcher);
    drop(group);
    let said = said.trim_end().to_owned();
    Ok(match (status.signal(), status.success()) {
        (Some(signal), _) => Outcome::Failed { why: format!("the process was ended by signal {signal}") },
        (None, false) => Outcome::Failed { why: format!("{}{}", said, errors.trim_end()) },
        (None, true) if case.says.iter().all(|part| said.to_lowercase().contains(&part.to_lowercase())) => {
            Outcome::Held { said }
        }
        (None, true) => Outcome::Failed { why: format!("does not say {:?}: {said}", case.says) },
    })
}

fn this_program() -> Command {
    let mut command = Command::new("/proc/self/exe");
    command.stdin(Stdio::null());
    command
}

/// Waits for a process and all it said.
fn finish(mut child: Child) -> Result<(ExitStatus, String, String), AnyError> {
    let pidfd = pidfd_open(Pid::from_child(&child), PidfdFlags::empty())?;
    let mut errors = child.stderr.take().ok_or("its errors cannot be read")?;
    let reader = std::thread::spawn(move || {
        let mut text = String::new();
        errors.read_to_string(&mut text).map(|_| text)
    });
    let mut fds = [PollFd::new(&pidfd, PollFlags::IN)];
    let timeout = Timespec { tv_sec: DEADLINE.as_secs() as i64, tv_nsec: 0 };
    if poll(&mut fds, Some(&timeout))? == 0 {
        child.kill()?;
        child.wait()?;
        return Err(format!("it hangs: nothing came within {DEADLINE:?}").into());
    }
    let status = child.wait()?;
    let mut said = String::new();
    child.stdout.take().ok_or("it cannot be read")?.read_to_string(&mut said)?;
    let errors = reader.join().map_err(|_| "its errors cannot be read")??;
    Ok((status, said, errors))
}

/// Ended when dropped.
struct Dispatcher(Child);

impl Dispatcher {
    fn start(setting: Setting, socket: &Path) -> Result<Dispatcher, AnyError> {
        let mut command = this_program();
        command.arg(DISPATCH);
        let number = |number: Option<u64>| number.map_or_else(|| "-".to_owned(), |number| number.to_string());
        command.args([number(setting.descriptors), number(setting.file_bytes)]);
        command.arg("--socket").arg(socket).args(setting.options);
        if let Some(rules) = setting.policy {
            let path = socket.with_file_name("policy.toml");
            fs::write(&path, rules)?;
            command.arg("--policy").arg(path);
        }
        let mut dispatcher = Dispatcher(command.stdout(Stdio::null()).stderr(Stdio::piped()).spawn()?);
        let mut lines = BufReader::new(dispatcher.0.stderr.take().ok_or("its log cannot be read")?);
        let mut log = String::new();
        while lines.read_line(&mut log)? > 0 {
            if log.contains("serving") {
                // Somebody must read what it logs from now on.
                std::thread::spawn(move || io::copy(&mut lines, &mut io::sink()));
                return Ok(dispatcher);
            }
        }
        Err(format!("the dispatcher did not start: {log}").into())
    }
}

impl Drop for Dispatcher {
    fn drop(&mut self) {
        // It may have ended by itself.
        let _ = self.0.kill();
        let _ = self.0.wait();
    }
}

/// What the process of a case does: `arguments` follow the hidden one.
///
/// # Errors
///
/// The limit was not met.
pub fn act(arguments: &[impl AsRef<OsStr>]) -> Result<(), AnyError> {
    let [name, socket] = arguments else { return Err("a case and a socket are needed".into()) };
    let case = CASES.iter().find(|case| OsStr::new(case.name) == name.as_ref()).ok_or("there is no such case")?;
    println!("{}", case.meet(&PathBuf::from(socket.as_ref()))?);
    Ok(())
}

/// What the dispatcher of a case does: `arguments` follow the hidden one.
///
/// # Errors
///
/// It could not be limited.
pub fn dispatch(arguments: &[impl AsRef<OsStr>]) -> Result<ExitCode, AnyError> {
    let [descriptors, file_bytes, options @ ..] = arguments else { return Err("two limits are needed".into()) };
    for (limit, resource) in [(descriptors, Resource::Nofile), (file_bytes, Resource::Fsize)] {
        if let Some(most) = limit.as_ref().to_str().and_then(|text| text.parse().ok()) {
            setrlimit(resource, Rlimit { current: Some(most), maximum: Some(most) })?;
        }
    }
    let program = [OsStr::new("dispatcher")].into_iter().chain(options.iter().map(AsRef::as_ref));
    Ok(nodeset_dispatcher::cli::main_with(&nodeset_dispatcher::cli::Program::parse_from(program).args))
}

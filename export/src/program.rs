//! Programs that are asked something, and answer soon or are in trouble.

use std::collections::BTreeMap;
use std::ffi::OsString;
use std::io;
use std::process::{Command, Output, Stdio};
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, mpsc};
use std::time::Duration;

/// Whether those have ended that were killed: who waits in the kernel dies later, and what it started may go on talking.
static LEFT: Mutex<BTreeMap<OsString, Arc<AtomicBool>>> = Mutex::new(BTreeMap::new());

/// Runs it to its end, for what it prints. `None`: it took longer than `within`, and was killed.
pub(crate) fn run(mut command: Command, within: Duration) -> io::Result<Option<Output>> {
    let program = command.get_program().to_owned();
    // Another one would wait for the same.
    if lock().get(&program).is_some_and(|has_ended| !has_ended.load(Ordering::Acquire)) {
        return Ok(None);
    }
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let id = rustix::process::Pid::from_child(&child);
    let (send, receive) = mpsc::channel();
    let has_ended = Arc::new(AtomicBool::new(false));
    let ends = has_ended.clone();
    std::thread::spawn(move || {
        let output = child.wait_with_output();
        ends.store(true, Ordering::Release);
        drop(send.send(output));
    });
    let answer = receive.recv_timeout(within);
    if answer.is_err() {
        // Not waited for yet, so the number is still its own.
        let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
        lock().insert(program, has_ended);
    }
    answer.ok().transpose()
}

fn lock() -> MutexGuard<'static, BTreeMap<OsString, Arc<AtomicBool>>> {
    LEFT.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_takes_too_long_is_ended() {
        let sleeping = || {
            let mut command = Command::new("sleep");
            command.arg("600");
            command
        };
        assert!(run(sleeping(), Duration::from_millis(20)).unwrap().is_none());
        // What it started goes on: no other one is started meanwhile.
        let mut talking = Command::new("sh");
        talking.args(["-c", "(sleep 1; echo later) & exec sleep 600"]);
        assert!(run(talking, Duration::from_millis(200)).unwrap().is_none());
        let shell = |script: &str| {
            let mut command = Command::new("sh");
            command.args(["-c", script]);
            run(command, Duration::from_secs(60)).unwrap()
        };
        assert!(shell("echo said").is_none(), "another one was started");
        let until = std::time::Instant::now() + Duration::from_secs(60);
        let said = std::iter::from_fn(|| Some(shell("echo said"))).find(|said| {
            assert!(std::time::Instant::now() < until, "it was never started again");
            std::thread::yield_now();
            said.is_some()
        });
        assert_eq!(said.flatten().unwrap().stdout, b"said\n");
        let mut echo = Command::new("echo");
        echo.arg("said");
        assert_eq!(run(echo, Duration::from_secs(60)).unwrap().unwrap().stdout, b"said\n");
        assert_eq!(run(Command::new("/nowhere"), Duration::ZERO).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

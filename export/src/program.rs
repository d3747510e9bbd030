//! Programs that are asked something, and answer soon or are in trouble.

use std::io;
use std::process::{Command, Output, Stdio};
use std::sync::mpsc;
use std::time::Duration;

/// Runs it to its end, for what it prints. `None`: it took longer than `within`, and was killed.
pub(crate) fn run(mut command: Command, within: Duration) -> io::Result<Option<Output>> {
    let child = command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped()).spawn()?;
    let id = rustix::process::Pid::from_child(&child);
    let (send, receive) = mpsc::channel();
    // Who waits in the kernel dies later, and what it started may go on talking: neither is waited for.
    std::thread::spawn(move || drop(send.send(child.wait_with_output())));
    let answer = receive.recv_timeout(within);
    if answer.is_err() && receive.try_recv().is_err() {
        // Not waited for yet, so the number is still its own.
        let _ = rustix::process::kill_process(id, rustix::process::Signal::KILL);
    }
    answer.ok().transpose()
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
        let mut echo = Command::new("echo");
        echo.arg("said");
        assert_eq!(run(echo, Duration::from_secs(60)).unwrap().unwrap().stdout, b"said\n");
        assert_eq!(run(Command::new("/nowhere"), Duration::ZERO).unwrap_err().kind(), io::ErrorKind::NotFound);
    }
}

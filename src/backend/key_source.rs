//! Reading secrets from outside the database: a file of the server's user, or a command's output.

use pgrx::{check_for_interrupts, pg_sys};
use std::fs::{File, Metadata, OpenOptions};
use std::io::{ErrorKind, Read};
use std::os::fd::AsRawFd;
use std::os::unix::fs::{MetadataExt, OpenOptionsExt};
use std::process::{Command, Stdio};
use std::time::{Duration, Instant};
use zeroize::Zeroizing;

/// How long a command may take. It is waited for by whoever needs a key first.
const LONGEST: Duration = Duration::from_secs(30);
const PAUSE: Duration = Duration::from_millis(20);

/// O_NONBLOCK, of Linux and of the BSDs; F_SETFL is the same everywhere.
const NONBLOCK: i32 = if cfg!(target_os = "linux") { 0o4000 } else { 0x4 };
const SET_FLAGS: i32 = 4;

/// Changes when a file does.
pub type Version = (u64, u64, i64, i64, u64);

/// What tells that a file was changed; an error where others than the server's user may read it.
pub fn version(path: &str) -> Result<Version, String> {
    let file = open(path)?;
    let found = checked(path, &file)?;
    Ok((found.dev(), found.ino(), found.mtime(), found.mtime_nsec(), found.size()))
}

fn open(path: &str) -> Result<File, String> {
    // A named pipe in its place must not keep anybody waiting.
    let opened = OpenOptions::new().read(true).custom_flags(NONBLOCK).open(path);
    opened.map_err(|error| format!("file \"{path}\" can't be opened: {error}"))
}

/// Refuses a file that somebody else may read or write.
fn checked(path: &str, file: &File) -> Result<Metadata, String> {
    let found = file.metadata().map_err(|error| format!("file \"{path}\" can't be read: {error}"))?;
    if !found.is_file() {
        return Err(format!("\"{path}\" is not a file"));
    }
    // SAFETY: reads the process's own user.
    let own = unsafe { geteuid() };
    if found.uid() != own {
        return Err(format!("file \"{path}\" belongs to user {}, not to the server's, {own}", found.uid()));
    }
    if found.mode() & 0o077 != 0 {
        return Err(format!(
            "file \"{path}\" has mode {:04o}; others than its owner may use it",
            found.mode() & 0o7777
        ));
    }
    Ok(found)
}

unsafe extern "C" {
    fn geteuid() -> u32;
    fn fcntl(descriptor: i32, command: i32, ...) -> i32;
}

/// The text of a file that nobody but the server's user may read.
pub fn read_file(path: &str, most: usize) -> Result<String, String> {
    let file = open(path)?;
    checked(path, &file)?;
    read(file, most).map_err(|problem| format!("file \"{path}\" {problem}"))
}

fn read(from: impl Read, most: usize) -> Result<String, String> {
    let mut text = String::new();
    match from.take(most as u64 + 1).read_to_string(&mut text) {
        Ok(bytes) if bytes > most => Err(format!("has more than {most} bytes")),
        Ok(_) => Ok(text),
        Err(error) => Err(format!("can't be read: {error}")),
    }
}

/// What a command prints. It runs in the shell, as the server's user, in the data directory. What it writes elsewhere goes to the
/// server's log. A pipe holds as much as is wanted of it, so it is read when the command has ended.
pub fn run_command(command: &str, most: usize) -> Result<String, String> {
    let failed = |what: String| format!("tally.key_command {what}");
    let mut child = Command::new("/bin/sh")
        .args(["-c", command])
        .stdin(Stdio::null())
        .stdout(Stdio::piped())
        .spawn()
        .map_err(|error| failed(format!("can't be started: {error}")))?;
    let mut output = child.stdout.take().expect("it is piped");
    let until = Instant::now() + LONGEST;
    let status = loop {
        match child.try_wait() {
            Ok(Some(status)) => break status,
            Ok(None) if Instant::now() < until && !is_interrupted() => std::thread::sleep(PAUSE),
            Ok(None) => {
                let _ = child.kill();
                let _ = child.wait();
                check_for_interrupts!();
                return Err(failed(format!("took longer than {} seconds", LONGEST.as_secs())));
            }
            Err(error) => return Err(failed(format!("can't be waited for: {error}"))),
        }
    };
    if !status.success() {
        return Err(failed(format!("ended with {status}")));
    }
    // Something that it left running may keep the pipe open for as long as it likes.
    // SAFETY: changes a flag of a descriptor that is ours.
    unsafe { fcntl(output.as_raw_fd(), SET_FLAGS, NONBLOCK) };
    let mut bytes = Zeroizing::new(vec![0; most + 1]);
    let mut length = 0;
    while length < bytes.len() {
        match output.read(&mut bytes[length..]) {
            Ok(0) => break,
            Ok(more) => length += more,
            Err(error) if error.kind() == ErrorKind::WouldBlock => break,
            Err(error) => return Err(failed(format!("can't be read: {error}"))),
        }
    }
    if length > most {
        return Err(failed(format!("printed more than {most} bytes")));
    }
    let text = std::str::from_utf8(&bytes[..length]);
    text.map(str::to_owned).map_err(|_| failed("printed no text".into()))
}

fn is_interrupted() -> bool {
    // SAFETY: reads a flag that signal handlers set.
    unsafe { pg_sys::InterruptPending != 0 }
}

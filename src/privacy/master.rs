//! The key-encrypting keys: from a file that nobody but the server's user may read, or from a command's output. They are kept in the
//! backend's memory, never stored.

use super::failure::PrivacyFailure;
use crate::backend::key_source;
use crate::settings;
use std::cell::RefCell;
use std::rc::Rc;
use std::time::{Duration, Instant};
use tally_core::privacy::KeyFile;
use zeroize::Zeroizing;

/// Bytes of a key file: keys and remarks.
const MOST_BYTES: usize = 64 << 10;

/// Where keys come from.
#[derive(Clone, PartialEq, Eq)]
enum Source {
    /// The file, and what tells that it was changed.
    File(String, key_source::Version),
    Command(String),
}

/// How long a command that failed, or whose keys didn't fit, isn't run again: each run may take its time.
const COMMAND_PAUSE: Duration = Duration::from_secs(10);

/// A command that ran, when, and why that was in vain.
type Ran = (String, Instant, Option<String>);

thread_local! {
    static KNOWN: RefCell<Option<(Source, Rc<KeyFile>)>> = const { RefCell::new(None) };
    static RAN: RefCell<Option<Ran>> = const { RefCell::new(None) };
}

/// The keys that are at hand, among them the one of this id if it can be had: a command may print another set by now.
pub fn keys_with(id: &str) -> Result<Rc<KeyFile>, PrivacyFailure> {
    let known = keys()?;
    let is_due = RAN.with_borrow(|ran| ran.as_ref().is_some_and(|(_, at, _)| at.elapsed() >= COMMAND_PAUSE));
    if known.has(id) || !is_due {
        return Ok(known);
    }
    KNOWN.set(None);
    keys()
}

/// The keys that are at hand, read anew where the file has changed since.
pub fn keys() -> Result<Rc<KeyFile>, PrivacyFailure> {
    let source = source()?;
    let known = KNOWN.with_borrow(|known| match known {
        Some((from, keys)) if *from == source => Some(keys.clone()),
        _ => None,
    });
    if let Some(keys) = known {
        return Ok(keys);
    }
    let text = match &source {
        Source::File(path, _) => key_source::read_file(path, MOST_BYTES),
        Source::Command(command) => run(command),
    };
    let text = Zeroizing::new(text.map_err(PrivacyFailure::NoMaster)?);
    let keys = KeyFile::parse(&text).map_err(|error| {
        PrivacyFailure::NoMaster(match &source {
            Source::File(path, _) => format!("file \"{path}\": {error}"),
            Source::Command(_) => format!("output of tally.key_command: {error}"),
        })
    })?;
    let keys = Rc::new(keys);
    KNOWN.set(Some((source, keys.clone())));
    Ok(keys)
}

/// Whether a command prints the keys, which may take its time.
pub fn is_command() -> bool {
    settings::key_file().is_none() && settings::key_command().is_some()
}

fn source() -> Result<Source, PrivacyFailure> {
    match (settings::key_file(), settings::key_command()) {
        (Some(path), _) => {
            let version = key_source::version(&path).map_err(PrivacyFailure::NoMaster)?;
            Ok(Source::File(path, version))
        }
        (None, Some(command)) => Ok(Source::Command(command)),
        (None, None) => {
            Err(PrivacyFailure::NoMaster("neither tally.key_file nor tally.key_command is set".into()))
        }
    }
}

/// Runs a command, unless it failed a moment ago.
fn run(command: &str) -> Result<String, String> {
    let failed = RAN.with_borrow(|ran| {
        let same = ran.as_ref().filter(|(ran, at, _)| ran == command && at.elapsed() < COMMAND_PAUSE);
        same.and_then(|(_, _, failed)| failed.clone())
    });
    if let Some(failed) = failed {
        return Err(failed);
    }
    let text = key_source::run_command(command, MOST_BYTES);
    RAN.set(Some((command.to_owned(), Instant::now(), text.as_ref().err().cloned())));
    text
}

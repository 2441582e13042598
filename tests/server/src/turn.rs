//! The files of one test binary take turns, as if each were a binary of its own: tests of one file run side by side, those of
//! another one wait. So none disturbs what a file measures, blocks or fills up.

use std::sync::{Condvar, Mutex, MutexGuard, PoisonError};
use std::thread;

/// The file whose tests run now, and how many databases and servers they hold.
static NOW: Mutex<(String, usize)> = Mutex::new((String::new(), 0));
static ENDED: Condvar = Condvar::new();

/// Part of what a test works with. While there is one, no test of another file gets one.
pub struct Turn(bool);

impl Turn {
    /// Waits for the tests of another file. Which file's the caller is, the name of its thread says: `file::test`. Threads that a
    /// test starts itself have no such name, and belong to it.
    pub fn take() -> Self {
        let thread = thread::current();
        let Some((file, _)) = thread.name().and_then(|name| name.split_once("::")) else {
            return Self(false);
        };
        let mut now = now();
        while now.1 > 0 && now.0 != file {
            now = ENDED.wait(now).unwrap_or_else(PoisonError::into_inner);
        }
        *now = (file.to_owned(), now.1 + 1);
        Self(true)
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        if self.0 {
            now().1 -= 1;
            ENDED.notify_all();
        }
    }
}

fn now() -> MutexGuard<'static, (String, usize)> {
    NOW.lock().unwrap_or_else(PoisonError::into_inner)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn a_file_waits_for_another_and_not_for_itself() {
        let named = |name: &str, work: fn()| thread::Builder::new().name(name.into()).spawn(work).unwrap();
        let (first, second) = (Turn::named("one::a"), Turn::named("one::b"));
        let other = named("other::a", || drop(Turn::take()));
        named("one::c", || drop(Turn::take())).join().unwrap();
        drop(first);
        thread::sleep(Duration::from_millis(50));
        assert!(!other.is_finished(), "a test of another file began");
        drop(second);
        other.join().unwrap();
    }

    impl Turn {
        fn named(name: &str) -> Self {
            thread::Builder::new().name(name.into()).spawn(Self::take).unwrap().join().unwrap()
        }
    }
}

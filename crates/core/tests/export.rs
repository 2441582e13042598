//! Exports: no two requests have one hash, and a content's hash is that of the file.

use proptest::prelude::*;
use tally_core::audit::hex;
use tally_core::export::{Content, Fingerprint, hash};

fn of(parts: &[Option<String>]) -> [u8; 32] {
    parts.iter().fold(Fingerprint::new("k"), |hash, part| hash.optional(part.as_deref())).finish()
}

proptest! {
    #[test]
    fn other_parts_have_another_hash(
        one in prop::collection::vec(prop::option::of("[ab]{0,3}"), 0..4),
        other in prop::collection::vec(prop::option::of("[ab]{0,3}"), 0..4),
    ) {
        prop_assert_eq!(one == other, of(&one) == of(&other));
    }
}

#[test]
fn kinds_and_numbers_count() {
    assert_ne!(Fingerprint::new("a").finish(), Fingerprint::new("b").finish());
    assert_ne!(Fingerprint::new("a").number(1).finish(), Fingerprint::new("a").number(2).finish());
    assert_ne!(
        Fingerprint::new("a").number(1).finish(),
        Fingerprint::new("a").text("\0\0\0\0\0\0\0\u{1}").finish()
    );
}

/// What `printf 'a\nb\n' | sha256sum` and `printf abc | sha256sum` say.
#[test]
fn hashes_are_those_of_files() {
    let mut content = Content::default();
    content.line("a");
    content.line("b");
    assert_eq!(hex(&content.finish()), "911169ddaaf146aff539f58c26c489af3b892dff0fe283c1c264c65ae5aa59a2");
    assert_eq!(hex(&hash("abc")), "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

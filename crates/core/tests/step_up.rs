//! Step-up: which authentications are enough for which act.

use tally_core::step_up::{Authentication, Demand, SECOND_FACTORS, Shortfall};

const DEMAND: Demand = Demand { max_age: 300, methods: None, classes: None };

fn authentication(methods: &[&str], class: Option<&str>) -> Authentication {
    let methods = methods.iter().map(|method| (*method).to_owned()).collect();
    Authentication { at: 1_000_000, methods, class: class.map(str::to_owned) }
}

#[test]
fn a_second_factor_is_a_method_or_a_class_that_is_listed() {
    let listed =
        Demand { methods: Some("sms otp"), classes: Some("gold http://example.com/silver"), ..DEMAND };
    for (methods, class, by_default, by_list) in [
        (&["pwd"][..], None, false, false),
        (&["pwd", "otp"], None, true, true),
        (&["mfa"], None, true, false),
        (&["pwd", "sms"], None, false, true),
        (&["swk"], Some("gold"), false, true),
        (&[], Some("http://example.com/silver"), false, true),
        (&[], Some("gold http://example.com/silver"), false, false),
        (&["sms otp"], None, false, false),
        (&[""], Some(""), false, false),
        (&["MFA"], Some("Gold"), false, false),
        (&[], None, false, false),
    ] {
        let found = authentication(methods, class);
        assert_eq!(found.meets(&DEMAND, 1_000_000).is_ok(), by_default, "{found:?}");
        assert_eq!(found.meets(&listed, 1_000_000).is_ok(), by_list, "{found:?}");
    }
    for method in SECOND_FACTORS {
        assert_eq!(authentication(&[method], None).meets(&DEMAND, 1_000_000), Ok(()), "{method}");
    }
    // Words of an empty list, and of one with spaces too many, are none.
    for list in ["", " ", "  gold  "] {
        let demand = Demand { methods: Some(list), classes: Some(list), ..DEMAND };
        let empty = authentication(&[""], Some(""));
        assert_eq!(empty.meets(&demand, 1_000_000), Err(Shortfall::Factor), "{list:?}");
    }
}

#[test]
fn it_grows_old() {
    let found = authentication(&["otp"], None);
    assert_eq!(found.meets(&DEMAND, 1_000_300), Ok(()));
    assert_eq!(found.meets(&DEMAND, 1_000_301), Err(Shortfall::Age(301)));
    // The provider's clock may be ahead.
    assert_eq!(found.meets(&DEMAND, 999_996), Ok(()));
    let long_ago = Authentication { at: i64::MIN, ..found };
    assert_eq!(long_ago.meets(&DEMAND, 1_000_000), Err(Shortfall::Age(i64::MAX)));
}

//! The key of a scope, as the setting `tally.scope` and row security carry it: `*` for the global one, otherwise tenant and
//! account separated by U+001F, which no id contains; the account is empty where the scope is a whole tenant.

/// The key of the global scope.
pub const GLOBAL: &str = "*";
/// Between tenant and account.
pub const SEPARATOR: char = '\u{1f}';

/// The key of a tenant's scope, or of one of its accounts'.
pub fn of(tenant: &str, account: Option<&str>) -> String {
    format!("{tenant}{SEPARATOR}{}", account.unwrap_or_default())
}

/// Tenant and account of a key; `None` for the global one.
pub fn parts(key: &str) -> Option<(&str, Option<&str>)> {
    let (tenant, account) = key.split_once(SEPARATOR)?;
    Some((tenant, Some(account).filter(|account| !account.is_empty())))
}

/// Whether a row of this tenant, and of this account where the table has any, is in the scope; the account is asked for only
/// in an account's scope. Neither allocates nor fails.
#[inline(always)]
pub fn admits<'a>(key: &[u8], tenant: &[u8], account: impl FnOnce() -> Option<&'a [u8]>) -> bool {
    let Some((start, rest)) = key.split_at_checked(tenant.len()) else {
        return key == GLOBAL.as_bytes();
    };
    match rest {
        [separator, only @ ..] if *separator == SEPARATOR as u8 && start == tenant => {
            only.is_empty() || account().is_none_or(|account| account == only)
        }
        _ => key == GLOBAL.as_bytes(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    /// Ids that are easily mistaken for one another, and for a key.
    const IDS: &str = "[*ab]{1,3}";

    proptest! {
        #[test]
        fn a_scope_admits_its_own_rows_alone(
            tenant in IDS, account in proptest::option::of(IDS), row_tenant in IDS, row_account in IDS
        ) {
            let key = of(&tenant, account.as_deref());
            prop_assert_eq!(parts(&key), Some((tenant.as_str(), account.as_deref())));
            let own = tenant == row_tenant;
            let admitted = |account: Option<&[u8]>| admits(key.as_bytes(), row_tenant.as_bytes(), || account);
            prop_assert_eq!(admitted(None), own);
            let wanted = own && account.as_ref().is_none_or(|account| *account == row_account);
            prop_assert_eq!(admitted(Some(row_account.as_bytes())), wanted);
            prop_assert!(admits(GLOBAL.as_bytes(), row_tenant.as_bytes(), || Some(row_account.as_bytes())));
        }
    }

    #[test]
    fn what_is_no_key_admits_nothing() {
        for key in ["", "a", "\u{1f}", "a\u{1f}b\u{1f}"] {
            assert!(!admits(key.as_bytes(), b"a", || Some(b"b")), "{key:?}");
        }
        assert_eq!(parts(GLOBAL), None);
    }
}

//! Step-up: whether a person's last authentication, as a token tells of it, is enough for a sensitive act.
//!
//! The claims are those of OpenID Connect: `amr`, the methods (RFC 8176), `acr`, the class in the words of the identity provider,
//! and `auth_time`.

/// Methods of RFC 8176 that are taken for a second factor, or for several: something that the person has or is. Not among them are
/// `sms` and `tel`, which are diverted too easily, and `swk` and `pop`, which some providers say of any browser.
pub const SECOND_FACTORS: [&str; 9] = ["mfa", "otp", "hwk", "sc", "fpt", "face", "iris", "retina", "vbm"];

/// How and when a person was authenticated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Authentication {
    /// Seconds since 1970.
    pub at: i64,
    pub methods: Vec<String>,
    pub class: Option<String>,
}

/// What an act demands. Lists are words between spaces, as in OpenID Connect's `acr_values`.
#[derive(Clone, Copy, Debug)]
pub struct Demand<'a> {
    /// Seconds.
    pub max_age: i64,
    /// Methods of which one must have been used; `None` for `SECOND_FACTORS`.
    pub methods: Option<&'a str>,
    /// Classes of which one will do instead.
    pub classes: Option<&'a str>,
}

/// Why an authentication is not enough.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Shortfall {
    /// No method of it is one that the act demands, and its class isn't either.
    Factor,
    /// So many seconds ago.
    Age(i64),
}

impl Authentication {
    /// Whether it is enough at `now`, in seconds since 1970.
    pub fn meets(&self, demand: &Demand, now: i64) -> Result<(), Shortfall> {
        let is_listed = |list: Option<&str>, word: &str| {
            list.is_some_and(|list| list.split(' ').any(|listed| listed == word))
        };
        let is_method = |method: &String| match demand.methods {
            None => SECOND_FACTORS.contains(&method.as_str()),
            listed => is_listed(listed, method),
        };
        // An empty word is in every list that ends in a space.
        let is_class = |class: &String| !class.is_empty() && is_listed(demand.classes, class);
        if !self.methods.iter().filter(|method| !method.is_empty()).any(is_method)
            && !self.class.as_ref().is_some_and(is_class)
        {
            return Err(Shortfall::Factor);
        }
        match now.saturating_sub(self.at) {
            age if age > demand.max_age => Err(Shortfall::Age(age)),
            _ => Ok(()),
        }
    }
}

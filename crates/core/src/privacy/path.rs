//! Paths of properties: a JSON Pointer (RFC 6901) where the text begins with a slash, else the name of one key.

/// Leads to a value in an event's properties. Arrays on the way are passed through: each element is meant.
#[derive(Clone, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub struct Path(Vec<String>);

impl Path {
    /// The most steps that a path may have.
    pub const MOST_STEPS: usize = 16;

    /// Reads a path; an error says what is wrong with it.
    pub fn parse(text: &str) -> Result<Self, String> {
        let steps: Vec<String> = match text.strip_prefix('/') {
            None => vec![text.to_owned()],
            Some(pointer) => pointer
                .split('/')
                .map(unescaped)
                .collect::<Option<_>>()
                .ok_or("a tilde must be followed by 0 or 1")?,
        };
        if steps.iter().any(String::is_empty) {
            return Err("a step is empty".into());
        }
        if steps.len() > Self::MOST_STEPS {
            return Err(format!("it has more than {} steps", Self::MOST_STEPS));
        }
        if steps.iter().any(|step| step.contains('\0')) {
            return Err("a step has a zero byte".into());
        }
        Ok(Self(steps))
    }

    /// The keys that lead to the value, outermost first; never empty.
    pub fn steps(&self) -> &[String] {
        &self.0
    }

    /// The path as a JSON Pointer.
    pub fn text(&self) -> String {
        self.0.iter().map(|step| format!("/{}", escaped(step))).collect()
    }
}

/// A key as a JSON Pointer spells it.
pub(crate) fn escaped(step: &str) -> String {
    step.replace('~', "~0").replace('/', "~1")
}

fn unescaped(step: &str) -> Option<String> {
    let mut rest = step.split('~');
    let mut out = rest.next().unwrap_or_default().to_owned();
    for part in rest {
        let (symbol, tail) = (part.get(..1)?, part.get(1..)?);
        out.push(match symbol {
            "0" => '~',
            "1" => '/',
            _ => return None,
        });
        out.push_str(tail);
    }
    Some(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_keys_or_pointers() {
        let steps = |text: &str| Path::parse(text).map(|path| path.0.join("|"));
        assert_eq!(steps("email"), Ok("email".into()));
        assert_eq!(steps("a.b"), Ok("a.b".into()));
        assert_eq!(steps("/user/e~1mail~0"), Ok("user|e/mail~".into()));
        assert_eq!(Path::parse("/user/e~1mail~0").expect("a path").text(), "/user/e~1mail~0");
        for bad in ["", "/", "//a", "/a/", "/~2", "/a~", &"/a".repeat(17)] {
            assert!(steps(bad).is_err(), "{bad}");
        }
    }
}

//! What an expression reads of an event's properties: what a path leads to, or all of them.

use super::Path;

/// A step on the way to what is read.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Step {
    /// The value of a key of an object.
    Key(String),
    /// An element of an array.
    Element,
    /// Of an object the value of this key, of an array the element of this number.
    KeyOrElement(String),
}

impl Step {
    /// A step as `#>` takes it: a text that is a number leads into arrays, too.
    pub fn of_text(text: String) -> Self {
        if text.trim_start().parse::<i64>().is_ok() { Self::KeyOrElement(text) } else { Self::Key(text) }
    }
}

/// What the steps lead to, with all that is in it; without steps the properties as a whole.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Reading {
    pub steps: Vec<Step>,
    /// Keys that were taken out of the properties before.
    pub without: Vec<String>,
}

impl Reading {
    /// Whether it has something of what lies at a path, or at a path that begins so.
    pub fn meets(&self, path: &Path) -> bool {
        !self.without.contains(&path.steps()[0]) && meets(&self.steps, path.steps())
    }

    /// The property that it is of; `None` for more than one.
    pub fn property(&self) -> Option<&str> {
        match self.steps.first()? {
            Step::Key(key) | Step::KeyOrElement(key) => Some(key),
            Step::Element => None,
        }
    }
}

/// Whether one of two ways is the beginning of the other. A path goes through arrays by itself.
fn meets(steps: &[Step], path: &[String]) -> bool {
    let ([step, further @ ..], [key, deeper @ ..]) = (steps, path) else { return true };
    match step {
        Step::Key(name) => name == key && meets(further, deeper),
        Step::Element => meets(further, path),
        Step::KeyOrElement(name) => meets(further, path) || name == key && meets(further, deeper),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn reading(text: &str) -> Reading {
        let steps = text.split(' ').filter(|step| !step.is_empty());
        let step = |step: &str| if step == "*" { Step::Element } else { Step::of_text(step.to_owned()) };
        Reading { steps: steps.map(step).collect(), without: Vec::new() }
    }

    #[test]
    fn a_path_is_read_where_one_is_the_beginning_of_the_other() {
        let meets = |steps: &str, path: &str| reading(steps).meets(&Path::parse(path).unwrap());
        for (steps, path) in [
            ("", "email"),
            ("email", "email"),
            ("user", "/user/email"),
            ("user email", "user"),
            ("user email first", "/user/email"),
            ("items * email", "/items/email"),
            ("items *", "/items/email"),
            ("items 0 email", "/items/email"),
            ("items -1 email", "/items/email"),
            ("items 0 1 email", "/items/email"),
            ("items 0 email", "/items/0/email"),
            ("items 0 0 email", "/items/0/email"),
            ("*", "email"),
        ] {
            assert!(meets(steps, path), "{steps} reads {path}");
        }
        for (steps, path) in [
            ("phone", "email"),
            ("emails", "email"),
            ("user phone", "/user/email"),
            ("email", "/user/email"),
            ("items * phone", "/items/email"),
            ("items 0 phone", "/items/email"),
            ("items 0 email", "/items/1/email"),
        ] {
            assert!(!meets(steps, path), "{steps} doesn't read {path}");
        }
    }

    #[test]
    fn what_was_taken_out_is_not_read() {
        let rest = Reading { steps: Vec::new(), without: vec!["email".to_owned()] };
        assert!(!rest.meets(&Path::parse("email").unwrap()));
        assert!(!rest.meets(&Path::parse("/email/first").unwrap()));
        assert!(rest.meets(&Path::parse("/user/email").unwrap()));
    }

    #[test]
    fn it_is_of_the_property_that_the_first_step_names() {
        assert_eq!(reading("user email").property(), Some("user"));
        assert_eq!(reading("0 email").property(), Some("0"));
        assert_eq!(reading("").property(), None);
        assert_eq!(reading("* email").property(), None);
    }
}

//! A value as the validator sees it: each look into it is a step, so that judging can be bounded and cancelled wherever it is. What the
//! validator would copy of it into its errors is null: nobody is told values.

use crate::watch::step;
use jsonschema::JsonType;
use jsonschema::json::{Array, Json, Node, NodeIdentity, Object};
use serde_json::{Map, Number, Value, map};
use std::borrow::Cow;
use std::slice;

static NOTHING: Value = Value::Null;

/// The representation.
pub(crate) struct Counted;

/// A value, an object or an array in it.
#[derive(Clone, Copy)]
pub(crate) struct Looked<T>(pub(crate) T);

/// The members of an object, or the elements of an array.
pub(crate) struct Each<I>(I);

impl Json for Counted {
    type Node<'a> = Looked<&'a Value>;
    type PreparedKey = String;
    type StringBuffer = ();
    const ACYCLIC: bool = true;
    /// Objects are sorted trees.
    const KEYS_PER_LOOKUP: usize = 2;

    fn prepare_key(key: &str) -> String {
        key.to_owned()
    }

    fn with_string_node<T>((): &mut (), string: &str, judge: impl FnOnce(Looked<&Value>) -> T) -> T {
        judge(Looked(&Value::String(string.to_owned())))
    }
}

impl<'a> Node<'a, Counted> for Looked<&'a Value> {
    type Object = Looked<&'a Map<String, Value>>;
    type Array = Looked<&'a [Value]>;
    type Number = &'a Number;

    fn as_object(&self) -> Option<Self::Object> {
        step();
        self.0.as_object().map(Looked)
    }

    fn as_array(&self) -> Option<Self::Array> {
        step();
        self.0.as_array().map(|elements| Looked(&elements[..]))
    }

    fn as_string(&self) -> Option<Cow<'a, str>> {
        step();
        self.0.as_str().map(Cow::Borrowed)
    }

    fn as_number(&self) -> Option<&'a Number> {
        step();
        self.0.as_number()
    }

    fn as_boolean(&self) -> Option<bool> {
        step();
        self.0.as_bool()
    }

    fn is_null(&self) -> bool {
        step();
        self.0.is_null()
    }

    fn json_type(&self) -> JsonType {
        step();
        match self.0 {
            Value::Null => JsonType::Null,
            Value::Bool(_) => JsonType::Boolean,
            Value::Number(_) => JsonType::Number,
            Value::String(_) => JsonType::String,
            Value::Array(_) => JsonType::Array,
            Value::Object(_) => JsonType::Object,
        }
    }

    fn to_value(&self) -> Cow<'a, Value> {
        Cow::Borrowed(&NOTHING)
    }

    fn identity(&self) -> Option<NodeIdentity> {
        step();
        Some(NodeIdentity::new(std::ptr::from_ref(self.0) as usize))
    }
}

impl<'a> Object<'a, Counted> for Looked<&'a Map<String, Value>> {
    type Node = Looked<&'a Value>;
    type MemberName = &'a str;
    type MembersIter = Each<map::Iter<'a>>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn get(&self, key: &String) -> Option<Looked<&'a Value>> {
        step();
        self.0.get(key).map(Looked)
    }

    fn members(&self) -> Self::MembersIter {
        Each(self.0.iter())
    }
}

impl<'a> Iterator for Each<map::Iter<'a>> {
    type Item = (&'a str, Looked<&'a Value>);

    fn next(&mut self) -> Option<Self::Item> {
        step();
        self.0.next().map(|(name, value)| (name.as_str(), Looked(value)))
    }
}

impl<'a> Array<'a, Counted> for Looked<&'a [Value]> {
    type Node = Looked<&'a Value>;
    type ElementsIter = Each<slice::Iter<'a, Value>>;

    fn len(&self) -> usize {
        self.0.len()
    }

    fn elements(&self) -> Self::ElementsIter {
        Each(self.0.iter())
    }
}

impl<'a> Iterator for Each<slice::Iter<'a, Value>> {
    type Item = Looked<&'a Value>;

    fn next(&mut self) -> Option<Self::Item> {
        step();
        self.0.next().map(Looked)
    }
}

//! An anchor: the head of the log, to be kept where whoever administers the database can't change it.

use super::{Hash, hash_from_hex, hex};
use serde_json::{Value, json};

/// Size and root of the tree over all seals at a moment.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Anchor {
    /// The cluster's system identifier, a slash, the database's name.
    pub database: String,
    /// Number of seals.
    pub size: u64,
    pub root: Hash,
    /// When it was given out, for its reader.
    pub at: String,
}

impl Anchor {
    /// One line of JSON.
    pub fn print(&self) -> String {
        json!({"pg_tally_anchor": 1, "database": self.database, "seals": self.size, "root": hex(&self.root), "at": self.at})
            .to_string()
    }

    /// The anchor that such a line stands for.
    pub fn read(text: &str) -> Result<Self, &'static str> {
        let value: Value = serde_json::from_str(text.trim()).map_err(|_| "it is not JSON")?;
        if value["pg_tally_anchor"].as_u64() != Some(1) {
            return Err("it is not an anchor that this version knows");
        }
        let text = |key: &str| value[key].as_str().unwrap_or_default().to_owned();
        Ok(Self {
            database: text("database"),
            size: value["seals"].as_u64().ok_or("its number of seals is missing")?,
            root: hash_from_hex(&text("root")).ok_or("its root is not 64 hexadecimal digits")?,
            at: text("at"),
        })
    }
}

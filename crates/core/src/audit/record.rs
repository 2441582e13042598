//! An entry on its way to the table, with its personal part: what sessions hand over through shared memory.

use super::encoding::{Decoding, Encoding};
use super::{Entry, Personal};

const KIND: &str = "pg_tally audit record 1";

/// An entry and its personal part. What the transaction that stores it adds, its number and cluster, is still 0.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Record {
    pub entry: Entry,
    pub personal: Option<Personal>,
}

impl Record {
    /// The record as bytes.
    pub fn encode(&self) -> Vec<u8> {
        let personal = self.personal.as_ref();
        Encoding::new(KIND)
            .bytes(&self.entry.encode())
            .optional(personal.map(|personal| &personal.salt[..]))
            .optional(personal.map(|personal| personal.content.as_bytes()))
            .finish()
    }

    /// The record that such bytes stand for.
    pub fn decode(bytes: &[u8]) -> Option<Self> {
        let mut fields = Decoding::new(KIND, bytes)?;
        let entry = Entry::decode(fields.bytes()?)?;
        let salt = fields.optional()?.map(<[u8]>::to_vec);
        let personal = salt.zip(fields.optional_text()?).map(|(salt, content)| Personal { salt, content });
        Some(Self { entry, personal })
    }
}

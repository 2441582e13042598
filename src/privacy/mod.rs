//! Privacy, below what stores events: which persons' events are refused (`subject`), and where documents seem to have personal data
//! (`personal`).

mod personal;
pub mod subject;

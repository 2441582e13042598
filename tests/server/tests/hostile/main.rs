//! Arguments and statements that nobody would send in good faith.

mod hostile_arguments;
mod hostile_grammar;

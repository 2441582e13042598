//! Arguments and statements that nobody would send in good faith.

mod argument_errors;
mod hostile_arguments;
mod hostile_grammar;
mod null_arguments;

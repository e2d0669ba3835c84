//! The dispatcher program. All it does is in the library, so that `nodeset dispatcher` does the same.

#![forbid(unsafe_code)]

use std::process::ExitCode;

use clap::Parser;
use nodeset_dispatcher::cli::{Program, main_with};

fn main() -> ExitCode {
    main_with(&Program::parse().args)
}

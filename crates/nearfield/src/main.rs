//! The `nearfield` program. Everything it does stands in the library of the same name.

use std::process::ExitCode;

fn main() -> ExitCode {
    nearfield::main()
}

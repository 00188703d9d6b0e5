//! Checks of the workspace itself, `cargo xtask arrows`, `packages`, `sources`, and the build that is shipped, `dist`.
#![expect(clippy::print_stdout, clippy::print_stderr, reason = "a command line tool speaks on them")]

mod arrows;
mod dist;
mod metadata;
mod packages;
mod sources;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask arrows|dist|packages|sources

  arrows    no crate depends on one that it must not know
  dist      builds what is shipped, target/dist/nearfield, by a profile of a load that it serves
  packages  the binary is built from no more packages than the budget
  sources   no tracked file names what belongs to one machine only; long files are listed";

fn main() -> ExitCode {
    if let Some(code) = dist::wrapped() {
        return code;
    }
    let mut arguments = std::env::args().skip(1);
    let (command, rest) = (arguments.next(), arguments.next());
    let result = match (command.as_deref(), rest) {
        (Some("arrows"), None) => arrows::check(),
        (Some("dist"), None) => dist::build(),
        (Some("packages"), None) => packages::check(),
        (Some("sources"), None) => sources::check(),
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };
    match result {
        Ok(said) => {
            println!("{said}");
            ExitCode::SUCCESS
        }
        Err(error) => {
            eprintln!("error: {error:#}");
            ExitCode::FAILURE
        }
    }
}

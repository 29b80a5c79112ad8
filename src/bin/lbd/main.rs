//! `lbd`: subcommand -> configuration -> daemon. Only this file maps outcomes to exit codes.
//!
//! 0: success. 1: the command ran, but a request was lost or refused, a drain timed out, or doctor found
//! problems. 2: an error of the operator, in the configuration or with an address in use.

mod args;
mod balancer;
mod command;
mod controller;
mod doctor;
mod manual;
mod operate;
mod ping;
mod run;
mod shown;
mod sim;
mod table;
mod top;
mod units;
mod up;

use clap::Parser;

fn main() -> std::process::ExitCode {
    let args = args::Args::parse();
    match run::run(args) {
        Ok(true) => std::process::ExitCode::SUCCESS,
        Ok(false) => std::process::ExitCode::from(1),
        Err(error) => {
            lbd::os::terminal::tell(format_args!("lbd: {error:#}"));
            std::process::ExitCode::from(2)
        }
    }
}

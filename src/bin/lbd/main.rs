//! `lbd`: subcommand -> configuration -> daemon. Outcomes become exit codes here and nowhere else.
//!
//! 0 = done; 1 = ran, but not everything was answered; 2 = a mistake of the operator (configuration, address in use).

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

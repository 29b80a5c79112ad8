//! The process and its machine: logs, signals, limits, locks, directories and child processes.

pub mod affinity;
mod back_end;
pub mod limits;
pub mod lock;
mod log_fields;
pub mod logging;
pub mod notify;
pub mod private_socket;
pub mod process;
pub mod regular_file;
pub mod signals;
pub mod state_dir;
pub mod terminal;
pub mod threads;

pub use back_end::back_end;

//! What the programs write to standard output and standard error. `println!` panics when nobody reads any more, as in `lbd schema | head -1`;
//! here that is an ordinary result.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

/// Writes to standard output; false if nobody reads it any more.
pub fn print(text: Arguments<'_>) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(io::Error::new(e.kind(), format!("cannot write to standard output: {e}"))),
    }
}

/// Tells the operator something on standard error, for whoever reads it.
pub fn tell(text: Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{text}");
}

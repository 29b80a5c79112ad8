//! Output of the programs to standard output and standard error. `println!` panics if standard output is
//! closed, as in `lbd schema | head -1`; here that is an ordinary result.

use std::fmt::Arguments;
use std::io::{self, ErrorKind, Write};

/// Writes to standard output; false if it is closed.
pub fn print(text: Arguments<'_>) -> io::Result<bool> {
    let mut out = io::stdout().lock();
    match out.write_fmt(text).and_then(|()| out.flush()) {
        Ok(()) => Ok(true),
        Err(e) if e.kind() == ErrorKind::BrokenPipe => Ok(false),
        Err(e) => Err(io::Error::new(e.kind(), format!("cannot write to standard output: {e}"))),
    }
}

/// Writes a line for the operator to standard error; errors are ignored.
pub fn tell(text: Arguments<'_>) {
    let _ = writeln!(io::stderr(), "{text}");
}

/// Columns and rows of the terminal at standard output; `None` if it is not one.
pub fn size() -> Option<(usize, usize)> {
    let size = rustix::termios::tcgetwinsize(io::stdout()).ok()?;
    (size.ws_col > 0 && size.ws_row > 0).then_some((size.ws_col.into(), size.ws_row.into()))
}

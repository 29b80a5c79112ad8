//! What only io_uring can be asked.

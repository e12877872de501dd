//! How a helper starts, goes on and ends: who may be its frontend, what survives a connection, and each exit code.

mod command_line;
mod doors;
mod ends;
mod history;

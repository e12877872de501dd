//! `blk-helper`: all of it is in the library.
#![deny(unsafe_code)]

fn main() {
    blk_helper::main()
}

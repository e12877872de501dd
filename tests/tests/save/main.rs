//! What an operator decides about a disk: saving it in both formats while its guest goes on, resetting it, resizing it.

mod ends;
mod formats;
mod moment;
mod refused;
mod reset;
mod resize;
mod shared;
mod storms;
mod support;

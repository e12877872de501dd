//! `mayfly-import`: converts one image, in a confined process. Started by `mayfly import`.
#![deny(unsafe_code)]

fn main() {
    vmm::import::life::main()
}

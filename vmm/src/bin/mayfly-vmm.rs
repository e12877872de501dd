//! `mayfly-vmm`: one run of one guest, in a confined process. Started by `mayfly`.
#![deny(unsafe_code)]

fn main() {
    vmm::machine::life::main()
}

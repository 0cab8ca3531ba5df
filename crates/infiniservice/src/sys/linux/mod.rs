//! What Linux tells of itself and does when asked, one file for each thing.

pub mod alarm;
pub mod boot;
pub mod cpu;
pub mod disk;
pub mod listen;
pub mod load;
pub mod memory;
pub mod network;
pub mod os;
pub mod pages;
pub mod port;
pub mod power;
mod procfs;
pub mod random;
pub mod signal;
pub mod state;
pub mod time;

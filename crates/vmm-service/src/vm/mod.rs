//! A VM's life: what it should be, what state it is in, who drives it.

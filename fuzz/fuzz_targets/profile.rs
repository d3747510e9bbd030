#![no_main]

libfuzzer_sys::fuzz_target!(|data: &[u8]| icbd_fuzz::profile(data));

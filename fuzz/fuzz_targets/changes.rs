#![no_main]

libfuzzer_sys::fuzz_target!(|input: &[u8]| plimsoll_hostile::run("changes", input));

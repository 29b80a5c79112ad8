//! The text of a configuration: an error of one line, or a configuration that can be described.
#![no_main]

use lbd::config::{Config, describe};
use libfuzzer_sys::{Corpus, fuzz_target};

fuzz_target!(|data: &[u8]| -> Corpus {
    // Texts that are no UTF-8 are refused when the file is read.
    let Ok(text) = std::str::from_utf8(data) else { return Corpus::Reject };
    match Config::parse(text, None) {
        Ok(config) => {
            assert!(!config.pools.is_empty());
            assert!(!describe(&config).is_empty());
        }
        Err(error) => {
            let error = error.to_string();
            assert!(!error.contains('\n'), "{error:?}");
            assert!(error.len() < 1_000 + 8 * text.len(), "{error:?}");
        }
    }
    Corpus::Keep
});

//! Integration tests: one module per promise.

mod report_formats;

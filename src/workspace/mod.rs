//! The files of a tree: finding them, listing them, keeping their bytes.

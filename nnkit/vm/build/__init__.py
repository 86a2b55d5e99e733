"""From PTX text to native code, kept between processes: parsing, LLVM, the cache."""

"""One module a vector file: `vectors()` returns its cases, each checked by `protocol` as it is made."""

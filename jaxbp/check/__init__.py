"""Is a rule right?  A checker for any function with a custom VJP in it."""

"""The checker's proof: wrong rules that it must find, and right ones that it must leave alone."""

"""The field study's catalog: public custom rules of other packages, one module a package or a few small ones."""

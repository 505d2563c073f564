"""`python -m jaxbp.cli`."""

from jaxbp.cli import main

main()

"""`python -m ossa` is `ossa`."""

from ossa.cli.main import main

main()

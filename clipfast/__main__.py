"""`python -m clipfast`."""

from .cli import main

main()

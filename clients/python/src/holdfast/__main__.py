"""``python -m holdfast``: the same as the command ``holdfast`` of this package."""

from ._cli import main

main()

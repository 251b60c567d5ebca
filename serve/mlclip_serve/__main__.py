"""`python -m mlclip_serve` is `mlclip-serve`."""

from mlclip_serve.cli import main

main()

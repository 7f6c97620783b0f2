"""``python -m granet_lab.cli``."""

from granet_lab.cli import main

main()

"""Run the ``selfrecon`` command from a checkout: ``python cli.py demo``."""

from selfrecon_warp.cli import main

if __name__ == "__main__":
    main()

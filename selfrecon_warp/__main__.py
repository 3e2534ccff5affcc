"""``python -m selfrecon_warp`` is the ``selfrecon`` command."""

from selfrecon_warp.cli import main

main()

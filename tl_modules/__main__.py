"""``python -m tl_modules`` is the command ``tl-modules``."""

import sys

from tl_modules.cli import main

sys.exit(main())

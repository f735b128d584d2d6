"""``python -m vmtest``."""

import sys

from vmtest.cli import main

sys.exit(main())

"""``python -m isotherm`` is the command."""

import sys

from isotherm.cli.main import main

sys.exit(main())

"""`rayrec export` for `ray job submit --working-dir . -- python jobs/export.py --config FILE`."""

import sys

from rayrec.cli import main

sys.exit(main(["export", *sys.argv[1:]]))

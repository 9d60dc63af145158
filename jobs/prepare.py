"""`rayrec prepare` for `ray job submit --working-dir . -- python jobs/prepare.py --config FILE`."""

import sys

from rayrec.cli import main

sys.exit(main(["prepare", *sys.argv[1:]]))

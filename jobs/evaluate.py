"""`rayrec evaluate` for `ray job submit --working-dir . -- python jobs/evaluate.py --config FILE`."""

import sys

from rayrec.cli import main

sys.exit(main(["evaluate", *sys.argv[1:]]))

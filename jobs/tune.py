"""`rayrec tune` for `ray job submit --working-dir . -- python jobs/tune.py --config FILE`."""

import sys

from rayrec.cli import main

sys.exit(main(["tune", *sys.argv[1:]]))

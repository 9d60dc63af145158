"""`rayrec train` for `ray job submit --working-dir . -- python jobs/train.py --config FILE`."""

import sys

from rayrec.cli import main

sys.exit(main(["train", *sys.argv[1:]]))

"""`python -m speakerlib` is the same command as `speakerlib`."""

import sys

from speakerlib.cli import main

if __name__ == "__main__":
    sys.exit(main())
